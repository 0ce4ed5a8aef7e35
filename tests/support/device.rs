//! Block devices of this machine.

use std::path::Path;

use crate::mount::as_root;

/// A file behind a loop device, until it is dropped.
#[derive(Debug)]
pub struct Loop {
    path: String,
}

impl Loop {
    /// Puts `file` behind a loop device. Needs root, or sudo without a question.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn attach(file: &Path) -> Self {
        Self { path: as_root("losetup").args(["--find", "--show"]).arg(file).run().trim().to_owned() }
    }

    /// As [`Loop::attach`], for reading alone.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn attach_read_only(file: &Path) -> Self {
        Self { path: as_root("losetup").args(["--find", "--show", "--read-only"]).arg(file).run().trim().to_owned() }
    }

    /// Puts the `size` bytes from `offset` of `file` behind a loop device.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn attach_part(file: &Path, offset: u64, size: u64) -> Self {
        let tool = as_root("losetup").args(["--find", "--show", "--offset", &offset.to_string()]);
        Self { path: tool.args(["--sizelimit", &size.to_string()]).arg(file).run().trim().to_owned() }
    }

    /// The device's path.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        as_root("losetup").args(["--detach", &self.path]).run();
    }
}
