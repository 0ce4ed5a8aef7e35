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
/// archive's, and takes the place of a link that the archive made. Absolute names are below `dest` too.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is no archive, [`ErrorKind::Refused`] for names with `..` and for those that a link of the archive
/// itself takes out of `dest`, and [`ErrorKind::Unsupported`] for names and texts of links that are not UTF-8.
pub(in crate::commands::disk) fn plan(
    context: &Context,
    archive: Arc<dyn BlockRead>,
    dest: &GuestPath,
) -> Result<EditPlan, CommandError> {
    let mut entries = Entries::new(archive);
    let mut edits = vec![Edit::CreateDir { path: dest.clone(), attributes: Attributes::default() }];
    let mut made = Made::default();
    while let Some(entry) = entries.next()? {
        context.interrupt().check()?;
        if edits.len() > MOST_ENTRIES {
            return Err(CommandError::new(ErrorKind::Unsupported, format!("an archive has at most {MOST_ENTRIES} files")));
        }
        step(entry, dest, &mut made, &mut edits)?;
    }
    // Last, as what goes into a folder changes its time; what is below first.
    edits.extend(made.folders.into_iter().rev().map(|(path, attributes)| Edit::CreateDir { path, attributes }));
    Ok(EditPlan { edits })
}

/// What an archive made so far.
#[derive(Default)]
struct Made {
    /// What its folders get in the end.
    folders: BTreeMap<GuestPath, Attributes>,
    /// The texts of its links.
    links: BTreeMap<GuestPath, String>,
}

/// Adds the steps for an entry: none when it is `dest` itself.
fn step(entry: Entry, dest: &GuestPath, made: &mut Made, edits: &mut Vec<Edit>) -> Result<(), CommandError> {
    let Entry { name, what, attributes } = entry;
    let path = below(dest, &name)?;
    if path == *dest && !matches!(what, What::Folder) {
        return Err(CommandError::new(ErrorKind::Refused, format!("`{}` is no name of a file", printable(&name))));
    }
    made.refuse_leaving(dest, &path)?;
    let old_link = made.links.remove(&path);
    let edit = match what {
        What::Folder => {
            made.folders.insert(path.clone(), attributes);
            if path == *dest {
                return Ok(());
            }
            if old_link.is_some() {
                edits.push(Edit::Remove { path: path.clone() });
            }
            Edit::CreateDir { path, attributes: Attributes::default() }
        }
        What::File(content) => Edit::CreateFile { path, content, attributes },
        What::Symlink(target) => {
            let target = String::from_utf8(target).map_err(|_| not_text(&name, "the text of the link"))?;
            made.links.insert(path.clone(), target.clone());
            Edit::Symlink { path, target, attributes }
        }
        What::HardLink(target) => {
            let target = below(dest, &target)?;
            made.refuse_leaving(dest, &target)?;
            if let Some(text) = made.links.get(&target).cloned().or(old_link.filter(|_| target == path)) {
                made.links.insert(path.clone(), text);
            }
            Edit::HardLink { path, target }
        }
        What::Node(node) => Edit::MakeNode { path, node, attributes },
    };
    edits.push(edit);
    Ok(())
}

impl Made {
    /// Refuses `path` when links that the archive made are on the way to it and lead out of `dest`, as GNU tar does: where
    /// something goes is not for the archive to say.
    fn refuse_leaving(&self, dest: &GuestPath, path: &GuestPath) -> Result<(), CommandError> {
        let inside = path.strip_prefix(dest).unwrap_or_else(GuestPath::root);
        if self.links.is_empty() || inside.parent().is_none_or(|parent| parent == GuestPath::root()) {
            return Ok(());
        }
        let mut waiting: Vec<String> = inside.components().rev().map(str::to_owned).collect();
        let (mut at, mut links) = (dest.clone(), 0_u32);
        while let Some(name) = waiting.pop() {
            let Ok(next) = at.join(&name) else { return Err(leaves(path, &at)) };
            // The last name is not followed.
            let Some(target) = self.links.get(&next).filter(|_| !waiting.is_empty()) else {
                at = next;
                continue;
            };
            links = links.saturating_add(1);
            if links > LINKS_MAX || target.starts_with('/') || target.split('/').any(|name| name == "..") {
                return Err(leaves(path, &next));
            }
            waiting.extend(target.split('/').rev().filter(|name| !matches!(*name, "" | ".")).map(str::to_owned));
        }
        Ok(())
    }
}

fn leaves(path: &GuestPath, link: &GuestPath) -> CommandError {
    let message = format!("`{path}` goes through `{link}`, a link of the archive itself that may lead anywhere");
    CommandError::new(ErrorKind::Refused, message).hint("put the files there by an archive of their own")
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

/// Linux: `MAXSYMLINKS`.
const LINKS_MAX: u32 = 40;
/// The most entries: far more than a system has files.
const MOST_ENTRIES: usize = 1 << 22;
