//! SSH keys and Salt minion keys: read, made, and written in the one form that their programs expect.

pub mod minion;
mod prime;
pub mod ssh;
