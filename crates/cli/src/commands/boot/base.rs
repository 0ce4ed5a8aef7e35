use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::files::digest;
use crate::machine::{FileIdentity, Machine};
use crate::output::warn;

/// Checks that the base image of `machine` is still what the disk was made on; with `whole`, by its digest.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when it is gone or has changed: blocks that the guest never wrote would be others than it remembers.
pub(crate) fn check(context: &Context, machine: &Machine, whole: bool) -> Result<(), CommandError> {
    let base = &machine.base;
    if machine.disk.export.is_some() {
        // It has all of the base's bytes.
        return Ok(());
    }
    let changed = |why: &str| {
        let message = format!("the base image `{}` {why} since the machine was prepared", base.path.display());
        CommandError::new(ErrorKind::Refused, message)
            .hint("put the old image back, or remove the machine and prepare it again")
    };
    let identity = FileIdentity::of(&base.path).map_err(|error| changed("is not there any more").with_source(error))?;
    if identity.size != base.identity.size {
        return Err(changed("has another size"));
    }
    match &base.sha256 {
        Some(sha256) if whole => {
            // The digest says more than times and places: a copy that was put back is as good.
            return if digest(context, &base.path)? == *sha256 { Ok(()) } else { Err(changed("has other bytes")) };
        }
        None if whole => warn(context, "the digest of the base image is not known; its size, time and inode are compared"),
        _ => {}
    }
    if identity == base.identity {
        return Ok(());
    }
    let error = changed("has changed (its time or its inode)");
    Err(match base.sha256 {
        Some(_) => error.hint("`--verify` looks at its bytes instead"),
        None => error,
    })
}
