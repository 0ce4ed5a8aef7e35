//! Images that live behind qemu-nbd, nbdkit and our own server are read and written as if they were files.

use vmimg_tests::sandbox::Sandbox;

use super::PROGRAM;
use super::peer::Peer;
use super::served::Served;

/// A disk of 24 MiB with data, zeros that are stored, and holes.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    assert_eq!(sandbox.qemu_img("create -q -f raw disk.raw 24M").status, 0);
    let writes = ["write -P 1 0 64k", "write -P 7 1M 5M", "write -z 2M 1M", "write -P 9 20M 100k", "write -P 3 24641536 512k"];
    let commands = writes.iter().flat_map(|command| ["-c", command]);
    sandbox.tool("qemu-io").args(["-f", "raw"]).args(commands).arg("disk.raw").run();
    for (format, image) in [("qcow2", "disk.qcow2"), ("raw", "copy.raw")] {
        assert_eq!(sandbox.qemu_img(&format!("convert -f raw -O {format} disk.raw {image}")).status, 0);
    }
    sandbox
}

/// Servers of `image`, whose bytes are those of the export; some can be written, all of them know different things.
fn servers(image: &str) -> Vec<(&'static str, String)> {
    vec![
        ("qemu-nbd", format!("-t -f raw -e 8 -k SOCKET {image}")),
        ("qemu-nbd", format!("-t -f raw -k SOCKET {image}")),
        ("nbdkit", format!("-f -U SOCKET file {image}")),
        ("nbdkit", format!("-f --no-sr -U SOCKET file {image}")),
        (
            "nbdkit",
            format!(
                "-f -U SOCKET --filter=blocksize-policy file {image} blocksize-minimum=4k blocksize-maximum=64k blocksize-error-policy=error"
            ),
        ),
        ("nbdkit", format!("-f -U SOCKET --filter=nozero --filter=noextents --filter=noparallel file {image}")),
    ]
}

#[test]
fn what_other_servers_export_is_read_as_it_is() {
    let sandbox = sandbox();
    for image in ["disk.raw", "disk.qcow2"] {
        for (program, line) in servers(image) {
            let peer = Peer::start(&sandbox, program, &line);
            let uri = &peer.uri;
            let format = image.strip_prefix("disk.").unwrap();
            sandbox.done(&format!("image compare copy.raw {uri}"));
            sandbox.done(&format!("image convert -O qcow2 {uri} back.qcow2"));
            sandbox.done(&format!("image dd -f {format} if={uri} of=back.raw bs=1M"));
            for back in ["back.qcow2", "back.raw"] {
                assert_eq!(sandbox.qemu_img(&format!("compare copy.raw {back}")).status, 0, "{program} {line}");
            }
            let info: serde_json::Value =
                serde_json::from_str(&sandbox.done(&format!("image info --output=json {uri}"))).unwrap();
            assert_eq!((info["format"].as_str(), info["virtual-size"].as_u64()), (Some(format), Some(24 << 20)));
            assert_eq!(info["children"][0]["info"]["format"].as_str(), Some("nbd"));
            for verb in ["map --output=json", "measure -O qcow2 --output=json"] {
                let ours = sandbox.done(&format!("image {verb} {uri}"));
                let theirs = sandbox.qemu_img(&format!("{verb} {uri}")).stdout;
                let [ours, theirs]: [serde_json::Value; 2] = [&ours, &theirs].map(|text| serde_json::from_str(text).unwrap());
                assert_eq!(ours, theirs, "{verb}: {program} {line}");
            }
        }
    }
}

#[test]
fn what_is_written_into_an_export_is_there() {
    let sandbox = sandbox();
    for (program, line) in servers("target.raw") {
        // What is there before must not show.
        sandbox.file("target.raw", vec![0x55; 24 << 20]);
        let peer = Peer::start(&sandbox, program, &line);
        sandbox.done(&format!("image convert -n -O raw disk.qcow2 {}", peer.uri));
        drop(peer);
        assert_eq!(sandbox.qemu_img("compare -f raw -F raw copy.raw target.raw").status, 0, "{program} {line}");
    }
    for (program, line) in servers("target.qcow2") {
        assert_eq!(sandbox.qemu_img("create -q -f qcow2 -o preallocation=full target.qcow2 24M").status, 0);
        let peer = Peer::start(&sandbox, program, &line);
        sandbox.done(&format!("image convert -n -O qcow2 disk.raw {}", peer.uri));
        drop(peer);
        assert_eq!(sandbox.qemu_img("check -q target.qcow2").status, 0, "{program} {line}");
        assert_eq!(sandbox.qemu_img("compare copy.raw target.qcow2").status, 0, "{program} {line}");
    }
}

#[test]
fn our_own_server_and_client_understand_each_other() {
    let sandbox = sandbox();
    let socket = sandbox.path("own");
    let served = Served::start(&sandbox, &format!("-f raw --socket {} disk.raw", socket.display()), 1);
    let uri = &served.uris[0];
    sandbox.done(&format!("image compare copy.raw {uri}"));
    sandbox.done(&format!("image convert -n -O raw disk.qcow2 {uri}"));
    sandbox.done(&format!("image compare copy.raw {uri}"));
    assert_eq!(served.stop().0, Some(0));
}

#[test]
fn what_cannot_be_done_is_refused_by_name_and_nothing_is_left() {
    let sandbox = sandbox();
    let peer = Peer::start(&sandbox, "qemu-nbd", "-t -r -f raw -k SOCKET disk.raw");
    let uri = &peer.uri;
    for (line, why) in [
        (format!("image convert -n -O raw disk.qcow2 {uri}"), "for reading only"),
        (format!("image convert -O raw disk.qcow2 {uri}"), "convert -n"),
        (format!("image create -f raw {uri} 1M"), "is there already"),
        (format!("image commit {uri}"), "for files"),
        ("image info nbd+unix:///?socket=none".to_owned(), "cannot connect"),
        (format!("image info {}", uri.replace("///", "///other")), "no export `other`"),
        (format!("image info {}", uri.replace("nbd+", "nbds+")), "does not encrypt"),
        ("image info nbd://".to_owned(), "the host is missing"),
        ("image info nbd:localhost:10809".to_owned(), "nbd://"),
        ("disk inspect nbd+unix:///".to_owned(), "`socket` is missing"),
    ] {
        let outcome = sandbox.run(&line);
        assert!(outcome.status != 0 && outcome.stderr.contains(why), "{line}: {outcome}");
    }
    // What an image names is never an address, whatever it is trusted with.
    for backing in [uri.as_str(), "nbd://127.0.0.1:1/x"] {
        let made = sandbox.qemu_img(&format!("create -q -u -f qcow2 -b {backing} -F raw over.qcow2 24M"));
        assert_eq!(made.status, 0, "{made}");
        let outcome = sandbox.run("image convert over.qcow2 out.raw");
        assert!(outcome.status != 0 && outcome.stderr.contains("no plain path"), "{outcome}");
        assert!(sandbox.run("image convert --untrusted over.qcow2 out.raw").status != 0);
    }
    assert!(!sandbox.names().contains(&"out.raw".to_owned()));
    // A relative name in an image that has no folder.
    assert_eq!(sandbox.qemu_img("create -q -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2").status, 0);
    let top = Peer::start(&sandbox, "qemu-nbd", "-t -r -f raw -k SOCKET top.qcow2");
    let outcome = sandbox.run(&format!("image compare {} copy.raw", top.uri));
    assert!(outcome.status != 0 && outcome.stderr.contains("an export has none"), "{outcome}");
}
