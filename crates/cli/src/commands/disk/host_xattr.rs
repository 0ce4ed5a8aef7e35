//! Extended attributes of files of the host.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::Metadata;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use super::host_tree::cannot_read;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{printable, warn};

/// Returns the extended attributes of a file, access lists among them, as programs get them.
///
/// What belongs to the host's file system rather than to the file, as `btrfs.compression`, stays behind with a warning.
///
/// # Errors
///
/// The failure to read them.
pub(super) fn xattrs(context: &Context, path: &Path, found: &Metadata) -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
    let mut attributes = BTreeMap::new();
    let mut buf = vec![0; LARGEST];
    let len = match llistxattr(path, &mut buf) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(attributes),
        Err(error) => return Err(cannot_read(path, error.into())),
    };
    let names = buf.get(..len).unwrap_or_default().to_vec();
    for name in names.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let text = name.to_str().ok().filter(|name| NAMESPACES.iter().any(|space| name.starts_with(space)));
        let Some(text) = text else {
            let name = printable(name.to_bytes());
            warn(context, format!("the extended attribute `{name}` of `{}` stays behind", path.display()));
            continue;
        };
        // Some file systems list them for all.
        if found.is_symlink() && text.starts_with(ACCESS_LIST) {
            continue;
        }
        match lgetxattr(path, name, &mut buf) {
            Ok(len) => {
                let value = buf.get(..len).unwrap_or_default().to_vec();
                attributes.insert(text.to_owned(), value);
            }
            // It has gone meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(cannot_read(path, error.into())),
        }
    }
    Ok(attributes)
}

/// Spec: xattr(7): "The VFS imposes a limitation that the total size of a list is 64 kB", and so with a value.
const LARGEST: usize = 64 << 10;
const ACCESS_LIST: &str = "system.posix_acl_";
/// What every Linux file system can have.
const NAMESPACES: [&str; 4] = ["user.", "trusted.", "security.", ACCESS_LIST];
