//! What the tests share.

pub mod device;
pub mod disk;
pub mod facts;
pub mod fuzz;
pub mod fuzz_client;
pub mod fuzz_ext4;
pub mod fuzz_places;
pub mod fuzz_server;
pub mod host;
pub mod libvirt;
pub mod lvm;
pub mod machine;
pub mod mount;
pub mod plan;
pub mod random_ext4;
pub mod sandbox;
pub mod tool;
