//! Disks that are changed where they are: all at once or not at all, whatever happens on the way.
//!
//! ```text
//! disk                made longer first: a longer disk shows the same partitions
//! partition table     then one partition grown: a larger partition shows the same files
//! file system         one transaction of its journal: the old files until its commit point, then the new ones
//! ```
//!
//! Two file systems have two commit points, and a cut could come between them: changes to more than one are refused.

use imgcore::block::{BlockRead, ByteRange, Change, ExtentKind, Joined, Resize, Staged, extents};
use imgcore::fs::ext4::Commit;
use imgcore::fs::{self};
use imgcore::partition::{self, Growth, Table};
use seed::guest::VolumeId;

use crate::error::{CommandError, ErrorKind};
use crate::layout::Layout;

/// What is to change on a disk, as it is written in place.
#[derive(Debug)]
pub struct InPlace<'a> {
    /// The bytes of the disk.
    size: u64,
    /// The partition that grows, and what it becomes.
    grown: Option<(u32, Growth)>,
    /// Where the file system is that changes.
    files: Option<(Vec<ByteRange>, Commit<'a>)>,
}

/// Why changes are not made in place.
#[derive(Debug)]
pub enum NotInPlace {
    /// They cannot be one step: there is no journal, or it is too small, or more than one file system changes.
    Unsupported(CommandError),
    /// Something failed.
    Failed(CommandError),
}

impl<'a> InPlace<'a> {
    /// Sorts `changes` to `disk`, which will have `size` bytes; in them, [`partition::grow`] has made `grown` of a partition.
    /// Nothing is written.
    ///
    /// # Errors
    ///
    /// [`NotInPlace`] for changes without a journal that takes all of them.
    pub fn plan<D: BlockRead>(
        disk: &D,
        size: u64,
        changes: &[Change<'a>],
        grown: Option<(u32, Growth)>,
    ) -> Result<Self, NotInPlace> {
        let mut longer = Staged::new(disk);
        longer.resize(size)?;
        let disk = &longer;
        let mut files = None;
        let mut all = Vec::new();
        for (id, place) in windows(disk, grown)? {
            let inside: Vec<_> = seen_in(&place, changes);
            let window = Joined::open(disk, &place)?;
            // A unit of changes can reach into a neighbor, of which it has what is there.
            if !differ(&window, &inside)? {
                continue;
            }
            all.push(id.described());
            files = Some((place, window, inside));
        }
        if all.len() > 1 {
            let message = format!("the file systems of {} would change, each in a step of its own", all.join(" and "));
            return Err(NotInPlace::Unsupported(
                CommandError::new(ErrorKind::Unsupported, message).hint("change one partition at a time"),
            ));
        }
        let files = match files {
            Some((place, window, inside)) => Some((place, Commit::plan(&window, &inside)?)),
            None => None,
        };
        Ok(Self { size, grown, files })
    }

    /// Writes the changes to `disk`, which is as it was for [`InPlace::plan`], durably.
    ///
    /// # Errors
    ///
    /// The failure of the device. The file system has the old files then, or its journal has the new ones.
    pub fn run<D: Resize>(&self, disk: &mut D) -> Result<(), CommandError> {
        if disk.size() != self.size {
            disk.resize(self.size)?;
            disk.flush()?;
        }
        if let Some((number, wanted)) = self.grown {
            let grown = partition::grow(disk, number)?;
            if grown.new != wanted.new {
                return Err(CommandError::new(ErrorKind::Refused, "another program has changed the partition table"));
            }
        }
        if let Some((place, commit)) = &self.files {
            commit.run(&mut Joined::open(disk, place)?)?;
        }
        Ok(())
    }

    /// Reads everything back from `disk`, opened anew behind [`InPlace::run`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] names what is not as it was written.
    pub fn verify<D: BlockRead>(&self, disk: &D) -> Result<(), CommandError> {
        if let Some((number, wanted)) = self.grown {
            let found = Table::read(disk)?.and_then(|table| table.partition(number).map(|partition| partition.range));
            if found != Some(wanted.new) {
                let message = format!("partition {number} does not read back as it was written");
                return Err(CommandError::new(ErrorKind::Storage, message));
            }
        }
        match &self.files {
            Some((place, commit)) => Ok(commit.verify(&Joined::open(disk, place)?)?),
            None => Ok(()),
        }
    }
}

/// Returns what can have a file system, and where that is; the whole disk without a table.
fn windows<D: BlockRead>(disk: &D, grown: Option<(u32, Growth)>) -> Result<Vec<(VolumeId, Vec<ByteRange>)>, CommandError> {
    let mut all = Layout::read(disk)?.volumes();
    if let Some((number, growth)) = grown {
        for (_, place) in all.iter_mut().filter(|(id, _)| *id == VolumeId::Partition(number)) {
            *place = vec![growth.new];
        }
    }
    Ok(all)
}

/// Returns the parts of `changes` that lie in `place`, as seen in the device that its ranges make one behind the other.
fn seen_in<'a>(place: &[ByteRange], changes: &[Change<'a>]) -> Vec<Change<'a>> {
    let mut all = Vec::new();
    let mut before = 0_u64;
    for range in place {
        let inside = changes.iter().filter_map(|change| change.within(*range)?.moved(range.start(), before));
        all.extend(inside);
        before = before.saturating_add(range.len());
    }
    all
}

/// Returns whether `disk` reads otherwise than after `changes`.
fn differ<D: BlockRead>(disk: &D, changes: &[Change<'_>]) -> Result<bool, CommandError> {
    for change in changes {
        match change {
            Change::Zeroes(range) => {
                for extent in extents(disk, *range) {
                    if extent?.kind == ExtentKind::Data {
                        return Ok(true);
                    }
                }
            }
            change if !change.is_on(disk)? => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

impl From<fs::Error> for NotInPlace {
    fn from(error: fs::Error) -> Self {
        match error {
            error @ (fs::Error::Refused(_) | fs::Error::JournalTooSmall { .. }) => Self::Unsupported(error.into()),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<imgcore::block::Error> for NotInPlace {
    fn from(error: imgcore::block::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CommandError> for NotInPlace {
    fn from(error: CommandError) -> Self {
        Self::Failed(error)
    }
}

impl From<NotInPlace> for CommandError {
    fn from(error: NotInPlace) -> Self {
        match error {
            NotInPlace::Unsupported(error) | NotInPlace::Failed(error) => error,
        }
    }
}
