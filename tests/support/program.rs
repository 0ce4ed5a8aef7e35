//! The program `vmimg`, built here so that integration tests find it by `CARGO_BIN_EXE_vmimg-program`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmimg::main()
}
