//! Encrypted connections, with keys that psktool made.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use vmimg_tests::sandbox::Sandbox;

use crate::PROGRAM;
use crate::peer::Peer;
use crate::served::{Served, greeted};

/// A sandbox with `disk.qcow2`, the keys of alice and bob in the folder `keys`, and other keys of alice and carol in `other`.
fn disks() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|at| (at / 1000 % 251) as u8).collect();
    sandbox.file("disk.raw", bytes);
    sandbox.tool("qemu-img").args("convert -f raw -O qcow2 disk.raw disk.qcow2".split(' ')).run();
    for (folder, users) in [("keys", ["alice", "bob"]), ("other", ["alice", "carol"])] {
        fs::create_dir(sandbox.path(folder)).unwrap();
        for user in users {
            sandbox.tool("psktool").args(["-u", user, "-p", &format!("{folder}/keys.psk")]).run();
        }
    }
    sandbox
}

/// QEMU's objects and options for a client that is `user` with the keys in `folder`.
fn qemu(sandbox: &Sandbox, folder: &str, user: &str, priority: &str, port: &str) -> [String; 2] {
    let folder = sandbox.path(folder).display().to_string();
    let object = format!("tls-creds-psk,id=tls,endpoint=client,dir={folder},username={user}{priority}");
    [object, format!("driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},tls-creds=tls")]
}

#[test]
fn clients_that_know_a_key_copy_and_others_are_refused() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "--tls-psk keys/keys.psk --listen 127.0.0.1:0 disk.qcow2", 1);
    let port = served.uris[0].trim_start_matches("nbds://127.0.0.1:").trim_end_matches('/').to_owned();
    let uri = |user: &str, folder: &str| {
        format!("nbds://{user}@127.0.0.1:{port}/?tls-psk-file={}", sandbox.path(folder).join("keys.psk").display())
    };
    sandbox.tool("nbdcopy").args([&uri("alice", "keys"), "copy.raw"]).run();
    assert!(fs::read(sandbox.path("copy.raw")).unwrap() == fs::read(sandbox.path("disk.raw")).unwrap());
    let other: Vec<u8> = (0..8_u32 << 20).map(|at| (at / 4096 % 7) as u8).collect();
    sandbox.file("other.raw", &other);
    sandbox.tool("nbdcopy").args(["--flush", "other.raw", &uri("bob", "keys")]).run();
    assert_eq!(sandbox.tool("nbdinfo").args(["--size", &uri("alice", "keys")]).run().trim(), "8388608");
    for uri in [uri("alice", "other"), uri("carol", "other"), format!("nbd://127.0.0.1:{port}/")] {
        assert!(!sandbox.tool("nbdinfo").arg(&uri).output().status.success(), "{uri}");
    }
    // QEMU's client, with each version.
    for priority in ["", ",priority=NORMAL:-VERS-TLS1.3"] {
        let [object, options] = qemu(&sandbox, "keys", "alice", priority, &port);
        let convert = ["convert", "--object", &object, "--image-opts", &options, "-O", "raw", "qemu.raw"];
        sandbox.tool("qemu-img").args(convert).run();
        assert!(fs::read(sandbox.path("qemu.raw")).unwrap() == other);
        for (folder, user) in [("other", "alice"), ("other", "carol")] {
            let [object, options] = qemu(&sandbox, folder, user, priority, &port);
            let read = ["--object", &object, "-r", "--image-opts", &options, "-c", "read 0 512"];
            assert!(!sandbox.tool("qemu-io").args(read).output().status.success(), "{folder} {user} {priority}");
        }
    }
    // Our own.
    sandbox.done(&format!("image compare other.raw {}", uri("bob", "keys")));
    sandbox.done(&format!("image convert -n -O raw disk.raw {}", uri("alice", "keys")));
    sandbox.done(&format!("image convert -n -O raw other.raw nbds://127.0.0.1:{port}/?tls-psk-file=keys&tls-username=bob"));
    for (uri, why) in [
        (uri("alice", "other"), "cannot be encrypted"),
        (uri("alice", "other"), "with the key of `alice` in"),
        (uri("carol", "other"), "cannot be encrypted"),
        (uri("dave", "keys"), "has no key of `dave`"),
        (format!("nbd://127.0.0.1:{port}/"), "wants encryption"),
        (format!("nbds://127.0.0.1:{port}/?tls-psk-file=keys"), "whose key"),
        (format!("nbds://alice@127.0.0.1:{port}/?tls-psk-file=none"), "cannot use the keys in"),
    ] {
        let outcome = sandbox.run(&format!("image info {uri}"));
        assert!(outcome.status != 0 && outcome.stderr.contains(why), "{uri}: {outcome}");
    }
    assert_eq!(served.stop(), (Some(0), String::new()));
    sandbox.tool("qemu-img").args(["compare", "other.raw", "disk.qcow2"]).run();
}

#[test]
fn servers_of_others_are_believed_when_they_know_the_key() {
    let sandbox = disks();
    let object = format!("tls-creds-psk,id=tls,endpoint=server,dir={}", sandbox.path("keys").display());
    for (program, line, old) in [
        (
            "nbdkit",
            format!("-f -U SOCKET --tls=require --tls-psk={} file disk.raw", sandbox.path("keys/keys.psk").display()),
            "",
        ),
        ("qemu-nbd", format!("-t -f raw -k SOCKET --object {object} --tls-creds tls disk.raw"), ""),
        (
            "qemu-nbd",
            format!("-t -f raw -k SOCKET --object {object},OLD --tls-creds tls disk.raw"),
            "priority=NORMAL:-VERS-TLS1.3",
        ),
    ] {
        let peer = Peer::start(&sandbox, program, &line.replace("OLD", old));
        let uri = |user: &str, folder: &str| {
            let uri = peer.uri.replace("nbd+unix:///", &format!("nbds+unix://{user}@/"));
            format!("{uri}&tls-psk-file={folder}")
        };
        sandbox.done(&format!("image compare disk.qcow2 {}", uri("alice", "keys")));
        sandbox.done(&format!("image convert -n -O raw disk.qcow2 {}", uri("bob", "keys/keys.psk")));
        for (user, folder) in [("alice", "other"), ("carol", "other")] {
            let outcome = sandbox.run(&format!("image info {}", uri(user, folder)));
            assert!(outcome.status != 0 && outcome.stderr.contains(&format!("the key of `{user}`")), "{program}: {outcome}");
        }
        drop(peer);
    }
    sandbox.tool("qemu-img").args(["compare", "disk.raw", "disk.qcow2"]).run();
}

#[test]
fn a_server_with_a_certificate_in_place_of_the_key_is_not_talked_to() {
    let sandbox = disks();
    let openssl = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost";
    fs::create_dir(sandbox.path("pki")).unwrap();
    let names = "-keyout pki/server-key.pem -out pki/server-cert.pem";
    sandbox.tool("openssl").args(openssl.split(' ')).args(names.split(' ')).run();
    let served = Served::start(&sandbox, "--tls-creds pki --tls-any-client -k s.sock disk.qcow2", 1);
    let outcome = sandbox.run("image info nbds+unix://alice@/?socket=s.sock&tls-psk-file=keys");
    assert!(outcome.status != 0 && outcome.stderr.contains("cannot be encrypted"), "{outcome}");
    assert_eq!(served.stop().0, Some(0));
}

#[test]
fn clients_that_are_slow_or_wrong_hold_neither_others_nor_memory() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "--tls-psk keys --handshake-limit 12 -e 0 -k s.sock -r disk.qcow2", 1);
    let socket = sandbox.path("s.sock");
    let uri =
        format!("nbds+unix://alice@/?socket={}&tls-psk-file={}", socket.display(), sandbox.path("keys/keys.psk").display());
    sandbox.tool("nbdinfo").args(["--size", &uri]).run();
    let before = served.status("VmRSS");
    let begun = Instant::now();
    let mut reply = [0; 20];
    let mut wrong = Vec::new();
    for number in 0..60 {
        let mut client = greeted(&socket);
        client.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0").unwrap();
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply[12..16], [0, 0, 0, 1]);
        // A record that is never whole, something else, nothing.
        client.write_all([&b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"[..], b"IHAVEOPT", b""][number % 3]).unwrap();
        wrong.push(client);
    }
    assert_eq!(sandbox.tool("nbdinfo").args(["--size", &uri]).run().trim(), "8388608");
    assert!(begun.elapsed() < Duration::from_secs(12), "others are waited for");
    let held = served.status("VmRSS").saturating_sub(before);
    assert!(held < 60 * 400, "{held} KiB for 60 clients");
    for mut client in wrong {
        assert!(client.read_to_end(&mut Vec::new()).is_ok_and(|len| len < 1000));
    }
    assert_eq!(served.stop().0, Some(0));
}

#[test]
fn files_that_are_no_keys_are_refused() {
    let sandbox = disks();
    let serve = |keys: &str| sandbox.run(&format!("nbd serve --tls-psk {keys} -k s.sock disk.qcow2"));
    assert_eq!(serve("none").status, 3);
    sandbox.file("bad.psk", "alice:0011\n");
    let bad = serve("bad.psk");
    assert!(bad.status == 2 && bad.stderr.contains("bad.psk") && bad.stderr.contains("line 1"), "{bad}");
    fs::set_permissions(sandbox.path("keys/keys.psk"), fs::Permissions::from_mode(0o666)).unwrap();
    let open = serve("keys");
    assert!(open.status == 2 && open.stderr.contains("mode 666"), "{open}");
    fs::set_permissions(sandbox.path("keys/keys.psk"), fs::Permissions::from_mode(0o644)).unwrap();
    let served = Served::start(&sandbox, "--tls-psk keys -k s.sock disk.qcow2", 1);
    let (status, said) = served.stop();
    assert!(status == Some(0) && said.contains("every user can read the keys"), "{said}");
    assert_eq!(sandbox.run("nbd serve --tls-psk keys --tls-creds pki -k s.sock disk.qcow2").status, 2);
    assert!(!sandbox.path("s.sock").exists());
}
