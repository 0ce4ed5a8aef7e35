//! Opening an image and what lies below it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Layer;
use super::inspect::{format_of, inspect};
use super::location::Identity;
use super::policy::{beside, has_protocol};
use super::{Disk, Error, Format, Location, OpenPolicy, Storage, WritableDisk};
use crate::block;
use crate::qcow2::{self, Image, NewBacking, Repair};
use crate::storage::{Access, Lock, LockKind};

/// How an image is opened. The default trusts nothing that the image says about other files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenOptions {
    /// The declared format; without one it is guessed, see [`super::probe`].
    pub format: Option<Format>,
    /// What of the files that the image names may be opened.
    pub policy: OpenPolicy,
    /// Whether the backing chain and the data file are opened at all. Without them the image can be described, not read.
    pub follow: bool,
    /// Whether QEMU's locks are taken, so that the image does not change underneath.
    pub lock: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { format: None, policy: OpenPolicy::Nothing, follow: true, lock: true }
    }
}

/// Opens the image at `location` for reading, with its backing chain.
///
/// # Errors
///
/// [`Error::NotFollowed`] when the image needs a file that the policy forbids, [`Error::Loop`], [`Error::TooDeep`],
/// [`Error::ForeignFormat`] for a file that nobody declared and that is an image of another format, [`Error::Untrusted`],
/// [`Error::Qcow2`] for a corrupt or unsupported image, [`Error::Below`] when one of the files below cannot be used,
/// [`Error::Storage`] when the file cannot be opened, is in use or is neither a regular file nor a block device.
pub fn open<'a>(location: impl Into<Location<'a>>, options: &OpenOptions) -> Result<Disk, Error> {
    open_link(location.into(), options, &mut Vec::new())
}

/// Opens the image at `location` for writing, and its backing chain for reading.
///
/// # Errors
///
/// As [`open`]; [`Error::Qcow2`] also for an image in a state in which it must not be written.
pub fn open_writable<'a>(location: impl Into<Location<'a>>, options: &OpenOptions) -> Result<WritableDisk, Error> {
    let location = location.into();
    let mut seen = Vec::new();
    let mut disk = open_writable_layer(location, options, &mut seen)?;
    if let Layer::Qcow2(image) = &mut disk.layer {
        disk.backing = open_backing(location, image, options, &mut seen)?;
        if let Some(backing) = &disk.backing {
            let backing: Arc<Disk> = Arc::clone(backing);
            image.set_backing(backing);
        }
    }
    Ok(disk)
}

/// Opens one image of a chain for writing, without what lies below it; `seen` are the files above.
pub(super) fn open_writable_layer(
    location: Location<'_>,
    options: &OpenOptions,
    seen: &mut Vec<Identity>,
) -> Result<WritableDisk, Error> {
    let path = location.name();
    let (layer, lock) = open_alone(location, options, seen)?;
    let Layer::Qcow2(mut image) = layer else {
        return Ok(WritableDisk { layer, backing: None, lock, _data_lock: None });
    };
    let qcow2_error = |source| Error::Qcow2 { path: path.to_owned(), source };
    if image.is_dirty() && !image.is_corrupt() {
        // Spec: "make sure to scan L1/L2 tables to repair refcounts before accessing the image."
        image.repair(Repair::All).map_err(qcow2_error)?;
    }
    image.check_writable().map_err(qcow2_error)?;
    if options.follow {
        image.check_table_count().map_err(qcow2_error)?;
    }
    let data_lock = if options.follow { open_data_file(path, &mut image, Access::ReadWrite, options)? } else { None };
    if let Some(data_file) = image.data_storage() {
        // It is nothing that holds metadata, or another part of the chain.
        enter(data_file, seen)?;
    }
    Ok(WritableDisk { layer: Layer::Qcow2(image), backing: None, lock, _data_lock: data_lock })
}

/// Opens one image for writing, whatever state it is in, and nothing that it names; `seen` are the files above.
pub(super) fn open_alone(
    location: Location<'_>,
    options: &OpenOptions,
    seen: &mut Vec<Identity>,
) -> Result<(Layer, Option<Lock>), Error> {
    let path = location.name();
    let file = Storage::open(location, Access::ReadWrite)?;
    enter(&file, seen)?;
    let lock = lock(&file, LockKind::Write, options)?;
    if format_of(&file, options)? == Format::Raw {
        return Ok((Layer::Raw(file), lock));
    }
    let image = Image::open(file).map_err(|source| Error::Qcow2 { path: path.to_owned(), source })?;
    inspect(path, &image, options.policy)?;
    Ok((Layer::Qcow2(Box::new(image)), lock))
}

/// Opens the disk that `backing` names for a new image at `path`, with its backing chain.
///
/// A relative name begins at the folder of `path`. The policy is about the files that this disk names in its turn.
///
/// # Errors
///
/// [`Error::InvalidOptions`] when it is what is at `path` now, [`Error::UnknownFormat`], [`Error::NotFollowed`], otherwise
/// [`Error::Below`] with that of [`open`].
pub fn open_below(path: &Path, backing: &NewBacking, policy: OpenPolicy) -> Result<Disk, Error> {
    // The caller names this one.
    let below = OpenPolicy::PlainPaths.resolve(path, BACKING, &backing.name)?;
    let format = Some(backing.format.parse()?);
    let disk = open(&below, &OpenOptions { format, policy, ..OpenOptions::default() }).map_err(|source| Error::Below {
        what: BACKING,
        image: path.to_owned(),
        source: Box::new(source),
    })?;
    let this = disk.storage().identity()?;
    if path.metadata().is_ok_and(|old| (old.dev(), old.ino()) == this) {
        return Err(Error::InvalidOptions(format!("`{}` cannot be its own backing file", path.display())));
    }
    Ok(disk)
}

/// Opens the disk that `backing` names, with its backing chain, to lie below the image `above`, which may not be in it.
///
/// # Errors
///
/// As [`open_below`]; [`Error::Loop`].
pub(super) fn open_new_below(above: &Storage, backing: &NewBacking, options: &OpenOptions) -> Result<Disk, Error> {
    let path = above.path();
    // The caller names this one.
    refuse_relative(above.location(), &backing.name)?;
    let below = OpenPolicy::PlainPaths.resolve(path, BACKING, &backing.name)?;
    let options = OpenOptions { format: Some(backing.format.parse()?), ..*options };
    open_link(Location::File(&below), &options, &mut vec![above.identity()?]).map_err(|error| below_error(path, error))
}

/// Fails when `backing` is the image `above` itself; nothing is opened.
pub(super) fn refuse_itself(above: &Storage, backing: &NewBacking) -> Result<(), Error> {
    let below = beside(above.path(), &backing.name);
    let this = above.identity()?;
    if !has_protocol(&backing.name) && below.metadata().is_ok_and(|named| (named.dev(), named.ino()) == this) {
        return Err(Error::Loop(below));
    }
    Ok(())
}

/// Opens the image at `location` for reading over `backing`, whatever the image itself says lies below it.
///
/// # Errors
///
/// As [`open`]; [`Error::InvalidOptions`] when its format knows no backing files.
pub fn open_over<'a>(location: impl Into<Location<'a>>, options: &OpenOptions, backing: Disk) -> Result<Disk, Error> {
    let mut disk = open_layer(location.into(), options, &mut Vec::new())?;
    let Layer::Qcow2(image) = &mut disk.layer else {
        return Err(Error::InvalidOptions("the format `raw` has no backing file".to_owned()));
    };
    let backing = Arc::new(backing);
    let below: Arc<Disk> = Arc::clone(&backing);
    image.set_backing(below);
    disk.backing = Some(backing);
    Ok(disk)
}

/// Opens one image of a chain and what lies below it; `seen` are the files above.
pub(super) fn open_link(location: Location<'_>, options: &OpenOptions, seen: &mut Vec<Identity>) -> Result<Disk, Error> {
    let mut disk = open_layer(location, options, seen)?;
    if let Layer::Qcow2(image) = &mut disk.layer {
        disk.backing = open_backing(location, image, options, seen)?;
        if let Some(backing) = &disk.backing {
            let backing: Arc<Disk> = Arc::clone(backing);
            image.set_backing(backing);
        }
    }
    Ok(disk)
}

/// Opens one image of a chain without what lies below it; `seen` are the files above.
pub(super) fn open_layer(location: Location<'_>, options: &OpenOptions, seen: &mut Vec<Identity>) -> Result<Disk, Error> {
    let path = location.name();
    let file = Storage::open(location, Access::Read)?;
    enter(&file, seen)?;
    let lock = lock(&file, LockKind::Read, options)?;
    let format = format_of(&file, options)?;
    if format == Format::Raw {
        return Ok(Disk { layer: Layer::Raw(file), backing: None, lock, _data_lock: None });
    }
    let qcow2_error = |source| Error::Qcow2 { path: path.to_owned(), source };
    let mut image = Image::open(file).map_err(qcow2_error)?;
    inspect(path, &image, options.policy)?;
    if options.follow {
        image.check_table_count().map_err(qcow2_error)?;
    }
    let data_lock = if options.follow { open_data_file(path, &mut image, Access::Read, options)? } else { None };
    Ok(Disk { layer: Layer::Qcow2(Box::new(image)), backing: None, lock, _data_lock: data_lock })
}

/// Adds `file` to those of its chain, unless it is one of them already.
fn enter(file: &Storage, seen: &mut Vec<Identity>) -> Result<(), Error> {
    let this = file.identity()?;
    if seen.contains(&this) {
        return Err(Error::Loop(file.path().to_owned()));
    }
    if seen.len() >= MAX_CHAIN {
        return Err(Error::TooDeep(MAX_CHAIN));
    }
    seen.push(this);
    Ok(())
}

fn open_backing(
    location: Location<'_>,
    image: &Image<Storage>,
    options: &OpenOptions,
    seen: &mut Vec<Identity>,
) -> Result<Option<Arc<Disk>>, Error> {
    let Some((below, options)) = backing_of(location, image, options)? else { return Ok(None) };
    let disk = open_link(Location::File(&below), &options, seen).map_err(|error| below_error(location.name(), error))?;
    Ok(Some(Arc::new(disk)))
}

/// Returns the path of the backing file that `image`, at `location`, names, and how to open it; `None` when there is none to open.
pub(super) fn backing_of(
    location: Location<'_>,
    image: &Image<Storage>,
    options: &OpenOptions,
) -> Result<Option<(PathBuf, OpenOptions)>, Error> {
    let Some(named) = image.backing_file().filter(|_| options.follow) else { return Ok(None) };
    let path = location.name();
    let below = options.policy.resolve(path, BACKING, &named.name)?;
    refuse_relative(location, &named.name)?;
    // Without a recorded format QEMU guesses as well; images that are not trusted were refused above.
    let format = named.format.map(|format| format.parse()).transpose().map_err(|error| below_error(path, error))?;
    Ok(Some((below, OpenOptions { format, ..*options })))
}

/// Returns the error of the image at `path` whose backing file cannot be opened.
pub(super) fn below_error(path: &Path, error: Error) -> Error {
    match error {
        chain @ (Error::Loop(_) | Error::TooDeep(_) | Error::Below { .. }) => chain,
        source => Error::Below { what: BACKING, image: path.to_owned(), source: Box::new(source) },
    }
}

fn open_data_file(
    path: &Path,
    image: &mut Image<Storage>,
    access: Access,
    options: &OpenOptions,
) -> Result<Option<Lock>, Error> {
    let Some(named) = image.data_file() else { return Ok(None) };
    let Some(name) = named.name else {
        return Err(Error::Qcow2 { path: path.to_owned(), source: qcow2::Unsupported::DataFile.into() });
    };
    // Unlike a backing file's name, QEMU takes this one relative to the working folder.
    let below = options.policy.check(path, DATA_FILE, &name).map(PathBuf::from)?;
    let wrap = |source: block::Error| Error::Below { what: DATA_FILE, image: path.to_owned(), source: Box::new(source.into()) };
    let file = Storage::open(Location::File(&below), access).map_err(wrap)?;
    let kind = if access == Access::Read { LockKind::Read } else { LockKind::Write };
    let lock = lock(&file, kind, options).map_err(wrap)?;
    image.set_data_file(file);
    Ok(lock)
}

/// Takes QEMU's lock on a file; an export has its server to see to that.
fn lock(storage: &Storage, kind: LockKind, options: &OpenOptions) -> Result<Option<Lock>, block::Error> {
    storage.as_file().filter(|_| options.lock).map(|file| Lock::acquire(file, kind)).transpose()
}

/// Refuses a relative name of a backing file in an image that has no folder.
pub(super) fn refuse_relative(location: Location<'_>, name: &[u8]) -> Result<(), Error> {
    if matches!(location, Location::File(_)) || name.starts_with(b"/") {
        return Ok(());
    }
    Err(Error::NotFollowed {
        image: location.name().to_owned(),
        what: BACKING,
        name: String::from_utf8_lossy(name).escape_debug().to_string(),
        why: "a relative name begins at a folder, and an export has none",
    })
}

/// Images in the longest chain, as QEMU has no more than that in practice.
pub(super) const MAX_CHAIN: usize = 200;

pub(super) const BACKING: &str = "the backing file";
pub(super) const DATA_FILE: &str = "the data file";
