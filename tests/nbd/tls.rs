//! Encrypted connections, with certificates that openssl made.

use std::fs;
use std::io::{Read as _, Write as _};

use vmimg_tests::sandbox::Sandbox;

use crate::PROGRAM;
use crate::peer::Peer;
use crate::served::{Served, greeted};

/// A sandbox with `disk.qcow2` and a folder `pki` with an authority, and what a server and a client need.
fn disks() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|at| (at / 1000 % 251) as u8).collect();
    sandbox.file("disk.raw", bytes);
    sandbox.tool("qemu-img").args("convert -f raw -O qcow2 disk.raw disk.qcow2".split(' ')).run();
    for folder in ["pki", "other"] {
        let path = sandbox.path(folder);
        fs::create_dir(&path).unwrap();
        let openssl = |line: &str| sandbox.tool("openssl").current_dir(&path).args(line.split(' ')).run();
        let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30";
        openssl(&format!("{key} -keyout ca-key.pem -out ca-cert.pem -subj /CN=authority"));
        for (side, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
            openssl(&format!(
                "{key} -CA ca-cert.pem -CAkey ca-key.pem -keyout {side}-key.pem -out {side}-cert.pem -subj /CN=localhost \
                 -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext extendedKeyUsage={usage} \
                 -addext basicConstraints=critical,CA:FALSE"
            ));
        }
    }
    sandbox
}

#[test]
fn clients_with_a_certificate_of_the_authority_copy_and_others_are_refused() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "--tls-creds pki --listen 127.0.0.1:0 disk.qcow2", 1);
    let port = served.uris[0].trim_start_matches("nbds://127.0.0.1:").trim_end_matches('/').to_owned();
    let uri = |folder: &str| format!("nbds://localhost:{port}/?tls-certificates={}", sandbox.path(folder).display());
    sandbox.tool("nbdcopy").args([&uri("pki"), "copy.raw"]).run();
    assert_eq!(fs::read(sandbox.path("copy.raw")).unwrap(), fs::read(sandbox.path("disk.raw")).unwrap());
    let other: Vec<u8> = (0..8_u32 << 20).map(|at| (at / 4096 % 7) as u8).collect();
    sandbox.file("other.raw", &other);
    sandbox.tool("nbdcopy").args(["--flush", "other.raw", &uri("pki")]).run();
    assert!(!sandbox.tool("nbdinfo").arg(uri("other")).output().status.success(), "of another authority");
    assert!(!sandbox.tool("nbdinfo").arg(format!("nbd://localhost:{port}/")).output().status.success(), "not encrypted");
    // QEMU's client.
    let object = format!("tls-creds-x509,id=tls,endpoint=client,dir={}", sandbox.path("pki").display());
    let options = format!("driver=nbd,server.type=inet,server.host=localhost,server.port={port},tls-creds=tls");
    let convert = ["convert", "--object", &object, "--image-opts", &options, "-O", "raw", "qemu.raw"];
    sandbox.tool("qemu-img").args(convert).run();
    assert!(fs::read(sandbox.path("qemu.raw")).unwrap() == other);
    // Our own.
    sandbox.done(&format!("image compare other.raw {}", uri("pki")));
    sandbox.done(&format!("image convert -n -O raw disk.raw {}", uri("pki")));
    sandbox.done(&format!("image convert -n -O raw other.raw {}", uri("pki")));
    for (uri, why) in [
        (uri("other"), "cannot be encrypted"),
        (format!("nbd://localhost:{port}/"), "wants encryption"),
        (format!("nbds://localhost:{port}/"), "`tls-certificates=FOLDER` is missing"),
        (format!("{}&tls-hostname=elsewhere", uri("pki")), "cannot be encrypted"),
        (format!("{}&tls-verify-peer=0", uri("pki")), "is not talked to"),
    ] {
        let outcome = sandbox.run(&format!("image info {uri}"));
        assert!(outcome.status != 0 && outcome.stderr.contains(why), "{uri}: {outcome}");
    }
    assert_eq!(served.stop(), (Some(0), String::new()));
    sandbox.tool("qemu-img").args(["compare", "other.raw", "disk.qcow2"]).run();
}

#[test]
fn a_server_of_others_is_believed_when_its_certificate_is_right() {
    let sandbox = disks();
    let tls = format!("--tls=require --tls-certificates={}", sandbox.path("pki").display());
    let peer = Peer::start(&sandbox, "nbdkit", &format!("-f -U SOCKET {tls} file disk.raw"));
    let uri =
        |folder: &str| format!("{}&tls-certificates={folder}", peer.uri.replace("nbd+unix:///", "nbds+unix://localhost/"));
    sandbox.done(&format!("image compare disk.qcow2 {}", uri("pki")));
    sandbox.done(&format!("image convert -n -O raw disk.qcow2 {}", uri("pki")));
    assert!(sandbox.run(&format!("image info {}", uri("other"))).status != 0);
    assert!(sandbox.run(&format!("image info {}", uri("pki").replace("localhost", "elsewhere"))).status != 0);
    drop(peer);
    sandbox.tool("qemu-img").args(["compare", "disk.raw", "disk.qcow2"]).run();
}

#[test]
fn nothing_is_said_before_the_connection_is_encrypted() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "--tls-creds pki --tls-any-client --handshake-limit 3 -k s.sock -r disk.qcow2", 1);
    let mut plain = greeted(&sandbox.path("s.sock"));
    plain.write_all(b"IHAVEOPT\0\0\0\x03\0\0\0\0").unwrap();
    let mut reply = [0; 20];
    plain.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..16], [0x80, 0, 0, 5], "TLS is required");
    // A client that begins and then sends something else, or nothing, is gone at the end of its time.
    for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], b"IHAVEOPT", b""] {
        let mut broken = greeted(&sandbox.path("s.sock"));
        broken.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0").unwrap();
        broken.read_exact(&mut reply).unwrap();
        assert_eq!(reply[12..16], [0, 0, 0, 1]);
        broken.write_all(bytes).unwrap();
        assert!(broken.read_to_end(&mut Vec::new()).is_ok_and(|len| len < 1000));
    }
    let folder = sandbox.path("other").display().to_string();
    fs::copy(sandbox.path("pki/ca-cert.pem"), sandbox.path("other/ca-cert.pem")).unwrap();
    let uri = format!("nbds+unix://localhost/?socket={}&tls-certificates={folder}", sandbox.path("s.sock").display());
    let anyone = sandbox.tool("nbdinfo").args(["--size", &uri]).run();
    assert_eq!(anyone.trim(), "8388608");
    assert_eq!(served.stop().0, Some(0));
}

#[test]
fn what_cannot_be_encrypted_with_is_refused_by_name() {
    let sandbox = disks();
    assert_eq!(sandbox.run("nbd serve --tls-creds none -k s.sock disk.qcow2").status, 3);
    sandbox.file("pki/server-key.pem", "nothing");
    let key = sandbox.run("nbd serve --tls-creds pki -k s.sock disk.qcow2");
    assert!(key.status == 2 && key.stderr.contains("server-key.pem"), "{key}");
    assert!(!sandbox.path("s.sock").exists());
}
