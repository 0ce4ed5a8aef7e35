//! What clients of other makers see, and what is in the image afterwards.

use std::fs;
use std::thread;
use std::time::Duration;

use vmimg_tests::mount::Mounted;
use vmimg_tests::sandbox::Sandbox;

use crate::PROGRAM;
use crate::served::Served;

/// A sandbox with `disk.raw`, half of it data, and the same as `disk.qcow2`.
fn disks() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|at| (at / 1000 % 251) as u8).collect();
    let raw = sandbox.file("disk.raw", &bytes);
    fs::File::options().write(true).open(raw).unwrap().set_len(8 << 20).unwrap();
    sandbox.tool("qemu-img").args("convert -f raw -O qcow2 disk.raw disk.qcow2".split(' ')).run();
    sandbox
}

fn assert_same(sandbox: &Sandbox, left: &str, right: &str) {
    sandbox.tool("qemu-img").args(["compare", left, right]).run();
}

#[test]
fn other_programs_copy_from_and_to_it_and_find_the_holes() {
    for format in ["raw", "qcow2"] {
        let sandbox = disks();
        let image = format!("disk.{format}");
        let served = Served::start(&sandbox, &format!("-f {format} -k s.sock {image}"), 1);
        let uri = &served.uris[0];
        let info = sandbox.tool("nbdinfo").args(["--json", uri]).run();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["exports"][0]["export-size"], 8 << 20);
        assert_eq!(info["exports"][0]["can_multi_conn"], true);
        let map = sandbox.tool("nbdinfo").args(["--map", uri]).run();
        assert!(map.lines().last().unwrap().contains("hole,zero"), "{map}");
        let depth = sandbox.tool("nbdinfo").args(["--map=qemu:allocation-depth", uri]).run();
        assert!(depth.lines().next().unwrap().contains("  1"), "{depth}");
        sandbox.tool("nbdcopy").args([uri, "copy.raw"]).run();
        sandbox.tool("qemu-img").args(["convert", "-f", "raw", "-O", "raw", uri, "converted.raw"]).run();
        for copy in ["copy.raw", "converted.raw"] {
            assert_eq!(fs::read(sandbox.path(copy)).unwrap(), fs::read(sandbox.path("disk.raw")).unwrap(), "{format} {copy}");
        }
        let other: Vec<u8> = (0..8_u32 << 20).map(|at| (at / 4096 % 7) as u8).collect();
        sandbox.file("other.raw", other);
        sandbox.tool("nbdcopy").args(["--flush", "--connections=4", "--request-size=131072", "other.raw", uri]).run();
        let mix = ["write -P 9 1000 5000", "write -z 0 4096", "discard 65536 65536", "flush", "read -P 9 4096 1904"];
        let mix = mix.iter().flat_map(|command| ["-c", command]);
        sandbox.tool("qemu-io").args(["-f", "raw"]).args(mix).arg(uri).run();
        sandbox.tool("nbdcopy").args([uri, "after.raw"]).run();
        assert_eq!(served.stop(), (Some(0), String::new()), "{format}");
        assert_same(&sandbox, "after.raw", &image);
        assert!(!sandbox.path("s.sock").exists(), "the socket goes with its server");
        if format == "qcow2" {
            sandbox.tool("qemu-img").args(["check", "disk.qcow2"]).run();
        }
    }
}

#[test]
fn libnbd_meets_every_command_and_every_error() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "-k s.sock --name one --name two disk.qcow2 disk.raw", 2);
    let script = r#"
import sys, errno
sys.path.append("/usr/lib/python3/dist-packages")
import nbd
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["one", "two"], names
h.set_export_name("two")
h.opt_go()
assert h.get_protocol() == "newstyle-fixed" and h.get_structured_replies_negotiated()
h.set_strict_mode(0)
def fails(code, what, *args):
    try:
        what(*args)
    except nbd.Error as e:
        assert e.errnum == code, (what, args, e)
    else:
        raise AssertionError((what, args))
end = h.get_size()
fails(errno.EINVAL, h.pread, 512, end)
fails(errno.ENOSPC, h.pwrite, b"x" * 512, end)
fails(errno.ENOSPC, h.zero, 512, 1 << 60)
fails(errno.EINVAL, h.trim, 512, end)
fails(errno.EINVAL, h.cache, 512, end)
h.pwrite(b"a" * 70000, 1, nbd.CMD_FLAG_FUA)
h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 16384, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 65536)
h.cache(65536, 0)
h.flush()
got = h.pread(70001, 0)
assert got[1:8192] == b"a" * 8191 and got[8192:12288] == bytes(4096) and got[16384:20480] == bytes(4096)
h.shutdown()
"#;
    let uri = served.uris[0].replacen("/one", "/", 1);
    sandbox.tool("/usr/bin/python3").args(["-c", script, &uri]).run();
    assert_eq!(served.stop().0, Some(0));
}

#[test]
fn what_eight_connections_write_at_once_is_all_there() {
    for format in ["raw", "qcow2"] {
        let sandbox = disks();
        let served = Served::start(&sandbox, &format!("-f {format} -k s.sock disk.{format}"), 1);
        let uri = served.uris[0].clone();
        thread::scope(|scope| {
            for part in 0..8_u32 {
                let (sandbox, uri) = (&sandbox, &uri);
                scope.spawn(move || {
                    let at = part << 20;
                    let commands = (0..16).map(|step| format!("write -P {} {} 65536", part * 16 + step + 1, at + step * 65536));
                    let commands: Vec<String> = commands.chain(["flush".to_owned()]).collect();
                    let commands = commands.iter().flat_map(|command| ["-c", command]);
                    sandbox.tool("qemu-io").args(["-f", "raw"]).args(commands).arg(uri).run();
                });
            }
        });
        sandbox.tool("nbdcopy").args([&uri, "after.raw"]).run();
        let after = fs::read(sandbox.path("after.raw")).unwrap();
        assert!(after.chunks(65536).zip(1..).all(|(chunk, value)| chunk.iter().all(|byte| *byte == value as u8)), "{format}");
        // A server that is killed has lost nothing that was flushed.
        served.signal("KILL");
        drop(served);
        assert_same(&sandbox, "after.raw", &format!("disk.{format}"));
    }
}

#[test]
fn reading_alone_and_copies_leave_the_image_as_it_was() {
    let sandbox = disks();
    let before = fs::read(sandbox.path("disk.qcow2")).unwrap();
    let served = Served::start(&sandbox, "-r -k s.sock disk.qcow2", 1);
    let refused = sandbox.tool("qemu-io").args(["-f", "raw", "-c", "write 0 512", &served.uris[0]]).output();
    assert!(!refused.status.success());
    served.stop();
    let served = Served::start(&sandbox, "--cow -k s.sock disk.qcow2", 1);
    let uri = &served.uris[0];
    let mix = ["write -P 9 1000 5000", "write -z 1M 1M", "flush", "read -P 9 1000 5000", "read -P 0 1M 1M"];
    let mix = mix.iter().flat_map(|command| ["-c", command]);
    sandbox.tool("qemu-io").args(["-f", "raw"]).args(mix).arg(uri).run();
    assert!(sandbox.tool("nbdinfo").args(["--can", "multi-conn", uri]).output().status.code() == Some(2));
    sandbox.tool("nbdcopy").args([uri, "after.raw"]).run();
    assert_same(&sandbox, "after.raw", "disk.qcow2");
    assert_eq!(served.stop().0, Some(0));
    assert_eq!(fs::read(sandbox.path("disk.qcow2")).unwrap(), before);
}

#[test]
fn a_file_that_loses_its_end_is_an_error_and_not_the_end() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "-r -f raw -k s.sock disk.raw", 1);
    fs::File::options().write(true).open(sandbox.path("disk.raw")).unwrap().set_len(3_500_000).unwrap();
    let script = r#"
import sys
sys.path.append("/usr/lib/python3/dist-packages")
import nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for offset, length in (3 << 20, 1 << 20), (4 << 20, 4096), (4 << 20, 4 << 20):
    try:
        h.pread(length, offset)
    except nbd.Error as e:
        assert e.errnum == 5, e
    else:
        raise AssertionError(offset)
assert len(h.pread(3 << 20, 0)) == 3 << 20
h.shutdown()
"#;
    sandbox.tool("/usr/bin/python3").args(["-c", script, &served.uris[0]]).run();
    let (status, said) = served.stop();
    assert!(status == Some(0) && said.contains("disk.raw"), "{said}");
}

#[test]
fn it_ends_with_its_last_client_when_it_is_to() {
    let sandbox = disks();
    let mut served = Served::start(&sandbox, "--once --listen 127.0.0.1:0 -r disk.qcow2", 1);
    assert!(served.uris[0].starts_with("nbd://127.0.0.1:"), "{}", served.uris[0]);
    sandbox.tool("nbdinfo").args(["--size", &served.uris[0]]).run();
    assert_eq!(served.end(), (Some(0), String::new()));
}

#[test]
fn a_server_that_is_told_to_stop_keeps_what_it_has_answered() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "-k s.sock disk.qcow2", 1);
    let script = r#"
import sys
sys.path.append("/usr/lib/python3/dist-packages")
import nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
done = 0
try:
    while True:
        h.pwrite(bytes([done % 255 + 1]) * 4096, done % 2048 * 4096)
        done += 1
        if done == 200:
            print("go", flush=True)
except nbd.Error:
    print(done)
"#;
    let mut child =
        sandbox.tool("/usr/bin/python3").args(["-c", script, &served.uris[0]]).spawn_with(std::process::Stdio::piped());
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "go");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(served.stop().0, Some(0));
    let done: usize = lines.next().unwrap().unwrap().parse().unwrap();
    child.wait().unwrap();
    sandbox.tool("qemu-img").args(["check", "disk.qcow2"]).run();
    sandbox.tool("qemu-img").args("convert -O raw disk.qcow2 after.raw".split(' ')).run();
    let after = fs::read(sandbox.path("after.raw")).unwrap();
    for block in 0..done.min(2048) {
        let last = (done - 1 - block) / 2048 * 2048 + block;
        assert!(after[block * 4096..][..4096].iter().all(|byte| usize::from(*byte) == last % 255 + 1), "{block} of {done}");
    }
}

#[test]
fn sockets_of_systemd_are_served() {
    let sandbox = disks();
    let script = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind("systemd.sock")
s.listen()
if s.fileno() != 3:
    os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.execv(sys.argv[1], sys.argv[1:])
"#;
    let tool = sandbox.tool("/usr/bin/python3").args(["-c", script, PROGRAM, "nbd", "serve", "-r", "disk.qcow2"]);
    let served = Served::start_tool(tool, 1);
    let size = sandbox.tool("nbdinfo").args(["--size", "nbd+unix:///?socket=systemd.sock"]).run();
    assert_eq!(size.trim(), "8388608");
    assert_eq!(served.stop().0, Some(0));
    assert!(sandbox.path("systemd.sock").exists(), "it is systemd's");
}

#[test]
fn a_socket_that_is_served_is_not_taken_and_one_that_is_left_over_is() {
    let sandbox = disks();
    let served = Served::start(&sandbox, "-r -k s.sock disk.qcow2", 1);
    let second = sandbox.run("nbd serve -r -k s.sock disk.qcow2");
    assert_eq!(second.status, 6, "{second}");
    served.signal("KILL");
    drop(served);
    assert!(sandbox.path("s.sock").exists());
    let served = Served::start(&sandbox, "-r -k s.sock disk.qcow2", 1);
    served.stop();
    sandbox.file("file", "precious");
    assert_eq!(sandbox.run("nbd serve -r -k file disk.qcow2").status, 6);
    assert_eq!(fs::read(sandbox.path("file")).unwrap(), b"precious");
    assert_eq!(sandbox.run("nbd serve -k t.sock disk.qcow2 ./disk.qcow2").status, 2, "two exports of one name");
    assert_eq!(sandbox.run("nbd serve -k t.sock none.qcow2").status, 3);
    assert!(!sandbox.path("t.sock").exists());
}

#[test]
fn the_images_of_a_chain_are_told_apart_and_what_is_trimmed_takes_no_room() {
    let sandbox = disks();
    let image = |name: &str, below: Option<&str>, at: &str| {
        let backing = below.map(|below| format!("-b {below} -F qcow2")).unwrap_or_default();
        assert_eq!(sandbox.qemu_img(&format!("create -q -f qcow2 {backing} {name} 8M")).status, 0);
        sandbox.tool("qemu-io").args(["-c", &format!("write -P 5 {at} 1M"), name]).run();
    };
    image("base.qcow2", None, "0");
    image("middle.qcow2", Some("base.qcow2"), "1M");
    image("top.qcow2", Some("middle.qcow2"), "2M");
    let served = Served::start(&sandbox, "-k s.sock --name chain --name raw top.qcow2 disk.raw", 2);
    let depth = sandbox.tool("nbdinfo").args(["--map=qemu:allocation-depth", &served.uris[0]]).run();
    let depth: Vec<Vec<&str>> = depth.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let mib = |count: u64| (count << 20).to_string();
    let all = [(0, 1, "3"), (1, 1, "2"), (2, 1, "1"), (3, 5, "0")].map(|(at, len, depth)| (mib(at), mib(len), depth));
    assert!(depth.iter().zip(&all).all(|(found, (at, len, depth))| *found == [at.as_str(), len, depth]), "{depth:?}");
    assert_eq!(depth.len(), all.len());
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&fs::metadata(sandbox.path("disk.raw")).unwrap());
    let before = blocks();
    sandbox.tool("qemu-io").args(["-f", "raw", "-d", "unmap", "-c", "discard 1M 2M", &served.uris[1]]).run();
    assert!(blocks() + 4000 <= before, "{} of {before}", blocks());
    let map = sandbox.tool("nbdinfo").args(["--map", &served.uris[1]]).run();
    assert!(map.lines().nth(1).is_some_and(|line| line.contains("1048576") && line.contains("hole,zero")), "{map}");
    let info = sandbox.tool("nbdinfo").args(["--list", "--json", &served.uris[0]]).run();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let names: Vec<_> = info["exports"].as_array().unwrap().iter().map(|export| export["export-name"].as_str()).collect();
    assert_eq!(names, [Some("chain"), Some("raw")]);
    assert_eq!(served.stop().0, Some(0));
}

/// The disk under a qcow2 image is full for a while: what was written before is there all the time, and durable in the end.
#[test]
fn a_disk_of_the_host_that_is_full_for_a_while_loses_nothing() {
    const SCRIPT: &str = r#"
import errno, nbd, os, random, sys
small, uri = sys.argv[1:]
h = nbd.NBD()
h.connect_uri(uri)
h.pwrite(b"N" * 65536, 0)
h.flush()
h.pwrite(b"F" * 65536, 600 << 20)
written = 1 << 20
try:
    while True:
        h.pwrite(random.randbytes(1 << 16), written)
        written += 1 << 16
except nbd.Error as error:
    assert error.errnum == errno.ENOSPC, error
for _ in range(2):
    assert h.pread(65536, 0) == b"N" * 65536 and h.pread(65536, 600 << 20) == b"F" * 65536
    try:
        h.flush()
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
os.unlink(small + "/ballast")
h.flush()
assert h.pread(65536, 600 << 20) == b"F" * 65536
h.shutdown()
"#;
    let sandbox = Sandbox::new(PROGRAM);
    let small = Mounted::memory(24 << 10);
    let at = |name: &str| small.path(name).to_str().unwrap().to_owned();
    fs::write(sandbox.path("base.raw"), vec![1; 1 << 20]).unwrap();
    sandbox.done("image resize -f raw base.raw 2G");
    sandbox.done(&format!("image create -f qcow2 -b {} -F raw {}", sandbox.path("base.raw").display(), at("over.qcow2")));
    fs::write(at("ballast"), vec![7; 4 << 20]).unwrap();
    let served = Served::start(&sandbox, &format!("-f qcow2 -k s.sock {}", at("over.qcow2")), 1);
    sandbox.tool("/usr/bin/python3").args(["-c", SCRIPT, &at(""), &served.uris[0]]).run();
    assert_eq!(served.stop().0, Some(0));
    sandbox.done(&format!("image check -q {}", at("over.qcow2")));
    sandbox.tool("qemu-io").args(["-r", "-c", "read -P 0x4e 0 65536", "-c", "read -P 0x46 600M 64k", &at("over.qcow2")]).run();
}

#[test]
fn what_is_lost_at_the_end_is_not_hidden_by_the_signal() {
    let sandbox = disks();
    let below = Served::start(&sandbox, "-f raw -k below.sock disk.raw", 1);
    let served = Served::start(&sandbox, &format!("-f raw -k s.sock {}", below.uris[0]), 1);
    let write = "import nbd, sys, os, signal\nh = nbd.NBD(); h.connect_uri(sys.argv[1]); h.pwrite(b'x' * 512, 0)\n\
        os.kill(int(sys.argv[2]), signal.SIGKILL)";
    sandbox.tool("/usr/bin/python3").args(["-c", write, &served.uris[0], &below.pid().to_string()]).run();
    let (status, said) = served.stop();
    assert!(status.is_some_and(|status| status != 0) && said.contains("error: "), "{status:?} {said}");
}
