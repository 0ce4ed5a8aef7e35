//! NBD: other programs talk with ours.

mod hostile;
mod serve;
mod served;
mod tls;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");
