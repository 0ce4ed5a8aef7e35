//! Finds the root file system, and the roots that are not to be written into.

use std::sync::Arc;

use imgcore::fs::{self, FileSystem, GuestPath};
use serde::Serialize;

use super::{Error, Volume, VolumeContent, VolumeId};

/// A kind of system whose root is put together at boot from somewhere else.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReadOnlyRoot {
    /// ostree or bootc: `/etc` is inside a deployment.
    Ostree,
    /// MicroOS and its kin: the root is a snapshot, changed by transactions.
    MicroOs,
    /// Flatcar and its kin: `/usr` is verified, the rest is made at first boot.
    Flatcar,
}

impl std::fmt::Display for ReadOnlyRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ostree => "an ostree or bootc system",
            Self::MicroOs => "a transactional system (MicroOS)",
            Self::Flatcar => "a Flatcar or Container Linux system",
        })
    }
}

/// Returns the volume and file system of the root.
pub(super) fn find(volumes: &[Volume], wanted: Option<&VolumeId>) -> Result<(VolumeId, Arc<dyn FileSystem>), Error> {
    if volumes.iter().any(|volume| volume.names.part_label.as_deref() == Some("USR-A")) {
        return Err(Error::ReadOnly(ReadOnlyRoot::Flatcar));
    }
    let mut roots = Vec::new();
    for volume in volumes.iter().filter(|volume| wanted.is_none_or(|wanted| volume.partition == *wanted)) {
        let VolumeContent::Files(files) = &volume.content else { continue };
        let probe = Probe { partition: &volume.partition, files: files.as_ref() };
        if probe.any(&["/ostree/repo", "/ostree/deploy", "/sysroot/ostree", "/composefs"])? {
            return Err(Error::ReadOnly(ReadOnlyRoot::Ostree));
        }
        if probe.is_root()? {
            roots.push((volume.partition.clone(), Arc::clone(files)));
        }
    }
    if roots.len() > 1 {
        // The one whose own fstab mounts it as `/` is meant; the others are copies or rescue systems.
        let own: Vec<_> =
            roots.iter().filter(|(partition, files)| mounts_itself(volumes, partition, files.as_ref())).cloned().collect();
        if own.len() != 1 {
            return Err(Error::SeveralRoots(roots.iter().map(|(partition, _)| partition.clone()).collect()));
        }
        roots = own;
    }
    roots.pop().ok_or_else(|| Error::NoRoot(summary(volumes)))
}

/// Returns the kind of read-only root that an os-release's ID stands for.
pub(super) fn read_only(id: &str) -> Option<ReadOnlyRoot> {
    match id {
        "flatcar" | "coreos" => Some(ReadOnlyRoot::Flatcar),
        "opensuse-microos" | "microos" | "sle-micro" | "sl-micro" | "opensuse-leap-micro" | "aeon" | "opensuse-aeon" => {
            Some(ReadOnlyRoot::MicroOs)
        }
        _ => None,
    }
}

struct Probe<'a> {
    partition: &'a VolumeId,
    files: &'a dyn FileSystem,
}

impl Probe<'_> {
    fn is_root(&self) -> Result<bool, Error> {
        Ok(self.any(&["/etc/os-release", "/etc/passwd", "/usr/lib/os-release"])? && self.any(&["/usr", "/bin", "/sbin"])?)
    }

    fn any(&self, paths: &[&str]) -> Result<bool, Error> {
        for path in paths.iter().filter_map(|path| GuestPath::new(path).ok()) {
            // Links as the last name count: what they lead to may be on another file system.
            match self.files.symlink_metadata(&path) {
                Ok(_) => return Ok(true),
                Err(fs::Error::NotFound(_) | fs::Error::WrongKind { .. } | fs::Error::TooManyLinks(_)) => {}
                Err(source) => return Err(Error::FileSystem { partition: self.partition.clone(), source }),
            }
        }
        Ok(false)
    }
}

fn mounts_itself(volumes: &[Volume], partition: &VolumeId, files: &dyn FileSystem) -> bool {
    let table = GuestPath::new("/etc/fstab").ok().and_then(|path| files.read(&path, 1 << 20).ok()).unwrap_or_default();
    super::fstab::decode(&table).iter().any(|entry| {
        entry.mount_point == "/" && volumes.iter().any(|volume| volume.partition == *partition && volume.is(&entry.spec))
    })
}

fn summary(volumes: &[Volume]) -> String {
    let others: Vec<_> = volumes
        .iter()
        .map(|volume| match &volume.content {
            VolumeContent::Files(_) => format!("{} holds no operating system", volume.partition.described()),
            VolumeContent::Other(reason) => format!("{}: {reason}", volume.partition.described()),
        })
        .collect();
    if others.is_empty() { "it has no file systems".to_owned() } else { others.join("; ") }
}
