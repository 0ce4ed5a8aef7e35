//! `vmimg disk`: files of a guest are read, compared and changed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::Value;
use vmimg_tests::mount::Mounted;
use vmimg_tests::sandbox::Sandbox;

use crate::disk::{check, disk};
use crate::sandbox;

fn stat(sandbox: &Sandbox, path: &str) -> Value {
    let all: Value = serde_json::from_str(&sandbox.done(&format!("disk stat --json disk.raw {path}"))).unwrap();
    all[0].clone()
}

#[test]
fn each_change_has_a_command() {
    let sandbox = disk();
    sandbox.file("motd", "hello\n");
    for command in [
        "mkdir --mode 0750 --owner 33:33 disk.raw /srv/www /srv/log",
        "put disk.raw motd /etc",
        "put --mode 0600 --owner 7:8 disk.raw motd /srv/www/index.html",
        "mv disk.raw /srv/www /srv/log",
        "mv disk.raw /etc/motd /etc/issue",
        "ln disk.raw /etc/issue /etc/issue.net",
        "ln -s disk.raw ../etc/issue /srv/link",
        "chmod disk.raw 4755 /etc/issue",
        "chown -R disk.raw 1000 /srv",
        "rm disk.raw /etc/hostname",
        "rm --force disk.raw /etc/hostname",
    ] {
        assert_eq!(sandbox.done(&format!("disk {command}")), "", "{command}");
    }
    sandbox.done("disk put -- disk.raw motd /etc/dashes");
    sandbox.done("disk put disk.raw -- motd /etc/-dash");
    assert_eq!(sandbox.done("disk cat disk.raw /etc/dashes /etc/-dash"), "hello\nhello\n");
    sandbox.done("disk rm disk.raw /etc/dashes /etc/-dash");
    assert_eq!((sandbox.run("disk put disk.raw motd").status, sandbox.run("disk put disk.raw motd etc").status), (2, 2));
    assert_eq!(sandbox.done("disk cat disk.raw /srv/link /srv/log/www/index.html"), "hello\nhello\n");
    let issue = stat(&sandbox, "/etc/issue.net");
    assert_eq!((&issue["mode"], &issue["links"], &issue["uid"]), (&"4755".into(), &2.into(), &0.into()));
    let page = stat(&sandbox, "/srv/log/www/index.html");
    assert_eq!((&page["mode"], &page["uid"], &page["gid"]), (&"0600".into(), &1000.into(), &8.into()));
    assert_eq!(stat(&sandbox, "/srv/link")["target"], "../etc/issue");
    check(&sandbox, "32");
}

#[test]
fn what_a_command_would_not_do_elsewhere_it_refuses() {
    let sandbox = disk();
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    for (command, status) in [
        ("rm disk.raw /etc", 6),
        ("rm disk.raw /none", 3),
        ("mv disk.raw /etc /etc/below", 5),
        ("mv disk.raw /none /etc", 3),
        ("ln disk.raw /etc /folder", 6),
        ("ln disk.raw etc/hostname /name", 2),
        ("chmod disk.raw 9 /etc", 2),
        ("chown disk.raw root /etc", 2),
        ("put disk.raw none /etc", 3),
        ("get disk.raw /etc/hostname disk.raw", 6),
        ("get disk.raw /none new", 3),
    ] {
        let outcome = sandbox.run(&format!("disk {command}"));
        assert_eq!(outcome.status, status, "{command}: {outcome}");
    }
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
}

#[test]
fn a_folder_goes_in_and_comes_out_as_it_was() {
    let sandbox = disk();
    sandbox.file("site/index.html", "<p>hello\n");
    sandbox.file("site/deep/er/data", vec![7; 3 << 20]);
    fs::set_permissions(sandbox.path("site/index.html"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", sandbox.path("site/link")).unwrap();
    fs::File::create(sandbox.path("site/sparse")).unwrap().set_len(200 << 20).unwrap();
    sandbox.done("disk put disk.raw site /srv/www");
    check(&sandbox, "32");
    sandbox.done("disk get disk.raw /srv/www out");
    sandbox.tool("diff").args(["-r", "--no-dereference", "site", "out"]).run();
    let sparse = fs::metadata(sandbox.path("out/sparse")).unwrap();
    assert_eq!((sparse.len(), sparse.blocks()), (200 << 20, 0));
    assert_eq!(fs::metadata(sandbox.path("out/index.html")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_link(sandbox.path("out/link")).unwrap().to_str(), Some("/etc/passwd"));
    // Nothing that is there is written, and no link of the host is followed.
    assert_eq!(sandbox.run("disk get disk.raw /srv/www/index.html out").status, 6);
    std::os::unix::fs::symlink("elsewhere", sandbox.path("dangling")).unwrap();
    assert_eq!(sandbox.run("disk get disk.raw /srv/www dangling").status, 6);
    assert_eq!(sandbox.run("disk get disk.raw /etc/hostname dangling").status, 6);
    assert!(!sandbox.path("elsewhere").exists());
}

#[test]
fn a_link_that_leads_nowhere_is_listed() {
    let sandbox = disk();
    sandbox.done("disk ln -s disk.raw ../run/none /etc/resolv.conf");
    sandbox.done("disk ln -s disk.raw loop /etc/loop");
    assert!(sandbox.done("disk ls -l disk.raw /etc/resolv.conf").ends_with(" /etc/resolv.conf -> ../run/none\n"));
    assert_eq!(sandbox.done("disk ls disk.raw /etc/loop"), "/etc/loop\n");
    assert_eq!(sandbox.run("disk ls disk.raw /etc/none").status, 3);
}

#[test]
fn programs_get_names_as_they_are_and_people_those_that_can_be_printed() {
    let sandbox = disk();
    std::os::unix::fs::symlink("x\ny", sandbox.file("site/a\nb", "").with_file_name("one")).unwrap();
    std::os::unix::fs::symlink("x\\ny", sandbox.path("site/two")).unwrap();
    sandbox.done("disk put disk.raw site /srv");
    fs::copy(sandbox.path("disk.raw"), sandbox.path("new.raw")).unwrap();
    sandbox.done("disk rm new.raw /srv/one");
    sandbox.done("disk ln -s new.raw x\\ny /srv/one");
    sandbox.program().args(["disk", "rm", "new.raw", "/srv/a\nb"]).run();
    let json = |line: &str| serde_json::from_str::<Value>(&sandbox.done(line)).unwrap();
    for all in [json("disk ls --json disk.raw /srv"), json("disk stat --json disk.raw /srv /srv/one /srv/two")] {
        assert_eq!((&all[1]["target"], &all[2]["target"]), (&"x\ny".into(), &"x\\ny".into()), "{all}");
    }
    let all = json("disk diff --json disk.raw new.raw");
    assert_eq!((&all[0]["path"], &all[1]["what"]), (&"/srv/a\nb".into(), &serde_json::json!(["target"])), "{all}");
    insta::assert_snapshot!(sandbox.done("disk diff disk.raw new.raw"), @r"
    - /srv/a\nb
    ~ /srv/one: target
    ");
    assert!(sandbox.done("disk ls -l disk.raw /srv").contains("one -> x\\ny\n"));
    assert!(sandbox.done("disk ls disk.raw /srv").starts_with("a\\nb\n"));
}

#[test]
fn what_hands_are_used_to_is_taken_or_told() {
    let sandbox = disk();
    sandbox.file("motd", "hello\n");
    std::fs::File::create(sandbox.path("empty.raw")).unwrap().set_len(8 << 20).unwrap();
    for command in
        ["mkdir -p disk.raw /srv/a/b", "ls -la disk.raw /srv", "put -r disk.raw tree /srv", "get -R disk.raw /srv out"]
    {
        sandbox.done(&format!("disk {command}"));
    }
    sandbox.done("disk mv disk.raw /srv/a /srv/new/");
    let before = fs::read(sandbox.path("disk.raw")).unwrap();
    for (command, status, said) in [
        ("put disk.raw motd /none/", 3, "`/none/` is no folder of the guest"),
        ("put disk.raw motd /etc/hostname/", 3, "`/etc/hostname/` is no folder of the guest"),
        ("mv disk.raw /etc/hostname /none/", 3, "`/none/` is no folder of the guest"),
        ("get disk.raw /etc/hostname none/", 3, "`none/` is no folder"),
        ("ls empty.raw", 5, "the disk holds no known file system"),
        ("put empty.raw motd /etc/motd", 5, "the disk holds no known file system"),
        ("rm -rf disk.raw /etc", 2, "tip: `-f` is the image's format; files that may be missing: `rm -r --force`"),
    ] {
        let outcome = sandbox.run(&format!("disk {command}"));
        assert!(outcome.status == status && outcome.stderr.contains(said), "{command}: {outcome}");
    }
    assert!(fs::read(sandbox.path("disk.raw")).unwrap() == before);
    assert!(sandbox.done("disk inspect fs").contains("root on the disk\n"));
}

#[test]
fn two_disks_are_compared_file_by_file() {
    let sandbox = disk();
    fs::copy(sandbox.path("disk.raw"), sandbox.path("new.raw")).unwrap();
    assert_eq!(sandbox.done("disk diff disk.raw new.raw"), "");
    sandbox.file("same-size", "esab\n");
    sandbox.done("disk put new.raw same-size /etc/hostname");
    sandbox.done("disk rm new.raw /etc/fstab");
    sandbox.done("disk mkdir new.raw /srv");
    sandbox.done("disk chmod new.raw 0700 /usr");
    insta::assert_snapshot!(sandbox.done("disk diff disk.raw new.raw"), @r"
    - /etc/fstab
    ~ /etc/hostname: time, contents
    + /srv
    ~ /usr: mode
    ");
    let all: Value = serde_json::from_str(&sandbox.done("disk diff --json --path /usr disk.raw new.raw")).unwrap();
    assert_eq!(all, serde_json::json!([{"path": "/usr", "change": "changed", "what": ["mode"]}]));
}

#[test]
fn room_is_what_other_programs_count() {
    let sandbox = disk();
    let room: Value = serde_json::from_str(&sandbox.done("disk df --json disk.raw")).unwrap();
    let told = sandbox.tool("dumpe2fs").args(["-h", "fs"]).run();
    let count =
        |label: &str| -> u64 { told.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim().parse().unwrap() };
    let block = count("Block size:");
    assert_eq!(room["free"], count("Free blocks:") * block);
    assert_eq!(room["reserved"], count("Reserved block count:") * block);
    assert_eq!((&room["size"], &room["free_inodes"]), (&(32 << 20).into(), &count("Free inodes:").into()));
    assert!(sandbox.done("disk df disk.raw").starts_with("  SIZE"));
}

#[test]
fn a_guest_with_selinux_gets_the_labels_of_its_policy() {
    let sandbox = disk();
    let policy = "/.* system_u:object_r:default_t:s0\n/etc(/.*)? system_u:object_r:etc_t:s0\n\
                  /srv/www(/.*)? -- system_u:object_r:httpd_sys_content_t:s0\n/srv -d system_u:object_r:var_t:s0\n";
    sandbox.file("policy", policy);
    sandbox.file("config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n");
    sandbox.file("page", "x");
    let contexts = "/etc/selinux/targeted/contexts/files/file_contexts";
    sandbox.done("disk put disk.raw page /usr/sbin/load_policy");
    sandbox.done(&format!("disk put disk.raw policy {contexts}"));
    sandbox.done("disk put disk.raw config /etc/selinux/config");
    let label = |path: &str| {
        let hex = stat(&sandbox, path)["xattrs"]["security.selinux"].as_str().map(str::to_owned).unwrap_or_default();
        let digits: Vec<u8> = hex.bytes().map(|digit| char::from(digit).to_digit(16).unwrap() as u8).collect();
        String::from_utf8(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()).unwrap()
    };
    sandbox.done("disk put disk.raw page /srv/www/page");
    sandbox.done("disk ln -s disk.raw page /srv/www/link");
    assert_eq!(label("/srv/www/page"), "system_u:object_r:httpd_sys_content_t:s0\0");
    assert_eq!(label("/srv"), "system_u:object_r:var_t:s0\0");
    assert_eq!(label("/srv/www/link"), "system_u:object_r:default_t:s0\0");
    // What was there keeps its label, and moves with it.
    sandbox.done("disk mv disk.raw /srv/www/page /etc/page");
    assert_eq!(label("/etc/page"), "system_u:object_r:httpd_sys_content_t:s0\0");
    assert_eq!(sandbox.run("disk stat disk.raw /.autorelabel").status, 3);
    // Without a rule, the guest is to label everything.
    sandbox.file("policy", "/etc(/.*)? system_u:object_r:etc_t:s0\n");
    sandbox.done(&format!("disk put disk.raw policy {contexts}"));
    sandbox.done("disk put disk.raw page /srv/www/other");
    assert_eq!(stat(&sandbox, "/.autorelabel")["size"], 0);
    check(&sandbox, "32");
}

#[test]
fn a_folder_in_many_places_is_walked_through_once() {
    let sandbox = crate::sandbox();
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "-b", "1024", "fs.raw", "2M"]).run();
    let (mut script, mut folder) = (String::new(), String::new());
    // Each folder has two names: the paths to the last one are 2 to the power of 40.
    for _ in 0..40 {
        script.push_str(&format!("mkdir {folder}/a\nlink {folder}/a {folder}/b\n"));
        folder.push_str("/a");
    }
    sandbox.file("script", &script);
    sandbox.tool("debugfs").args(["-w", "-f", "script", "fs.raw"]).run();
    for (command, times) in [
        ("ls -R fs.raw", 40),
        ("ls -lR --json fs.raw", 40),
        ("diff fs.raw fs.raw", 80),
        ("get fs.raw / out", 40),
        ("get --tar out.tar fs.raw /", 40),
    ] {
        let outcome = sandbox.run(&format!("disk {command}"));
        assert_eq!(outcome.status, 0, "{command}\n{outcome}");
        let warning = "is a folder that has another place already, and is not looked into";
        assert_eq!(outcome.stderr.matches(warning).count(), times, "{command}\n{outcome}");
    }
    // The last has the first in it.
    sandbox.tool("debugfs").args(["-w", "-R", &format!("link /a {folder}/up"), "fs.raw"]).run();
    for command in ["ls -lR fs.raw", "diff fs.raw fs.raw", "get fs.raw / new", "chmod -R fs.raw 700 /"] {
        let outcome = sandbox.run(&format!("disk {command}"));
        assert_eq!(outcome.status, 4, "{command}\n{outcome}");
        assert!(outcome.stderr.contains("it has one name, outside of itself"), "{command}\n{outcome}");
    }
}

#[test]
fn names_that_no_path_can_have_are_passed_over_and_not_in_silence() {
    let sandbox = sandbox();
    sandbox.tool("mke2fs").args(["-q", "-t", "ext4", "disk.raw", "16M"]).run();
    sandbox.tool("cp").args(["disk.raw", "other.raw"]).run();
    {
        let mounted = Mounted::open(&sandbox.path("other.raw"), "rw").unwrap();
        mounted.shell("mkdir -p srv \"$(printf 'srv/caf\\351')\"; echo x > \"$(printf 'srv/caf\\351/x')\"; echo y > srv/y");
    }
    let before = fs::read(sandbox.path("other.raw")).unwrap();
    for line in [
        "disk get other.raw /srv got",
        "disk get --tar got.tar other.raw /srv",
        "disk diff disk.raw other.raw",
        "disk diff --json other.raw disk.raw",
        "disk chmod -R other.raw 0700 /srv",
        "disk chown -R other.raw 7 /srv",
    ] {
        let outcome = sandbox.run(line);
        assert!(outcome.status == 5 && outcome.to_string().contains("a name in the guest is not UTF-8"), "{line}: {outcome}");
    }
    // All else is there, where something is copied; nothing is changed in part.
    assert_eq!(fs::read(sandbox.path("got/y")).unwrap(), b"y\n");
    sandbox.tool("tar").args(["-tf", "got.tar", "./y"]).run();
    assert!(fs::read(sandbox.path("other.raw")).unwrap() == before);
}
