//! What an edit frees belongs to the old state until the change is committed: it is taken again only where nothing else is left.

use std::sync::Arc;

use imgcore::block::Staged;
use imgcore::fs::ext4::{Commit, Editor, Ext4};
use imgcore::fs::{Attributes, Edit, EditPlan, FileSystem as _};

use super::{Image, NOW, path};

fn write(name: &str, len: usize, byte: u8) -> Edit {
    Edit::Write { path: path(name), content: vec![byte; len].into(), attributes: Attributes::default() }
}

fn blocks(image: &Image, name: &str) -> Vec<String> {
    image.debugfs(&format!("blocks {name}")).split_whitespace().map(str::to_owned).collect()
}

/// Runs a plan in place.
fn commit(image: &Image, edits: Vec<Edit>) -> Result<(), imgcore::fs::Error> {
    let plan = EditPlan { edits };
    let mut editor = Editor::open(Staged::new(image.disk()), NOW)?;
    editor.apply(&plan)?;
    let staged = Arc::new(editor.finish()?);
    imgcore::fs::ext4::verify(&*staged, &plan)?;
    let mut disk = image.disk();
    Commit::plan(&disk, &staged.changes())?.run(&mut disk)?;
    std::fs::write(&image.path, disk.into_bytes()).unwrap();
    Ok(())
}

#[test]
fn a_file_that_is_larger_than_the_journal_is_replaced_in_place_while_there_is_space() {
    for arguments in ["-b 1024 -J size=1", "-b 1024 -J size=1 -O bigalloc -C 8192", "-t ext3 -b 1024 -J size=1"] {
        let image = Image::with(24 << 20, arguments, None);
        image.apply(vec![write("/big", 9 << 20, 1)]).unwrap();
        let before = blocks(&image, "/big");
        commit(&image, vec![write("/big", 9 << 20, 2)]).unwrap();
        image.assert_clean();
        assert!(blocks(&image, "/big").iter().all(|block| !before.contains(block)), "{arguments}");
        let create =
            Edit::CreateFile { path: path("/big"), content: vec![3; 9 << 20].into(), attributes: Attributes::default() };
        commit(&image, vec![create]).unwrap();
        image.assert_clean();
        let read = Ext4::open(image.disk()).unwrap().read(&path("/big"), 1 << 24).unwrap();
        assert!(read == vec![3; 9 << 20]);
    }
}

#[test]
fn what_was_freed_is_used_when_nothing_else_is_left() {
    for arguments in
        ["-b 1024 -N 64", "-b 4096 -O ^has_journal -N 64", "-t ext2 -b 1024 -N 64", "-b 1024 -O bigalloc -C 8192 -N 64"]
    {
        let image = Image::with(24 << 20, arguments, None);
        image.apply(vec![write("/big", 14 << 20, 1)]).unwrap();
        let plan = || vec![write("/big", 15 << 20, 2), write("/d/small", 5000, 3), write("/big", 13 << 20, 4)];
        let copy = Image::with(24 << 20, arguments, None);
        std::fs::write(&copy.path, image.disk().into_bytes()).unwrap();
        image.apply(plan()).unwrap();
        image.assert_clean();
        copy.apply(plan()).unwrap();
        assert!(image.disk() == copy.disk(), "{arguments}");

        // As many inodes as there are, all of them anew.
        let mut names = 0;
        while image.apply(vec![write(&format!("/d/{names}"), 10, 5)]).is_ok() {
            names += 1;
        }
        let gone = (0..names).map(|at| Edit::Remove { path: path(&format!("/d/{at}")) });
        let new = (0..names).map(|at| write(&format!("/d/new{at}"), 10, 5));
        assert!(names > 10);
        image.apply(gone.chain(new).collect()).unwrap();
        image.assert_clean();
    }
}

#[test]
fn a_freed_inode_is_not_the_next_one() {
    let image = Image::with(20 << 20, "-b 1024", None);
    image.apply(vec![write("/a", 10, 1)]).unwrap();
    let inode = |name: &str| image.debugfs(&format!("stat {name}")).split_whitespace().nth(1).unwrap().to_owned();
    let a = inode("/a");
    image.apply(vec![Edit::Remove { path: path("/a") }, write("/b", 10, 2)]).unwrap();
    assert_ne!(inode("/b"), a);
    image.apply(vec![write("/c", 10, 3)]).unwrap();
    assert_eq!(inode("/c"), a);
    image.assert_clean();
}
