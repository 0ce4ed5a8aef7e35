//! What the files on a command line put into a seed.

use std::path::{Path, PathBuf};

use imgcore::block::BlockRead;
use imgcore::storage::{Access, FileDisk};
use seed::document::{Tree, UserData};
use seed::iso::{self, VolumeLabel};
use seed::keys::ssh::{AuthorizedKey, parse_authorized_keys};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::publish::{Existing, publish, refuse_existing};

/// Where a seed goes.
#[derive(Debug, clap::Args)]
pub(super) struct OutArgs {
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    /// The new ISO image
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

impl OutArgs {
    /// Returns an error when the file exists and stays: before anything else is done.
    pub(super) fn check(&self, context: &Context) -> Result<(), CommandError> {
        refuse_existing(&context.absolute(&self.out), Existing::from(self.force))
    }

    /// Writes the seed with the files of `tree` under `label`.
    pub(super) fn write(&self, context: &Context, tree: &Tree, label: &str) -> Result<(), CommandError> {
        let image = iso::create(tree, &VolumeLabel::new(label)?, context.unix_time())?;
        context.interrupt().check()?;
        publish(context, &context.absolute(&self.out), &image, 0o644, Existing::from(self.force))
    }
}

/// Returns the contents of the regular file `path`, of at most 64 MiB.
pub(super) fn file(context: &Context, path: &Path) -> Result<Vec<u8>, CommandError> {
    let disk = FileDisk::open(&context.absolute(path), Access::Read)?;
    if disk.size() > LIMIT {
        let message = format!("`{}` is larger than 64 MiB, which is too much for a seed", path.display());
        return Err(CommandError::new(ErrorKind::Refused, message));
    }
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap_or(usize::MAX)];
    disk.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Returns the contents of a user data or vendor data file.
pub(super) fn user_data(context: &Context, path: Option<&PathBuf>) -> Result<Option<UserData>, CommandError> {
    path.map(|path| file(context, path).map(UserData::raw)).transpose()
}

/// Returns the public keys in the files `paths`.
pub(super) fn ssh_keys(context: &Context, paths: &[PathBuf]) -> Result<Vec<AuthorizedKey>, CommandError> {
    let mut keys = Vec::new();
    for path in paths {
        let text = String::from_utf8_lossy(&file(context, path)?).into_owned();
        let read = parse_authorized_keys(&text);
        keys.extend(read.map_err(|error| CommandError::from(error).context(format!("no SSH keys in `{}`", path.display())))?);
    }
    Ok(keys)
}

/// As large as OpenStack makes its config drives.
const LIMIT: u64 = 64 << 20;
