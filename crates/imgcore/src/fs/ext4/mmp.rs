use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::crc32c;
use super::error::{corrupt, refused};
use super::layout::Layout;
use super::superblock::RawSuperblock;
use crate::block::BlockRead;
use crate::fs::Error;

/// The block by which hosts that share a disk see who has mounted it.
///
/// Spec: "Multiple Mount Protection", `struct mmp_struct`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawMmp {
    mmp_magic: U32,
    mmp_seq: U32,
    mmp_time: U64,
    mmp_nodename: [u8; 64],
    mmp_bdevname: [u8; 32],
    mmp_check_interval: U16,
    mmp_pad1: U16,
    mmp_pad2: [U32; 226],
    mmp_checksum: U32,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawMmp>() == 1024);
    assert!(offset_of!(RawMmp, mmp_check_interval) == 0x70);
    assert!(offset_of!(RawMmp, mmp_checksum) == 0x3FC);
};

/// Checks that nobody has mounted the file system.
pub(super) fn check_unused<D: BlockRead>(disk: &D, raw: &RawSuperblock, layout: &Layout) -> Result<(), Error> {
    let number = raw.s_mmp_block.get();
    let bad = |rule: &str| corrupt(format!("block {number}, of multiple mount protection"), rule);
    if number <= u64::from(layout.first_data_block) || number >= layout.blocks_count {
        return Err(bad("it lies inside the file system"));
    }
    let mut bytes = [0; 1024];
    disk.read_exact_at(&mut bytes, number.saturating_mul(u64::from(layout.block_size)))?;
    let covered = bytes.get(..offset_of!(RawMmp, mmp_checksum)).unwrap_or_default();
    let sum = crc32c(layout.seed, covered);
    let mmp: RawMmp = zerocopy::transmute!(bytes);
    if mmp.mmp_magic.get() != MAGIC {
        return Err(bad("it has the magic 0x4D4D50"));
    }
    // Spec: "Multiple Mount Protection": the sequence number of a file system that was unmounted is 0xFF4D4D50.
    if mmp.mmp_seq.get() != SEQ_CLEAN {
        return Err(refused("is in use by another host, as its block of multiple mount protection says"));
    }
    if layout.has_metadata_csum() && mmp.mmp_checksum.get() != sum {
        return Err(bad("its checksum matches its bytes"));
    }
    Ok(())
}

const MAGIC: u32 = 0x004D_4D50;
const SEQ_CLEAN: u32 = 0xFF4D_4D50;
