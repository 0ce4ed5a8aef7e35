//! What the program prints and returns, to the letter.

mod data_disks;
mod disk;
mod disk_files;
mod disk_in_place;
mod disk_lvm;
mod disk_pipes;
mod disk_tar;
mod domain;
mod frame;
mod image;
mod machines;
mod mkfs;
mod prepare;
mod seed;
mod store;

use vmimg_tests::sandbox::Sandbox;

/// A private folder to run the program in.
#[track_caller]
fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_vmimg-program"))
}
