//! Keys that are made for guests: do the programs that will use them accept them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use seed::identity::Randomness;
use seed::keys::minion::{Finger, MinionKey};
use seed::keys::ssh::{generate_host_keys, parse_authorized_keys};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

#[test]
fn ssh_keygen_accepts_host_keys_and_agrees_on_their_fingerprints() {
    let scratch = TempDir::new().unwrap();
    for key in generate_host_keys(&Randomness::from_seed_value("test", "web1"), "web1").unwrap() {
        let file = scratch.path().join(key.file_name());
        fs::write(&file, key.private_pem()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let public = Tool::new("ssh-keygen").args(["-y", "-f"]).arg(&file).run();
        assert_eq!(public.trim(), key.public_line().trim());
        let shown = Tool::new("ssh-keygen").args(["-l", "-f"]).arg(&file).run();
        assert_eq!(shown.split_whitespace().nth(1), Some(key.fingerprint()), "{shown}");
        let known = scratch.path().join("known_hosts");
        fs::write(&known, key.known_hosts_line("192.0.2.10") + "\n").unwrap();
        let found = Tool::new("ssh-keygen").args(["-F", "192.0.2.10", "-l", "-f"]).arg(&known).run();
        assert!(found.contains(key.fingerprint()), "{found}");
    }
}

#[test]
fn keys_of_every_type_that_ssh_keygen_makes_are_read() {
    let scratch = TempDir::new().unwrap();
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")] {
        let file = scratch.path().join(format!("{kind}{bits}"));
        let comment = "ada lovelace # 1";
        Tool::new("ssh-keygen").args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", comment, "-f"]).arg(&file).run();
        let public = fs::read_to_string(file.with_extension("pub")).unwrap();
        let keys = parse_authorized_keys(&public).unwrap();
        assert_eq!(keys[0].line() + "\n", public);
        let shown = Tool::new("ssh-keygen").args(["-l", "-f"]).arg(&file).run();
        assert!(shown.contains(&keys[0].fingerprint()), "{shown}");
        assert!(parse_authorized_keys(&fs::read_to_string(&file).unwrap()).is_err(), "a private key is no public key");
    }
}

#[test]
fn openssl_finds_a_minion_pair_consistent() {
    let scratch = TempDir::new().unwrap();
    for name in ["web1", "web2", "web3"] {
        let key = MinionKey::generate(&Randomness::from_seed_value("test", name)).unwrap();
        let file = scratch.path().join("minion.pem");
        fs::write(&file, key.private_pem()).unwrap();
        let said = Tool::new("openssl").args(["rsa", "-check", "-noout", "-text", "-in"]).arg(&file).run();
        assert!(said.contains("RSA key ok") && said.contains("2048 bit") && said.contains("65537"), "{said}");
        let public = Tool::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&file).run();
        assert_eq!(public, key.public_pem());
    }
}

#[test]
fn a_pair_of_openssl_is_loaded_from_either_form() {
    let scratch = TempDir::new().unwrap();
    let (pkcs8, pkcs1) = (scratch.path().join("8"), scratch.path().join("1"));
    Tool::new("openssl").args(["genrsa", "-out"]).arg(&pkcs8).arg("2048").run();
    Tool::new("openssl").args(["rsa", "-traditional", "-in"]).arg(&pkcs8).arg("-out").arg(&pkcs1).run();
    let public = Tool::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&pkcs8).run();
    let key = MinionKey::load(&fs::read(&pkcs8).unwrap(), Some(public.as_bytes())).unwrap();
    assert_eq!(key.private_pem(), fs::read_to_string(&pkcs1).unwrap());
    assert_eq!(MinionKey::load(&fs::read(&pkcs1).unwrap(), None).unwrap(), key);
}

#[test]
fn a_finger_is_the_hash_that_salt_computes() {
    let key = MinionKey::generate(&Randomness::from_seed_value("test", "master")).unwrap();
    // salt.utils.crypt.pem_finger, in its own words.
    let program = "import hashlib, sys\n\
        lines = [x for x in sys.stdin.buffer.readlines() if x.strip()][1:-1]\n\
        digest = hashlib.sha256(b''.join(lines)).hexdigest()\n\
        print(':'.join(digest[i:i + 2] for i in range(0, len(digest), 2)))";
    let expected = Tool::new("/usr/bin/python3").args(["-c", program]).stdin(key.public_pem()).run();
    assert_eq!(Finger::of_public_pem(key.public_pem().as_bytes()).unwrap().as_str(), expected.trim());
}
