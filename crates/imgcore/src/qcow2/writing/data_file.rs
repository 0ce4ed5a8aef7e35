//! Guest clusters in an external data file: each at its own guest offset, and none of them counted.

use crate::block::{BlockRead, ByteRange, Hole, Resize};
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::feature;
use crate::qcow2::image::Image;
use crate::qcow2::offset::{GuestOffset, HostOffset, to_usize};
use crate::qcow2::table::len_of;

impl<S: BlockRead> Image<S> {
    /// Returns whether the data file is a raw image by itself.
    ///
    /// Spec: "Raw external data … the external data file can be read as a consistent standalone raw image without looking at
    /// the qcow2 metadata": zeros are zeros there as well.
    pub(in crate::qcow2) fn has_raw_data_file(&self) -> bool {
        self.has_data_file() && self.header.autoclear & feature::RAW_DATA_FILE != 0
    }
}

impl<S: Resize> Image<S> {
    /// Returns the data file.
    ///
    /// # Errors
    ///
    /// [`Unsupported::DataFile`] when the caller did not give it.
    pub(super) fn data_file_mut(&mut self) -> Result<&mut S, Error> {
        self.data_file.as_mut().ok_or_else(|| Unsupported::DataFile.into())
    }

    /// Returns a place for the guest cluster at `guest`, which has none of its own.
    pub(super) fn allocate_guest(&mut self, guest: GuestOffset) -> Result<HostOffset, Error> {
        // Spec: "If this bit is set, … guest clusters are stored in the external data file … the offset field in the Standard
        // Cluster Descriptor must match the guest offset"
        if self.has_data_file() { Ok(HostOffset(self.geometry().align_down(guest.0))) } else { self.allocate() }
    }

    /// Gives up the place of a guest cluster, once nothing stored refers to it any more.
    pub(super) fn free_guest(&mut self, host: HostOffset) -> Result<(), Error> {
        if self.has_data_file() { Ok(()) } else { self.free(host, self.geometry().cluster_size()) }
    }

    /// Writes guest bytes to the data file, but for what lies behind the end of the disk.
    pub(super) fn write_data_file(&mut self, bytes: &[u8], host: HostOffset) -> Result<(), Error> {
        let inside = to_usize(self.header.size.saturating_sub(host.0)).min(bytes.len());
        let bytes = bytes.get(..inside).unwrap_or_default();
        let file = self.data_file_mut()?;
        let end = host.plus(len_of(bytes)).0;
        if end > file.size() {
            file.resize(end)?;
        }
        Ok(file.write_all_at(bytes, host.0)?)
    }

    /// Zeroes `range` of the data file, as far as it reaches.
    pub(super) fn zero_data_file(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        let file = self.data_file_mut()?;
        let inside = ByteRange::new(0, file.size()).and_then(|all| all.intersection(range));
        inside.map_or(Ok(()), |inside| Ok(file.write_zeroes_at(inside, hole)?))
    }

    /// Gives the data file the size that the disk will have; what is new there are zeros.
    pub(super) fn resize_data_file(&mut self, old: u64, size: u64) -> Result<(), Error> {
        if !self.has_data_file() {
            return Ok(());
        }
        let file = self.data_file_mut()?;
        if file.size() > old {
            file.resize(old)?;
        }
        file.resize(size)?;
        Ok(file.flush()?)
    }
}
