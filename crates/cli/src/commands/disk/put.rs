//! `vmimg disk put`: a file or folder of the host goes into a guest.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use imgcore::fs::{Attributes, Content, Edit, EditPlan, Error, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::chmod::octal;
use super::chown::Owner;
use super::dest::Dest;
use super::host_tree::{Taken, cannot_read, steps};
use super::pipe::Pipe;
use super::tar;
use super::volume::Volume;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::ReportArgs;

/// The arguments of `vmimg disk put`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A folder is copied with all that is in it. An existing folder DEST gets SOURCE
under its own name. A file that exists gets new contents and keeps its owner,
permissions and attributes; a new one has the permissions of the source and is
owned by root. Holes stay holes. What comes through a pipe, `-` for standard
input, becomes a file of mode 0644.

An archive is unpacked into the folder DEST as `tar -xp` does: owners by number,
permissions, times, links, devices, holes, attributes, labels and access lists.
Files take the place of what has their name. Links are followed in the guest.

Examples:
  vmimg disk put web1.qcow2 motd /etc/motd
  vmimg disk put --mode 0600 --owner 1000:1000 web1.qcow2 key /home/ada/key
  vmimg disk put web1.qcow2 site /srv/www
  echo web1 | vmimg disk put web1.qcow2 - /etc/hostname
  vmimg disk put --archive web1.qcow2 /srv/app /srv/app
  tar -C site -c . | vmimg disk put --tar - web1.qcow2 /srv/www")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// The permission bits of the file, in octal
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
    /// The owner's and the group's number, of all that is copied
    #[arg(long, value_name = "UID:GID")]
    owner: Option<Owner>,
    /// Copy as `cp -a` does: owners, permissions, times, links, devices,
    /// attributes and access lists as they are, in the place of what is there
    #[arg(short = 'a', long, conflicts_with_all = ["mode", "owner"])]
    archive: bool,
    /// Accepted out of habit: folders are always copied with all that is in them
    #[arg(short = 'r', short_alias = 'R', long = "recursive", hide = true)]
    _recursive: bool,
    /// Unpack this tar archive, `-` for standard input, instead of SOURCE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mode", "owner", "archive"])]
    tar: Option<PathBuf>,
    /// The file, folder or pipe on the host, `-` for standard input, and the
    /// path in the guest; with `--tar` the path alone
    #[arg(value_names = ["SOURCE", "DEST"], num_args = 1..=2, required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let (source, dest) = match (&args.tar, args.paths.as_slice()) {
        (Some(file), [dest]) => {
            let archive = tar::open(context, file, &args.change.volume.image)?;
            let plan = tar::plan(context, archive, &Dest::named(dest)?.path)?;
            return carry_out(context, &args.change, args.report, plan);
        }
        (None, [source, dest]) => (source.as_path(), Dest::named(dest)?),
        (Some(_), _) => {
            let error = CommandError::new(ErrorKind::Usage, "`--tar` is the source, and only DEST stands behind the image");
            return Err(error.hint("as in `vmimg disk put --tar site.tar web1.qcow2 /srv/www`"));
        }
        (None, _) => {
            let error = CommandError::new(ErrorKind::Usage, "SOURCE and DEST stand behind the image");
            return Err(error.hint("as in `vmimg disk put web1.qcow2 motd /etc/motd`"));
        }
    };
    if !args.archive
        && let Some(pipe) = Pipe::open(context, source)?
    {
        let plan = from_pipe(args, dest, context, pipe)?;
        return carry_out(context, &args.change, args.report, plan);
    }
    let source = context.absolute(source);
    // What the command line names is followed; links inside of a folder are copied as they are.
    let found = fs::metadata(&source).map_err(|error| cannot_read(&source, error))?;
    let volume = Volume::open(context, &args.change.volume)?;
    let name = source.file_name().and_then(|name| name.to_str());
    let dest = dest.of(volume.file_system(), name, found.is_dir())?;
    if args.mode.is_some() && found.is_dir() {
        return Err(CommandError::new(ErrorKind::Usage, "`--mode` is for a single file, and this is a folder"));
    }
    let attributes = |path: &GuestPath, found: &Metadata| new_attributes(args, &volume, path, found.mode());
    let taken = if args.archive { Taken::All } else { Taken::Contents(&attributes) };
    let edits = steps(context, &source, (&args.change.volume.image, dest), &taken)?;
    drop(volume);
    carry_out(context, &args.change, args.report, EditPlan { edits })
}

/// Returns the step that makes a file of what comes through a pipe.
fn from_pipe(args: &Args, dest: Dest, context: &Context, pipe: Pipe) -> Result<EditPlan, CommandError> {
    let volume = Volume::open(context, &args.change.volume)?;
    let space = volume.space()?;
    let room = space.blocks.saturating_mul(u64::from(space.block_size));
    let path = dest.of(volume.file_system(), None, false)?;
    let attributes = new_attributes(args, &volume, &path, 0o644);
    drop(volume);
    let content = Content::Disk(Arc::new(pipe.read(context, &args.change.volume.image, room)?));
    Ok(EditPlan { edits: vec![Edit::Write { path, content, attributes }] })
}

/// Returns what to set: for a new file the permissions `mode`, those of the source, and what the options say.
fn new_attributes(args: &Args, volume: &Volume, path: &GuestPath, mode: u32) -> Attributes {
    // Another failure is that of the step itself.
    let is_new = matches!(volume.file_system().metadata(path), Err(Error::NotFound(_)));
    let mut attributes = if is_new { Attributes::root(mode & 0o777) } else { Attributes::default() };
    attributes.mode = args.mode.or(attributes.mode);
    if let Some(owner) = args.owner {
        owner.set(&mut attributes);
    }
    attributes
}
