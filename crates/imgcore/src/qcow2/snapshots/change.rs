//! Taking, applying and deleting snapshots.

use super::table::encode;
use super::{NewSnapshot, Snapshot, SnapshotError};
use crate::block::Resize;
use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::header::MAX_L1;
use crate::qcow2::image::Image;
use crate::qcow2::offset::{HostOffset, to_u64, to_usize};
use crate::qcow2::shadow::{L1, Shadow};
use crate::qcow2::table::len_of;

impl<S: Resize> Image<S> {
    /// Keeps the disk as it is in a new snapshot, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when the image cannot be written, has as many snapshots as it may have, or its refcounts are too
    /// narrow for one more reference; [`Error::Corrupt`] when a table breaks a rule; [`Error::Storage`]. The image is as it was
    /// then.
    pub fn create_snapshot(&mut self, new: &NewSnapshot) -> Result<(), Error> {
        self.prepare_snapshots()?;
        let mut shadow = self.shadow()?;
        let old = shadow.image().snapshots()?;
        let last = old.iter().map(Snapshot::number).max().unwrap_or(0);
        let id = last.checked_add(1).ok_or(SnapshotError::NoNumber)?;
        let active = shadow.active_l1()?;
        let shared = shadow.share_tables(&active)?;
        let mut snapshot = Snapshot::unstored(id, new, shadow.header.size);
        snapshot.l1_offset = shadow.put_l1(&shared)?;
        snapshot.l1_entries = to_u64(shared.len());
        shadow.replace_l1(&shared)?;
        let mut snapshots = old.clone();
        snapshots.push(snapshot);
        shadow.replace_snapshots(&old, &snapshots)?;
        shadow.commit()
    }

    /// Makes the disk what it was when the snapshot was taken, durably: the one whose id is `which`, or else whose name it is.
    /// What was written since then is gone, unless another snapshot keeps it.
    ///
    /// # Errors
    ///
    /// [`Error::Snapshot`] when there is no such snapshot or the image has bitmaps, otherwise as [`Image::create_snapshot`].
    pub fn apply_snapshot(&mut self, which: &str) -> Result<(), Error> {
        self.prepare_snapshots()?;
        let snapshots = self.snapshots()?;
        let by_id = snapshots.iter().find(|snapshot| snapshot.id == which);
        let snapshot = by_id.or_else(|| snapshots.iter().find(|snapshot| snapshot.name == which));
        let snapshot = snapshot.ok_or_else(|| SnapshotError::NotFound(which.to_owned()))?;
        // Spec: "The bitmap must reflect all changes of the virtual disk … (including writes, snapshot switching, etc.)."
        if !self.bitmaps()?.is_empty() {
            return Err(SnapshotError::Bitmaps.into());
        }
        let mut shadow = self.shadow()?;
        let size = snapshot.disk_size.unwrap_or(shadow.header.size);
        let entries = shadow.header.geometry.l1_entries(size);
        if entries.saturating_mul(8) > MAX_L1 {
            return Err(Unsupported::TooLarge("L1 table", MAX_L1).into());
        }
        let (old, mut new) = (shadow.active_l1()?, shadow.snapshot_l1(snapshot)?);
        // What is behind the entries for the disk is the state of the machine.
        new.words.resize(to_usize(entries), 0);
        let active = shadow.switch_tables(&old, &new)?;
        shadow.replace_l1(&active)?;
        shadow.header.size = size;
        shadow.commit()
    }

    /// Deletes the first snapshot of a name, durably. What it alone refers to is free.
    ///
    /// # Errors
    ///
    /// As [`Image::apply_snapshot`]; bitmaps are no obstacle.
    pub fn delete_snapshot(&mut self, name: &str) -> Result<(), Error> {
        self.prepare_snapshots()?;
        let old = self.snapshots()?;
        let place = old.iter().position(|snapshot| snapshot.name == name);
        let place = place.ok_or_else(|| SnapshotError::NotFound(name.to_owned()))?;
        let mut rest = old.clone();
        let snapshot = rest.remove(place);
        let mut shadow = self.shadow()?;
        let tables = shadow.snapshot_l1(&snapshot)?;
        shadow.drop_tables(&tables.words)?;
        shadow.refer(snapshot.l1_offset, snapshot.l1_entries.saturating_mul(8), -1)?;
        shadow.replace_snapshots(&old, &rest)?;
        let active = shadow.active_l1()?;
        let marked = shadow.mark_tables(&active)?;
        shadow.replace_l1(&marked)?;
        shadow.commit()
    }

    /// Stores what waits, and fails for an image whose snapshots cannot be changed.
    fn prepare_snapshots(&mut self) -> Result<(), Error> {
        // Spec: "neither compressed clusters nor internal snapshots are supported", of external data files.
        if self.has_data_file() {
            return Err(SnapshotError::DataFile.into());
        }
        self.close()?;
        self.check_writable()
    }
}

impl<S: Resize> Shadow<'_, S> {
    /// Reads the L1 table of a snapshot.
    pub(in crate::qcow2) fn snapshot_l1(&mut self, snapshot: &Snapshot) -> Result<L1, Error> {
        snapshot.check_l1(&self.header)?;
        self.read_l1(snapshot.l1_offset, snapshot.l1_entries)
    }

    /// Puts another snapshot table in the place of the old one.
    pub(in crate::qcow2) fn replace_snapshots(&mut self, old: &[Snapshot], new: &[Snapshot]) -> Result<(), Error> {
        let (place, len) = (self.header.snapshots_offset, old.iter().map(|snapshot| to_u64(snapshot.stored_len())).sum());
        self.refer(place, len, -1)?;
        let bytes = encode(new)?;
        self.header.snapshot_count = u32::try_from(new.len()).unwrap_or(u32::MAX);
        // Spec: "Offset into the image file at which the snapshot table starts. Must be aligned to a cluster boundary."
        self.header.snapshots_offset = match self.header.geometry.clusters(len_of(&bytes)) {
            0 => HostOffset(0),
            clusters => self.allocate(clusters)?,
        };
        if bytes.is_empty() { Ok(()) } else { self.write(self.header.snapshots_offset, &bytes) }
    }
}
