//! NBD: other programs talk with ours.

mod hostile;
mod serve;
mod served;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");
