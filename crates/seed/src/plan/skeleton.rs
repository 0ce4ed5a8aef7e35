use imgcore::fs::{Attributes, FileKind};

use super::Error;
use super::builder::Builder;
use crate::guest::User;

/// Plans the home of a new account, with what `/etc/skel` holds.
pub(super) fn plan(builder: &mut Builder<'_>, user: &User, home_mode: u32) -> Result<(), Error> {
    builder.create_dir(&user.home, Attributes::owned(home_mode, user.uid, user.gid))?;
    // Folders that are still to be copied, below /etc/skel and below the home.
    let mut folders = vec![String::new()];
    let mut left = ENTRIES_MAX;
    while let Some(folder) = folders.pop() {
        for entry in builder.tree.read_dir(&format!("/etc/skel{folder}"))? {
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            let (from, to) = (format!("/etc/skel{folder}/{name}"), format!("{}{folder}/{name}", user.home));
            let Some(rest) = left.checked_sub(1) else {
                builder.warn("/etc/skel has too many files; not all were copied");
                return Ok(());
            };
            left = rest;
            let Some(metadata) = builder.tree.symlink_metadata(&from)? else { continue };
            let attributes = Attributes::owned(metadata.mode & 0o777, user.uid, user.gid);
            match metadata.kind {
                FileKind::Directory => {
                    builder.create_dir(&to, attributes)?;
                    folders.push(format!("{folder}/{name}"));
                }
                FileKind::File if metadata.size <= FILE_MAX && !builder.exists(&to)? => {
                    let content = builder.tree.read(&from, FILE_MAX)?.unwrap_or_default();
                    builder.write(&to, content.into(), attributes)?;
                }
                FileKind::Symlink if !builder.exists(&to)? => {
                    if let Some(target) = builder.tree.read_link(&from)? {
                        builder.symlink(&to, &target, attributes)?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The most files that are copied, and the most bytes of each.
const ENTRIES_MAX: u32 = 512;
const FILE_MAX: u64 = 1 << 20;
