//! An archive as a plan: what a guest or a new file system gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use imgcore::block::BlockRead;
use imgcore::fs::{Attributes, Edit, EditPlan, GuestPath};

use super::entry::{Entries, Entry, What};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::printable;

/// Returns the steps that unpack an archive into the folder `dest` of a file system.
///
/// A file takes the place of what has its name, but for a folder; a folder that exists gets the owner, mode and attributes of the
/// archive's. Absolute names are below `dest` too.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is no archive, [`ErrorKind::Refused`] for names with `..`, and [`ErrorKind::Unsupported`] for
/// names and texts of links that are not UTF-8.
pub(in crate::commands::disk) fn plan(
    context: &Context,
    archive: Arc<dyn BlockRead>,
    dest: &GuestPath,
) -> Result<EditPlan, CommandError> {
    let mut entries = Entries::new(archive);
    let mut edits = vec![Edit::CreateDir { path: dest.clone(), attributes: Attributes::default() }];
    let mut folders = BTreeMap::new();
    while let Some(entry) = entries.next()? {
        context.interrupt().check()?;
        if edits.len() > MOST_ENTRIES {
            return Err(CommandError::new(ErrorKind::Unsupported, format!("an archive has at most {MOST_ENTRIES} files")));
        }
        let Some(edit) = step(entry, dest, &mut folders)? else { continue };
        edits.push(edit);
    }
    // Last, as what goes into a folder changes its time; what is below first.
    edits.extend(folders.into_iter().rev().map(|(path, attributes)| Edit::CreateDir { path, attributes }));
    Ok(EditPlan { edits })
}

/// Returns the step for an entry, or `None` when it is `dest` itself. What folders get is noted in `folders`.
fn step(entry: Entry, dest: &GuestPath, folders: &mut BTreeMap<GuestPath, Attributes>) -> Result<Option<Edit>, CommandError> {
    let Entry { name, what, attributes } = entry;
    let path = below(dest, &name)?;
    if path == *dest && !matches!(what, What::Folder) {
        return Err(CommandError::new(ErrorKind::Refused, format!("`{}` is no name of a file", printable(&name))));
    }
    Ok(Some(match what {
        What::Folder => {
            folders.insert(path.clone(), attributes);
            if path == *dest {
                return Ok(None);
            }
            Edit::CreateDir { path, attributes: Attributes::default() }
        }
        What::File(content) => Edit::CreateFile { path, content, attributes },
        What::Symlink(target) => {
            let target = String::from_utf8(target).map_err(|_| not_text(&name, "the text of the link"))?;
            Edit::Symlink { path, target, attributes }
        }
        What::HardLink(target) => Edit::HardLink { path, target: below(dest, &target)? },
        What::Node(node) => Edit::MakeNode { path, node, attributes },
    }))
}

/// Returns where a name of the archive goes.
fn below(dest: &GuestPath, name: &[u8]) -> Result<GuestPath, CommandError> {
    let text = std::str::from_utf8(name).map_err(|_| not_text(name, "the name"))?;
    dest.join(text).map_err(|error| {
        let message = format!("the archive's name `{}` cannot be put below `{dest}`", printable(name));
        CommandError::new(ErrorKind::Refused, message).with_source(error)
    })
}

fn not_text(name: &[u8], what: &str) -> CommandError {
    CommandError::new(ErrorKind::Unsupported, format!("`{}`: {what} is not UTF-8, which a guest must have", printable(name)))
}

/// The most entries: far more than a system has files.
const MOST_ENTRIES: usize = 1 << 22;
