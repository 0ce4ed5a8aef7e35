//! Disks that are changed where they are: all at once or not at all, whatever happens on the way.
//!
//! ```text
//! disk                made longer first: a longer disk shows the same partitions
//! partition table     then one partition grown: a larger partition shows the same files
//! file system         one transaction of its journal: the old files until its commit point, then the new ones
//! ```
//!
//! Two file systems have two commit points, and a cut could come between them: changes to more than one are refused.

use imgcore::block::{BlockRead, ByteRange, Change, ExtentKind, Resize, Slice, Staged, extents};
use imgcore::fs::ext4::Commit;
use imgcore::fs::{self};
use imgcore::partition::{self, Growth, Table};

use crate::error::{CommandError, ErrorKind};

/// What is to change on a disk, as it is written in place.
#[derive(Debug)]
pub struct InPlace<'a> {
    /// The bytes of the disk.
    size: u64,
    /// The partition that grows, and what it becomes.
    grown: Option<(u32, Growth)>,
    /// Where the file system is that changes.
    files: Option<(ByteRange, Commit<'a>)>,
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
        for (number, range) in windows(disk, grown)? {
            let inside: Vec<_> = changes.iter().filter_map(|change| change.within(range)?.seen_from(range.start())).collect();
            let window = Slice::open(disk, range)?;
            // A unit of changes can reach into a neighbor, of which it has what is there.
            if !differ(&window, &inside)? {
                continue;
            }
            all.push(number.to_string());
            files = Some((range, window, inside));
        }
        if all.len() > 1 {
            let message =
                format!("the file systems of partitions {} would change, each in a step of its own", all.join(" and "));
            return Err(NotInPlace::Unsupported(
                CommandError::new(ErrorKind::Unsupported, message).hint("change one partition at a time"),
            ));
        }
        let files = match files {
            Some((range, window, inside)) => Some((range, Commit::plan(&window, &inside)?)),
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
        if let Some((range, commit)) = &self.files {
            commit.run(&mut Slice::open(disk, *range)?)?;
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
            Some((range, commit)) => Ok(commit.verify(&Slice::open(disk, *range)?)?),
            None => Ok(()),
        }
    }
}

/// Returns the partitions that can have a file system, with their numbers; the whole disk without a table.
fn windows<D: BlockRead>(disk: &D, grown: Option<(u32, Growth)>) -> Result<Vec<(u32, ByteRange)>, CommandError> {
    let Some(table) = Table::read(disk)? else {
        return Ok(vec![(0, ByteRange::new(0, disk.size()).unwrap_or_default())]);
    };
    let parts = table.partitions.iter().filter(|partition| !partition.is_extended());
    let range = |number, range| grown.filter(|(grown, _)| *grown == number).map_or(range, |(_, growth)| growth.new);
    Ok(parts.map(|partition| (partition.number, range(partition.number, partition.range))).collect())
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
