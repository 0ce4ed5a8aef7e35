//! Images as disks that a server can serve.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Extent, Hole, Joined};
use imgcore::image::{Disk, WritableDisk};
use imgcore::nbd::server::ServedDisk;
use imgcore::qcow2::{self, CreateOptions, Image};
use imgcore::storage::FileDisk;

use crate::context::Context;

/// An image that clients may write.
#[derive(Debug)]
pub(in crate::commands::nbd) struct Writable(pub(in crate::commands::nbd) WritableDisk);

/// An image that clients may read.
#[derive(Debug)]
pub(in crate::commands::nbd) struct ReadOnly(pub(in crate::commands::nbd) Disk);

/// A partition or logical volume of an image.
#[derive(Debug)]
pub(in crate::commands::nbd) struct Part(pub(in crate::commands::nbd) Joined<Box<dyn ServedDisk>>);

/// A client's own copy: what it writes is in a file without a name, gone with it.
#[derive(Debug)]
struct Overlay {
    image: Image<FileDisk>,
    base: Arc<Disk>,
}

/// Makes overlays over a disk.
#[derive(Debug)]
pub(in crate::commands::nbd) struct Overlays {
    base: Arc<Disk>,
    folder: PathBuf,
}

macro_rules! forward_read {
    ($name:ty, $field:tt) => {
        impl BlockRead for $name {
            fn size(&self) -> u64 {
                self.$field.size()
            }
            fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
                self.$field.read_exact_at(buf, offset)
            }
            fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
                self.$field.extent_at(offset)
            }
        }
    };
}

forward_read!(Writable, 0);
forward_read!(ReadOnly, 0);
forward_read!(Overlay, image);
forward_read!(Part, 0);

macro_rules! forward_write {
    ($name:ty) => {
        impl BlockWrite for $name {
            fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
                self.0.write_all_at(buf, offset)
            }
            fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
                self.0.write_zeroes_at(range, hole)
            }
            fn flush(&mut self) -> Result<(), Error> {
                self.0.flush()
            }
        }
    };
}

forward_write!(Writable);
forward_write!(Part);

impl ServedDisk for Writable {
    fn write_zeroes_fast(&mut self, range: ByteRange, hole: Hole) -> Result<bool, Error> {
        self.0.zero_fast(range, hole)
    }
    fn depth_at(&self, offset: u64) -> Result<(ByteRange, u32), Error> {
        self.0.depth_at(offset)
    }
    fn plain_file(&self) -> Option<File> {
        self.0.raw_file()?.file().try_clone().ok()
    }
    fn close(&mut self) -> Result<(), Error> {
        self.0.close()
    }
}

impl BlockWrite for ReadOnly {
    fn write_all_at(&mut self, _buf: &[u8], _offset: u64) -> Result<(), Error> {
        Err(read_only())
    }
    fn write_zeroes_at(&mut self, _range: ByteRange, _hole: Hole) -> Result<(), Error> {
        Err(read_only())
    }
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl ServedDisk for ReadOnly {
    fn depth_at(&self, offset: u64) -> Result<(ByteRange, u32), Error> {
        self.0.depth_at(offset)
    }
    fn plain_file(&self) -> Option<File> {
        self.0.raw_file()?.file().try_clone().ok()
    }
}

fn read_only() -> Error {
    Error::new(ErrorKind::ReadOnly, "the image is open for reading only")
}

impl ServedDisk for Part {
    fn close(&mut self) -> Result<(), Error> {
        self.0.disk_mut().close()
    }
}

impl BlockWrite for Overlay {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.image.write_all_at(buf, offset)
    }
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.image.write_zeroes_at(range, hole)
    }
    /// Does nothing: what will be dropped need not last.
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl ServedDisk for Overlay {
    fn write_zeroes_fast(&mut self, range: ByteRange, hole: Hole) -> Result<bool, Error> {
        self.image.write_zeroes_at(range, hole).map(|()| true)
    }
    fn depth_at(&self, offset: u64) -> Result<(ByteRange, u32), Error> {
        match self.image.layer_at(offset)? {
            qcow2::Layer::Zero(range) | qcow2::Layer::Data(range) => Ok((range, 1)),
            qcow2::Layer::Unallocated(range) if offset >= self.base.size() => Ok((range, 0)),
            qcow2::Layer::Unallocated(range) => {
                let (below, depth) = self.base.depth_at(offset)?;
                let depth = if depth == 0 { 0 } else { depth.saturating_add(1) };
                Ok((range.intersection(below).unwrap_or(range), depth))
            }
        }
    }
}

impl Overlays {
    /// Returns what makes overlays over `base`, in the folder for temporary files.
    pub(in crate::commands::nbd) fn new(base: Arc<Disk>, context: &Context) -> Self {
        let folder = context.variable("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        Self { base, folder: context.absolute(&folder) }
    }

    /// Returns an overlay that holds nothing yet.
    pub(in crate::commands::nbd) fn make(&self) -> Result<Box<dyn ServedDisk>, Error> {
        let made = tempfile::Builder::new().prefix("vmimg-nbd-").tempdir_in(&self.folder);
        let context = || format!("cannot make a temporary file in `{}`", self.folder.display());
        // The name is gone before anybody writes to it.
        let folder = made.map_err(|error| Error::from_io(context(), error))?;
        let mut file = FileDisk::create_new(&folder.path().join("overlay"))?;
        file.store_late();
        qcow2::create(&mut file, &CreateOptions::new(self.base.size()))?;
        let mut image = Image::open(file)?;
        image.set_backing(Arc::<Disk>::clone(&self.base));
        Ok(Box::new(Overlay { image, base: Arc::clone(&self.base) }))
    }
}
