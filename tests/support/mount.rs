//! File systems that this machine's kernel has mounted.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::tool::Tool;

/// An image that is mounted by way of a loop device, until it is dropped.
#[derive(Debug)]
pub struct Mounted {
    folder: TempDir,
}

impl Mounted {
    /// Mounts the file system in the file `image` with options such as `ro`. Needs root, or sudo without a question.
    ///
    /// # Errors
    ///
    /// What `mount` said when it failed.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn open(image: &Path, options: &str) -> Result<Self, String> {
        Self::mount(image, &format!("loop,{options}"))
    }

    /// Mounts the file system on the block device `device`, as [`Mounted::open`] does with files.
    ///
    /// # Errors
    ///
    /// What `mount` said when it failed.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn device(device: &str, options: &str) -> Result<Self, String> {
        Self::mount(Path::new(device), options)
    }

    /// Mounts a file system in memory, of at most `kib` KiB, that everybody may write to.
    ///
    /// # Panics
    ///
    /// When it cannot be mounted.
    #[must_use]
    pub fn memory(kib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={kib}k,mode=1777");
        as_root("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).run();
        Self { folder }
    }

    fn mount(what: &Path, options: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let output = as_root("mount").args(["-o", options]).arg(what).arg(folder.path()).output();
        if output.status.success() { Ok(Self { folder }) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// A path inside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// Runs a shell script in the root of the file system, as root.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn shell(&self, script: &str) {
        as_root("sh").args(["-ec", script]).current_dir(self.folder.path()).run();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        as_root("umount").arg(self.folder.path()).run();
    }
}

pub(crate) fn as_root(program: &str) -> Tool {
    let is_root = Tool::new("id").arg("-u").run().trim() == "0";
    if is_root { Tool::new(program) } else { Tool::new("sudo").args(["-n", program]) }
}
