use std::io;

use imgcore::block;
use imgcore::fs::{Error, GuestPath, Refusal};
use rustix::io::Errno;

/// Returns the error of a call that failed on `path`, which could not `doing`, as in `be written`.
pub(super) fn failed(path: &GuestPath, doing: &str, error: Errno) -> Error {
    let unrepresentable = |rule: &str| Error::Unrepresentable { path: path.clone(), rule: rule.to_owned() };
    let refused = |reason: String| Error::Refused(Refusal { format: "mounted", reason });
    match error {
        Errno::NOENT => Error::NotFound(path.clone()),
        Errno::NOSPC | Errno::DQUOT => Error::NoSpace(format!("`{path}` could not {doing}")),
        Errno::LOOP => Error::TooManyLinks(path.clone()),
        Errno::NAMETOOLONG => unrepresentable("a name has at most 255 bytes"),
        Errno::FBIG => unrepresentable("it is larger than a file of this file system can be"),
        Errno::MLINK => unrepresentable("it has as many names as a file of this file system can have"),
        Errno::NOTEMPTY | Errno::EXIST => unrepresentable("the folder in the way is not empty"),
        Errno::XDEV => unrepresentable("its old and its new name are in different subvolumes"),
        // Root may do all but change what is marked so.
        Errno::PERM => refused(format!("does not let `{path}` {doing}: it may be marked as immutable or append-only")),
        Errno::ROFS => refused("cannot be written".to_owned()),
        Errno::UCLEAN | Errno::BADMSG => {
            Error::Corrupt { format: "mounted", place: format!("`{path}`"), rule: "the kernel can read it".to_owned() }
        }
        error => block::Error::from_io(format!("`{path}` cannot {doing}"), io::Error::from(error)).into(),
    }
}
