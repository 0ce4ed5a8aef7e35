//! `vmimg disk get`: a file or folder of a guest comes to the host.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, ByteRange, extents};
use imgcore::fs::{FileKind, GuestPath, Metadata};
use rand_core::RngCore as _;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::tar;
use super::volume::{Volume, VolumeArgs};
use super::walk::{Met, PassedOver};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::warn;

/// The arguments of `vmimg disk get`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing that exists on the host is written: DEST is new, and an existing folder
DEST gets PATH under its own name. A folder comes with all that is in it: links
as they are, permissions without setuid and setgid, times, holes; not owners,
attributes and devices. Links in PATH are followed inside the guest. An archive
has all of these as well.

Examples:
  vmimg disk get web1.qcow2 /etc/os-release .
  vmimg disk get web1.qcow2 /var/log logs
  vmimg disk get --tar - web1.qcow2 /srv | tar -C srv -xp")]
pub(super) struct Args {
    #[command(flatten)]
    volume: VolumeArgs,
    /// The file or folder in the guest
    #[arg(value_name = "PATH")]
    path: GuestPath,
    /// Make this tar archive, `-` for standard output, instead of DEST
    #[arg(long, value_name = "FILE", conflicts_with = "dest")]
    tar: Option<PathBuf>,
    /// The new file or folder on the host
    #[arg(value_name = "DEST", required_unless_present = "tar")]
    dest: Option<PathBuf>,
    /// Accepted out of habit: folders always come with all that is in them
    #[arg(short = 'r', short_alias = 'R', long = "recursive", hide = true)]
    _recursive: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let volume = Volume::open(context, &args.volume)?;
    if let Some(file) = &args.tar {
        return tar::write(tar::Output::open(context, file)?, &volume, &args.path);
    }
    let found = volume.file_system().metadata(&args.path)?;
    if !matches!(found.kind, FileKind::File | FileKind::Directory) {
        let message = format!("`{}` is neither a file nor a folder", args.path);
        return Err(
            CommandError::new(ErrorKind::Unsupported, message).hint("`--tar` makes an archive, which has devices as well")
        );
    }
    let named = args.dest.as_deref().unwrap_or(Path::new(""));
    let mut dest = context.absolute(named);
    if dest.is_dir() {
        dest.push(args.path.name().unwrap_or("root"));
    } else if named.as_os_str().as_bytes().ends_with(b"/") && found.kind != FileKind::Directory {
        let message = format!("`{}` is no folder", named.display());
        return Err(CommandError::new(ErrorKind::NotFound, message).hint("without the slash it is a new file"));
    }
    let (Some(folder), Some(name)) = (dest.parent(), dest.file_name()) else {
        return Err(CommandError::new(ErrorKind::Usage, format!("`{}` names no new file", dest.display())));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(|error| cannot(folder, error))?;
    let mut copy = Copy { context, volume: &volume, passed_over: PassedOver::default() };
    refuse_existing(&folder, name, &dest)?;
    // Nobody takes for whole what an error or a signal has ended.
    let draft = OsString::from(format!(".vmimg-{:016x}", context.entropy(None).next_u64()));
    let copied = copy.copy(&folder, &draft, &args.path, found, &dest);
    copied.and_then(|()| publish(&folder, &draft, name, &dest)).inspect_err(|_| remove(&folder, &draft))?;
    copy.passed_over.check()
}

fn refuse_existing(folder: &OwnedFd, name: &OsStr, shown: &Path) -> Result<(), CommandError> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(cannot(shown, error)),
        Ok(_) => Err(cannot(shown, Errno::EXIST)),
    }
}

/// Gives what was copied its name, which nothing has.
fn publish(folder: &OwnedFd, draft: &OsStr, name: &OsStr, shown: &Path) -> Result<(), CommandError> {
    let renamed = match rustix::fs::renameat_with(folder, draft, folder, name, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(folder, draft, folder, name),
        renamed => renamed,
    };
    renamed.map_err(|error| cannot(shown, error))
}

/// Removes what was copied in part.
fn remove(folder: &OwnedFd, draft: &OsStr) {
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(draft);
    if std::fs::remove_file(&path).is_err() {
        let _left = std::fs::remove_dir_all(&path);
    }
}

struct Copy<'a> {
    context: &'a Context,
    volume: &'a Volume,
    passed_over: PassedOver,
}

/// A folder of the host that is being filled, and what its permissions and time will be.
struct Open {
    fd: OwnedFd,
    found: Metadata,
}

impl Copy<'_> {
    /// Copies `path` as the new `name` in a folder of the host.
    ///
    /// Every folder on the way below is one that was just made and is held open, and no name is opened that exists: no link, of
    /// the guest or of somebody else, leads elsewhere.
    fn copy(
        &mut self,
        above: &OwnedFd,
        name: &OsStr,
        path: &GuestPath,
        found: Metadata,
        shown: &Path,
    ) -> Result<(), CommandError> {
        if found.kind != FileKind::Directory {
            return self.copy_one(above, name, path, found, shown);
        }
        let mut met = Met::new(self.volume.file_system());
        met.is_new(self.context, path, found.inode);
        let mut open = vec![(self.enter(above, name, found, shown)?, self.names(path)?, path.clone(), shown.to_path_buf())];
        while let Some((folder, names, path, shown)) = open.last_mut() {
            self.context.interrupt().check()?;
            let Some(name) = names.pop() else {
                finish(&folder.fd, &folder.found).map_err(|error| cannot(shown, error))?;
                open.pop();
                continue;
            };
            let Some(inside) = std::str::from_utf8(&name).ok().and_then(|name| path.join(name).ok()) else {
                self.passed_over.add(self.context, &name, path);
                continue;
            };
            let (name, shown) = (OsStr::from_bytes(&name), shown.join(OsStr::from_bytes(&name)));
            let found = self.volume.file_system().symlink_metadata(&inside)?;
            if found.kind == FileKind::Directory {
                if !met.is_new(self.context, &inside, found.inode) {
                    continue;
                }
                let next = (self.enter(&folder.fd, name, found, &shown)?, self.names(&inside)?, inside, shown);
                open.push(next);
            } else {
                self.copy_one(&folder.fd, name, &inside, found, &shown)?;
            }
        }
        Ok(())
    }

    /// Returns the names in a folder of the guest, the first one last.
    fn names(&self, path: &GuestPath) -> Result<Vec<Vec<u8>>, CommandError> {
        let entries = self.volume.file_system().read_dir(path)?;
        Ok(entries.into_iter().rev().map(|entry| entry.name).collect())
    }

    /// Makes a folder and opens it.
    fn enter(&self, above: &OwnedFd, name: &OsStr, found: Metadata, shown: &Path) -> Result<Open, CommandError> {
        let make = || {
            rustix::fs::mkdirat(above, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(above, name, flags, Mode::empty())
        };
        make().map(|fd| Open { fd, found }).map_err(|error| cannot(shown, error))
    }

    fn copy_one(
        &self,
        above: &OwnedFd,
        name: &OsStr,
        path: &GuestPath,
        found: Metadata,
        shown: &Path,
    ) -> Result<(), CommandError> {
        match found.kind {
            FileKind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd =
                    rustix::fs::openat(above, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| cannot(shown, error))?;
                let file = File::from(fd);
                self.copy_contents(&file, path, shown)?;
                finish(&file, &found).map_err(|error| cannot(shown, error))
            }
            FileKind::Symlink => {
                let target = self.volume.file_system().read_link(path)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), above, name).map_err(|error| cannot(shown, error))?;
                let times = times(&found);
                rustix::fs::utimensat(above, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| cannot(shown, error))
            }
            _ => {
                warn(self.context, format!("`{path}` is no file, folder or link, and is not copied"));
                Ok(())
            }
        }
    }

    fn copy_contents(&self, file: &File, path: &GuestPath, shown: &Path) -> Result<(), CommandError> {
        let contents = self.volume.open_file(path)?;
        let failed = |error| CommandError::io(format!("cannot write `{}`", shown.display()), error);
        file.set_len(contents.size()).map_err(failed)?;
        let mut buffer = Vec::new();
        for extent in extents(&contents, ByteRange::new(0, contents.size()).unwrap_or_default()) {
            let extent = extent?;
            if extent.reads_as_zeros() {
                continue;
            }
            let mut offset = extent.range.start();
            while offset < extent.range.end() {
                self.context.interrupt().check()?;
                let len = extent.range.end().saturating_sub(offset).min(PIECE);
                buffer.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                contents.read_exact_at(&mut buffer, offset)?;
                file.write_all_at(&buffer, offset).map_err(failed)?;
                offset = offset.saturating_add(len);
            }
        }
        Ok(())
    }
}

/// Sets permissions and time of what was copied.
fn finish(file: impl AsFd, found: &Metadata) -> rustix::io::Result<()> {
    rustix::fs::fchmod(&file, Mode::from_raw_mode(found.mode & 0o777))?;
    rustix::fs::futimens(&file, &times(found))
}

fn times(found: &Metadata) -> Timestamps {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access, last_modification: Timespec { tv_sec: found.mtime, tv_nsec: i64::from(found.mtime_nanos) } }
}

fn cannot(path: &Path, error: Errno) -> CommandError {
    if error == Errno::EXIST {
        let message = format!("`{}` exists", path.display());
        return CommandError::new(ErrorKind::Refused, message).hint("name a new file, or remove that one");
    }
    CommandError::io(format!("cannot write `{}`", path.display()), error.into())
}

/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;
