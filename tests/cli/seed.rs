//! `vmimg seed`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::sandbox;

#[test]
fn a_minion_key_is_private_and_its_fingerprint_is_printed() {
    let sandbox = sandbox();
    let finger = sandbox.done("seed minion-key --private minion.pem --public minion.pub");
    assert_eq!(finger.trim_end().split(':').count(), 32, "{finger}");
    assert_eq!(sandbox.names(), ["minion.pem", "minion.pub"]);
    let mode = |name: &str| fs::metadata(sandbox.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("minion.pem"), mode("minion.pub")), (0o600, 0o644));
    // Another program agrees that the halves belong together.
    let public = sandbox.tool("openssl").args(["rsa", "-in", "minion.pem", "-pubout"]).run();
    assert_eq!(public, fs::read_to_string(sandbox.path("minion.pub")).unwrap());
}

#[test]
fn the_same_seed_value_makes_the_same_key_and_other_values_other_keys() {
    let sandbox = sandbox();
    let finger = |value: &str, name: &str| {
        sandbox.done(&format!("seed minion-key --seed-value {value} --private {name}.pem --public {name}.pub"))
    };
    let (first, again, other) = (finger("one", "a"), finger("one", "b"), finger("two", "c"));
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn existing_keys_are_not_overwritten_without_force() {
    let sandbox = sandbox();
    sandbox.file("minion.pub", "precious\n");
    insta::assert_snapshot!(sandbox.run("seed minion-key --private minion.pem --public minion.pub"), @r"
    exit status 6
    --- stderr
    error: `[SANDBOX]/minion.pub` exists already

    hint: `--force` replaces it
    ");
    assert_eq!(sandbox.names(), ["minion.pub"]);
    sandbox.done("seed minion-key --force --private minion.pem --public minion.pub");
    assert_ne!(fs::read_to_string(sandbox.path("minion.pub")).unwrap(), "precious\n");
}
