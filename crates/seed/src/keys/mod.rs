//! SSH keys and Salt minion keys: read, made, and written in the one form that their programs expect.

pub mod minion;
mod minion_id;
mod prime;
pub mod ssh;

pub use minion_id::{MinionId, MinionIdError};
