//! SSH public keys of users, and host keys made for a guest.

mod authorized;
mod host;

pub use authorized::{AuthorizedKey, Error, parse_authorized_keys};
pub use host::{HostKey, HostKeyError, generate_host_keys};
