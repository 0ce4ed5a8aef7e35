//! Servers that are right, and servers that are wrong in every way that was thought of.

mod ends;
mod handshake;
mod lies;
mod server;
mod truth;
mod waits;
