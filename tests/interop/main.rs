//! Do other programs agree: what they wrote is read, what vmimg wrote they judge.

mod amend;
mod bitmaps;
mod check;
mod commit;
mod compare;
mod convert;
mod data_file;
mod dd;
mod domain;
mod ext4;
mod ext4_create;
mod ext4_grow;
mod guest;
mod lock;
mod map;
mod measure;
mod partition;
mod preallocation;
mod qcow2;
mod rebase;
mod seed_iso;
mod seed_keys;
mod snapshots;
mod swap;
mod vfat;
