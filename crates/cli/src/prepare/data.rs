//! Data disks: new and empty, each in a file of its own beside the system disk.
//!
//! ```text
//! vda   disk.qcow2   the system
//! vdb   disk.eph0    ephemeral0, as Nova calls it, its file system labeled so
//! vdc   disk.eph1    ephemeral1
//! vdd   disk.swap    swap
//! vde   seed.iso
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use imgcore::block::{BlockRead as _, ByteRange, Change, MemoryDisk, Resize as _, Staged};
use imgcore::fs::EditPlan;
use imgcore::fs::ext4::{self, Timestamp};
use imgcore::image::{self, Disk, Format, OpenOptions, OpenPolicy};
use imgcore::qcow2::{Content, CreateOptions};
use seed::identity::Randomness;
use serde::Deserialize;

use super::Settings;
use super::stage::write_qcow2;
use crate::domain;
use crate::error::{CommandError, ErrorKind};
use crate::machine::DataRecord;
use crate::mkfs::{self, Kind};
use crate::size::Size;

/// A data disk that is asked for: `SIZE[,FORMAT]`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct Ephemeral {
    size: Size,
    kind: Kind,
}

impl FromStr for Ephemeral {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (size, format) = text.split_once(',').unwrap_or((text, "ext4"));
        let size = size.parse().map_err(|error: crate::size::SizeError| error.to_string())?;
        let kind = [Kind::Ext4, Kind::Vfat, Kind::Ext3, Kind::Ext2].into_iter().find(|kind| kind.name() == format);
        let kind = kind.ok_or_else(|| format!("`{format}` is no format of a data disk: ext4, vfat, ext3 or ext2"))?;
        Ok(Self { size, kind })
    }
}

impl TryFrom<String> for Ephemeral {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A data disk of a machine, with all that is on it in memory: no more than the structures of an empty file system.
#[derive(Debug)]
pub struct DataDisk {
    record: DataRecord,
    kind: Kind,
    disk: Staged<MemoryDisk>,
}

/// Returns the data disks that `settings` ask for, in the order in which the guest sees them.
pub(super) fn disks(settings: &Settings, randomness: &Randomness, now: i64) -> Result<Vec<DataDisk>, CommandError> {
    let mut disks = Vec::new();
    for (number, ephemeral) in settings.ephemeral.iter().enumerate() {
        let (label, file) = (format!("ephemeral{number}"), format!("{EPHEMERAL_FILE}{number}"));
        disks.push(DataDisk::make(label, file, *ephemeral, randomness, now)?);
    }
    if let Some(size) = settings.swap {
        let swap = Ephemeral { size, kind: Kind::Swap };
        disks.push(DataDisk::make("swap".to_owned(), SWAP_FILE.to_owned(), swap, randomness, now)?);
    }
    Ok(disks)
}

/// Returns the guest's device nodes of the disks by their names, as the seed says them.
pub(super) fn devices(disks: &[DataDisk]) -> BTreeMap<String, String> {
    let letters = ('b'..='z').zip(disks);
    letters.map(|(letter, disk)| (disk.record.label.clone(), format!("/dev/vd{letter}"))).collect()
}

impl DataDisk {
    fn make(label: String, file: String, wanted: Ephemeral, randomness: &Randomness, now: i64) -> Result<Self, CommandError> {
        let Ephemeral { size: Size(size), kind } = wanted;
        let cannot = |error: CommandError| error.context(format!("cannot make the data disk `{label}` of {}", Size(size)));
        let too_large = || CommandError::new(ErrorKind::Usage, format!("a disk of {size} bytes is too large"));
        let size = size.checked_next_multiple_of(512).ok_or_else(too_large)?;
        let uuid = uuid::Builder::from_random_bytes(randomness.bytes(&format!("uuid of {label}"))).into_uuid();
        let mut disk = Staged::new(MemoryDisk::new(Vec::new()));
        disk.resize(size).map_err(|error| cannot(error.into()))?;
        mkfs::make(&mut disk, kind, &label, uuid, Timestamp { secs: now, nanos: 0 }).map_err(|error| cannot(error.into()))?;
        CreateOptions::new(size).check().map_err(|error| cannot(error.into()))?;
        let (format, uuid) = ("qcow2".to_owned(), kind.shown(uuid));
        let record = DataRecord { file, format, size, r#type: kind.name().to_owned(), label, uuid };
        Ok(Self { record, kind, disk })
    }

    /// Returns what the machine's record says of it.
    #[must_use]
    pub fn record(&self) -> &DataRecord {
        &self.record
    }

    /// Returns it as a disk of the domain, whose files will be in `folder`.
    pub(super) fn attached(&self, folder: &Path) -> domain::Disk {
        let source = domain::Source::File(folder.join(&self.record.file));
        domain::Disk { source, format: domain::DiskFormat::Qcow2, bus: domain::Bus::default(), read_only: false }
    }

    /// Writes it into a machine's hidden folder, in one pass.
    pub(super) fn write(&self, folder: &Path) -> Result<(), CommandError> {
        let changed: Vec<ByteRange> = self.disk.changes().iter().map(Change::range).collect();
        let options = CreateOptions::new(self.disk.size());
        write_qcow2(&folder.join(&self.record.file), &options, &Content::new(&self.disk, &changed))
    }

    /// Opens what was written, which names no other file.
    pub(super) fn open(&self, folder: &Path) -> Result<Disk, CommandError> {
        let options = OpenOptions { format: Some(Format::Qcow2), policy: OpenPolicy::Nothing, ..OpenOptions::default() };
        Ok(image::open(&folder.join(&self.record.file), &options)?)
    }

    /// Returns what it holds.
    pub(super) fn staged(&self) -> &Staged<MemoryDisk> {
        &self.disk
    }

    /// Checks that the file system on `disk` is sound.
    pub(super) fn check(&self, disk: &Disk) -> Result<(), CommandError> {
        if self.kind.ext().is_some() {
            ext4::verify(disk, &EditPlan::default())?;
        }
        Ok(())
    }
}

/// The beginning of the names of data disks' files.
const EPHEMERAL_FILE: &str = "disk.eph";
/// The file of the swap space.
const SWAP_FILE: &str = "disk.swap";

#[cfg(test)]
mod tests {
    use super::Ephemeral;
    use crate::mkfs::Kind;
    use crate::size::Size;

    #[test]
    fn a_data_disk_is_a_size_and_maybe_a_format() {
        let read = |text: &str| text.parse::<Ephemeral>();
        assert_eq!(read("10G"), Ok(Ephemeral { size: Size(10 << 30), kind: Kind::Ext4 }));
        assert_eq!(read("64M,vfat"), Ok(Ephemeral { size: Size(64 << 20), kind: Kind::Vfat }));
        for bad in ["", "10G,", "10G,xfs", "10G,swap", ",ext4", "ext4,10G", "10G,ext4,x"] {
            read(bad).unwrap_err();
        }
    }
}
