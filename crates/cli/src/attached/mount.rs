use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::{Kind, Target};
use crate::error::{CommandError, ErrorKind};
use crate::mounted::Mounted;

/// Mounts the file system on `node`, and nowhere: files of it are reached by what this returns alone.
///
/// Its type is said and its device is named, so that neither a table of the host's nor a name that the guest has chosen decides.
pub(super) fn mount(node: &Path, target: &Target, writable: bool) -> Result<Mounted, CommandError> {
    refuse_twin(node, target)?;
    let kind = target.kind;
    let driver = fsopen(kind.driver(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| {
        let message = format!("this machine's kernel cannot mount {kind}");
        let error = CommandError::new(ErrorKind::Unsupported, message).with_source(error);
        error.hint(format!(
            "`modprobe {}` loads the driver, if there is one; the kernel must be Linux 5.6 or later",
            kind.driver()
        ))
    })?;
    let configure = || {
        fsconfig_set_string(&driver, "source", node)?;
        if !writable {
            fsconfig_set_flag(&driver, "ro")?;
        }
        match kind {
            // The host, or a second machine of the same image, may have one of the same UUID.
            Kind::Xfs => fsconfig_set_flag(&driver, "nouuid")?,
            Kind::Btrfs => {
                if let Some(name) = target.subvolume {
                    fsconfig_set_string(&driver, "subvol", name)?;
                }
            }
            // What is wrong is an error, and not a reason to panic that the guest has stored.
            Kind::Ext => fsconfig_set_string(&driver, "errors", "remount-ro")?,
        }
        fsconfig_create(&driver)?;
        let never = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let read_only = if writable { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
        fsmount(&driver, FsMountFlags::FSMOUNT_CLOEXEC, never | MountAttrFlags::MOUNT_ATTR_NOATIME | read_only)
    };
    let root = configure().map_err(|error: Errno| {
        let class = match error {
            Errno::UCLEAN | Errno::INVAL | Errno::BADMSG => ErrorKind::Corrupt,
            Errno::PERM | Errno::ACCESS | Errno::BUSY => ErrorKind::Refused,
            _ => ErrorKind::Storage,
        };
        let failed = CommandError::new(class, format!("the kernel cannot mount the {kind} of `{}`", node.display()));
        match said(&driver) {
            Some(why) => failed.with_source(format!("{why} ({error})")),
            None => failed.with_source(error).hint("`dmesg` may say more"),
        }
    })?;
    Ok(Mounted::of(root))
}

/// Refuses a btrfs of which this machine has one mounted with the same UUID, from another device: the kernel would take one for
/// the other.
fn refuse_twin(node: &Path, target: &Target) -> Result<(), CommandError> {
    let uuid = uuid::Uuid::from_bytes(target.uuid);
    let known = Path::new("/sys/fs/btrfs").join(uuid.to_string());
    if target.kind != Kind::Btrfs || !known.exists() {
        return Ok(());
    }
    let devices = std::fs::read_dir(known.join("devices")).into_iter().flatten().flatten();
    let devices: Vec<_> = devices.map(|entry| entry.file_name()).collect();
    if matches!(devices.as_slice(), [one] if Some(one.as_os_str()) == node.file_name()) {
        return Ok(());
    }
    let message =
        format!("this machine has a btrfs with the UUID {uuid} mounted, and the kernel cannot tell two of them apart");
    Err(CommandError::new(ErrorKind::Refused, message)
        .hint("wait for what else works on a copy of the image, or unmount it; `btrfstune -u` gives a copy its own UUID"))
}

/// Returns the last reason that a driver has given.
fn said(driver: impl AsFd) -> Option<String> {
    let mut last = None;
    // Each read takes one message, a letter for its class and a space before it.
    for _ in 0..MESSAGES {
        let mut bytes = [0; 1024];
        let Ok(len) = rustix::io::read(&driver, &mut bytes) else { break };
        let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default());
        last = text.trim().split_once(' ').map(|(_, message)| message.to_owned()).or(last);
    }
    last
}

/// Messages that are read.
const MESSAGES: usize = 16;
