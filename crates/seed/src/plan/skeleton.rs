use imgcore::fs::{Attributes, Content, FileKind};

use super::Error;
use super::accounts::Accounts;
use super::builder::Builder;

/// What is copied into each new home.
struct Skeleton {
    items: Vec<Item>,
    /// Bytes of the files that may still be read.
    bytes_left: u64,
    is_whole: bool,
}

struct Item {
    /// The path below `/etc/skel`, with a slash first.
    path: String,
    mode: u32,
    what: What,
}

enum What {
    Folder,
    File(Content),
    Link(String),
}

/// Plans the homes of new accounts, with what `/etc/skel` holds. `check` is asked before each file whether to go on.
pub(super) fn plan<E: From<Error>>(
    builder: &mut Builder<'_>,
    accounts: &Accounts,
    check: impl Fn() -> Result<(), E>,
) -> Result<(), E> {
    if accounts.made.is_empty() {
        return Ok(());
    }
    let homes = u64::try_from(accounts.made.len()).unwrap_or(u64::MAX);
    let bytes_left = BYTES_MAX.checked_div(homes).unwrap_or_default();
    let mut skeleton = Skeleton { items: Vec::new(), bytes_left, is_whole: true };
    skeleton.read(builder, &check)?;
    if !skeleton.is_whole {
        builder.warn("/etc/skel has too many files, or too large ones; not all were copied");
    }
    for user in &accounts.made {
        builder.create_dir(&user.home, Attributes::owned(accounts.home_mode, user.uid, user.gid))?;
        for item in &skeleton.items {
            check()?;
            let to = format!("{}{}", user.home, item.path);
            let attributes = Attributes::owned(item.mode, user.uid, user.gid);
            match &item.what {
                What::Folder => builder.create_dir(&to, attributes)?,
                _ if builder.exists(&to)? => {}
                What::File(content) => builder.write(&to, content.clone(), attributes)?,
                What::Link(target) => builder.symlink(&to, target, attributes)?,
            }
        }
    }
    Ok(())
}

impl Skeleton {
    fn read<E: From<Error>>(&mut self, builder: &Builder<'_>, check: &impl Fn() -> Result<(), E>) -> Result<(), E> {
        // Folders that are still to be read.
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in builder.tree.read_dir(&format!("/etc/skel{folder}")).map_err(Error::from)? {
                check()?;
                let Ok(name) = String::from_utf8(entry.name) else { continue };
                if self.items.len() >= ENTRIES_MAX {
                    self.is_whole = false;
                    return Ok(());
                }
                let path = format!("{folder}/{name}");
                if let Some(item) = self.item(builder, path.clone())? {
                    if matches!(item.what, What::Folder) {
                        folders.push(path);
                    }
                    self.items.push(item);
                }
            }
        }
        Ok(())
    }

    fn item(&mut self, builder: &Builder<'_>, path: String) -> Result<Option<Item>, Error> {
        let from = format!("/etc/skel{path}");
        let Some(metadata) = builder.tree.symlink_metadata(&from)? else { return Ok(None) };
        let what = match metadata.kind {
            FileKind::Directory => Some(What::Folder),
            FileKind::File => match self.bytes_left.checked_sub(metadata.size).filter(|_| metadata.size <= FILE_MAX) {
                Some(left) => {
                    self.bytes_left = left;
                    builder.tree.read(&from, metadata.size)?.map(|bytes| What::File(bytes.into()))
                }
                None => {
                    self.is_whole = false;
                    None
                }
            },
            FileKind::Symlink => builder.tree.read_link(&from)?.map(What::Link),
            _ => None,
        };
        Ok(what.map(|what| Item { path, mode: metadata.mode & 0o777, what }))
    }
}

/// The most files that are copied, the most bytes of each, and of all of them in all homes: a file may have many names.
const ENTRIES_MAX: usize = 512;
const FILE_MAX: u64 = 1 << 20;
const BYTES_MAX: u64 = 8 << 20;
