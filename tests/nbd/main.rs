//! NBD: other programs talk with ours.

mod client;
mod cuts;
mod hostile;
mod in_place;
mod liar;
mod peer;
mod prepare;
mod proxy;
mod psk;
mod serve;
mod served;
mod tls;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");
