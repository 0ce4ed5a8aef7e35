//! `vmimg disk`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use vmimg_tests::sandbox::Sandbox;

use crate::sandbox;

/// A sandbox with `disk.raw`: a GPT with one ext4 partition from 1 MiB to 33 MiB, and 31 MiB of room behind it.
pub(crate) fn disk() -> Sandbox {
    let sandbox = sandbox();
    sandbox.file("tree/etc/fstab", "LABEL=root / ext4 defaults 0 1\nUUID=DEAD-BEEF /boot/efi vfat umask=0077 0 1\n");
    sandbox.file("tree/etc/hostname", "base\n");
    sandbox.file("tree/usr/lib/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "-d", "tree", "-L", "root", "-E", "root_owner=0:0", "fs", "32M"]).run();
    fs::File::create(sandbox.path("disk.raw")).unwrap().set_len(64 << 20).unwrap();
    let table = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\
                 start=2048, size=65536, type=L, uuid=AAAAAAAA-0000-0000-0000-000000000001, name=root\n";
    sandbox.tool("sfdisk").args(["-q", "disk.raw"]).stdin(table).run();
    sandbox.tool("dd").args(["if=fs", "of=disk.raw", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]).run();
    sandbox
}

/// The partition's file system has no error.
#[track_caller]
pub(crate) fn check(sandbox: &Sandbox, megabytes: &str) {
    let count = format!("count={megabytes}");
    sandbox.tool("dd").args(["if=disk.raw", "of=part", "bs=1M", "skip=1", &count, "conv=sparse", "status=none"]).run();
    sandbox.tool("e2fsck").args(["-fn", "part"]).run();
    fs::remove_file(sandbox.path("part")).unwrap();
}

#[test]
fn partitions_are_shown_for_people_and_for_programs() {
    let sandbox = disk();
    insta::assert_snapshot!(sandbox.done("disk partitions -f raw disk.raw"), @r"
    GPT 11111111-2222-3333-4444-555555555555, 64 MiB, sectors of 512 bytes
    NUMBER    START      SIZE            TYPE   NAME
         1  1048576  33554432  (32 MiB)  Linux  root
    ");
    insta::assert_snapshot!(sandbox.done("disk partitions --json -f raw disk.raw"), @r#"
    {
      "label": "gpt",
      "sector_size": 512,
      "id": "11111111-2222-3333-4444-555555555555",
      "size": 67108864,
      "partitions": [
        {
          "number": 1,
          "start": 1048576,
          "size": 33554432,
          "type": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
          "uuid": "aaaaaaaa-0000-0000-0000-000000000001",
          "name": "root",
          "bootable": false
        }
      ],
      "notes": []
    }
    "#);
}

#[test]
fn files_are_listed_and_printed() {
    let sandbox = disk();
    assert_eq!(sandbox.done("disk cat disk.raw /etc/hostname"), "base\n");
    assert_eq!(sandbox.done("disk ls disk.raw"), "etc\nlost+found\nusr\n");
    assert_eq!(sandbox.done("disk ls -R disk.raw /etc"), "/etc:\nfstab\nhostname\n");
    let long = sandbox.done("disk ls -l disk.raw /etc");
    assert!(long.lines().next().unwrap().ends_with(" fstab") && long.starts_with("-rw-"), "{long}");
    let all: serde_json::Value = serde_json::from_str(&sandbox.done("disk ls --json disk.raw /etc/hostname")).unwrap();
    assert_eq!((&all[0]["path"], &all[0]["type"], &all[0]["size"]), (&"/etc/hostname".into(), &"file".into(), &5.into()));
}

#[test]
fn what_is_not_there_is_not_found_and_says_what_is() {
    let sandbox = disk();
    insta::assert_snapshot!(sandbox.run("disk cat disk.raw /etc/shadow"), @r"
    exit status 3
    --- stderr
    error: `/etc/shadow` does not exist in the guest
    ");
    insta::assert_snapshot!(sandbox.run("disk ls --partition 3 disk.raw"), @r"
    exit status 3
    --- stderr
    error: there is no partition 3

    hint: the image has partitions 1
    ");
    insta::assert_snapshot!(sandbox.run("disk ls missing.raw"), @r"
    exit status 3
    --- stderr
    error: cannot open `[SANDBOX]/missing.raw`
    caused by: No such file or directory (os error 2)
    ");
}

#[test]
fn a_manifest_goes_into_the_guest_and_other_programs_find_no_fault() {
    let sandbox = disk();
    sandbox.file("index.html", "<p>hello\n");
    sandbox.file(
        "files.json",
        r#"[{"op": "mkdir", "path": "/srv/www", "mode": "0750", "uid": 33, "gid": 33},
            {"op": "write", "path": "/srv/www/index.html", "src": "index.html", "mode": 416, "mtime": 5,
             "xattrs": {"user.origin": "6869"}},
            {"op": "write", "path": "/etc/hostname", "src": "index.html"},
            {"op": "symlink", "path": "/srv/link", "target": "www/index.html"}]"#,
    );
    assert_eq!(sandbox.done("disk inject -f raw --manifest files.json disk.raw"), "");
    assert_eq!(sandbox.done("disk cat disk.raw /srv/link /etc/hostname"), "<p>hello\n<p>hello\n");
    let file: serde_json::Value = serde_json::from_str(&sandbox.done("disk ls --json disk.raw /srv/www")).unwrap();
    assert_eq!((&file[0]["mode"], &file[0]["mtime"]), (&"0640".into(), &5.into()));
    check(&sandbox, "32");
}

#[test]
fn a_manifest_that_cannot_be_carried_out_changes_nothing() {
    let sandbox = disk();
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    sandbox.file("big", vec![b'x'; 40 << 20]);
    sandbox.file("files.json", r#"[{"op": "mkdir", "path": "/srv"}, {"op": "write", "path": "/srv/big", "src": "big"}]"#);
    let outcome = sandbox.run("disk inject -f raw --manifest files.json disk.raw");
    assert_eq!(outcome.status, 6, "{outcome}");
    assert!(outcome.stderr.starts_with("error: no space left in the guest's file system"), "{outcome}");
    sandbox.file("wrong.json", r#"[{"op": "wipe", "path": "/"}]"#);
    insta::assert_snapshot!(sandbox.run("disk inject --manifest wrong.json disk.raw"), @r"
    exit status 2
    --- stderr
    error: cannot read the manifest `[SANDBOX]/wrong.json`
    caused by: unknown variant `wipe`, expected one of `write`, `append`, `line`, `mkdir`, `symlink`, `link`, `node`, `rename`, `remove`, `set` at line 1 column 14

    hint: `vmimg disk inject --help` shows a manifest
    ");
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
    assert_eq!(sandbox.names(), ["big", "disk.raw", "files.json", "fs", "tree", "wrong.json"]);
}

#[test]
fn growing_gives_the_partition_and_its_file_system_all_of_the_disk_once() {
    let sandbox = disk();
    let grown: serde_json::Value = serde_json::from_str(&sandbox.done("disk grow -f raw --json disk.raw")).unwrap();
    assert_eq!(grown["partition"]["old_size"], 32 << 20);
    let size = grown["partition"]["new_size"].as_u64().unwrap();
    assert!(size > 62 << 20 && grown["file_system"]["new_size"].as_u64().unwrap() > 62 << 20, "{grown}");
    assert!(sandbox.tool("sgdisk").args(["-v", "disk.raw"]).run().contains("No problems found"));
    check(&sandbox, "63");
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    sandbox.done("disk grow -f raw disk.raw");
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
}

#[test]
fn an_image_in_use_is_refused() {
    let sandbox = disk();
    sandbox.tool("qemu-img").args(["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]).run();
    let user = sandbox.tool("qemu-io").args(["-f", "qcow2", "-c", "sleep 60000", "disk.qcow2"]);
    let mut user = user.log_to(&sandbox.path("log")).spawn();
    // A look at the image itself could keep its user from it.
    let inode = format!(":{} ", fs::metadata(sandbox.path("disk.qcow2")).unwrap().ino());
    let is_locked = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        fs::read_to_string("/proc/locks").unwrap().contains(&inode)
    });
    let refused = sandbox.run("disk grow disk.qcow2");
    user.kill().unwrap();
    user.wait().unwrap();
    assert!(is_locked, "the image was never locked");
    assert_eq!(refused.status, 6, "{refused}");
}

#[test]
fn a_file_with_two_names_is_not_changed_behind_the_back_of_one() {
    let sandbox = disk();
    fs::hard_link(sandbox.path("disk.raw"), sandbox.path("other.raw")).unwrap();
    let outcome = sandbox.run("disk grow -f raw disk.raw");
    assert_eq!(outcome.status, 6, "{outcome}");
    assert!(outcome.stderr.contains("has 2 names"), "{outcome}");
}

#[test]
fn times_after_2038_and_links_that_no_path_could_be_are_written_and_read_back() {
    let sandbox = disk();
    sandbox.file("late", "late\n");
    let target = "x".repeat(300);
    let manifest = format!(
        r#"[{{"op": "write", "path": "/late", "src": "late", "mtime": 2200000000}},
            {{"op": "symlink", "path": "/link", "target": "{target}"}}]"#
    );
    sandbox.file("files.json", manifest);
    sandbox.done("disk inject -f raw --manifest files.json disk.raw");
    let files: serde_json::Value = serde_json::from_str(&sandbox.done("disk ls --json disk.raw")).unwrap();
    let named = |path: &str| files.as_array().unwrap().iter().find(|file| file["path"] == path).unwrap();
    assert_eq!(named("/late")["mtime"], 2_200_000_000_i64);
    assert_eq!(named("/link")["target"], target);
    check(&sandbox, "32");
}

#[test]
fn a_file_that_a_mount_would_hide_is_refused() {
    let sandbox = disk();
    sandbox.file("a", "a\n");
    sandbox.file("files.json", r#"[{"op": "write", "path": "/boot/efi/EFI/a", "src": "a"}]"#);
    insta::assert_snapshot!(sandbox.run("disk inject -f raw --manifest files.json disk.raw"), @r"
    exit status 6
    --- stderr
    error: `/boot/efi/EFI/a` would be hidden: the guest mounts `UUID=DEAD-BEEF` on `/boot/efi`

    hint: `--partition` with the root's number puts it under the mount all the same
    ");
    sandbox.done("disk inject -f raw --partition 1 --manifest files.json disk.raw");
    // Neither does a link of the guest lead there, nor one that is the last name.
    sandbox.done("disk ln -s disk.raw boot/efi /link");
    sandbox.done("disk ln -s --partition 1 disk.raw /boot/efi/EFI/a /last");
    for line in
        ["disk put -f raw disk.raw a /link/b", "disk put -f raw disk.raw a /last", "disk mkdir -f raw disk.raw /link/c/d"]
    {
        let outcome = sandbox.run(line);
        assert!(outcome.status == 6 && outcome.to_string().contains("would be hidden"), "{outcome}");
    }
    sandbox.done("disk rm -f raw disk.raw /last");
    sandbox.done("disk chmod -f raw disk.raw 700 /boot/efi");
    check(&sandbox, "32");
    // Of more mounts than are looked at nothing is known.
    sandbox.file("fstab", (0..300).map(|at| format!("LABEL=x /mnt/{at} ext4\n")).collect::<String>());
    sandbox.done("disk put -f raw disk.raw fstab /etc/fstab");
    assert_eq!(sandbox.run("disk put -f raw disk.raw a /srv/a").status, 6);
    sandbox.done("disk put -f raw --partition 1 disk.raw a /srv/a");
    check(&sandbox, "32");
}
