//! Structures as stored.

use zerocopy::byteorder::{BigEndian, LittleEndian, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A number in both byte orders.
///
/// Spec: ECMA-119, 7.2.3.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Both16 {
    little: U16<LittleEndian>,
    big: U16<BigEndian>,
}

/// A number in both byte orders.
///
/// Spec: ECMA-119, 7.3.3.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Both32 {
    little: U32<LittleEndian>,
    big: U32<BigEndian>,
}

/// A primary or supplementary volume descriptor.
///
/// Spec: ECMA-119, 8.4 and 8.5.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawDescriptor {
    pub(super) kind: u8,
    pub(super) magic: [u8; 5],
    pub(super) version: u8,
    pub(super) flags: u8,
    pub(super) system_id: [u8; 32],
    pub(super) volume_id: [u8; 32],
    pub(super) unused: [u8; 8],
    pub(super) space_size: Both32,
    pub(super) escapes: [u8; 32],
    pub(super) set_size: Both16,
    pub(super) sequence: Both16,
    pub(super) block_size: Both16,
    pub(super) path_table_size: Both32,
    pub(super) little_table: U32<LittleEndian>,
    pub(super) little_table_copy: U32<LittleEndian>,
    pub(super) big_table: U32<BigEndian>,
    pub(super) big_table_copy: U32<BigEndian>,
    pub(super) root: [u8; 34],
    /// Volume set, publisher, preparer and application.
    pub(super) texts: [[u8; 128]; 4],
    /// Copyright, abstract and bibliography.
    pub(super) file_names: [[u8; 37]; 3],
    pub(super) created: [u8; 17],
    pub(super) modified: [u8; 17],
    pub(super) expires: [u8; 17],
    pub(super) effective: [u8; 17],
    pub(super) structure_version: u8,
    pub(super) rest: [u8; 1166],
}

/// The fixed part of a directory record.
///
/// Spec: ECMA-119, 9.1.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawRecord {
    pub(super) len: u8,
    pub(super) attribute_len: u8,
    pub(super) location: Both32,
    pub(super) size: Both32,
    pub(super) time: [u8; 7],
    pub(super) flags: u8,
    pub(super) unit_size: u8,
    pub(super) gap: u8,
    pub(super) sequence: Both16,
    pub(super) id_len: u8,
}

// Offsets as printed in the specification, from 0.
const _: () = {
    assert!(size_of::<RawDescriptor>() == super::SECTOR);
    assert!(core::mem::offset_of!(RawDescriptor, space_size) == 80);
    assert!(core::mem::offset_of!(RawDescriptor, path_table_size) == 132);
    assert!(core::mem::offset_of!(RawDescriptor, root) == 156);
    assert!(core::mem::offset_of!(RawDescriptor, created) == 813);
    assert!(core::mem::offset_of!(RawDescriptor, structure_version) == 881);
    assert!(size_of::<RawRecord>() == 33);
};

impl Both16 {
    pub(super) fn new(value: u16) -> Self {
        Self { little: value.into(), big: value.into() }
    }

    /// Returns the number, or `None` when the two halves differ.
    pub(super) fn get(self) -> Option<u16> {
        (self.little.get() == self.big.get()).then(|| self.little.get())
    }
}

impl Both32 {
    pub(super) fn new(value: u32) -> Self {
        Self { little: value.into(), big: value.into() }
    }

    /// Returns the number, or `None` when the two halves differ.
    pub(super) fn get(self) -> Option<u32> {
        (self.little.get() == self.big.get()).then(|| self.little.get())
    }
}

pub(super) const MAGIC: [u8; 5] = *b"CD001";
pub(super) const PRIMARY: u8 = 1;
pub(super) const SUPPLEMENTARY: u8 = 2;
pub(super) const TERMINATOR: u8 = 255;
/// The first descriptor's sector.
pub(super) const FIRST_DESCRIPTOR: u32 = 16;
/// UCS-2 of level 3, by which Joliet is told from other supplementary descriptors; the others are levels 1 and 2.
pub(super) const JOLIET_LEVEL_3: [u8; 3] = *b"%/E";
pub(super) const JOLIET_ESCAPES: [[u8; 3]; 3] = [*b"%/@", *b"%/C", JOLIET_LEVEL_3];
/// Flags of a directory record.
pub(super) const FOLDER: u8 = 2;
pub(super) const ASSOCIATED: u8 = 4;
pub(super) const MULTI_EXTENT: u8 = 0x80;
