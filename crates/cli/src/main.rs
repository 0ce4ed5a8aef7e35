//! Prepares and seeds virtual machine disks.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmimg::main()
}
