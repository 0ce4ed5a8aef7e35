//! What is left when a command is stopped, by a kill or by a full disk; and what many machines at once become.

mod ext4_cuts;
mod fleet;
mod full_disk;
mod in_place_cuts;
mod kill;
mod power;
mod qcow2_cuts;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");
