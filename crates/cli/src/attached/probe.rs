use std::fmt;

use imgcore::block::BlockRead;
use seed::guest::VolumeId;

use crate::error::{CommandError, ErrorKind};
use crate::volumes::{BTRFS, EXT, LVM, XFS, known_content};

/// A file system that the kernel mounts for us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

/// What a volume says about its file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Which it is.
    pub kind: Kind,
    /// Its UUID, of which this machine may have another.
    pub uuid: [u8; 16],
    /// Its label, when it has one.
    pub label: Option<String>,
    /// Bytes that it takes up.
    pub size: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// How much of XFS inodes may take up, in hundredths.
    pub(super) inode_percent: u8,
    /// Why it is not mounted, as in `has its journal on another device`.
    obstacle: Option<String>,
}

impl Kind {
    /// Returns the kernel's name of its driver.
    pub(super) fn driver(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext => EXT,
            Self::Xfs => XFS,
            Self::Btrfs => BTRFS,
        })
    }
}

/// Returns what `volume` says about its file system, if it is one of those that are mounted.
///
/// # Errors
///
/// The failure of the disk.
pub fn probe(volume: &dyn BlockRead) -> Result<Option<Probe>, CommandError> {
    let read = |offset: u64| -> Result<Raw, CommandError> {
        let mut bytes = vec![0; SUPERBLOCK];
        let left = volume.size().saturating_sub(offset);
        bytes.truncate(usize::try_from(left).unwrap_or(SUPERBLOCK).min(SUPERBLOCK));
        volume.read_exact_at(&mut bytes, offset)?;
        bytes.resize(SUPERBLOCK, 0);
        Ok(Raw(bytes))
    };
    Ok(match known_content(volume)? {
        Some(EXT) => Some(ext(&read(1024)?)),
        Some(XFS) => Some(xfs(&read(0)?)),
        Some(BTRFS) => Some(btrfs(&read(65536)?)),
        _ => None,
    })
}

/// Returns what the volume `id` holds, which must be something to mount.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] says what it is, and the failure of the disk.
pub fn expect(volume: &dyn BlockRead, id: &VolumeId) -> Result<Probe, CommandError> {
    let unsupported = |what: String| CommandError::new(ErrorKind::Unsupported, format!("{} {what}", id.described()));
    let Some(probe) = probe(volume)? else {
        let content = known_content(volume)?;
        let error = unsupported(format!(
            "has {}, and not ext4, XFS or btrfs, which the kernel mounts here",
            content.unwrap_or("no known file system")
        ));
        return Err(match content {
            Some(LVM) => error.hint("`--partition GROUP/NAME` is a logical volume in it"),
            _ => error,
        });
    };
    match &probe.obstacle {
        Some(obstacle) => Err(unsupported(format!("has {}, which {obstacle}", probe.kind))),
        None => Ok(probe),
    }
}

/// Spec: ext4, "The Super Block".
fn ext(raw: &Raw) -> Probe {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEV: u32 = 0x8;
    const WIDE: u32 = 0x80;
    let incompatible = raw.le32(0x60);
    // Spec: "s_journal_dev: Device number of journal file, if the external journal feature flag is set": the kernel would open that
    // device of this machine.
    let elsewhere = incompatible & JOURNAL_DEV != 0 || raw.le32(0x5C) & HAS_JOURNAL != 0 && raw.le32(0xE0) == 0;
    let block_size = 1024_u64.checked_shl(raw.le32(0x18)).unwrap_or(0);
    let high = if incompatible & WIDE != 0 { raw.le32(0x150) } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(raw.le32(0x4));
    let obstacle = elsewhere.then(|| "has its journal on another device".to_owned());
    raw.probe(Kind::Ext, 0x68, raw.text(0x78, 16), block_size.saturating_mul(blocks), block_size, obstacle)
}

/// Spec: "XFS Algorithms & Data Structures", `struct xfs_dsb`.
fn xfs(raw: &Raw) -> Probe {
    let block_size = u64::from(raw.be32(4));
    // "sb_logstart: First block number for the journaling log if the log is internal".
    let obstacle = (raw.be64(48) == 0).then(|| "has its log on another device".to_owned());
    let probe = raw.probe(Kind::Xfs, 32, raw.text(108, 12), block_size.saturating_mul(raw.be64(8)), block_size, obstacle);
    Probe { inode_percent: raw.byte(127), ..probe }
}

/// Spec: btrfs, "On-disk Format", "Superblock".
fn btrfs(raw: &Raw) -> Probe {
    let devices = raw.le64(136);
    let obstacle = (devices != 1).then(|| format!("spans {devices} devices"));
    raw.probe(Kind::Btrfs, 32, raw.text(0x12B, 256), raw.le64(112), u64::from(raw.le32(0x90)), obstacle)
}

/// A superblock as stored.
struct Raw(Vec<u8>);

impl Raw {
    fn probe(
        &self,
        kind: Kind,
        uuid: usize,
        label: Option<String>,
        size: u64,
        block_size: u64,
        obstacle: Option<String>,
    ) -> Probe {
        Probe { kind, uuid: self.array(uuid), label, size, block_size, inode_percent: 0, obstacle }
    }

    fn array<const LEN: usize>(&self, at: usize) -> [u8; LEN] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; LEN])
    }

    fn byte(&self, at: usize) -> u8 {
        u8::from_le_bytes(self.array(at))
    }

    fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn le64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// Returns a text that ends with the first NUL, or after `len` bytes; `None` for an empty one.
    fn text(&self, at: usize, len: usize) -> Option<String> {
        let bytes = self.0.get(at..at.saturating_add(len)).unwrap_or_default();
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Bytes of a superblock that are looked at.
const SUPERBLOCK: usize = 1024;

#[cfg(test)]
mod tests {
    use imgcore::block::MemoryDisk;

    use super::{Kind, expect, probe};

    fn disk(parts: &[(usize, &[u8])]) -> MemoryDisk {
        let mut bytes = vec![0; 1 << 17];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        MemoryDisk::new(bytes)
    }

    #[test]
    fn what_would_have_the_kernel_open_other_devices_is_refused() {
        let ext = |journal: u32| disk(&[(1080, &[0x53, 0xEF]), (1024 + 0x5C, &[4]), (1024 + 0xE0, &journal.to_le_bytes())]);
        assert_eq!(expect(&ext(8), &1.into()).unwrap().kind, Kind::Ext);
        assert!(expect(&ext(0), &1.into()).unwrap_err().to_string().contains("journal on another device"));
        let btrfs = |devices: u8| disk(&[(65600, b"_BHRfS_M"), (65536 + 136, &[devices]), (65536 + 32, &[7; 16])]);
        assert_eq!(probe(&btrfs(1)).unwrap().unwrap().uuid, [7; 16]);
        assert!(expect(&btrfs(2), &1.into()).unwrap_err().to_string().contains("spans 2 devices"));
        let xfs = |log: u8| disk(&[(0, b"XFSB"), (55, &[log]), (108, b"root")]);
        assert_eq!(probe(&xfs(1)).unwrap().unwrap().label.as_deref(), Some("root"));
        assert!(expect(&xfs(0), &0.into()).unwrap_err().to_string().starts_with("the disk has XFS, which has its log"));
    }

    #[test]
    fn a_physical_volume_is_no_file_system() {
        let error = expect(&disk(&[(512, b"LABELONE")]), &3.into()).unwrap_err();
        assert!(error.to_string().starts_with("partition 3 has LVM"), "{error}");
    }
}
