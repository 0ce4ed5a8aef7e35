//! The traits through references and smart pointers.

use std::sync::Arc;

use super::{BlockRead, BlockWrite, ByteRange, Error, Extent, Hole, Resize};

macro_rules! forward_read {
    ($($pointer:ty),+) => {$(
        impl<D: BlockRead + ?Sized> BlockRead for $pointer {
            fn size(&self) -> u64 {
                (**self).size()
            }
            fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
                (**self).read_exact_at(buf, offset)
            }
            fn extent_at(&self, offset: u64) -> Result<Extent, Error> {
                (**self).extent_at(offset)
            }
        }
    )+};
}

macro_rules! forward_write {
    ($($pointer:ty),+) => {$(
        impl<D: BlockWrite + ?Sized> BlockWrite for $pointer {
            fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
                (**self).write_all_at(buf, offset)
            }
            fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
                (**self).write_zeroes_at(range, hole)
            }
            fn write_from_at(&mut self, source: &Arc<dyn BlockRead>, from: u64, range: ByteRange) -> Result<(), Error> {
                (**self).write_from_at(source, from, range)
            }
            fn flush(&mut self) -> Result<(), Error> {
                (**self).flush()
            }
        }
        impl<D: Resize + ?Sized> Resize for $pointer {
            fn resize(&mut self, size: u64) -> Result<(), Error> {
                (**self).resize(size)
            }
        }
    )+};
}

forward_read!(&D, &mut D, Box<D>, Arc<D>);
forward_write!(&mut D, Box<D>);
