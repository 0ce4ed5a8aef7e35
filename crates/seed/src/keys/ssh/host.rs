use std::fmt;

use ssh_key::{Algorithm, EcdsaCurve, HashAlg, LineEnding, PrivateKey};

use crate::identity::Randomness;

/// The failure to make a host key.
#[derive(Debug, thiserror::Error)]
#[error("the {kind} host key cannot be made")]
pub struct HostKeyError {
    kind: &'static str,
    #[source]
    source: ssh_key::Error,
}

/// One of the keys by which an SSH server is known, made before the guest starts.
#[derive(Clone)]
pub struct HostKey {
    kind: &'static str,
    private: String,
    public: String,
    fingerprint: String,
}

impl HostKey {
    /// Returns the name in the files and in cloud-init's `ssh_keys`: `ed25519` or `ecdsa`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Returns the name of the private file in `/etc/ssh`; the public one has `.pub` behind it.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("ssh_host_{}_key", self.kind)
    }

    /// Returns the private key in OpenSSH's own form, one line feed at the end.
    #[must_use]
    pub fn private_pem(&self) -> &str {
        &self.private
    }

    /// Returns the public line: type, base64 and comment, one line feed at the end.
    #[must_use]
    pub fn public_line(&self) -> &str {
        &self.public
    }

    /// Returns the SHA-256 fingerprint as `ssh-keygen -l` shows it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the line of a `known_hosts` file that trusts it as `host`, a name or an address; without a line end.
    #[must_use]
    pub fn known_hosts_line(&self, host: &str) -> String {
        let mut words = self.public.split_whitespace();
        format!("{host} {} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }
}

/// Does not show the private half.
impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Returns an Ed25519 and an ECDSA (P-256) host key for `host_name`, which only their comments mention.
///
/// # Errors
///
/// [`HostKeyError`] when a key cannot be encoded, which no randomness leads to.
pub fn generate_host_keys(randomness: &Randomness, host_name: &str) -> Result<Vec<HostKey>, HostKeyError> {
    let comment: String = host_name.chars().filter(|character| !character.is_control()).collect();
    let kinds = [("ecdsa", Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }), ("ed25519", Algorithm::Ed25519)];
    let generate = |(kind, algorithm)| {
        generate(randomness, kind, algorithm, &format!("root@{comment}")).map_err(|source| HostKeyError { kind, source })
    };
    kinds.into_iter().map(generate).collect()
}

fn generate(
    randomness: &Randomness,
    kind: &'static str,
    algorithm: Algorithm,
    comment: &str,
) -> Result<HostKey, ssh_key::Error> {
    let mut stream = randomness.stream(&format!("ssh host key: {kind}"));
    let mut key = PrivateKey::random(&mut stream, algorithm)?;
    key.set_comment(comment);
    let private = format!("{}\n", key.to_openssh(LineEnding::LF)?.trim_end());
    let public = format!("{}\n", key.public_key().to_openssh()?.trim_end());
    Ok(HostKey { kind, private, public, fingerprint: key.fingerprint(HashAlg::Sha256).to_string() })
}

#[cfg(test)]
mod tests {
    use ssh_key::PrivateKey;

    use super::generate_host_keys;
    use crate::identity::Randomness;

    #[test]
    fn the_same_randomness_gives_the_same_host_keys() {
        let make = |name| generate_host_keys(&Randomness::from_seed_value("s", name), "web1").unwrap();
        let (first, again, other) = (make("a"), make("a"), make("b"));
        let kinds: Vec<_> = first.iter().map(|key| key.file_name()).collect();
        assert_eq!(kinds, ["ssh_host_ecdsa_key", "ssh_host_ed25519_key"]);
        for ((first, again), other) in first.iter().zip(&again).zip(&other) {
            assert_eq!(first.private_pem(), again.private_pem());
            assert_ne!(first.public_line(), other.public_line());
            assert_eq!(
                first.known_hosts_line("10.0.0.5"),
                "10.0.0.5 ".to_owned() + first.public_line().rsplit_once(' ').unwrap().0
            );
            assert!(first.public_line().ends_with(" root@web1\n"));
            assert!(!format!("{first:?}").contains("PRIVATE"));
            let decoded = PrivateKey::from_openssh(first.private_pem()).unwrap();
            assert_eq!(decoded.public_key().to_openssh().unwrap() + "\n", first.public_line());
        }
    }
}
