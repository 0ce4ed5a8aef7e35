//! The key pair and the id by which a Salt master knows a minion.

use std::fmt;
use std::str::FromStr;

use rsa::pkcs1::{DecodeRsaPrivateKey as _, EncodeRsaPrivateKey as _};
use rsa::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use rsa::traits::PublicKeyParts as _;
use rsa::{BigUint, RsaPrivateKey, RsaPublicKey};
use sha2::{Digest as _, Sha256};

use super::prime;
use crate::identity::Randomness;

/// The failure to read or make a minion's keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key file is larger than any real key.
    #[error("a minion key file of {len} bytes is larger than {MAX_PEM}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// The private key is neither PKCS#1 nor PKCS#8 PEM of an RSA key, or its numbers do not fit together.
    #[error("not an unencrypted RSA private key in PEM (PKCS#1 or PKCS#8)")]
    Private(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The public key is not SubjectPublicKeyInfo PEM of an RSA key.
    #[error("not an RSA public key in PEM (SubjectPublicKeyInfo)")]
    Public(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key is shorter than a master accepts.
    #[error("an RSA key of {bits} bits is shorter than the 2048 that Salt asks for")]
    TooShort {
        /// The length of its modulus in bits.
        bits: usize,
    },
    /// The two files are not halves of one pair.
    #[error("the public key does not belong to the private key")]
    Mismatch,
    /// The text is not a key's fingerprint.
    #[error("a fingerprint is 32 or 64 pairs of hexadecimal digits with colons between them")]
    Finger,
    /// The new key cannot be encoded.
    #[error("the minion key cannot be made")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A minion's RSA key pair, in the bytes that Salt keeps.
///
/// Both texts end in one line feed and have no carriage return: masters before 3006 compare public keys byte by byte.
#[derive(Clone, Eq, PartialEq)]
pub struct MinionKey {
    private: String,
    public: String,
}

impl MinionKey {
    /// Returns the pair of 2048 bits that belongs to `randomness`; the public exponent is 65537.
    ///
    /// The two primes are sought on two threads. The result depends on nothing but `randomness`.
    ///
    /// # Errors
    ///
    /// [`Error::Make`] when the key cannot be put together, which no stream of randomness leads to.
    pub fn generate(randomness: &Randomness) -> Result<Self, Error> {
        let (p, q) = prime::pair(randomness, "salt minion key", BITS);
        let key = RsaPrivateKey::from_p_q(p, q, BigUint::from(65537_u32)).map_err(|error| Error::Make(error.into()))?;
        Self::encode(&key)
    }

    /// Returns the pair of a private key and, when given, its public half, both rewritten in the form that Salt keeps.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Private`], [`Error::Public`] and [`Error::TooShort`] for a file that is no such key;
    /// [`Error::Mismatch`] when the two do not belong together.
    pub fn load(private: &[u8], public: Option<&[u8]>) -> Result<Self, Error> {
        let text = bounded(private).map_err(|len| Error::TooLarge { len })?;
        let text = text.map_err(|error| Error::Private(error.into()))?;
        let key = match RsaPrivateKey::from_pkcs1_pem(text.trim()) {
            Ok(key) => key,
            Err(_) => RsaPrivateKey::from_pkcs8_pem(text.trim()).map_err(|error| Error::Private(error.into()))?,
        };
        key.validate().map_err(|error| Error::Private(error.into()))?;
        check_length(&key.to_public_key())?;
        if let Some(public) = public
            && decode_public(public)? != key.to_public_key()
        {
            return Err(Error::Mismatch);
        }
        Self::encode(&key)
    }

    /// Returns the private key, PEM of PKCS#1: `minion.pem`.
    #[must_use]
    pub fn private_pem(&self) -> &str {
        &self.private
    }

    /// Returns the public key, PEM of SubjectPublicKeyInfo: `minion.pub`, and the file of a master's `minions` folder.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public
    }

    /// Returns the fingerprint that `salt-key -f` and `salt-call key.finger` show.
    ///
    /// # Errors
    ///
    /// None that a pair made here can lead to.
    pub fn finger(&self) -> Result<Finger, Error> {
        Finger::of_public_pem(self.public.as_bytes())
    }

    fn encode(key: &RsaPrivateKey) -> Result<Self, Error> {
        let private = key.to_pkcs1_pem(LineEnding::LF).map_err(|error| Error::Make(error.into()))?;
        let public = key.to_public_key().to_public_key_pem(LineEnding::LF).map_err(|error| Error::Make(error.into()))?;
        Ok(Self { private: one_line_end(&private), public: one_line_end(&public) })
    }
}

/// Does not show the private half.
impl fmt::Debug for MinionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MinionKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The SHA-256 or SHA-512 fingerprint of a Salt key, as the option `master_finger` takes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finger(String);

impl Finger {
    /// Returns the SHA-256 fingerprint of a public key file, such as a master's `master.pub`.
    ///
    /// Salt hashes the lines between the first and the last, with their line ends, and not the key itself.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] and [`Error::Public`] for a file that is no such key.
    pub fn of_public_pem(pem: &[u8]) -> Result<Self, Error> {
        let key = decode_public(pem)?;
        let pem = key.to_public_key_pem(LineEnding::LF).map_err(|error| Error::Make(error.into()))?;
        let mut hash = Sha256::new();
        for line in pem.lines().filter(|line| !line.starts_with("-----")) {
            hash.update(line);
            hash.update("\n");
        }
        let pairs: Vec<String> = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(pairs.join(":")))
    }

    /// Returns the text, lower case with colons.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Finger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Finger {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim().to_ascii_lowercase();
        let pairs = text.split(':').collect::<Vec<_>>();
        let hex = pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if hex && [32, 64].contains(&pairs.len()) { Ok(Self(text)) } else { Err(Error::Finger) }
    }
}

fn decode_public(pem: &[u8]) -> Result<RsaPublicKey, Error> {
    let text = bounded(pem).map_err(|len| Error::TooLarge { len })?;
    let text = text.map_err(|error| Error::Public(error.into()))?;
    let key = RsaPublicKey::from_public_key_pem(text.trim()).map_err(|error| Error::Public(error.into()))?;
    check_length(&key)?;
    Ok(key)
}

fn check_length(key: &RsaPublicKey) -> Result<(), Error> {
    let bits = key.n().bits();
    if bits < BITS { Err(Error::TooShort { bits }) } else { Ok(()) }
}

/// Returns the text of a PEM file, or its length when that is too large.
fn bounded(pem: &[u8]) -> Result<Result<&str, std::str::Utf8Error>, usize> {
    if pem.len() > MAX_PEM { Err(pem.len()) } else { Ok(std::str::from_utf8(pem)) }
}

fn one_line_end(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

/// The length of a new key's modulus, and the least that is loaded.
const BITS: usize = 2048;
/// A private key of 16384 bits has 13 KB.
const MAX_PEM: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use rsa::RsaPrivateKey;
    use rsa::pkcs1::DecodeRsaPrivateKey as _;
    use rsa::pkcs8::EncodePrivateKey as _;
    use rsa::traits::PublicKeyParts as _;

    use super::{Error, Finger, LineEnding, MinionKey};
    use crate::identity::Randomness;

    fn key(name: &str) -> MinionKey {
        MinionKey::generate(&Randomness::from_seed_value("test", name)).unwrap()
    }

    #[test]
    fn the_same_randomness_gives_the_same_pair() {
        let first = key("a");
        assert_eq!(first, key("a"));
        assert_ne!(first, key("b"));
        let decoded = RsaPrivateKey::from_pkcs1_pem(first.private_pem()).unwrap();
        assert_eq!(decoded.n().bits(), 2048);
        decoded.validate().unwrap();
    }

    #[test]
    fn both_files_end_in_one_line_feed() {
        let key = key("a");
        for (text, kind) in [(key.private_pem(), "RSA PRIVATE KEY"), (key.public_pem(), "PUBLIC KEY")] {
            assert!(text.starts_with(&format!("-----BEGIN {kind}-----\n")), "{text}");
            assert!(text.ends_with(&format!("\n-----END {kind}-----\n")), "{text}");
            assert!(!text.contains('\r') && !text.contains("\n\n"));
        }
    }

    #[test]
    fn a_given_pair_is_rewritten_in_salts_form() {
        let key = key("a");
        let pkcs8 = RsaPrivateKey::from_pkcs1_pem(key.private_pem()).unwrap().to_pkcs8_pem(LineEnding::CRLF).unwrap();
        let public = key.public_pem().replace('\n', "\r\n") + "\n\n";
        assert_eq!(MinionKey::load(pkcs8.as_bytes(), Some(public.as_bytes())).unwrap(), key);
        assert_eq!(MinionKey::load(key.private_pem().as_bytes(), None).unwrap(), key);
    }

    #[test]
    fn halves_of_two_pairs_are_refused() {
        let (a, b) = (key("a"), key("b"));
        let result = MinionKey::load(a.private_pem().as_bytes(), Some(b.public_pem().as_bytes()));
        assert!(matches!(result, Err(Error::Mismatch)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = key("a");
        let load = |bytes: &[u8]| MinionKey::load(bytes, None);
        assert!(matches!(load(b""), Err(Error::Private(_))));
        assert!(matches!(load(b"\xff\xfe"), Err(Error::Private(_))));
        assert!(matches!(load(key.public_pem().as_bytes()), Err(Error::Private(_))));
        assert!(matches!(load(&vec![b'A'; 1 << 20]), Err(Error::TooLarge { .. })));
        let result = MinionKey::load(key.private_pem().as_bytes(), Some(key.private_pem().as_bytes()));
        assert!(matches!(result, Err(Error::Public(_))));
    }

    #[test]
    fn a_finger_is_read_in_either_case() {
        let finger = key("a").finger().unwrap();
        assert_eq!(finger.as_str().len(), 95);
        assert_eq!(finger.as_str().to_uppercase().parse::<Finger>().unwrap(), finger);
        for text in ["", "ab", "zz:", &finger.as_str().replace(':', "")] {
            assert!(text.parse::<Finger>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_key_does_not_show_its_private_half() {
        let key = key("a");
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }
}
