//! Quota: mke2fs and e2fsck write the quota files, and e2fsck counts what every user, group and project has after us.

use std::collections::BTreeMap;

use imgcore::block::{MemoryDisk, Resize as _, Staged};
use imgcore::fs::ext4::{Commit, Editor, grow};
use imgcore::fs::{Attributes, Content, Edit, EditPlan, Error};
use vmimg_tests::tool::Tool;

use super::{Image, NOW, path};

/// File systems with quota, as arguments of mke2fs.
const QUOTAS: &[&str] = &[
    "-b 4096 -O quota,project",
    "-b 1024 -O quota,^metadata_csum,uninit_bg -E quotatype=usrquota",
    "-b 1024 -O quota,project,orphan_file,metadata_csum_seed -E quotatype=usrquota:grpquota:prjquota",
    "-b 2048 -O quota,^extent,^64bit",
    "-b 4096 -O quota,ea_inode,^has_journal -E quotatype=grpquota",
    "-b 1024 -I 256 -O quota,project,inline_data -E quotatype=prjquota",
    "-b 65536 -O quota,^has_journal",
    "-t ext3 -b 1024 -I 128 -O quota",
];

fn write(name: &str, len: usize, id: u32) -> Edit {
    let attributes = Attributes::owned(0o640, id, id / 2);
    Edit::Write { path: path(name), content: Content::from(vec![7; len]), attributes }
}

fn remove(name: &str) -> Edit {
    Edit::Remove { path: path(name) }
}

fn own(name: &str, id: u32) -> Edit {
    Edit::SetAttributes { path: path(name), attributes: Attributes { uid: Some(id), gid: Some(id), ..Attributes::default() } }
}

/// What debugfs lists for every id of a kind: bytes and inodes, each with limits.
fn list(image: &Image, kind: &str) -> BTreeMap<u32, Vec<u64>> {
    let text = image.debugfs(&format!("list_quota {kind}"));
    let rows =
        text.lines().filter_map(|line| line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>());
    rows.filter(|row| row.len() == 7).map(|row| (row[0] as u32, row[1..].to_vec())).collect()
}

#[track_caller]
fn repair(image: &Image) {
    let output = Tool::new("e2fsck").arg("-fy").arg(&image.path).output();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stdout));
}

fn edits_of_every_kind() -> Vec<Vec<Edit>> {
    let long = |len| BTreeMap::from([("user.long".to_owned(), vec![b'v'; len])]);
    let with = |name: &str, id, len| Edit::SetAttributes {
        path: path(name),
        attributes: Attributes { uid: Some(id), xattrs: long(len), ..Attributes::default() },
    };
    let link = |name: &str, len| Edit::Symlink {
        path: path(name),
        target: "t".repeat(len),
        attributes: Attributes::owned(0o777, 3_000_000_000, 77),
    };
    let append = |name: &str, len| Edit::Append {
        path: path(name),
        content: Content::from(vec![8; len]),
        attributes: Attributes::default(),
    };
    vec![
        vec![
            write("/home/a/file", 70_000, 1000),
            write("/home/b/file", 9, 4_000_000_000),
            write("/root/file", 5000, 0),
            link("/short", 30),
            link("/long", 200),
            Edit::CreateDir { path: path("/home/c"), attributes: Attributes::owned(0o2755, 1001, 500) },
            write("/home/c/inherits", 3000, 1002),
            Edit::HardLink { path: path("/second"), target: path("/home/a/file") },
        ],
        vec![
            write("/home/a/file", 200_000, 1000),
            append("/home/b/file", 30_000),
            own("/home/c", 2000),
            own("/root/file", 65_534),
            with("/root/file", 65_535, 700),
            Edit::Rename { path: path("/home/c/moved"), from: path("/root/file") },
            Edit::AppendLine { path: path("/home/c/line"), line: "one".to_owned(), attributes: Attributes::owned(0o600, 7, 7) },
        ],
        vec![remove("/second"), write("/home/a/file", 10, 1000), with("/home/c/moved", 1, 20), own("/long", 5)],
        vec![remove("/home"), remove("/short"), own("/long", 0)],
        vec![remove("/long"), remove("/root")],
    ]
}

#[test]
fn e2fsck_counts_what_we_count_after_every_kind_of_edit() {
    for arguments in QUOTAS {
        let image = Image::with(40 << 20, arguments, None);
        let kinds = ["user", "group", "project"];
        let before = kinds.map(|kind| list(&image, kind));
        for edits in edits_of_every_kind() {
            image.apply(edits).unwrap_or_else(|error| panic!("{arguments}: {error}: {error:?}"));
            image.assert_clean();
        }
        assert_eq!(kinds.map(|kind| list(&image, kind)), before, "{arguments}: those who have nothing are dropped");
    }
}

#[test]
fn hundreds_of_ids_get_entries_and_lose_them_again() {
    for arguments in ["-b 4096 -N 4000 -O quota,project", "-b 1024 -N 4000 -O quota,^extent,^64bit,^metadata_csum"] {
        let image = Image::with(40 << 20, arguments, None);
        let name = |at: u32| format!("/many/{at}");
        let mut sizes = Vec::new();
        for _ in 0..2 {
            image.apply((0..400).map(|at| write(&name(at), 100, at.wrapping_mul(2_654_435_761))).collect()).unwrap();
            image.assert_clean();
            assert_eq!(list(&image, "user").len(), 400);
            sizes.push(image.debugfs("stat <3>").split("Size: ").nth(1).unwrap().lines().next().unwrap().to_owned());
            image.apply((0..400).map(|at| remove(&name(at))).collect()).unwrap();
            image.assert_clean();
            assert_eq!(list(&image, "user").len(), 1);
        }
        assert_eq!(sizes[0], sizes[1], "its blocks are used again");
    }
}

/// Where the first block of entries of the users is, in bytes.
fn entries(image: &Image) -> usize {
    let block = image.debugfs("blocks <3>").split_whitespace().nth(5).unwrap().parse::<usize>().unwrap();
    block * 1024
}

#[test]
fn limits_stay_and_are_not_heeded() {
    let image = Image::with(20 << 20, "-b 1024 -O quota", None);
    image.apply(vec![write("/a", 9000, 1000)]).unwrap();
    let at = entries(&image) + 16 + 72;
    let mut bytes = image.disk().into_bytes();
    assert_eq!(bytes[at..at + 4], 1000_u32.to_le_bytes());
    // 5 and 3 inodes, 20 and 12 KiB.
    for (field, value) in [(8, 5_u64), (16, 3), (32, 20), (40, 12)] {
        bytes[at + field..][..8].copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(&image.path, bytes).unwrap();
    image.apply((0..9).map(|at| write(&format!("/b/{at}"), 4000, 1000)).collect()).unwrap();
    image.assert_clean();
    assert_eq!(list(&image, "user")[&1000], [46_080, 12, 20, 10, 3, 5]);
    image.apply(vec![remove("/a"), remove("/b")]).unwrap();
    image.assert_clean();
    assert_eq!(list(&image, "user")[&1000], [0, 12, 20, 0, 3, 5], "an entry with limits stays");
}

#[test]
fn what_was_counted_wrongly_before_is_counted_anew() {
    for arguments in ["-b 4096 -O quota,project", "-b 1024 -O quota,^metadata_csum"] {
        let image = Image::with(40 << 20, arguments, None);
        image.apply(vec![write("/a", 9000, 1000), write("/b", 9000, 0)]).unwrap();
        for commands in [
            // An inode more than is counted; then an owner who has less than is taken from him.
            &["mkdir /d", "sif /a uid 1005"][..],
            &["sif /b uid 1006"],
            &["sif /b gid 9"],
        ] {
            commands.iter().for_each(|command| image.debugfs_write(command));
            let wrong = Tool::new("e2fsck").arg("-fn").arg(&image.path).output();
            assert_eq!(wrong.status.code(), Some(4), "{}", String::from_utf8_lossy(&wrong.stdout));
            let edits = if commands[0].contains("gid") { vec![own("/b", 8)] } else { vec![remove("/b"), write("/b", 100, 3)] };
            image.apply(edits).unwrap();
            image.assert_clean();
        }
        assert_eq!(list(&image, "user")[&1005][3], 1);
    }
}

#[test]
fn a_folder_passes_its_project_on_and_takes_nothing_of_another() {
    for arguments in ["-b 4096 -O quota,project", "-b 4096 -O project", "-b 1024 -O project,quota,inline_data"] {
        let image = Image::with(40 << 20, arguments, None);
        image
            .apply(vec![Edit::CreateDir { path: path("/p"), attributes: Attributes::default() }, write("/other", 5000, 1)])
            .unwrap();
        let flags = image.debugfs("stat /p").split("Flags: 0x").nth(1).unwrap().lines().next().unwrap().to_owned();
        let flags = u32::from_str_radix(&flags, 16).unwrap() | 0x2000_0000;
        image.debugfs_write(&format!("sif /p flags {flags:#x}"));
        image.debugfs_write("sif /p projid 42");
        repair(&image);
        image
            .apply(vec![
                write("/p/in/side", 9000, 1000),
                Edit::Rename { path: path("/p/renamed"), from: path("/p/in/side") },
                Edit::HardLink { path: path("/p/linked"), target: path("/p/renamed") },
            ])
            .unwrap();
        image.assert_clean();
        for name in ["/p/in", "/p/linked"] {
            let stat = image.debugfs(&format!("stat {name}"));
            assert!(stat.contains("Project:    42"), "{stat}");
        }
        assert!(image.debugfs("stat /p/in").contains("Flags: 0x2"), "the folder passes it on");
        if arguments.contains("quota") {
            assert_eq!(list(&image, "project")[&42][3], 3);
        }
        let before = image.disk();
        for edit in [
            Edit::Rename { path: path("/p/other"), from: path("/other") },
            Edit::HardLink { path: path("/p/other"), target: path("/other") },
        ] {
            let error = image.apply(vec![edit]).unwrap_err();
            assert!(matches!(&error, Error::Unrepresentable { .. }) && error.to_string().contains("project 42"), "{error}");
        }
        assert_eq!(image.disk(), before);
        image.apply(vec![Edit::Rename { path: path("/out"), from: path("/p/renamed") }, remove("/p")]).unwrap();
        image.assert_clean();
    }
}

#[test]
fn files_that_wait_to_be_deleted_or_cut_count_until_then() {
    let image = Image::with(40 << 20, "-b 4096 -O quota,project", None);
    image.apply(vec![write("/cut", 60_000, 1000), write("/gone", 20_000, 1000)]).unwrap();
    let inode = |name: &str| image.debugfs(&format!("stat {name}")).split_whitespace().nth(1).unwrap().to_owned();
    let (cut, gone) = (inode("/cut"), inode("/gone"));
    for command in [
        "sif /cut size 5001",
        &format!("sif /cut dtime {gone}"),
        "sif /gone links_count 0",
        "sif /gone dtime 0",
        "unlink /gone",
        &format!("ssv last_orphan {cut}"),
    ] {
        image.debugfs_write(command);
    }
    image.apply(Vec::new()).unwrap();
    image.assert_clean();
    assert_eq!(list(&image, "user")[&1000][..4], [8192, 0, 0, 1]);
}

#[test]
fn file_systems_with_quota_grow_and_are_changed_in_place() {
    for arguments in ["-b 4096 -O quota,project -J size=4", "-b 1024 -O quota,meta_bg,^resize_inode -J size=4"] {
        let image = Image::with(40 << 20, arguments, None);
        image.apply(vec![write("/a", 9000, 1000)]).unwrap();
        let mut disk = image.disk();
        disk.resize(300 << 20).unwrap();
        grow(&mut disk).unwrap();
        let plan = EditPlan { edits: (0..60).map(|at| write(&format!("/b/{at}"), 4000, at * 70_000)).collect() };
        let mut staged = Staged::new(&disk);
        let mut editor = Editor::open(&mut staged, NOW).unwrap();
        editor.apply(&plan).unwrap();
        editor.finish().unwrap();
        let changes = staged.changes();
        let commit = Commit::plan(&disk, &changes).unwrap();
        let mut after = disk.clone();
        commit.run(&mut after).unwrap();
        std::fs::write(&image.path, after.into_bytes()).unwrap();
        image.assert_clean();
        assert_eq!(list(&image, "user")[&70_000][..4], [4096, 0, 0, 1]);
    }
}

#[test]
fn a_damaged_quota_file_is_refused() {
    let image = Image::with(20 << 20, "-b 1024 -O quota", None);
    image.apply(vec![write("/a", 9000, 1000)]).unwrap();
    let sound = image.disk().into_bytes();
    let said = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        std::fs::write(&image.path, &bytes).unwrap();
        let error = image.apply(vec![write("/b", 10, 2)]).unwrap_err();
        assert_eq!(image.disk(), MemoryDisk::new(bytes));
        error.to_string()
    };
    let at = entries(&image);
    assert_eq!(
        said(&|bytes| bytes[at + 16 + 72] = 3),
        "corrupt ext4 file system: block 5 of the quota file of users, inode 3: it has the entry of 1000, as the tree says"
    );
    let header = image.debugfs("blocks <4>").split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024;
    assert!(said(&|bytes| bytes[header] = 0).contains("quota file of groups, inode 4: it begins with the magic 0xD9C01927"));
}
