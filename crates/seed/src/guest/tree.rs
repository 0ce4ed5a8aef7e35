use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use imgcore::fs::{self, DirEntry, FileKind, FileSystem, GuestPath, Metadata};

use super::{Error, Volume, VolumeContent, VolumeId, fstab, root};

/// A guest's files as the running guest sees them: one tree over all file systems that its fstab mounts.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The root first; later ones may lie below earlier ones.
    mounts: Vec<Mount>,
    /// What was found at paths without links: the same folders are on the way to most paths.
    seen: Arc<Mutex<HashMap<GuestPath, Option<Metadata>>>>,
}

/// Where a path of the guest is stored.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The partition or logical volume.
    pub partition: VolumeId,
    /// The path inside its file system, without symbolic links but perhaps for the last name.
    pub path: GuestPath,
}

/// What a path of the guest means.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The path without symbolic links, seen from the guest's root.
    pub path: GuestPath,
    /// Where that is stored.
    pub place: Place,
    /// What is there, if anything.
    pub metadata: Option<Metadata>,
}

#[derive(Clone, Debug)]
struct Mount {
    point: GuestPath,
    device: String,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Files(VolumeId, Arc<dyn FileSystem>),
    Other(String),
}

impl Source {
    fn volume(&self) -> Option<&VolumeId> {
        match self {
            Self::Files(volume, _) => Some(volume),
            Self::Other(_) => None,
        }
    }
}

impl Tree {
    /// Finds the root among `volumes`, or takes the volume `root`, and mounts what its `/etc/fstab` says.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoot`], [`Error::SeveralRoots`], [`Error::ReadOnly`] for systems whose root is not changed by writing files, and
    /// [`Error::FileSystem`], [`Error::TooManyMounts`].
    pub fn assemble(volumes: &[Volume], root: Option<&VolumeId>) -> Result<Self, Error> {
        let (partition, files) = root::find(volumes, root)?;
        let mut tree = Self {
            mounts: vec![Mount {
                point: GuestPath::root(),
                device: partition.described(),
                source: Source::Files(partition, files),
            }],
            seen: Arc::default(),
        };
        let table = tree.read("/etc/fstab", TABLE_MAX)?.unwrap_or_default();
        let mut entries: Vec<_> = fstab::decode(&table)
            .into_iter()
            .filter(fstab::FstabEntry::is_mounted)
            .filter_map(|entry| GuestPath::new(&entry.mount_point).ok().map(|point| (point, entry)))
            .filter(|(point, _)| *point != GuestPath::root())
            .collect();
        // Stable: of two for one folder the later hides the former.
        entries.sort_by_key(|(point, _)| point.components().count());
        if entries.len() > MOUNTS_MAX {
            return Err(Error::TooManyMounts);
        }
        let mut patience = Patience { names: MOUNTS_NAMES_MAX, looks: MOUNTS_LOOKS_MAX };
        for (point, entry) in entries {
            let resolved = tree.walk(&point, true, &mut patience);
            if patience.is_spent() {
                return Err(Error::TooManyMounts);
            }
            // A mount point below a file system that cannot be used is hidden with it.
            let Ok(resolved) = resolved else { continue };
            let volume = volumes.iter().find(|volume| volume.is(&entry.spec));
            let source = match (entry.detour(), volume.map(|volume| (volume.partition.clone(), &volume.content))) {
                (Some(reason), _) => Source::Other(reason.to_owned()),
                (None, Some((partition, VolumeContent::Files(files)))) => Source::Files(partition, Arc::clone(files)),
                (None, Some((_, VolumeContent::Other(reason)))) => Source::Other(reason.clone()),
                (None, None) => Source::Other("it is not on this disk".to_owned()),
            };
            tree.mounts.push(Mount { point: resolved.path, device: entry.spec, source });
            tree.seen = Arc::default();
        }
        Ok(tree)
    }

    /// Returns the partition or logical volume of the root.
    #[must_use]
    pub fn root_partition(&self) -> VolumeId {
        self.mounts.iter().find_map(|mount| mount.source.volume().cloned()).unwrap_or(VolumeId::Partition(0))
    }

    /// Returns the mount points, what is mounted there, and its volume where it can be used.
    pub fn mounts(&self) -> impl Iterator<Item = (&GuestPath, &str, Option<&VolumeId>)> {
        self.mounts.iter().map(|mount| (&mount.point, mount.device.as_str(), mount.source.volume()))
    }

    /// Resolves `path`, a link as its last name included. What does not exist resolves to where it would be made.
    ///
    /// # Errors
    ///
    /// [`Error::Mounted`] when it leads to a file system that cannot be used, [`Error::TooManyLinks`], [`Error::NotFolder`],
    /// [`Error::BadLink`], [`Error::FileSystem`].
    pub fn resolve(&self, path: &GuestPath) -> Result<Resolved, Error> {
        self.walk(path, true, &mut Patience::default()).map_err(|error| about(path, error))
    }

    /// Resolves `path`, but for a link as its last name.
    ///
    /// # Errors
    ///
    /// As [`Tree::resolve`].
    pub fn resolve_parent(&self, path: &GuestPath) -> Result<Resolved, Error> {
        self.walk(path, false, &mut Patience::default()).map_err(|error| about(path, error))
    }

    /// Returns what is known about `path`, links followed, or `None` when it does not exist or `path` is no guest path.
    ///
    /// # Errors
    ///
    /// As [`Tree::resolve`], but what is hidden or unreachable by its names does not exist.
    pub fn metadata(&self, path: &str) -> Result<Option<Metadata>, Error> {
        self.look(path, true)
    }

    /// Returns what is known about `path`, a link as its last name not followed.
    ///
    /// # Errors
    ///
    /// As [`Tree::metadata`].
    pub fn symlink_metadata(&self, path: &str) -> Result<Option<Metadata>, Error> {
        self.look(path, false)
    }

    /// Returns the contents of the regular file `path`, links followed, or `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`Error::FileSystem`], also when the file has more than `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(resolved) = self.found(path, true)? else { return Ok(None) };
        if resolved.metadata.is_none_or(|metadata| metadata.kind != FileKind::File) {
            return Ok(None);
        }
        self.read_place(&resolved.place, limit).map(Some)
    }

    /// Returns the entries of the folder `path`, links followed, or none when it is no folder.
    ///
    /// # Errors
    ///
    /// [`Error::FileSystem`], and [`Error::TooManyNames`] for a folder that no guest needs.
    pub fn read_dir(&self, path: &str) -> Result<Vec<DirEntry>, Error> {
        let Some(resolved) = self.found(path, true)? else { return Ok(Vec::new()) };
        let Some(metadata) = resolved.metadata.filter(|metadata| metadata.kind == FileKind::Directory) else {
            return Ok(Vec::new());
        };
        // Refused before it is read: its size bounds the names.
        if metadata.size > FOLDER_MAX {
            return Err(Error::TooManyNames(resolved.path));
        }
        let (partition, files, inner) = self.files(&resolved.path)?;
        files.read_dir(&inner).map_err(|source| Error::FileSystem { partition, source })
    }

    /// Returns the text of the link `path`, or `None` when it is no link or its text is not UTF-8.
    ///
    /// # Errors
    ///
    /// [`Error::FileSystem`].
    pub fn read_link(&self, path: &str) -> Result<Option<String>, Error> {
        let Some(resolved) = self.found(path, false)? else { return Ok(None) };
        if resolved.metadata.is_none_or(|metadata| metadata.kind != FileKind::Symlink) {
            return Ok(None);
        }
        let (partition, files, inner) = self.files(&resolved.path)?;
        let target = files.read_link(&inner).map_err(|source| Error::FileSystem { partition, source })?;
        Ok(String::from_utf8(target).ok())
    }

    /// Returns whether `path` exists, links followed.
    ///
    /// # Errors
    ///
    /// [`Error::FileSystem`].
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.metadata(path)?.is_some())
    }

    /// Returns the contents of a file by where it is stored.
    pub(crate) fn read_place(&self, place: &Place, limit: u64) -> Result<Vec<u8>, Error> {
        let partition = &place.partition;
        let files = self.mounts.iter().find_map(|mount| match &mount.source {
            Source::Files(volume, files) if volume == partition => Some(files),
            _ => None,
        });
        let files = files.ok_or_else(|| Error::NotFile(place.path.clone()))?;
        files.read(&place.path, limit).map_err(|source| Error::FileSystem { partition: partition.clone(), source })
    }

    fn look(&self, path: &str, follow: bool) -> Result<Option<Metadata>, Error> {
        Ok(self.found(path, follow)?.and_then(|resolved| resolved.metadata))
    }

    /// Resolves `path`; what the guest's files make unreachable counts as missing.
    fn found(&self, path: &str, follow: bool) -> Result<Option<Resolved>, Error> {
        let Ok(path) = GuestPath::new(path) else { return Ok(None) };
        match self.walk(&path, follow, &mut Patience::default()) {
            Ok(resolved) => Ok(Some(resolved)),
            Err(error @ Error::FileSystem { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Resolves `path`, while there is patience with the names and links on the way.
    fn walk(&self, path: &GuestPath, follow: bool, patience: &mut Patience) -> Result<Resolved, Error> {
        let mut pending: Vec<String> = path.components().rev().map(str::to_owned).collect();
        let mut real = GuestPath::root();
        let mut metadata = self.stat(&real, patience)?;
        let mut links = 0_u32;
        while let Some(name) = pending.pop() {
            patience.names = patience.names.saturating_sub(1);
            if patience.is_spent() {
                return Err(Error::TooManyLinks(path.clone()));
            }
            if name == ".." {
                real = real.parent().unwrap_or_else(GuestPath::root);
                metadata = self.stat(&real, patience)?;
                continue;
            }
            let next = real.join(&name).map_err(|_| Error::BadLink(path.clone()))?;
            if metadata.is_none() {
                if pending.iter().any(|name| name == "..") {
                    return Err(Error::BadLink(path.clone()));
                }
                real = next;
                continue;
            }
            if metadata.is_some_and(|metadata| metadata.kind != FileKind::Directory) {
                return Err(Error::NotFolder(real));
            }
            let found = self.stat(&next, patience)?;
            if found.is_some_and(|found| found.kind == FileKind::Symlink) && (follow || !pending.is_empty()) {
                links = links.saturating_add(1);
                if links > LINKS_MAX {
                    return Err(Error::TooManyLinks(path.clone()));
                }
                let target = self.target(&next)?;
                if target.starts_with('/') {
                    real = GuestPath::root();
                    metadata = self.stat(&real, patience)?;
                }
                pending.extend(target.split('/').rev().filter(|name| !matches!(*name, "" | ".")).map(str::to_owned));
                continue;
            }
            real = next;
            metadata = found;
        }
        let (partition, _, inner) = self.files(&real)?;
        Ok(Resolved { path: real, place: Place { partition, path: inner }, metadata })
    }

    fn target(&self, link: &GuestPath) -> Result<String, Error> {
        let (partition, files, inner) = self.files(link)?;
        let target = files.read_link(&inner).map_err(|source| Error::FileSystem { partition, source })?;
        String::from_utf8(target)
            .ok()
            .filter(|target| !target.is_empty() && target.len() <= 4095 && !target.contains('\0'))
            .ok_or_else(|| Error::BadLink(link.clone()))
    }

    fn stat(&self, real: &GuestPath, patience: &mut Patience) -> Result<Option<Metadata>, Error> {
        // A panic elsewhere leaves the map whole: each entry is inserted at once.
        if let Some(seen) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(real) {
            return Ok(*seen);
        }
        patience.looks = patience.looks.saturating_sub(real.components().count());
        let (partition, files, inner) = self.files(real)?;
        let found = match files.symlink_metadata(&inner) {
            Ok(metadata) => Some(metadata),
            Err(fs::Error::NotFound(_)) => None,
            Err(source) => return Err(Error::FileSystem { partition, source }),
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(real.clone(), found);
        Ok(found)
    }

    /// Returns the file system that holds a path without links, and the path inside.
    fn files(&self, real: &GuestPath) -> Result<(VolumeId, &dyn FileSystem, GuestPath), Error> {
        // OK to fall through: the root is a prefix of every path, and `mounts` begins with it.
        let longest = self
            .mounts
            .iter()
            .filter_map(|mount| real.strip_prefix(&mount.point).map(|inner| (mount, inner)))
            .max_by_key(|(mount, _)| mount.point.components().count());
        match longest {
            Some((Mount { source: Source::Files(partition, files), .. }, inner)) => {
                Ok((partition.clone(), files.as_ref(), inner))
            }
            Some((mount @ Mount { source: Source::Other(reason), .. }, _)) => Err(Error::Mounted {
                path: real.clone(),
                mount_point: mount.point.clone(),
                device: mount.device.clone(),
                reason: reason.clone(),
            }),
            None => Err(Error::NotFolder(real.clone())),
        }
    }
}

/// What finding paths may still take: links of a guest may say more names than anybody has time for.
struct Patience {
    /// Names on the way.
    names: usize,
    /// Names in folders that were not looked at before.
    looks: usize,
}

impl Patience {
    fn is_spent(&self) -> bool {
        self.names == 0 || self.looks == 0
    }
}

impl Default for Patience {
    /// Returns that with one path: the deepest that there is, and links that Linux would follow.
    fn default() -> Self {
        Self { names: 1 << 14, looks: 1 << 22 }
    }
}

/// Makes the error name the path that was asked for.
fn about(asked: &GuestPath, error: Error) -> Error {
    match error {
        Error::Mounted { mount_point, device, reason, .. } => {
            Error::Mounted { path: asked.clone(), mount_point, device, reason }
        }
        error => error,
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.partition.described(), self.path)
    }
}

/// Linux: `MAXSYMLINKS`.
const LINKS_MAX: u32 = 40;
const TABLE_MAX: u64 = 1 << 20;
/// The most bytes of a folder that is read: a guest's own folders of settings have a hundredth of it.
const FOLDER_MAX: u64 = 4 << 20;
/// The most file systems of a guest's table, and what finding their places may take: far more than any that is meant.
const MOUNTS_MAX: usize = 256;
const MOUNTS_NAMES_MAX: usize = 1 << 16;
const MOUNTS_LOOKS_MAX: usize = 1 << 16;
