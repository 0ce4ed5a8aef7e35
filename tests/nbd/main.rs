//! NBD: other programs talk with ours.

mod client;
mod hostile;
mod in_place;
mod peer;
mod serve;
mod served;
mod tls;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");
