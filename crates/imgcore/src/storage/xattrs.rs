//! Extended attributes of host files, access lists and labels among them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::{Errno, Result};

use crate::block::{Error, ErrorKind};

/// Gives `new`, which is to replace the file `old` at `path`, its attributes and no others: an access list that the folder gave it
/// goes as well.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when one cannot be kept.
pub(super) fn keep(old: &File, new: &File, path: &Path) -> std::result::Result<(), Error> {
    let cannot = |what: &str, error: Errno| {
        let message = format!("cannot keep {what} of `{}`", path.display());
        Error::with_source(ErrorKind::Refused, message, std::io::Error::from(error))
    };
    let all = "the extended attributes";
    let names = names(old).map_err(|error| cannot(all, error))?;
    for name in self::names(new).map_err(|error| cannot(all, error))? {
        if !names.contains(&name) && name.to_bytes().starts_with(ACCESS_LIST) {
            fremovexattr(new, name.as_c_str()).map_err(|error| cannot(&shown(&name), error))?;
        }
    }
    for name in names.iter().filter(|name| belongs_to_file(name)) {
        let failed = |error| cannot(&shown(name), error);
        let Some(value) = value(old, name).map_err(failed)? else { continue };
        // It may not be allowed to set what is there already, as a label.
        if self::value(new, name).ok().flatten().as_ref() != Some(&value) {
            fsetxattr(new, name.as_c_str(), &value, XattrFlags::empty()).map_err(failed)?;
        }
    }
    Ok(())
}

fn shown(name: &CStr) -> String {
    if name.to_bytes().starts_with(ACCESS_LIST) {
        return "the access list".to_owned();
    }
    format!("the attribute `{}`", name.to_string_lossy().escape_debug())
}

/// Returns whether an attribute is about the file, and not about what is in it or about how the host's file system stores it.
fn belongs_to_file(name: &CStr) -> bool {
    let name = name.to_bytes();
    NAMESPACES.iter().any(|space| name.starts_with(space)) && !OF_CONTENTS.contains(&name)
}

/// Returns the names of the attributes of a file; one on a file system without them has none.
fn names(file: &File) -> Result<Vec<CString>> {
    let mut buf = vec![0; LARGEST];
    let len = match flistxattr(file, &mut buf) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => 0,
        other => other?,
    };
    let names = buf.get(..len).unwrap_or_default().split_inclusive(|byte| *byte == 0);
    Ok(names.filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned)).collect())
}

/// Returns the value of an attribute of a file, if it has it.
fn value(file: &File, name: &CStr) -> Result<Option<Vec<u8>>> {
    let mut buf = vec![0; LARGEST];
    match fgetxattr(file, name, &mut buf) {
        Ok(len) => {
            buf.truncate(len);
            Ok(Some(buf))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
/// Signatures and rights of other contents.
const OF_CONTENTS: [&[u8]; 3] = [b"security.ima", b"security.evm", b"security.capability"];
/// Spec: xattr(7): "The VFS imposes a limitation that the total size of a list is 64 kB", and so with a value.
const LARGEST: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rustix::fs::{XattrFlags, getxattr, setxattr};
    use rustix::io::Errno;

    use crate::storage::Replacement;

    /// An access list as Linux has it: version 2, then tag, permissions and number of each: the owner, user 1234, the group,
    /// the mask, others.
    fn access_list(user: u8) -> Vec<u8> {
        let mut list = vec![2, 0, 0, 0];
        for (tag, permissions, id) in
            [(1, 6, u32::MAX), (2, user, 1234), (4, 0, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
        {
            list.extend([tag, 0, permissions, 0]);
            list.extend(id.to_le_bytes());
        }
        list
    }

    fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; 100];
        getxattr(path, name, &mut value).map(|len| value[..len].to_vec())
    }

    #[track_caller]
    fn replace(target: &Path) {
        let new = Replacement::create_private(target, 42).unwrap();
        new.keep_attributes().unwrap();
        new.publish().unwrap();
    }

    #[test]
    fn an_access_list_and_attributes_go_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        fs::write(&target, b"old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        setxattr(&target, "system.posix_acl_access", &access_list(4), XattrFlags::empty()).unwrap();
        setxattr(&target, "user.origin", b"store", XattrFlags::empty()).unwrap();
        replace(&target);
        assert_eq!(fs::read(&target).unwrap(), b"");
        assert_eq!(get(&target, "system.posix_acl_access").unwrap(), access_list(4));
        assert_eq!(get(&target, "user.origin").unwrap(), b"store");
        // The mask, not the right of the group.
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o660);
    }

    #[test]
    fn a_list_that_the_folder_gives_to_new_files_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        fs::write(&target, b"old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o660)).unwrap();
        setxattr(folder.path(), "system.posix_acl_default", &access_list(6), XattrFlags::empty()).unwrap();
        replace(&target);
        assert_eq!(get(&target, "system.posix_acl_access").unwrap_err(), Errno::NODATA);
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o660);
    }
}
