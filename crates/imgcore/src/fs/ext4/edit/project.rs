//! Projects: what is made in a folder that passes its project on is of that project.

use super::Editor;
use crate::block::BlockRead;
use crate::fs::Error;
use crate::fs::ext4::feature::PROJECT;
use crate::fs::ext4::inode::{Inode, PROJECT_INHERIT_FLAG};

impl<D: BlockRead> Editor<D> {
    /// Gives a new file the project of its folder, where that passes it on. The inode is not saved.
    ///
    /// Spec: "EXT4_PROJINHERIT_FL: Create children with the same project ID"; folders inherit that flag as others.
    pub(super) fn inherit_project(&self, inode: &mut Inode, folder: &Inode) -> Result<(), Error> {
        if !self.passes_project_on(folder) {
            return Ok(());
        }
        if !inode.set_project(folder.project()) {
            return Err(self.unrepresentable("this file system has no room for the project of the folder"));
        }
        Ok(())
    }

    /// Checks that a file may get a name in folder `parent`: as for the kernel, which calls that another device, a folder that
    /// passes its project on has nothing of another project.
    pub(super) fn check_project(&self, parent: u32, inode: &Inode) -> Result<(), Error> {
        let folder = self.volume.inode(parent)?;
        let (wanted, found) = (folder.project(), inode.project());
        if !self.passes_project_on(&folder) || wanted == found {
            return Ok(());
        }
        Err(self
            .unrepresentable(format!("the folder is of project {wanted}, and the file of project {found}: copy it instead")))
    }

    fn passes_project_on(&self, folder: &Inode) -> bool {
        self.volume.raw.has_ro_compat(PROJECT) && folder.has_flag(PROJECT_INHERIT_FLAG)
    }
}
