//! `vmimg disk put`: a file or folder of the host goes into a guest.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imgcore::fs::{Attributes, Edit, EditPlan, Error, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::chmod::octal;
use super::chown::Owner;
use super::host_file::contents;
use super::tar;
use super::volume::Volume;
use super::walk::into_folder;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::{ReportArgs, warn};

/// The arguments of `vmimg disk put`.
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "\
A folder is copied with all that is in it. An existing folder DEST gets SOURCE
under its own name. A file that exists gets new contents and keeps its owner,
permissions and attributes; a new one has the permissions of the source and is
owned by root. Holes stay holes.

An archive is unpacked into the folder DEST as `tar -xp` does: owners by number,
permissions, times, links, devices, holes, attributes, labels and access lists.
Files take the place of what has their name. Links are followed in the guest.

Examples:
  vmimg disk put web1.qcow2 motd /etc/motd
  vmimg disk put --mode 0600 --owner 1000:1000 web1.qcow2 key /home/ada/key
  vmimg disk put web1.qcow2 site /srv/www
  tar -C site -c . | vmimg disk put --tar - web1.qcow2 /srv/www"
)]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// The permission bits of the file, in octal
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
    /// The owner's and the group's number, of all that is copied
    #[arg(long, value_name = "UID:GID")]
    owner: Option<Owner>,
    /// Unpack this tar archive, `-` for standard input, instead of SOURCE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "mode", "owner"])]
    tar: Option<PathBuf>,
    /// The file or folder on the host
    #[arg(value_name = "SOURCE", required_unless_present = "tar")]
    source: Option<PathBuf>,
    /// The path in the guest
    #[arg(value_name = "DEST")]
    dest: GuestPath,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if let Some(file) = &args.tar {
        let archive = tar::open(context, file, &args.change.volume.image)?;
        let plan = tar::plan(context, archive, &args.dest)?;
        return carry_out(context, &args.change, args.report, plan);
    }
    let source = context.absolute(args.source.as_deref().unwrap_or(Path::new("")));
    // What the command line names is followed; links inside of a folder are copied as they are.
    let found = fs::metadata(&source).map_err(|error| cannot(&source, error))?;
    let volume = Volume::open(context, &args.change.volume)?;
    let name = source.file_name().and_then(|name| name.to_str());
    let dest = into_folder(volume.file_system(), args.dest.clone(), name)?;
    if args.mode.is_some() && found.is_dir() {
        return Err(CommandError::new(ErrorKind::Usage, "`--mode` is for a single file, and this is a folder"));
    }
    let mut copy = Copy { context, args, volume: &volume, edits: Vec::new() };
    copy.add(&source, dest, &found)?;
    let edits = copy.edits;
    drop(volume);
    carry_out(context, &args.change, args.report, EditPlan { edits })
}

struct Copy<'a> {
    context: &'a Context,
    args: &'a Args,
    volume: &'a Volume,
    edits: Vec<Edit>,
}

impl Copy<'_> {
    /// Adds the steps that copy `source`, and what is in it, to `path`.
    fn add(&mut self, source: &Path, path: GuestPath, found: &Metadata) -> Result<(), CommandError> {
        let mut waiting = vec![(source.to_path_buf(), path, found.clone())];
        while let Some((source, path, found)) = waiting.pop() {
            self.context.interrupt().check()?;
            let kind = found.file_type();
            let attributes = self.attributes(&path, &found)?;
            if kind.is_dir() {
                waiting.extend(self.below(&source, &path)?);
                self.edits.push(Edit::CreateDir { path, attributes });
            } else if kind.is_symlink() {
                let target = fs::read_link(&source).map_err(|error| cannot(&source, error))?;
                let target = std::str::from_utf8(target.as_os_str().as_bytes()).map(str::to_owned);
                let target = target.map_err(|_| not_text(&source))?;
                self.edits.push(Edit::Symlink { path, target, attributes });
            } else if kind.is_file() {
                let content = contents(source, &found)?;
                self.edits.push(Edit::Write { path, content, attributes });
            } else {
                warn(self.context, format!("`{}` is no file, folder or link, and is not copied", source.display()));
            }
        }
        Ok(())
    }

    /// Returns what is in a folder of the host, the last name first.
    fn below(&self, source: &Path, path: &GuestPath) -> Result<Vec<(PathBuf, GuestPath, Metadata)>, CommandError> {
        let mut below = Vec::new();
        for entry in fs::read_dir(source).map_err(|error| cannot(source, error))? {
            let entry = entry.map_err(|error| cannot(source, error))?;
            let name = entry.file_name();
            let inside = name.to_str().and_then(|name| path.join(name).ok()).ok_or_else(|| not_text(&entry.path()))?;
            let found = entry.metadata().map_err(|error| cannot(&entry.path(), error))?;
            below.push((entry.path(), inside, found));
        }
        below.sort_by(|a, b| b.1.cmp(&a.1));
        Ok(below)
    }

    /// Returns what to set: for a new file the source's permissions, and what the options say.
    fn attributes(&self, path: &GuestPath, found: &Metadata) -> Result<Attributes, CommandError> {
        let is_new = match self.volume.file_system().metadata(path) {
            Err(Error::NotFound(_)) => true,
            // The step itself says what is wrong.
            Err(_) | Ok(_) => false,
        };
        let mut attributes = if is_new { Attributes::root(found.mode() & 0o777) } else { Attributes::default() };
        attributes.mode = self.args.mode.or(attributes.mode);
        if let Some(owner) = self.args.owner {
            owner.set(&mut attributes);
        }
        Ok(attributes)
    }
}

fn cannot(path: &Path, error: std::io::Error) -> CommandError {
    CommandError::io(format!("cannot read `{}`", path.display()), error)
}

fn not_text(path: &Path) -> CommandError {
    CommandError::new(ErrorKind::Unsupported, format!("`{}` is not UTF-8, which a path of a guest must be", path.display()))
}
