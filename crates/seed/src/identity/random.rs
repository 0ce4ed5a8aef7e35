use std::fmt;

use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, RngCore, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// A source of randomness that gives the same bytes for the same root and purpose.
///
/// Everything that is random about a machine is drawn from a stream of its own, named by its purpose, so that what one part
/// draws does not change what another one gets. Nothing here asks the operating system.
#[derive(Clone)]
pub struct Randomness {
    root: [u8; 32],
}

impl Randomness {
    /// Returns a source whose root is drawn from `entropy`, which is the operating system's in a program.
    #[must_use]
    pub fn from_entropy<R: RngCore + CryptoRng + ?Sized>(entropy: &mut R) -> Self {
        let mut root = [0; 32];
        entropy.fill_bytes(&mut root);
        Self { root }
    }

    /// Returns a source with the given root, of 32 secret bytes.
    #[must_use]
    pub fn from_root(root: [u8; 32]) -> Self {
        Self { root }
    }

    /// Returns the source that belongs to a seed value and a machine's name.
    ///
    /// Keys made from it are as secret as the seed value is.
    #[must_use]
    pub fn from_seed_value(seed_value: &str, machine: &str) -> Self {
        Self { root: digest(&[b"vmimg seed value", seed_value.as_bytes(), machine.as_bytes()]) }
    }

    /// Returns the stream for `purpose`, from its start.
    #[must_use]
    pub fn stream(&self, purpose: &str) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(digest(&[b"vmimg stream", &self.root, purpose.as_bytes()]))
    }

    /// Returns the first `N` bytes of the stream for `purpose`.
    #[must_use]
    pub fn bytes<const N: usize>(&self, purpose: &str) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream(purpose).fill_bytes(&mut bytes);
        bytes
    }
}

/// Does not show the root, which is a secret.
impl fmt::Debug for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Randomness").finish_non_exhaustive()
    }
}

/// Returns the SHA-256 of `parts`, each after its length, so that no two lists of parts run together.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::{RngCore as _, SeedableRng as _};

    use super::Randomness;

    #[test]
    fn streams_of_different_purposes_are_independent_and_repeatable() {
        let randomness = Randomness::from_root([7; 32]);
        let first: [u8; 32] = randomness.bytes("a");
        assert_eq!(first, randomness.bytes("a"));
        assert_ne!(first, randomness.bytes("b"));
        let mut stream = randomness.stream("a");
        let mut start = [0; 16];
        stream.fill_bytes(&mut start);
        assert_eq!(start, first[..16]);
    }

    #[test]
    fn the_root_comes_from_the_given_entropy_and_is_not_printed() {
        let make = |seed| Randomness::from_entropy(&mut ChaCha20Rng::from_seed([seed; 32]));
        assert_eq!(make(1).bytes::<8>("x"), make(1).bytes::<8>("x"));
        assert_ne!(make(1).bytes::<8>("x"), make(2).bytes::<8>("x"));
        assert_eq!(format!("{:?}", make(1)), "Randomness { .. }");
    }

    #[test]
    fn the_bytes_of_a_seed_value_never_change_between_versions() {
        let bytes: [u8; 8] = Randomness::from_seed_value("demo", "web1").bytes("uuid");
        assert_eq!(bytes, EXPECTED, "machines made with a seed value would get another identity");
    }

    const EXPECTED: [u8; 8] = [48, 138, 149, 114, 5, 251, 178, 237];
}
