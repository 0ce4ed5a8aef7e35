//! The Network Block Device protocol: images where other programs expect a device.
//!
//! ```text
//! uri        nbd://host/export, nbd+unix:///export?socket=PATH; stop: until when its server is waited for
//! client     an export of some server as a block device
//! server     disks for clients, over sockets
//! tls        how both encrypt: certificates, or keys that both sides have
//! attach     the kernel as a client: /dev/nbdX
//! wire       messages as values, and as bytes; no input or output
//! ```
//!
//! Specification: `doc/proto.md` of the NBD project, in the version with extended headers.

pub mod attach;
pub mod client;
pub mod server;
mod stop;
pub mod tls;
mod uri;
pub mod wire;

pub use stop::Stop;
pub use uri::{Address, TlsSettings, Uri, UriError};
