//! Structures as they are stored, under the specification's names, unchecked. All numbers are big-endian.

use std::mem::offset_of;

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of every image.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The fixed part of a version 3 header.
///
/// Spec: "Header", bytes 0-103. A version 2 header is its first 72 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 4],
    pub(super) version: U32,
    pub(super) backing_file_offset: U64,
    pub(super) backing_file_size: U32,
    pub(super) cluster_bits: U32,
    pub(super) size: U64,
    pub(super) crypt_method: U32,
    pub(super) l1_size: U32,
    pub(super) l1_table_offset: U64,
    pub(super) refcount_table_offset: U64,
    pub(super) refcount_table_clusters: U32,
    pub(super) nb_snapshots: U32,
    pub(super) snapshots_offset: U64,
    pub(super) incompatible_features: U64,
    pub(super) compatible_features: U64,
    pub(super) autoclear_features: U64,
    pub(super) refcount_order: U32,
    pub(super) header_length: U32,
}

/// The head of a header extension.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawExtension {
    pub(super) kind: U32,
    pub(super) length: U32,
}

/// The fixed part of a snapshot table entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawSnapshot {
    pub(super) l1_table_offset: U64,
    pub(super) l1_size: U32,
    pub(super) id_size: U16,
    pub(super) name_size: U16,
    pub(super) date_sec: U32,
    pub(super) date_nsec: U32,
    pub(super) vm_clock_nsec: U64,
    pub(super) vm_state_size: U32,
    pub(super) extra_data_size: U32,
}

/// The bitmaps extension.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawBitmaps {
    pub(super) nb_bitmaps: U32,
    pub(super) reserved: U32,
    pub(super) bitmap_directory_size: U64,
    pub(super) bitmap_directory_offset: U64,
}

/// The fixed part of a bitmap directory entry.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawBitmap {
    pub(super) bitmap_table_offset: U64,
    pub(super) bitmap_table_size: U32,
    pub(super) flags: U32,
    pub(super) kind: u8,
    pub(super) granularity_bits: u8,
    pub(super) name_size: U16,
    pub(super) extra_data_size: U32,
}

// Offsets as printed in the specification.
const _: () = {
    assert!(size_of::<RawHeader>() == 104);
    assert!(offset_of!(RawHeader, version) == 4);
    assert!(offset_of!(RawHeader, backing_file_offset) == 8);
    assert!(offset_of!(RawHeader, backing_file_size) == 16);
    assert!(offset_of!(RawHeader, cluster_bits) == 20);
    assert!(offset_of!(RawHeader, size) == 24);
    assert!(offset_of!(RawHeader, crypt_method) == 32);
    assert!(offset_of!(RawHeader, l1_size) == 36);
    assert!(offset_of!(RawHeader, l1_table_offset) == 40);
    assert!(offset_of!(RawHeader, refcount_table_offset) == 48);
    assert!(offset_of!(RawHeader, refcount_table_clusters) == 56);
    assert!(offset_of!(RawHeader, nb_snapshots) == 60);
    assert!(offset_of!(RawHeader, snapshots_offset) == 64);
    assert!(offset_of!(RawHeader, incompatible_features) == 72);
    assert!(offset_of!(RawHeader, compatible_features) == 80);
    assert!(offset_of!(RawHeader, autoclear_features) == 88);
    assert!(offset_of!(RawHeader, refcount_order) == 96);
    assert!(offset_of!(RawHeader, header_length) == 100);
    assert!(size_of::<RawExtension>() == 8);
    assert!(size_of::<RawSnapshot>() == 40);
    assert!(offset_of!(RawSnapshot, extra_data_size) == 36);
    assert!(size_of::<RawBitmaps>() == 24);
    assert!(size_of::<RawBitmap>() == 24);
    assert!(offset_of!(RawBitmap, name_size) == 18);
};
