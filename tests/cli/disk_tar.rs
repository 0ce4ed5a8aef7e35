//! `vmimg disk put --tar`, `get --tar` and `mkfs --from`, judged by GNU tar and the kernel; archives that mean harm.

use std::fs;

use vmimg_tests::mount::Mounted;
use vmimg_tests::sandbox::Sandbox;

use crate::disk::{check, disk};
use crate::sandbox;

/// Makes a tree with all that an archive can hold.
const TREE: &str = r#"
mkdir -p tree/sub/deep && cd tree
echo hello > a; chown 4000000000:70000 a; chmod 6755 a; touch -d @1700000000.123456789 a
ln a sub/hard; ln -s ../a sub/link; ln -s "/$(printf 'x%.0s' $(seq 900))" long; chown -h 3000000:5 long; ln long long2
mkfifo -m 600 fifo; mknod -m 666 null c 1 3; mknod -m 660 block b 4000 1000000
echo u > 'ünïcode 文件'; echo n > $(printf 'n%.0s' $(seq 255)); touch -d @-1.5 before; touch -d @9000000000 after
p=.; for i in $(seq 12); do p=$p/directory-of-some-length-$i; mkdir $p; done; echo leaf > $p/leaf
truncate -s 2M holes sparse; printf x | dd of=sparse bs=1 seek=1000000 conv=notrunc status=none
yes | head -c 3000001 > dense; cp dense label; echo c > able; echo i > sub/inherits; chmod 3770 sub/deep
python3 - <<'END'
import os, struct
acl = lambda *all: struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in all)
none = 0xFFFFFFFF
access = acl((1, 6, none), (2, 4, 1000), (2, 7, 4000000), (4, 5, none), (8, 4, 4), (16, 7, none), (32, 0, none))
os.setxattr('able', 'security.capability', bytes.fromhex('0100000200040a0a000000000000000000000000'))
os.setxattr('dense', 'user.a%3D', b'a\nb=\n\0c')
os.setxattr('dense', 'user.empty', b'')
os.setxattr('dense', 'trusted.long', bytes(range(256)))
os.setxattr('label', 'security.selinux', b'system_u:object_r:etc_t:s0\0')
os.setxattr('sub/link', 'security.selinux', b'system_u:object_r:lnk_t:s0\0', follow_symlinks=False)
os.setxattr('sub/inherits', 'system.posix_acl_access', access)
os.setxattr('sub', 'system.posix_acl_default', access)
END
touch -d @77 sub; touch -d @88.000000005 .
"#;

/// Packs a tree, the same bytes for the same tree.
const PACK: &str = "tar --format=posix --sort=name --numeric-owner --xattrs '--xattrs-include=*' --acls --selinux \
                    --pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f";

fn mounted(sandbox: &Sandbox, image: &str, script: &str) {
    let mounted = Mounted::open(&sandbox.path(image), "rw").unwrap();
    mounted.shell(&script.replace("SANDBOX", sandbox.path("").to_str().unwrap()));
}

#[test]
fn a_tree_goes_in_and_comes_out_as_gnu_tar_has_it() {
    let sandbox = sandbox();
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "-I", "512", "source.raw", "32M"]).run();
    mounted(&sandbox, "source.raw", &format!("{TREE}\ncd ..\n{PACK} -C tree -cf SANDBOX/source.tar ."));
    mounted(&sandbox, "source.raw", &format!("{PACK} -S -C tree -cf SANDBOX/new.tar ."));
    mounted(&sandbox, "source.raw", &format!("{PACK} -S --sparse-version=0.1 -C tree -cf SANDBOX/mid.tar ."));
    mounted(&sandbox, "source.raw", "tar --format=gnu --numeric-owner -S -C tree -cf SANDBOX/old.tar .");
    let same = |image: &str, folder: &str, archive: &str| {
        sandbox.tool("e2fsck").args(["-fn", image]).run();
        mounted(&sandbox, image, &format!("{PACK} --exclude=./lost+found -C ./{folder} -cf SANDBOX/got.tar ."));
        assert!(fs::read(sandbox.path("got.tar")).unwrap() == fs::read(sandbox.path(archive)).unwrap(), "{image}");
    };
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "empty.raw", "32M"]).run();
    for archive in ["source.tar", "mid.tar", "new.tar"] {
        fs::copy(sandbox.path("empty.raw"), sandbox.path("to.raw")).unwrap();
        sandbox.done(&format!("disk put --tar {archive} to.raw /srv/tree"));
        same("to.raw", "srv/tree", "source.tar");
    }
    let bytes = fs::read(sandbox.path("new.tar")).unwrap();
    let output = sandbox.program().args("disk mkfs --from - ext4 new.raw 32M".split(' ')).stdin(bytes).output();
    assert_eq!(sandbox.outcome(output).status, 0);
    same("new.raw", "", "source.tar");
    // The same from the folder itself.
    let program = env!("CARGO_BIN_EXE_vmimg-program");
    mounted(&sandbox, "source.raw", &format!("{program} disk mkfs --from tree ext4 SANDBOX/folder.raw 32M"));
    same("folder.raw", "", "source.tar");
    fs::copy(sandbox.path("empty.raw"), sandbox.path("copy.raw")).unwrap();
    mounted(&sandbox, "source.raw", &format!("{program} disk put --archive SANDBOX/copy.raw tree /srv/tree"));
    same("copy.raw", "srv/tree", "source.tar");
    // Out again.
    sandbox.done("disk get --tar out.tar to.raw /srv/tree");
    let out = sandbox.done("disk get --tar - to.raw /srv/tree/sub");
    assert!(out.contains("inherits"));
    fs::copy(sandbox.path("empty.raw"), sandbox.path("back.raw")).unwrap();
    mounted(
        &sandbox,
        "back.raw",
        "mkdir t; tar -C t -xpf SANDBOX/out.tar --xattrs '--xattrs-include=*' --acls --selinux --numeric-owner",
    );
    same("back.raw", "t", "source.tar");
    assert!(fs::metadata(sandbox.path("out.tar")).unwrap().len() < 7 << 20);
    assert_eq!(sandbox.run("disk get --tar out.tar to.raw /srv").status, 6);
    // The oldest form has no attributes and whole seconds.
    fs::copy(sandbox.path("empty.raw"), sandbox.path("to.raw")).unwrap();
    sandbox.done("disk put --tar old.tar to.raw /");
    mounted(&sandbox, "to.raw", "tar -C . --numeric-owner -df SANDBOX/old.tar");
    sandbox.tool("e2fsck").args(["-fn", "to.raw"]).run();
}

#[test]
fn links_of_an_archive_stay_in_the_guest_and_later_names_win() {
    let sandbox = disk();
    sandbox.file("x/link/passwd", "evil");
    sandbox.file("x/inside/deep/kept", "kept");
    sandbox.file("x/twice", "second");
    sandbox.file("y/file", "through");
    sandbox.file("y/folder/new", "new");
    let pack =
        "mkdir l t; ln -s /etc l/link; ln -s /etc/hostname l/twice; ln -s real/. l/inside; ln -s ../etc l/above; ln -s above l/hop
                mkdir -p l/real/deep; ln -s /etc l/folder; chmod 700 y/folder
                tar -C l -cf a.tar . && tar -C x --no-recursion -rf a.tar ./inside/deep/kept ./twice
                tar -P -C y --transform=s,^,/abs/, -rf a.tar file; tar -C y -rf a.tar folder
                for through in link above hop; do
                  cp a.tar $through.tar; tar -P -C y --transform=s,^,$through/deep/, -rf $through.tar file; done
                ln l/link l/hard; tar -C l -cf hard.tar link hard; tar -P -C y --transform=s,^,hard/, -rf hard.tar file
                tar -P -C y --transform=s,^,link/, -cf b.tar file
                tar -P -C y --transform=s,^,../up/, -cf up.tar file; gzip -k a.tar";
    sandbox.tool("sh").args(["-ec", pack]).run();
    sandbox.done("disk put --tar a.tar disk.raw /srv");
    // GNU tar takes the same links for safe, and puts a folder into the place of one.
    let all = "disk cat disk.raw /srv/real/deep/kept /srv/twice /etc/hostname /srv/abs/file /srv/folder/new";
    assert_eq!(sandbox.done(all), "keptsecondbase\nthroughnew");
    assert!(sandbox.done("disk stat disk.raw /etc").contains("mode 0755"));
    // A link that was there is the guest's own.
    sandbox.done("disk put --tar b.tar disk.raw /srv");
    assert_eq!(sandbox.done("disk cat disk.raw /etc/file"), "through");
    check(&sandbox, "32");
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    insta::assert_snapshot!(sandbox.run("disk put --tar up.tar disk.raw /srv"), @r"
    exit status 6
    --- stderr
    error: the archive's name `../up/file` cannot be put below `/srv`
    caused by: `..` is not allowed in a guest path
    ");
    for through in ["link", "above", "hop", "hard"] {
        let outcome = sandbox.run(&format!("disk put --tar {through}.tar disk.raw /opt/new"));
        assert!(outcome.status == 6 && outcome.to_string().contains("a link of the archive itself"), "{through}: {outcome}");
    }
    insta::assert_snapshot!(sandbox.run("disk put --tar a.tar.gz disk.raw /srv"), @r"
    exit status 4
    --- stderr
    error: this is no tar archive

    hint: it is compressed: send what `gzip -dc` makes of it to `--tar -`
    ");
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
}

/// A header with what GNU tar would call the fields, and a checksum that is right.
fn header(name: &str, kind: u8, size: &str) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    for (at, text) in [(0, name), (100, "0000644"), (108, "0000000"), (116, "0000000"), (124, size), (136, "00000000000")] {
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    bytes[148..156].fill(b' ');
    bytes[156] = kind;
    bytes[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn with_records(records: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = header("x", b'x', &format!("{:011o}", records.len()));
    bytes.extend(records.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(header("file", kind, &format!("{:011o}", data.len())));
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn what_an_archive_says_of_itself_is_not_believed() {
    let sandbox = disk();
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    let sparse = |size: &str| {
        let name = "24 GNU.sparse.name=file\n";
        let record = |text: String| format!("{} {text}\n", text.len() + 4);
        let size = record(format!("GNU.sparse.realsize={size}"));
        format!("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n{name}{size}")
    };
    let map = |text: &str| {
        let mut data = text.as_bytes().to_vec();
        data.resize(1024, 0);
        data
    };
    for (what, archive) in [
        ("nothing", Vec::new()),
        ("text", vec![b'a'; 2048]),
        ("more than there is", header("file", b'0', "00000100000")),
        ("far more", with_records("28 size=18446744073709551615\n", b'0', b"")),
        ("a huge extension", header("x", b'x', "77777777777")),
        ("a huge name", header("x", b'L', "77777777777")),
        ("no number", header("file", b'0', "abc")),
        ("an unknown type", header("file", b'Q', "00000000000")),
        ("records without an end", with_records("99 path=a\n", b'0', b"")),
        ("a header alone", with_records("12 path=abc\n", b'0', b"")[..1024].to_vec()),
        ("a file of 2^62 bytes", with_records(&sparse("4611686018427387904"), b'0', &map("1\n0\n1\n"))),
        ("a map that ends behind the file", with_records(&sparse("9999"), b'0', &map("1\n9990\n100\n"))),
        ("a map that goes back", with_records(&sparse("9999"), b'0', &map("2\n100\n10\n50\n10\n"))),
        ("a map of more than the data", with_records(&sparse("9999999"), b'0', &map("1\n0\n9999\n"))),
        ("a map of 10^18 runs", with_records(&sparse("9999"), b'0', &map("1000000000000000000\n"))),
        ("a link to nothing", header("file", b'1', "00000000000")),
        ("an owner of 2^40", with_records("21 uid=1099511627776\n", b'0', b"")),
        ("a list with names", with_records("37 SCHILY.acl.access=user:nobody:rwx\n", b'0', b"")),
    ] {
        fs::write(sandbox.path("x.tar"), archive).unwrap();
        let outcome = sandbox.run("disk put --tar x.tar disk.raw /srv");
        assert!((2..=6).contains(&outcome.status), "{what}: {outcome}");
        assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before, "{what}");
    }
}
