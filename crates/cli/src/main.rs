//! Prepares and seeds virtual machine disks.

fn main() {}
