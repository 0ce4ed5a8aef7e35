//! Files and folders that are small enough to lie in their inode.
//!
//! ```text
//! file    | contents, 60 bytes, where others list their blocks | fields | extended attribute `system.data`: the rest |
//! folder  | number of the folder above, 4 | records, 56        | fields | `system.data`: more records              |
//! ```
//!
//! Spec: "Inline Data", "Inline Directories".

use super::dirent::{Record, records};
use super::error::corrupt;
use super::inode::{INLINE_DATA_FLAG, Inode};
use super::xattr::{Value, Xattr, read_inside};
use crate::fs::Error;

/// Returns all contents of a file that lies in its inode.
pub(super) fn inline_contents(inode: &Inode) -> Result<Vec<u8>, Error> {
    let mut bytes = inode.raw.i_block.to_vec();
    bytes.extend(behind(inode)?);
    let size = usize::try_from(inode.size()).ok().filter(|size| *size <= bytes.len());
    bytes.truncate(size.ok_or_else(|| corrupt(format!("inode {}", inode.number), "what lies in it has all its contents"))?);
    Ok(bytes)
}

/// Returns the records of a folder that lies in its inode, one after the other; `.` and `..` have none.
///
/// The second value is the number of the folder above.
pub(super) fn inline_folder(folder: &Inode) -> Result<(InlineRecords, u32), Error> {
    let bad = || corrupt(format!("inode {}", folder.number), "a folder in it begins with the folder above");
    let (parent, first) = folder.raw.i_block.split_first_chunk::<4>().ok_or_else(bad)?;
    Ok((InlineRecords { folder: folder.number, parts: [first.to_vec(), behind(folder)?] }, u32::from_le_bytes(*parent)))
}

/// The records of a folder that lies in its inode.
#[derive(Debug)]
pub(super) struct InlineRecords {
    folder: u32,
    parts: [Vec<u8>; 2],
}

impl InlineRecords {
    /// Returns those that name something.
    pub(super) fn all(&self) -> Result<Vec<Record<'_>>, Error> {
        let mut all = Vec::new();
        for part in &self.parts {
            all.extend(records(part, self.folder)?.into_iter().filter(|record| record.inode != 0));
        }
        Ok(all)
    }
}

/// Returns whether the contents lie in the inode.
pub(super) fn is_inline(inode: &Inode) -> bool {
    inode.has_flag(INLINE_DATA_FLAG)
}

/// Returns what the inode itself has no place for.
fn behind(inode: &Inode) -> Result<Vec<u8>, Error> {
    let all = read_inside(inode)?;
    let data = all.into_iter().find(Xattr::is_contents);
    match data.map(|attribute| attribute.value) {
        Some(Value::Here(bytes)) => Ok(bytes),
        Some(Value::Inode(..)) => Err(corrupt(format!("inode {}", inode.number), "the contents in it are in no other")),
        None => Ok(Vec::new()),
    }
}
