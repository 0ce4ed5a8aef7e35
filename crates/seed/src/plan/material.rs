use std::collections::BTreeMap;
use std::fmt;

use imgcore::fs::Content;

use super::Secret;

/// What a plan needs from outside: keys that were made, contents that were opened, the time.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// The time, in seconds since 1970.
    pub now: u64,
    /// Whether the guest's cloud-init is given a datasource, without which it does nothing.
    pub datasource: bool,
    /// The host keys to put in, for [`HostKeys::Mint`](super::HostKeys::Mint).
    pub host_keys: Vec<HostKey>,
    /// The minion's key pair. Without one the minion makes its own at first start.
    pub minion_key: Option<KeyPair>,
    /// The contents of the host's files that the seed names, by those names.
    pub sources: BTreeMap<String, Content>,
    /// Random bytes, 512 or more, for the guest's first moments; nothing is written without them.
    pub random_seed: Option<RandomSeed>,
    /// More names of the machine for the `known_hosts` lines, as in an address.
    pub known_as: Vec<String>,
}

/// An SSH host key.
#[derive(Clone, Debug)]
pub struct HostKey {
    /// The name of its file without the folder, as in `ssh_host_ed25519_key`.
    pub file_name: String,
    /// The private key in OpenSSH's PEM form.
    pub private: Secret,
    /// The public key as one line, type first.
    pub public: String,
}

/// A Salt minion's key pair.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The private key as PEM.
    pub private: Secret,
    /// The public key as PEM.
    pub public: String,
}

/// Random bytes that are not printed.
#[derive(Clone, Default)]
pub struct RandomSeed(pub Vec<u8>);

impl fmt::Debug for RandomSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RandomSeed({} bytes)", self.0.len())
    }
}
