//! ext4: mke2fs writes what we read, e2fsck and debugfs judge what we write.

mod bombs;
mod bytes;
mod clusters;
mod damage;
mod edit;
mod folders;
mod freed;
mod habits;
mod inline;
mod journal;
mod links;
mod model;
mod mounted;
mod names;
mod peer;
mod quota;
mod random;
mod read;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgcore::block::{MemoryDisk, Staged};
use imgcore::fs::ext4::{Editor, Timestamp};
use imgcore::fs::{Edit, EditPlan, Error, GuestPath};
use tempfile::TempDir;
use vmimg_tests::tool::Tool;

/// Shapes of file systems that cloud images have, as arguments of mke2fs.
pub(crate) const SHAPES: &[(&str, u64, &str)] = &[
    ("debian-12", 24, "-b 4096 -I 256 -O metadata_csum,64bit"),
    ("debian-13", 24, "-b 4096 -I 256 -O metadata_csum,64bit,metadata_csum_seed,orphan_file"),
    ("small-boot", 20, "-b 1024 -I 128"),
    ("one-kilobyte", 20, "-b 1024 -I 256"),
    ("two-kilobytes", 20, "-b 2048 -I 512"),
    ("alpine", 20, "-b 1024 -I 256 -O ^64bit,metadata_csum"),
    ("no-checksums", 20, "-b 1024 -O ^metadata_csum,uninit_bg"),
    ("bare", 20, "-b 1024 -O ^metadata_csum,^uninit_bg,^flex_bg,^has_journal,^resize_inode"),
    ("large-inodes", 20, "-b 4096 -I 1024 -G 2"),
    ("tea", 20, "-b 1024 -E hash_seed=11111111-2222-3333-4444-555555555555"),
    ("bigalloc", 24, "-b 4096 -I 256 -O bigalloc,orphan_file -C 16384"),
    ("cirros", 20, "-t ext3 -b 1024 -I 128"),
    ("ext3", 24, "-t ext3 -I 256"),
    ("ext2", 20, "-t ext2 -b 2048"),
    ("bigalloc-1k", 20, "-b 1024 -I 256 -O bigalloc,^metadata_csum,uninit_bg -C 8192"),
    ("ext2-no-types", 20, "-t ext2 -b 1024 -I 128 -O ^filetype,^dir_index"),
    ("meta-bg", 40, "-b 1024 -O meta_bg,^resize_inode -g 1024"),
    ("partly-meta-bg", 40, "-b 1024 -O meta_bg,^resize_inode,^metadata_csum,^64bit -g 512"),
    ("large-blocks", 48, "-b 65536 -O ^has_journal"),
    ("16k-blocks", 48, "-b 16384 -O ^has_journal,^metadata_csum"),
    ("features", 20, "-b 1024 -I 256 -O mmp,encrypt,stable_inodes,verity,fast_commit,sparse_super2,large_dir,ea_inode"),
    ("inline", 20, "-b 1024 -I 256 -O inline_data"),
    ("inline-large", 24, "-b 4096 -I 1024 -O inline_data"),
    ("no-extents", 20, "-b 1024 -O ^extent,^64bit"),
    ("quota", 24, "-b 4096 -I 256 -O metadata_csum,64bit,quota,project,orphan_file"),
    ("quota-bare", 20, "-b 1024 -O quota,project,^metadata_csum,^extent,^64bit"),
];

pub(crate) const NOW: Timestamp = Timestamp { secs: 1_760_000_000, nanos: 123_456_789 };

/// A file system in a file, made by mke2fs from a tree of files.
pub(crate) struct Image {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Image {
    pub(crate) fn make(shape: &str, tree: Option<&Path>) -> Self {
        let (_, mib, arguments) = SHAPES.iter().find(|(name, ..)| *name == shape).unwrap();
        Self::with(*mib << 20, arguments, tree)
    }

    pub(crate) fn with(size: u64, arguments: &str, tree: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fs.raw");
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let mut tool = Tool::new("mke2fs").args(["-q", "-F", "-U", "0b0b0b0b-1111-2222-3333-444444444444"]);
        if !arguments.contains("-t ") {
            tool = tool.args(["-t", "ext4"]);
        }
        tool = tool.args(arguments.split_whitespace());
        if let Some(tree) = tree {
            tool = tool.arg("-d").arg(tree);
        }
        tool.arg(&path).run();
        Self { folder, path }
    }

    pub(crate) fn disk(&self) -> MemoryDisk {
        MemoryDisk::new(std::fs::read(&self.path).unwrap())
    }

    /// Runs a plan on the file system, and keeps the result when all of it went well.
    pub(crate) fn apply(&self, edits: Vec<Edit>) -> Result<(), Error> {
        let plan = EditPlan { edits };
        let mut editor = Editor::open(Staged::new(self.disk()), NOW)?;
        editor.apply(&plan)?;
        let staged = Arc::new(editor.finish()?);
        imgcore::fs::ext4::verify(&*staged, &plan)?;
        std::fs::write(&self.path, kept(&staged).into_bytes()).unwrap();
        Ok(())
    }

    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        Tool::new("e2fsck").arg("-fn").arg(&self.path).run();
    }

    /// Runs a command of debugfs that writes.
    #[track_caller]
    pub(crate) fn debugfs_write(&self, command: &str) {
        Tool::new("debugfs").args(["-w", "-R", command]).arg(&self.path).run();
    }

    /// Has e2fsck give every folder of more than a block an index.
    #[track_caller]
    pub(crate) fn index_folders(&self) {
        // What -D adds to folders, only the next run adds to the quota of their owners.
        for arguments in ["-fyD", "-fy"] {
            let output = Tool::new("e2fsck").arg(arguments).arg(&self.path).output();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    /// Runs `action` on the folder where Linux has the file system mounted; the tests run as root.
    pub(crate) fn mounted<T>(&self, action: impl FnOnce(&Path) -> T) -> T {
        let at = self.folder.path().join("mounted");
        std::fs::create_dir_all(&at).unwrap();
        Tool::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&self.path).arg(&at).run();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| action(&at)));
        Tool::new("umount").arg(&at).run();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// What debugfs answers to a command.
    #[track_caller]
    pub(crate) fn debugfs(&self, command: &str) -> String {
        Tool::new("debugfs").args(["-R", command]).arg(&self.path).run()
    }
}

/// What was changed, on the disk below.
pub(crate) fn kept(staged: &Staged<MemoryDisk>) -> MemoryDisk {
    let mut disk = staged.base().clone();
    staged.changes().iter().try_for_each(|change| change.write_to(&mut disk)).unwrap();
    disk
}

pub(crate) fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}
