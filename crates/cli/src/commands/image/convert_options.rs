//! Values of the options of `vmimg image convert`.

use imgcore::image::Disk;
use imgcore::qcow2;

use super::options::split;
use crate::error::{CommandError, ErrorKind};

/// Which internal snapshot is copied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Snapshot {
    /// That of this id, or else of this name.
    Either(String),
    /// That with all of what is said.
    Both {
        /// Its id.
        id: Option<String>,
        /// Its name.
        name: Option<String>,
    },
}

impl Snapshot {
    /// Returns the snapshot of the disk's image.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none.
    pub(super) fn find(&self, disk: &Disk) -> Result<qcow2::Snapshot, CommandError> {
        let all = disk.qcow2().map(qcow2::Image::snapshots).transpose()?.unwrap_or_default();
        let found = match self {
            Self::Either(text) => {
                all.iter().find(|snapshot| snapshot.id == *text).or_else(|| all.iter().find(|snapshot| snapshot.name == *text))
            }
            Self::Both { id, name } => all.iter().find(|snapshot| {
                id.as_ref().is_none_or(|id| snapshot.id == *id) && name.as_ref().is_none_or(|name| snapshot.name == *name)
            }),
        };
        found.cloned().ok_or_else(|| CommandError::new(ErrorKind::NotFound, "the image has no such snapshot"))
    }
}

/// Reads what `-l` says: `snapshot.id=ID,snapshot.name=NAME`, or an id or name alone.
pub(super) fn snapshot(text: &str) -> Result<Snapshot, String> {
    if !text.starts_with("snapshot.") {
        return Ok(Snapshot::Either(text.to_owned()));
    }
    let (mut id, mut name) = (None, None);
    for option in split(text) {
        match option.split_once('=') {
            Some(("snapshot.id", value)) => id = Some(value.to_owned()),
            Some(("snapshot.name", value)) => name = Some(value.to_owned()),
            _ => return Err(format!("`{option}` is not snapshot.id=ID or snapshot.name=NAME")),
        }
    }
    Ok(Snapshot::Both { id, name })
}

/// How QEMU uses the host's cache. Here all modes but one end with a durable copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Cache {
    /// Past the cache.
    None,
    /// Through the cache, durable at the end.
    Writeback,
    /// Through the cache, every write durable.
    Writethrough,
    /// Past the cache, every write durable.
    Directsync,
    /// Through the cache, and never durable.
    Unsafe,
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, snapshot};

    #[test]
    fn a_snapshot_is_named_as_in_qemu_img() {
        assert_eq!(snapshot("a,b"), Ok(Snapshot::Either("a,b".to_owned())));
        let both = Snapshot::Both { id: Some("1".to_owned()), name: Some("a,b".to_owned()) };
        assert_eq!(snapshot("snapshot.id=1,snapshot.name=a,,b"), Ok(both));
        snapshot("snapshot.id=1,x=2").unwrap_err();
    }
}
