//! A machine's disk in an NBD export.
//!
//! ```text
//! the first bytes          zeros: no partition table, no file system             flushed
//! everything behind them   base image, grown and edited                          flushed
//! the first bytes          from here on, the export is the new disk              flushed
//! ```
//!
//! An export has no second name under which a disk could be made and then be renamed. So whatever ends this on the way leaves an
//! export that nothing boots from, and no machine.

use std::collections::HashMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, Extent, ExtentKind, Hole};
use imgcore::image::{self, ConvertOptions, Disk, Format, WritableDisk};
use imgcore::nbd::Uri;

use super::Request;
use crate::context::Context;
use crate::domain::Export;
use crate::error::{CommandError, ErrorKind};
use crate::machine::{DiskRecord, MachineName};
use crate::open::{self, TrustArgs};
use crate::place::Place;
use crate::size::Size;
use crate::volumes::is_empty;

/// The export that becomes a machine's disk.
#[derive(Clone, Debug)]
pub(super) struct Target {
    uri: Uri,
    size: u64,
}

impl Target {
    /// Looks at the export at `address`: it must be writable, and hold nothing unless `force` gives that up.
    pub(super) fn look(context: &Context, address: &str, force: bool) -> Result<Self, CommandError> {
        let place = PathBuf::from(address);
        let Place::Export(uri) = Place::of(context, &place)? else {
            let message = format!("`{address}` is no address of an NBD export");
            return Err(CommandError::new(ErrorKind::Usage, message)
                .hint("as in `--target nbd://storage.example/web1`; a machine in files needs no target"));
        };
        let target = Self { size: 0, uri };
        // What the domain cannot be told is refused before anything else.
        target.export()?;
        let disk = target.writable(context)?;
        if !force && !is_empty(&disk)? {
            let message = format!("`{}` holds something already", target.uri);
            return Err(CommandError::new(ErrorKind::Refused, message).hint("`--force` overwrites it"));
        }
        Ok(Self { size: disk.size(), ..target })
    }

    /// Returns what the domain is told of it.
    pub(super) fn export(&self) -> Result<Export, CommandError> {
        Ok(Export::of(&self.uri)?)
    }

    /// Returns the bytes of the disk, which are those of the export.
    pub(super) fn size_for(&self, base: &dyn BlockRead) -> Result<u64, CommandError> {
        let refused = |message| Err(CommandError::new(ErrorKind::Refused, message));
        if self.size < base.size() {
            let (has, needs) = (Size(self.size), Size(base.size()));
            return refused(format!("`{}` has {has}, and the base image holds a disk of {needs}", self.uri));
        }
        if !self.size.is_multiple_of(SECTOR) {
            return refused(format!("`{}` has {} bytes, which are not whole sectors", self.uri, self.size));
        }
        Ok(self.size)
    }

    /// Makes the export read as `disk`.
    pub(super) fn write(&self, disk: &dyn BlockRead, context: &Context) -> Result<(), CommandError> {
        let mut target = self.writable(context)?;
        if target.size() != self.size {
            return Err(CommandError::new(ErrorKind::Refused, format!("`{}` has changed its size", self.uri)));
        }
        let front = ByteRange::new(0, FRONT.min(self.size)).unwrap_or_default();
        target.write_zeroes_at(front, Hole::Keep)?;
        target.flush()?;
        let watch = |_| if context.interrupt().is_set() { Err(interrupted()) } else { Ok(()) };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let options = ConvertOptions { threads, ..ConvertOptions::default() };
        let copied = image::convert_into(&Headless { disk, front }, &mut target, false, &options, &watch);
        // A signal is told as one.
        context.interrupt().check()?;
        copied?;
        let mut bytes = vec![0; usize::try_from(front.len()).unwrap_or_default()];
        disk.read_exact_at(&mut bytes, 0)?;
        target.write_all_at(&bytes, 0)?;
        Ok(target.close()?)
    }

    /// Opens it again, over a new connection.
    pub(super) fn open(&self, context: &Context) -> Result<Disk, CommandError> {
        open::open(context, self.uri.as_str().as_ref(), &open::options(Some(Format::Raw), TrustArgs::OWN))
    }

    /// Returns what the machine's record says of the disk.
    pub(super) fn record(&self, size: u64) -> Result<DiskRecord, CommandError> {
        Ok(DiskRecord { file: None, export: Some(self.export()?.address()), format: "raw".to_owned(), size })
    }

    fn writable(&self, context: &Context) -> Result<WritableDisk, CommandError> {
        open::open_writable(context, self.uri.as_str().as_ref(), &open::options(Some(Format::Raw), TrustArgs::OWN))
    }
}

/// Refuses machines that would share a disk.
pub(super) fn refuse_shared(requests: &[Request], context: &Context) -> Result<(), CommandError> {
    let mut seen: HashMap<String, &MachineName> = HashMap::new();
    for request in requests {
        let Some(address) = &request.settings.target else { continue };
        // What is wrong with an address is said of its machine alone.
        let Ok(Place::Export(uri)) = Place::of(context, Path::new(address)) else { continue };
        if let Some(other) = seen.insert(uri.to_string(), &request.name) {
            let message = format!("the machines `{other}` and `{}` have one target, `{uri}`", request.name);
            return Err(CommandError::new(ErrorKind::Usage, message).hint("every machine needs an export of its own"));
        }
    }
    Ok(())
}

fn interrupted() -> Error {
    Error::new(imgcore::block::ErrorKind::Io, "interrupted")
}

/// A disk whose first bytes read as zeros.
#[derive(Debug)]
struct Headless<'a> {
    disk: &'a dyn BlockRead,
    front: ByteRange,
}

impl BlockRead for Headless<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, offset)?;
        let hidden = self.front.end().saturating_sub(offset);
        let hidden = usize::try_from(hidden).unwrap_or(usize::MAX).min(buf.len());
        buf.get_mut(..hidden).unwrap_or_default().fill(0);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
        if self.front.contains(offset) {
            return Ok(Extent::new(self.front, ExtentKind::Zero));
        }
        let extent = self.disk.extent_at(offset)?;
        let range = ByteRange::new(extent.range.start().max(self.front.end()), extent.range.end());
        Ok(Extent::new(range.unwrap_or(extent.range), extent.kind))
    }
}

/// Bytes that are written last: partition tables, boot sector, superblock.
const FRONT: u64 = 64 << 10;

const SECTOR: u64 = 512;
