//! Where an archive is read from.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgcore::block::BlockRead;
use imgcore::storage::{Access, FileDisk};

use crate::context::Context;
use crate::error::CommandError;

/// Opens the archive `file`, or standard input for `-`.
///
/// What comes through a pipe is kept in a file without a name beside `image`, since contents are read where they lie.
///
/// # Errors
///
/// The failure of the operating system, and [`crate::error::ErrorKind::Interrupted`].
pub(in crate::commands::disk) fn open(
    context: &Context,
    file: &Path,
    image: &Path,
) -> Result<Arc<dyn BlockRead>, CommandError> {
    if file != Path::new("-") {
        return Ok(Arc::new(FileDisk::open(&context.absolute(file), Access::Read)?));
    }
    let stdin = io::stdin();
    let is_file = rustix::fs::fstat(&stdin).is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_file());
    if is_file && rustix::fs::tell(&stdin).is_ok_and(|at| at == 0) {
        return Ok(Arc::new(FileDisk::open(&descriptor(&stdin), Access::Read)?));
    }
    let image = context.absolute(image);
    let folder = image.parent().filter(|folder| folder.is_dir()).unwrap_or(Path::new("/var/tmp"));
    let failed = |error| CommandError::io(format!("cannot keep the archive in `{}`", folder.display()), error);
    let mut kept = tempfile::tempfile_in(folder).map_err(failed)?;
    let mut buffer = vec![0; PIECE];
    let mut input = stdin.lock();
    loop {
        context.interrupt().check()?;
        let len = match input.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(|error| CommandError::io("cannot read standard input", error))?,
        };
        let Some(part) = buffer.get(..len).filter(|part| !part.is_empty()) else { break };
        kept.write_all(part).map_err(failed)?;
    }
    let disk = FileDisk::open(&descriptor(&kept), Access::Read)?;
    Ok(Arc::new(disk))
}

/// Returns a path that opens an open file once more.
fn descriptor(file: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;
