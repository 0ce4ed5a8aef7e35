//! What comes through a pipe: it is kept in a file without a name, as contents are read where they lie, and more than once.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use imgcore::storage::{Access, FileDisk};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// Something of the host that is read once, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Pipe {
    input: File,
    /// What messages call it.
    name: String,
}

impl Pipe {
    /// Opens `path` when it is a FIFO, standard input for `-`, or `/dev/null`, which has nothing in it. Nobody waits for the other
    /// end yet.
    ///
    /// # Errors
    ///
    /// The failure of the operating system.
    pub(super) fn open(context: &Context, path: &Path) -> Result<Option<Self>, CommandError> {
        if path == Path::new("-") {
            let input = io::stdin().as_fd().try_clone_to_owned();
            let input = input.map_err(|error| CommandError::io("cannot read standard input", error))?;
            return Ok(Some(Self { input: input.into(), name: "standard input".to_owned() }));
        }
        let name = format!("`{}`", path.display());
        let path = context.absolute(path);
        if !path.metadata().is_ok_and(|found| is_pipe(&found)) {
            return Ok(None);
        }
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let input = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let input = input.map_err(|error| CommandError::io(format!("cannot read {name}"), error))?;
        Ok(Some(Self { input, name }))
    }

    /// Returns the file itself when it is a regular one, and nothing of it was read.
    fn as_file(&self) -> Option<PathBuf> {
        let is_file = self.input.metadata().is_ok_and(|found| found.is_file());
        (is_file && rustix::fs::tell(&self.input).is_ok_and(|at| at == 0)).then(|| descriptor(&self.input))
    }

    /// Reads all of it, into a file without a name beside the image, or where temporary files are when that is no regular file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when there are more than `most` bytes, [`ErrorKind::Interrupted`], and the failure of the operating
    /// system.
    pub(super) fn read(self, context: &Context, image: &Path, most: u64) -> Result<FileDisk, CommandError> {
        if let Some(path) = self.as_file() {
            return Ok(FileDisk::open(&path, Access::Read)?);
        }
        let folder = folder(context, image);
        let failed = |error| CommandError::io(format!("cannot keep {} in `{}`", self.name, folder.display()), error);
        let mut kept = tempfile::tempfile_in(&folder).map_err(failed)?;
        let mut buffer = vec![0; PIECE];
        let mut left = most;
        loop {
            let len = self.read_some(context, &mut buffer)?;
            let Some(part) = buffer.get(..len).filter(|part| !part.is_empty()) else { break };
            left = left
                .checked_sub(u64::try_from(len).unwrap_or(u64::MAX))
                .ok_or_else(|| CommandError::new(ErrorKind::Refused, format!("{} has more than {most} bytes", self.name)))?;
            kept.write_all(part).map_err(failed)?;
        }
        Ok(FileDisk::open(&descriptor(&kept), Access::Read)?)
    }

    /// Returns how many bytes came, 0 at the end; a signal ends the wait.
    fn read_some(&self, context: &Context, buffer: &mut [u8]) -> Result<usize, CommandError> {
        let cannot = |error| CommandError::io(format!("cannot read {}", self.name), error);
        loop {
            context.interrupt().check()?;
            match poll(&mut [PollFd::new(&self.input, PollFlags::IN)], Some(&WAIT)) {
                Ok(0) | Err(Errno::INTR) => continue,
                other => other.map_err(|error| cannot(error.into()))?,
            };
            match (&self.input).read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                result => return result.map_err(cannot),
            }
        }
    }
}

fn is_pipe(found: &Metadata) -> bool {
    let kind = found.file_type();
    kind.is_fifo() || kind.is_char_device() && found.rdev() == rustix::fs::makedev(NULL.0, NULL.1)
}

/// Returns where what belongs to an image is kept. The folder of a device, `/dev`, is in memory.
fn folder(context: &Context, image: &Path) -> PathBuf {
    let image = context.absolute(image);
    let beside = match fs::canonicalize(&image) {
        Ok(path) => path.is_file().then(|| path.parent().map(Path::to_path_buf)).flatten(),
        Err(_) => image.parent().filter(|folder| folder.is_dir()).map(Path::to_path_buf),
    };
    let temporary =
        || context.variable("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), |path| context.absolute(path.as_ref()));
    beside.unwrap_or_else(temporary)
}

/// Returns a path that opens an open file once more.
fn descriptor(file: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;
/// How long nothing has to come until a look at whether a signal has.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// The number of `/dev/null`.
const NULL: (u32, u32) = (1, 3);
