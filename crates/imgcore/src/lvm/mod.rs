//! LVM2: which volume groups and logical volumes the physical volumes of one disk hold, and where.
//!
//! ```text
//! physical volume   | label, header | metadata area: header | text, a ring | ... extents ... | (a second metadata area) |
//! volume group      the text: physical volumes, logical volumes, and which extents each segment of these is on
//! logical volume    its segments one behind the other
//! ```
//!
//! This machine's own LVM has no part in it: nothing is activated, so the names and UUIDs of a guest cannot meet those of the host.
//! A logical volume is found when all of it lies on this disk as plain extents, and nothing else refers to it; of every other,
//! what it is and why not is known. All bytes are hostile: checksums are compared, sizes and counts bounded, and extents that
//! overlap or lie outside are refused.
//!
//! There is no specification by those who make LVM2. What is said here of its structures is from pvck(8), lvmsystemid(7) and
//! vgcreate(8) of lvm2 2.03, from "LVM format specification" by the libvslvm project ("format" below), and measured: the tests
//! compare with what lvm2 writes.

mod area;
mod crc;
mod error;
mod group;
mod label;
mod logical;
mod text;

#[cfg(test)]
mod tests;

pub use group::Group;
pub use logical::Logical;

use std::collections::{BTreeMap, BTreeSet};

use self::error::Error;
use crate::block::{self, BlockRead, ByteRange, Joined};

/// What the physical volumes of a disk hold.
#[derive(Clone, Debug, Default)]
pub struct Lvm {
    /// The physical volumes, in the order of the parts that were looked at.
    pub physical: Vec<Physical>,
    /// The volume groups, by name.
    pub groups: Vec<Group>,
}

/// A physical volume.
#[derive(Clone, Debug)]
pub struct Physical {
    /// The number of the partition, 0 for a whole disk.
    pub partition: u32,
    /// Its UUID, as people write it.
    pub uuid: String,
    /// The name of its volume group, when it belongs to one that is understood.
    pub group: Option<String>,
    /// Why it is not used, when it is not.
    pub obstacle: Option<String>,
}

impl Lvm {
    /// Reads what is on those of `parts`, numbers and ranges of `disk`, that are physical volumes.
    ///
    /// # Errors
    ///
    /// The failure of the device; what is wrong with a physical volume or a group is its [`Physical::obstacle`].
    pub fn read(disk: &(impl BlockRead + ?Sized), parts: &[(u32, ByteRange)]) -> Result<Self, block::Error> {
        let mut physical = Vec::new();
        let mut members = Vec::new();
        let mut left = TEXTS_MAX;
        for (partition, range) in parts {
            let part = Joined::open(disk, &[*range])?;
            let found = label::read(&part).and_then(|label| match label {
                Some(label) => Ok(Some((label.uuid.clone(), area::text(&part, &label, &mut left)?, label))),
                None => Ok(None),
            });
            let (uuid, obstacle) = match found {
                Ok(None) => continue,
                Err(Error::Storage(error)) => return Err(error),
                Err(error) => (String::new(), Some(error.full())),
                Ok(Some((uuid, text, label))) => {
                    members.push(group::Member { index: physical.len(), range: *range, label, text });
                    (uuid, None)
                }
            };
            physical.push(Physical { partition: *partition, uuid, group: None, obstacle });
        }
        let mut lvm = Self { physical, groups: Vec::new() };
        lvm.assemble(&members);
        Ok(lvm)
    }

    /// Returns the logical volume of a group.
    #[must_use]
    pub fn logical(&self, group: &str, name: &str) -> Option<&Logical> {
        self.groups.iter().find(|found| found.name == group)?.logical.iter().find(|logical| logical.name == name)
    }

    /// Finds the groups of the physical volumes that were read.
    fn assemble(&mut self, members: &[group::Member]) {
        if let Some(twice) = twice(members.iter().map(|member| &member.label.uuid)) {
            // Which of the two a group means cannot be said.
            let reason = format!("another physical volume of the disk has the UUID {twice} too");
            members.iter().filter(|member| member.label.uuid == twice).for_each(|member| self.refuse(member.index, &reason));
        }
        let mut groups: BTreeMap<String, Vec<Group>> = BTreeMap::new();
        let texts: BTreeSet<&[u8]> =
            members.iter().filter(|member| self.is_usable(member.index)).filter_map(|member| member.text.as_deref()).collect();
        for text in texts {
            let usable: Vec<_> = members.iter().filter(|member| self.is_usable(member.index)).collect();
            let holders: Vec<_> =
                usable.iter().filter(|member| member.text.as_deref() == Some(text)).map(|m| m.index).collect();
            match Group::decode(text, &usable) {
                Ok(group) => groups.entry(group.name.clone()).or_default().push(group),
                Err(error) => holders.into_iter().for_each(|index| self.refuse(index, &error.full())),
            }
        }
        for (name, mut found) in groups {
            let Some(group) = found.pop() else { continue };
            let belongs = group.members.iter().chain(found.iter().flat_map(|other| &other.members));
            if !found.is_empty() {
                // Either two groups of the same name, or one whose copies of the text differ.
                let reason = format!("the disk has more than one state of the volume group `{name}`");
                let both: Vec<usize> = belongs.copied().collect();
                both.into_iter().for_each(|index| self.refuse(index, &reason));
                continue;
            }
            for index in &group.members {
                if let Some(physical) = self.physical.get_mut(*index) {
                    physical.group = Some(name.clone());
                }
            }
            self.groups.push(group);
        }
        for member in members.iter().filter(|member| self.is_usable(member.index)).map(|m| m.index).collect::<Vec<_>>() {
            if self.physical.get(member).is_some_and(|physical| physical.group.is_none()) {
                self.refuse(member, "it belongs to no volume group");
            }
        }
    }

    fn is_usable(&self, index: usize) -> bool {
        self.physical.get(index).is_some_and(|physical| physical.obstacle.is_none())
    }

    fn refuse(&mut self, index: usize, reason: &str) {
        if let Some(physical) = self.physical.get_mut(index) {
            physical.obstacle.get_or_insert_with(|| reason.to_owned());
        }
    }
}

/// Bytes of all texts of a disk that are read.
const TEXTS_MAX: usize = 32 << 20;

/// Returns what comes twice.
fn twice<'a>(all: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut seen = BTreeSet::new();
    all.into_iter().find(|one| !seen.insert(*one)).cloned()
}
