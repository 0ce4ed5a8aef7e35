use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::name::STORE_FOLDER;
use super::{Machine, MachineName, RECORD_FILE};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::files::read_text;

/// The folder of all machines and of the image store.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

/// The option of every command that works on machines or the image store.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RootArgs {
    /// The folder of machines and images [default: $VMIMG_ROOT]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

impl RootArgs {
    /// Returns the root that the option, the environment or the user's own folder name, in this order.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for an ordinary user without a home folder, when nothing else names a root.
    pub fn open(&self, context: &Context) -> Result<Root, CommandError> {
        let named = self.root.as_deref().or_else(|| context.variable("VMIMG_ROOT").map(Path::new));
        if let Some(path) = named {
            return Ok(Root::new(context.absolute(path)));
        }
        if context.is_root() {
            return Ok(Root::new(PathBuf::from("/var/lib/vmimg")));
        }
        let data = context.variable("XDG_DATA_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
        match data.or_else(|| context.home().map(|home| home.join(".local/share"))) {
            Some(data) => Ok(Root::new(data.join("vmimg"))),
            None => Err(CommandError::new(ErrorKind::Usage, "there is no folder for machines: HOME is not set")
                .hint("`--root` or VMIMG_ROOT names one")),
        }
    }
}

impl Root {
    /// Returns the root at `path`, which must be absolute. It is made when it is first written to.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder of the image store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join(STORE_FOLDER)
    }

    /// Returns the folder of the machine `name`, whether it exists or not.
    #[must_use]
    pub fn folder(&self, name: &MachineName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Makes the folder when it is missing, for its owner alone to write.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub fn create(&self) -> Result<(), CommandError> {
        fs::create_dir_all(&self.path)
            .map_err(|error| CommandError::io(format!("cannot make the folder `{}`", self.path.display()), error))
    }

    /// Reads the record of the machine `name`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such machine, [`ErrorKind::Corrupt`] when the record does not parse or names
    /// another machine.
    pub fn load(&self, name: &MachineName) -> Result<Machine, CommandError> {
        let path = self.folder(name).join(RECORD_FILE);
        let text = match read_text(&path, RECORD_LIMIT) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.missing(name)),
            Err(error) => return Err(CommandError::io(format!("cannot read `{}`", path.display()), error)),
        };
        let machine: Machine = serde_json::from_str(&text).map_err(|error| {
            CommandError::new(ErrorKind::Corrupt, format!("`{}` is not a machine's record", path.display())).with_source(error)
        })?;
        if machine.format != 1 || machine.name != *name {
            let message = format!("`{}` is not the record of `{name}` in a form that is known", path.display());
            return Err(CommandError::new(ErrorKind::Corrupt, message));
        }
        Ok(machine)
    }

    fn missing(&self, name: &MachineName) -> CommandError {
        let error = CommandError::new(ErrorKind::NotFound, format!("there is no machine `{name}`"));
        let names = self.names().unwrap_or_default();
        let nearest = names
            .iter()
            .map(|other| (strsim::damerau_levenshtein(other.as_str(), name.as_str()), other))
            .filter(|(distance, _)| *distance <= 2)
            .min();
        match nearest {
            Some((_, other)) => error.hint(format!("did you mean `{other}`?")),
            None => error.hint(format!("make it with `vmimg prepare {name} --image IMAGE`; `vmimg list` shows what is there")),
        }
    }

    /// Returns the names of all machines, sorted. A folder without a record is none.
    ///
    /// # Errors
    ///
    /// The failure of the operating system; a root that does not exist has no machines.
    pub fn names(&self) -> Result<Vec<MachineName>, CommandError> {
        let cannot = |error| CommandError::io(format!("cannot read the folder `{}`", self.path.display()), error);
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(cannot(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<MachineName>().ok());
            names.extend(name.filter(|_| entry.path().join(RECORD_FILE).is_file()));
        }
        names.sort();
        Ok(names)
    }
}

/// The most bytes of a record that are read.
const RECORD_LIMIT: u64 = 4 << 20;
