//! What failures of images and file systems are to a command, and what helps.

use imgcore::nbd::attach;
use imgcore::{block, fs, image, partition, qcow2};

use super::{CommandError, ErrorKind, block_kind};

impl From<block::Error> for CommandError {
    fn from(error: block::Error) -> Self {
        let kind = block_kind(error.kind());
        let hint = match error.kind() {
            block::ErrorKind::InUse => {
                Some("stop the machine that uses it first; `umount`, and `losetup -d`, end what this system does with it")
            }
            block::ErrorKind::NoSpace => Some("free space on the host, or choose another folder"),
            block::ErrorKind::PermissionDenied => Some(
                "the file must be readable, and to be changed writable, by you; so must its folder for a new file beside it",
            ),
            _ => None,
        };
        Self::from_source(kind, hint, error)
    }
}

impl From<fs::Error> for CommandError {
    fn from(error: fs::Error) -> Self {
        let (kind, hint) = match &error {
            fs::Error::Storage(below) => (block_kind(below.kind()), None),
            fs::Error::NotFound(_) => (ErrorKind::NotFound, None),
            fs::Error::WrongKind { .. } | fs::Error::TooManyLinks(_) | fs::Error::TooLarge { .. } => (ErrorKind::Refused, None),
            fs::Error::NoSpace(_) => {
                (ErrorKind::Refused, Some("grow the disk first: `vmimg image resize`, then `vmimg disk grow`"))
            }
            fs::Error::Unrepresentable { .. } => (ErrorKind::Unsupported, None),
            fs::Error::Corrupt { .. } => (ErrorKind::Corrupt, Some("nothing was changed; `e2fsck -f` repairs ext4")),
            fs::Error::Refused(_) | fs::Error::JournalTooSmall { .. } => (ErrorKind::Unsupported, Some("nothing was changed")),
            _ => (ErrorKind::Unexpected, None),
        };
        Self::from_source(kind, hint, error)
    }
}

impl From<attach::Error> for CommandError {
    fn from(error: attach::Error) -> Self {
        let (kind, hint) = match &error {
            attach::Error::NoDriver => (
                ErrorKind::Unsupported,
                Some("`modprobe nbd` loads the driver; a container must have its devices in `/dev` and `/sys`"),
            ),
            attach::Error::NotPermitted => (ErrorKind::Refused, None),
            attach::Error::InUse(_) => {
                (ErrorKind::Refused, Some("`vmimg nbd list` shows what is connected, `findmnt` what is mounted"))
            }
            attach::Error::NotConnected(_) => (ErrorKind::NotFound, Some("`vmimg nbd list` shows what is connected")),
            attach::Error::OtherNode(_) => {
                (ErrorKind::NotFound, Some("`/dev` must have the kernel's devices, as devtmpfs has"))
            }
            attach::Error::Unfit(_) => (ErrorKind::Usage, None),
            attach::Error::System(..) => (ErrorKind::Storage, None),
            _ => (ErrorKind::Unexpected, None),
        };
        Self::from_source(kind, hint, error)
    }
}

impl From<partition::Error> for CommandError {
    fn from(error: partition::Error) -> Self {
        let kind = match error {
            partition::Error::Storage(error) => return error.into(),
            partition::Error::NoTable | partition::Error::NoPartition(_) => ErrorKind::NotFound,
            partition::Error::Corrupt(_) => ErrorKind::Corrupt,
            partition::Error::Unsupported(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Unexpected,
        };
        Self::from_source(kind, None, error)
    }
}

impl From<image::Error> for CommandError {
    fn from(error: image::Error) -> Self {
        let (kind, hint) = match error {
            image::Error::Storage(error) => return error.into(),
            image::Error::UnknownFormat(_) => (ErrorKind::Usage, Some("the formats are `raw` and `qcow2`")),
            image::Error::UnsupportedFormat(_) => {
                (ErrorKind::Unsupported, Some("QEMU's own qemu-img converts it to raw or qcow2"))
            }
            image::Error::ForeignFormat { .. } => (
                ErrorKind::Unsupported,
                Some("QEMU's own qemu-img converts it to raw or qcow2; `-f raw` reads its bytes as they are"),
            ),
            image::Error::InvalidOptions(_) => (ErrorKind::Usage, None),
            image::Error::WouldShrink { .. } => {
                (ErrorKind::Refused, Some("`--shrink` allows it: what is behind the new end is lost"))
            }
            image::Error::Qcow2 { source: qcow2::Error::Unsupported(qcow2::Unsupported::Encryption(_)), .. } => (
                ErrorKind::Unsupported,
                Some("QEMU's own `qemu-img convert`, with the secret, makes a copy that is not encrypted"),
            ),
            image::Error::Qcow2 { source: qcow2::Error::NotQcow2, .. } => {
                (ErrorKind::Corrupt, Some("`-f raw` opens what is not qcow2"))
            }
            // The policy forbids it, and not what the image names.
            image::Error::NotFollowed { why, .. } if why.starts_with("no file") => {
                (ErrorKind::Refused, Some("`vmimg image convert` makes an image that stands alone"))
            }
            _ => (block_kind(error.kind()), None),
        };
        Self::from_source(kind, hint, error)
    }
}

impl From<qcow2::BitmapError> for CommandError {
    fn from(error: qcow2::BitmapError) -> Self {
        let (kind, hint) = match &error {
            qcow2::BitmapError::NotFound(_) => (ErrorKind::NotFound, Some("`vmimg image info` lists the bitmaps")),
            qcow2::BitmapError::Exists(_) | qcow2::BitmapError::Size { .. } => (ErrorKind::Refused, None),
            qcow2::BitmapError::Inconsistent(_) => {
                (ErrorKind::Refused, Some("`vmimg image bitmap --remove` removes it: who wrote to the image did not save it"))
            }
            qcow2::BitmapError::TooLarge(_) => (ErrorKind::Refused, Some("a larger granularity needs fewer bits")),
            qcow2::BitmapError::Granularity(_) | qcow2::BitmapError::Name => (ErrorKind::Usage, None),
            _ => (ErrorKind::Unsupported, None),
        };
        Self::from_source(kind, hint, error)
    }
}

impl From<qcow2::SnapshotError> for CommandError {
    fn from(error: qcow2::SnapshotError) -> Self {
        let (kind, hint) = match &error {
            qcow2::SnapshotError::NotFound(_) => (ErrorKind::NotFound, Some("`vmimg image snapshot -l` lists them")),
            qcow2::SnapshotError::Bitmaps => (ErrorKind::Refused, Some("`vmimg image bitmap --remove` removes a bitmap")),
            _ => (ErrorKind::Unsupported, None),
        };
        Self::from_source(kind, hint, error)
    }
}

impl From<qcow2::Error> for CommandError {
    fn from(error: qcow2::Error) -> Self {
        let (kind, hint) = match error {
            qcow2::Error::Storage(error) => return error.into(),
            qcow2::Error::NotQcow2 => (ErrorKind::Corrupt, Some("`-f raw` opens what is not qcow2")),
            qcow2::Error::Corrupt(_) => (ErrorKind::Corrupt, None),
            qcow2::Error::Unsupported(_) => (ErrorKind::Unsupported, None),
            qcow2::Error::Bitmap(why) => return why.into(),
            qcow2::Error::Snapshot(why) => return why.into(),
            qcow2::Error::InvalidOptions(_) => (ErrorKind::Usage, None),
            _ => (ErrorKind::Unexpected, None),
        };
        Self::from_source(kind, hint, error)
    }
}
