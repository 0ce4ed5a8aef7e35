//! A client: an export of some server as a block device.
//!
//! ```text
//! disk        NbdDisk: reads, writes, extents, in pieces and blocks that the server takes
//! pool        one connection, or several where the server promises that they see the same
//! connection  requests of many threads under way at a time
//! reply       whether an answer is one to its request, and covers it
//! handshake   what is agreed on before
//! stream      bytes, with deadlines; tls encrypts them
//! ```
//!
//! All that a server says is held to the rules. Whoever breaks one is not talked to any more, and every request that waits
//! fails; nothing is tried again. A server that is silent, or slower than 64 KiB in a second, counts as gone; what an address
//! has as [`crate::nbd::Stop`] ends the waiting sooner.

mod connection;
mod disk;
mod fault;
mod handshake;
mod pool;
mod reply;
mod stream;
mod tls;

pub use disk::{Access, NbdDisk};
pub use stream::{MERCY, Patience};

#[cfg(test)]
mod tests;
