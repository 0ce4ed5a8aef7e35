//! Plans that are carried out in a mounted folder: the same comes of them as of the editor of ext4, on any file system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::mem::discriminant;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use imgcore::block::MemoryDisk;
use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Content, Device, Edit, EditPlan, Error, FileKind, FileSystem, Node};
use vmimg::mounted::Mounted;
use vmimg_tests::fuzz::Random;
use vmimg_tests::tool::Tool;

use super::random::{edits, small};
use super::{Image, NOW, path};

fn with(mode: impl Into<Option<u32>>, uid: u32, gid: u32) -> Attributes {
    Attributes { mode: mode.into(), uid: Some(uid), gid: Some(gid), ..Attributes::default() }
}

fn write(name: &str, content: &str, attributes: Attributes) -> Edit {
    Edit::Write { path: path(name), content: content.into(), attributes }
}

fn folder(name: &str, attributes: Attributes) -> Edit {
    Edit::CreateDir { path: path(name), attributes }
}

fn link(name: &str, target: &str) -> Edit {
    Edit::Symlink { path: path(name), target: target.to_owned(), attributes: Attributes::default() }
}

fn node(name: &str, node: Node, mode: u32) -> Edit {
    Edit::MakeNode { path: path(name), node, attributes: with(mode, 1, 2) }
}

/// An access list as programs set it: for the owner, user 33, the group, a mask and others.
fn access_list() -> Vec<u8> {
    let entries = [(1_u16, 7_u16, u32::MAX), (2, 6, 33), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, number) in entries {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(number.to_le_bytes());
    }
    list
}

/// What the guest has before.
fn before() -> Vec<Edit> {
    let mut program = with(0o4755, 0, 0);
    let capability = [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    program.xattrs = BTreeMap::from([("security.capability".to_owned(), capability), ("user.a".to_owned(), b"1".to_vec())]);
    let mut passes_on = with(0o750, 0, 0);
    passes_on.xattrs = BTreeMap::from([("system.posix_acl_default".to_owned(), access_list())]);
    vec![
        write("/bin/ping", "old", program),
        write("/etc/motd", "welcome", with(0o640, 10, 20)),
        Edit::HardLink { path: path("/etc/other"), target: path("/etc/motd") },
        write("/etc/third", "third\n", Attributes::default()),
        folder("/srv/shared", with(0o2775, 0, 50)),
        folder("/srv/list", passes_on),
        link("/absolute", "/etc"),
        link("/relative", "etc/.././etc/motd"),
        link("/above", "../../../../etc/third"),
        link("/dangling", "made/here/file"),
        link("/circle", "/circle"),
        write("/deep/1/2/3/file", "deep", Attributes::default()),
    ]
}

/// Every step, on everything that makes it special.
fn changes() -> Vec<Edit> {
    let big = Content::Disk(Arc::new(MemoryDisk::new((0..3_u32 << 20).map(|at| (at >> 9) as u8).collect())));
    let default = Attributes::default;
    let marked = Attributes {
        mtime: Some(1_000_000_000),
        xattrs: BTreeMap::from([("user.b".to_owned(), vec![7; 200])]),
        ..with(0o1777, 3, 4)
    };
    vec![
        write("/bin/ping", "new and longer", default()),
        Edit::SetAttributes { path: path("/bin/ping"), attributes: with(None, 5, 6) },
        write("/absolute/motd", "through a link", default()),
        Edit::Append { path: path("/relative"), content: " and more".into(), attributes: default() },
        Edit::AppendLine { path: path("/above"), line: "fourth".to_owned(), attributes: default() },
        Edit::AppendLine { path: path("/above"), line: "third".to_owned(), attributes: default() },
        write("/dangling", "it makes what it names", default()),
        write("/srv/shared/x/y/file", "of the group", default()),
        write("/srv/list/d/file", "with a list", default()),
        write("/srv/list/other", "with a mode", with(0o664, 1, 1)),
        folder("/srv/list/folder", with(0o751, 0, 0)),
        Edit::Symlink {
            path: path("/srv/shared/link"),
            target: "t".repeat(300),
            attributes: Attributes { mtime: Some(5), ..with(None, 7, 8) },
        },
        node("/srv/shared/fifo", Node::Fifo, 0o620),
        node("/dev/null", Node::CharDevice(Device { major: 1, minor: 3 }), 0o666),
        node("/dev/far", Node::BlockDevice(Device { major: 259, minor: 70_000 }), 0o660),
        node("/dev/socket", Node::Socket, 0o600),
        Edit::HardLink { path: path("/new/name"), target: path("/etc/motd") },
        Edit::Rename { path: path("/moved/one"), from: path("/deep/1") },
        Edit::Remove { path: path("/deep") },
        Edit::SetAttributes { path: path("/moved/one/2"), attributes: marked },
        folder("/absolute", with(0o711, 0, 0)),
        link("/etc/other", "replaced"),
        Edit::Write { path: path("/var/big"), content: big, attributes: default() },
        Edit::Append { path: path("/var/big"), content: "end".into(), attributes: default() },
        write("/var/suid", "x", with(0o6755, 9, 9)),
        write("/var/empty", "", default()),
    ]
}

/// Steps that nobody carries out.
fn refused() -> Vec<Edit> {
    let rename = |from: &str, to: &str| Edit::Rename { path: path(to), from: path(from) };
    vec![
        write("/circle", "x", Attributes::default()),
        write("/etc", "x", Attributes::default()),
        write("/etc/motd/x", "x", Attributes::default()),
        write("/srv/shared/fifo", "x", Attributes::default()),
        Edit::Append { path: path("/dev/null"), content: "x".into(), attributes: Attributes::default() },
        Edit::AppendLine { path: path("/dev/socket"), line: "x".to_owned(), attributes: Attributes::default() },
        link("/srv", "x"),
        rename("/srv", "/srv/list/srv"),
        rename("/srv", "/moved"),
        rename("/srv", "/etc/motd"),
        rename("/etc/motd", "/srv"),
        rename("/none", "/x"),
        rename("/", "/x"),
        Edit::Remove { path: path("/") },
        Edit::HardLink { path: path("/x"), target: path("/srv") },
        node("/x", Node::CharDevice(Device { major: 4096, minor: 0 }), 0o600),
        folder("/etc/motd", Attributes::default()),
        Edit::SetAttributes { path: path("/none"), attributes: with(0o600, 0, 0) },
    ]
}

/// What is at a path: type, mode, owner, time, names, size; the contents or the text of a link; attributes.
#[derive(Debug, PartialEq)]
struct Seen(FileKind, u32, (u32, u32), i64, Option<(u32, u64)>, Option<Vec<u8>>, Vec<Option<Vec<u8>>>);

fn tree(files: &dyn FileSystem, attributes: &[&str]) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![String::new()];
    while let Some(above) = waiting.pop() {
        for entry in files.read_dir(&path(&format!("{above}/"))).unwrap() {
            let name = format!("{above}/{}", String::from_utf8(entry.name).unwrap());
            if name == "/lost+found" {
                continue;
            }
            let at = path(&name);
            let found = files.symlink_metadata(&at).unwrap();
            assert_eq!(found.kind, entry.kind);
            let bytes = match found.kind {
                FileKind::File => Some(files.read(&at, 4 << 20).unwrap()),
                FileKind::Symlink => Some(files.read_link(&at).unwrap()),
                _ => None,
            };
            // How large folders are, and how they are counted, differs.
            let size = (found.kind == FileKind::File).then_some((found.links, found.size));
            let values = attributes.iter().map(|name| files.xattr(&at, name).unwrap()).collect();
            seen.insert(name.clone(), Seen(found.kind, found.mode, (found.uid, found.gid), found.mtime, size, bytes, values));
            if found.kind == FileKind::Directory {
                waiting.push(name);
            }
        }
    }
    seen
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Seen>, expected: &BTreeMap<String, Seen>, note: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{note}");
    for (name, seen) in expected {
        assert!(found[name] == *seen, "{note}: {name}: {:?}, not {seen:?}", found[name]);
    }
}

fn apply(root: &Path, edits: Vec<Edit>) -> Result<(), Error> {
    let plan = EditPlan { edits };
    let mounted = Mounted::open(root).unwrap();
    mounted.apply(&plan, NOW.secs, || Ok::<(), Error>(()))?;
    mounted.sync()?;
    mounted.verify(&plan)
}

const ATTRIBUTES: &[&str] = &["security.capability", "user.a", "user.b"];

#[test]
fn a_mounted_file_system_becomes_what_the_editor_makes_of_it() {
    let lists = [ATTRIBUTES, &["system.posix_acl_access", "system.posix_acl_default"]].concat();
    let (ours, theirs) = (Image::make("debian-13", None), Image::make("debian-13", None));
    ours.apply(before()).unwrap();
    theirs.apply(before()).unwrap();
    ours.apply(changes()).unwrap();
    theirs.mounted(|root| apply(root, changes())).unwrap();
    theirs.assert_clean();
    let expected = tree(&Ext4::open(ours.disk()).unwrap(), &lists);
    assert_same(&tree(&Ext4::open(theirs.disk()).unwrap(), &lists), &expected, "ext4");

    theirs.mounted(|root| {
        assert_same(
            &tree(&Mounted::open(root).unwrap(), ATTRIBUTES),
            &tree(&Ext4::open(ours.disk()).unwrap(), ATTRIBUTES),
            "read",
        );
        for edit in refused() {
            let (a, b) = (ours.apply(vec![edit.clone()]).unwrap_err(), apply(root, vec![edit.clone()]).unwrap_err());
            assert_eq!(discriminant(&a), discriminant(&b), "{edit:?}: {a} / {b}");
        }
    });
}

#[test]
fn xfs_and_btrfs_become_what_ext4_becomes() {
    let ours = Image::make("debian-13", None);
    ours.apply(before()).unwrap();
    ours.apply(changes()).unwrap();
    let expected = tree(&Ext4::open(ours.disk()).unwrap(), ATTRIBUTES);
    for (make, judge) in [("mkfs.xfs -q", "xfs_repair -n"), ("mkfs.btrfs -q", "btrfs check --readonly")] {
        let folder = tempfile::tempdir().unwrap();
        let (image, at) = (folder.path().join("fs.raw"), folder.path().join("mounted"));
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let on_image = |command: &str| Tool::new("sh").args(["-c", &format!("{command} \"$0\"")]).arg(&image).run();
        on_image(make);
        fs::create_dir(&at).unwrap();
        Tool::new("mount").args(["-o", "loop,nosuid,nodev,noexec"]).arg(&image).arg(&at).run();
        let done = apply(&at, before()).and_then(|()| apply(&at, changes()));
        let found = done.as_ref().ok().map(|()| tree(&Mounted::open(&at).unwrap(), ATTRIBUTES));
        Tool::new("umount").arg(&at).run();
        done.unwrap_or_else(|error| panic!("{make}: {error}: {error:?}"));
        assert_same(&found.unwrap(), &expected, make);
        on_image(judge);
    }
}

#[test]
fn random_plans_come_out_the_same() {
    for run in 0..6 {
        let mut random = Random::new(3000 + run);
        let (ours, theirs) = (small(1, 4), small(1, 4));
        let plan = edits(&ours, &mut random, 60);
        ours.apply(plan.clone()).unwrap();
        theirs.mounted(|root| apply(root, plan)).unwrap();
        theirs.assert_clean();
        let read = |image: &Image| tree(&Ext4::open(image.disk()).unwrap(), &[]);
        assert_same(&read(&theirs), &read(&ours), &format!("run {run}"));
    }
}

#[test]
fn nothing_in_a_guest_leads_to_the_host() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("secret"), "of the host").unwrap();
    let named = |name: &str| format!("{}/{name}", host.path().display());
    let image = Image::make("debian-12", None);
    image.mounted(|root| {
        symlink(host.path(), root.join("etc")).unwrap();
        symlink("../".repeat(40) + host.path().to_str().unwrap(), root.join("up")).unwrap();
        symlink("/proc/self/cwd", root.join("magic")).unwrap();
        symlink(named("secret"), root.join("file")).unwrap();
        Tool::new("mkfifo").arg(root.join("fifo")).run();
        Tool::new("mknod").arg(root.join("null")).args(["c", "1", "3"]).run();
        let at = root.join("suid");
        fs::write(&at, "x").unwrap();
        Tool::new("chmod").arg("6755").arg(&at).run();
        let files = Mounted::open(root).unwrap();
        for name in ["/etc/secret", "/up/secret", "/file", "/magic/secret"] {
            assert!(matches!(files.read(&path(name), 99), Err(Error::NotFound(_))), "{name}");
        }
        for name in ["/etc/secret", "/up/other", "/file", "/magic/here"] {
            apply(root, vec![write(name, "of the guest", Attributes::default())]).unwrap();
        }
        assert_eq!(files.read(&path(&named("other")), 99).unwrap(), b"of the guest");
        assert_eq!(files.read(&path("/proc/self/cwd/here"), 99).unwrap(), b"of the guest");
        apply(root, vec![Edit::Remove { path: path("/up/secret") }, Edit::Remove { path: path("/etc") }]).unwrap();
        for name in ["/fifo", "/null"] {
            assert!(matches!(files.read(&path(name), 99), Err(Error::WrongKind { .. })), "{name}");
            let denied = apply(root, vec![write(name, "x", Attributes::default())]);
            assert!(matches!(denied, Err(Error::WrongKind { .. })), "{name}");
        }

        // A way that is deeper than a process may have files open.
        let deep = "/d".repeat(2000);
        apply(root, vec![folder(&deep, Attributes::default())]).unwrap();
        apply(root, vec![Edit::Remove { path: path("/d") }]).unwrap();
    });
    image.assert_clean();
    assert_eq!(fs::read_to_string(host.path().join("secret")).unwrap(), "of the host");
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1);
}
