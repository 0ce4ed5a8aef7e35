//! Files of the host as contents of a guest's.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgcore::block::{self, BlockRead, Extent};
use imgcore::fs::Content;
use imgcore::storage::{Access, FileDisk};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::place::Place;
use crate::size::Size;

/// Makes contents of files, and knows how many of them are in memory.
#[derive(Debug)]
pub(super) struct Contents {
    held: u64,
    /// Device and inode number of the image that they go into.
    image: Option<(u64, u64)>,
}

impl Contents {
    /// Returns what makes contents for `image`, which may not exist yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for an address that breaks the rules of addresses.
    pub(super) fn new(context: &Context, image: &Path) -> Result<Self, CommandError> {
        let found = match Place::of(context, image)? {
            Place::File(path) => path.metadata().ok(),
            Place::Export(_) => None,
        };
        Ok(Self { held: 0, image: found.map(|found| (found.dev(), found.ino())) })
    }

    /// Returns the contents of a host file: those of a small one at once, as long as all of them do not fill the memory, and those of
    /// others when they are needed. A file that was not `found` then any more fails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when it is the image, and the failure of the operating system.
    pub(super) fn of(&mut self, source: PathBuf, found: &Metadata) -> Result<Content, CommandError> {
        self.refuse_image(&source, found)?;
        if found.size() == 0 {
            return unsized_content(&source, SMALL);
        }
        let is_dense = found.blocks().saturating_mul(512) >= found.size();
        let held = self.held.saturating_add(found.size());
        let file = HostFile { path: source, seen: Seen::of(found) };
        if found.size() > SMALL || !is_dense || held > MOST_HELD {
            return Ok(Content::Disk(Arc::new(file)));
        }
        self.held = held;
        let mut bytes = vec![0; usize::try_from(found.size()).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.into())
    }

    /// Fails when the host file `source` is the image.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`].
    pub(super) fn refuse_image(&self, source: &Path, found: &Metadata) -> Result<(), CommandError> {
        if self.image != Some((found.dev(), found.ino())) {
            return Ok(());
        }
        let message = format!("`{}` is the image itself, which cannot be put into itself", source.display());
        Err(CommandError::new(ErrorKind::Refused, message))
    }
}

/// Returns the contents, of `most` bytes or fewer, of a file that says it has none: those of the kernel, as in `/proc`, only say so.
fn unsized_content(source: &Path, most: u64) -> Result<Content, CommandError> {
    let cannot = |error| CommandError::io(format!("cannot read `{}`", source.display()), error);
    let mut bytes = Vec::new();
    let file = File::open(source).map_err(cannot)?;
    (&file).take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.size() > 0 {
        let message = format!("`{}` was changed while it was read", source.display());
        return Err(CommandError::new(ErrorKind::Refused, message));
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        let message = format!("`{}` does not say how large it is, and has more than {}", source.display(), Size(most));
        return Err(CommandError::new(ErrorKind::Refused, message).hint("copy it to a file, and put that in"));
    }
    Ok(bytes.into())
}

/// A file of the host that is open only while it is read, as there may be more of them than may be open.
///
/// What is read of it is of one state: one that changes meanwhile fails.
#[derive(Debug)]
struct HostFile {
    path: PathBuf,
    seen: Seen,
}

/// What changes with the contents of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Seen {
    fn of(found: &Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl HostFile {
    fn open(&self) -> Result<FileDisk, block::Error> {
        let disk = FileDisk::open(&self.path, Access::Read)?;
        self.check(&disk)?;
        Ok(disk)
    }

    /// Fails when it is not what it was.
    fn check(&self, disk: &FileDisk) -> Result<(), block::Error> {
        let cannot = |error| block::Error::from_io(format!("cannot look at `{}`", self.path.display()), error);
        if Seen::of(&disk.file().metadata().map_err(cannot)?) == self.seen {
            return Ok(());
        }
        let message = format!("`{}` was changed while it was read", self.path.display());
        Err(block::Error::new(block::ErrorKind::Refused, message))
    }
}

impl BlockRead for HostFile {
    fn size(&self) -> u64 {
        self.seen.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        let disk = self.open()?;
        disk.read_exact_at(buf, offset)?;
        self.check(&disk)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, block::Error> {
        self.open()?.extent_at(offset)
    }
}

/// Bytes of a file that is read at once.
const SMALL: u64 = 1 << 20;
/// Bytes of all files that are.
const MOST_HELD: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use imgcore::fs::Content;

    use super::Contents;
    use crate::context::Context;
    use crate::error::ErrorKind;

    #[test]
    fn a_file_of_the_kernel_is_read_though_it_says_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context::detached(folder.path().to_owned(), Box::new(std::io::sink()), Box::new(std::io::sink()));
        let mut contents = Contents::new(&context, Path::new("image")).unwrap();
        let mut of = |path: &Path| contents.of(path.to_owned(), &path.metadata().unwrap());
        let Ok(Content::Bytes(bytes)) = of(Path::new("/proc/version")) else { panic!("not read") };
        assert_eq!(bytes.to_vec(), fs::read("/proc/version").unwrap());
        fs::write(folder.path().join("empty"), "").unwrap();
        assert_eq!(of(&folder.path().join("empty")).unwrap().len(), 0);
        assert_eq!(super::unsized_content(Path::new("/proc/version"), 3).unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_no_source() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context::detached(folder.path().to_owned(), Box::new(std::io::sink()), Box::new(std::io::sink()));
        let mut contents = Contents::new(&context, Path::new("image")).unwrap();
        for (name, len) in [("small", 100), ("large", 2 << 20)] {
            let path: PathBuf = folder.path().join(name);
            fs::write(&path, vec![1; len]).unwrap();
            let found = path.metadata().unwrap();
            contents.of(path.clone(), &found).unwrap();
            let begun = contents.of(path.clone(), &found);
            fs::write(&path, vec![2; len]).unwrap();
            assert_eq!(contents.of(path.clone(), &path.metadata().unwrap()).unwrap().len(), len as u64);
            if let Content::Disk(disk) = begun.unwrap() {
                let error = disk.read_exact_at(&mut [0; 10], 0).unwrap_err();
                assert!(error.to_string().contains("large` was changed while it was read"), "{error}");
            } else {
                assert_eq!(contents.of(path, &found).unwrap_err().kind(), ErrorKind::Refused);
            }
        }
        fs::write(folder.path().join("image"), "x").unwrap();
        let mut contents = Contents::new(&context, Path::new("image")).unwrap();
        let found = folder.path().join("image").metadata().unwrap();
        assert_eq!(contents.of("./image".into(), &found).unwrap_err().kind(), ErrorKind::Refused);
    }
}
