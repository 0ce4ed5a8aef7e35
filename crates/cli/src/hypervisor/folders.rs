use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::files::hex;

/// Returns the folder of a machine's sockets; [`make_private`] makes it.
///
/// A socket's path has at most 107 bytes, so this is short, whatever the path of the `machine`'s own folder is.
pub(super) fn sockets(context: &Context, machine: &Path) -> PathBuf {
    let base = match context.variable("XDG_RUNTIME_DIR").map(Path::new) {
        Some(runtime) if runtime.is_absolute() && runtime.as_os_str().len() <= RUNTIME_LIMIT => runtime.join("vmimg"),
        _ if context.is_root() => PathBuf::from("/run/vmimg"),
        _ => PathBuf::from(format!("/tmp/vmimg-{}", rustix::process::geteuid().as_raw())),
    };
    let digest = Sha256::digest(machine.as_os_str().as_encoded_bytes());
    base.join(hex(digest.iter().take(8)))
}

/// Makes sure that `folder` and the one that it is in are folders of this user that nobody else can enter.
///
/// # Errors
///
/// The failure of the operating system, and [`ErrorKind::Refused`] when another user owns one of them.
pub(super) fn make_private(folder: &Path) -> Result<(), CommandError> {
    if let Some(above) = folder.parent() {
        private(above)?;
    }
    private(folder)
}

/// Returns the folder for what can be found out again, if the user has one.
pub(super) fn cache(context: &Context) -> Option<PathBuf> {
    let configured = context.variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    Some(configured.or_else(|| context.home().map(|home| home.join(".cache")))?.join("vmimg"))
}

/// Makes sure that `folder` is a folder of this user that nobody else can enter.
fn private(folder: &Path) -> Result<(), CommandError> {
    let cannot = |error| CommandError::io(format!("cannot make the folder `{}`", folder.display()), error);
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
        _ => {}
    }
    // A link in a folder that all may write, as /tmp, could lead anywhere.
    let found = fs::symlink_metadata(folder).map_err(cannot)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("`{}` is not a folder of this user", folder.display());
        return Err(CommandError::new(ErrorKind::Refused, message));
    }
    if found.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(cannot)?;
    }
    Ok(())
}

/// Leaves room for `/vmimg/`, sixteen digits and the name of a socket.
const RUNTIME_LIMIT: usize = 70;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use super::{make_private, private, sockets};
    use crate::context::Context;
    use crate::error::ErrorKind;

    #[test]
    fn sockets_lie_in_a_private_folder_whose_path_is_short() {
        let runtime = tempfile::tempdir().unwrap();
        let context = Context::detached(PathBuf::from("/"), Box::new(std::io::sink()), Box::new(std::io::sink()))
            .with_variable("XDG_RUNTIME_DIR", runtime.path());
        let folder = sockets(&context, Path::new(&format!("/{}", "long/".repeat(50))));
        make_private(&folder).unwrap();
        assert!(folder.join("monitor").as_os_str().len() < 108, "{folder:?}");
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(sockets(&context, Path::new(&format!("/{}", "long/".repeat(50)))), folder);
        assert_ne!(sockets(&context, Path::new("/other")), folder);
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused_and_an_open_one_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("/etc", &link).unwrap();
        assert_eq!(private(&link).unwrap_err().kind(), ErrorKind::Refused);
        let open = folder.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
        private(&open).unwrap();
        assert_eq!(open.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
