//! An image as one of its internal snapshots shows it.

use super::error::Error;
use super::image::Image;
use super::table::read_words;
use super::{Corrupt, Snapshot};
use crate::block::BlockRead;

impl<S: BlockRead> Image<S> {
    /// Makes the image read as `snapshot`, one of its own, shows the disk. It cannot be written then.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the place of the snapshot's L1 table breaks a rule, [`Error::Unsupported`] when it is larger than
    /// QEMU's limit, [`Error::Storage`]. The image reads as before then.
    pub fn show_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        snapshot.check_l1(&self.header)?;
        let size = snapshot.disk_size.unwrap_or(self.header.size);
        if self.geometry().l1_entries(size) > snapshot.l1_entries {
            let rule = "the L1 table is too small for the disk";
            return Err(Corrupt::new("snapshot", snapshot.l1_offset.0, rule).into());
        }
        self.l1 = match snapshot.l1_entries {
            0 => Vec::new(),
            entries => read_words(&self.storage, "L1 table", snapshot.l1_offset, entries)?,
        };
        self.header.l1_offset = snapshot.l1_offset;
        self.header.l1_entries = snapshot.l1_entries;
        self.header.size = size;
        self.is_view = true;
        Ok(())
    }
}
