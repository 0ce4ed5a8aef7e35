//! Recording what changes while the disk is written.
//!
//! ```text
//! mark: in_use set, durably | the disk changes; marks in memory … | close: marks stored, in_use cleared, in one step
//! ```
//!
//! A cut before the end leaves the bitmaps in use, which says that they may have missed something.

use super::store::{Sizes, follow, give_up, put_directory};
use super::{Bitmap, BitmapError, Bits, IN_USE};
use crate::block::{ByteRange, Resize};
use crate::qcow2::error::Error;
use crate::qcow2::image::Image;
use crate::qcow2::shadow::Shadow;

/// What bitmaps are to be told about the writing.
#[derive(Debug)]
pub(in crate::qcow2) struct Recording {
    /// The directory as it was, with all flags; the host offsets are valid still.
    bitmaps: Vec<Entry>,
    /// Bytes of the disk before.
    size: u64,
    /// What has changed, at the finest granularity of the bitmaps that record; `None` where none does.
    changed: Option<Bits>,
}

#[derive(Debug)]
struct Entry {
    bitmap: Bitmap,
    /// Whether it is marked as in use, and to be stored in the end.
    marked: bool,
}

impl<S: Resize> Image<S> {
    /// Marks the bitmaps that record changes as in use, durably, before the first change.
    pub(in crate::qcow2) fn start_recording(&mut self) -> Result<(), Error> {
        if self.recording.is_some() {
            return Ok(());
        }
        let bitmaps = self.bitmaps()?;
        let records = |bitmap: &&Bitmap| bitmap.auto && !bitmap.in_use;
        if let Some(unusable) = bitmaps.iter().filter(records).find(|bitmap| !bitmap.is_usable()) {
            // It must be left as it is, and would be wrong then.
            return Err(BitmapError::ExtraData(unusable.name.clone()).into());
        }
        let finest = bitmaps.iter().filter(records).map(|bitmap| bitmap.granularity).min();
        let entries = bitmaps.into_iter().map(|bitmap| Entry { bitmap, marked: false }).collect();
        let size = self.header.size;
        let changed = finest.map(|granularity| Bits::new(size, granularity));
        let mut recording = Recording { bitmaps: entries, size, changed };
        self.mark(&mut recording, |bitmap| bitmap.auto)?;
        self.recording = Some(Box::new(recording));
        Ok(())
    }

    /// Marks the bitmaps that do not record changes as well, as their size will not be that of the disk.
    ///
    /// Writing must have begun, and [`Image::check_bitmaps_follow`] must have found nothing.
    pub(in crate::qcow2) fn mark_all_bitmaps(&mut self, size: u64) -> Result<(), Error> {
        let Some(mut recording) = self.recording.take() else { return Ok(()) };
        if let Some(changed) = &mut recording.changed {
            changed.grow(size);
        }
        let marked = self.mark(&mut recording, |_| true);
        self.recording = Some(recording);
        marked
    }

    /// Checks that all bitmaps can follow a change of the disk's size.
    ///
    /// # Errors
    ///
    /// [`Error::Bitmap`] for one that is inconsistent, has extra data, or would become too large.
    pub(in crate::qcow2) fn check_bitmaps_follow(&self, size: u64) -> Result<(), Error> {
        // Those that are marked as in use here are not lost.
        let recorded = self.recording.as_ref().map(|recording| recording.bitmaps.iter().map(|entry| entry.bitmap.clone()));
        let bitmaps = match recorded {
            Some(bitmaps) => bitmaps.collect(),
            None => self.bitmaps()?,
        };
        for bitmap in bitmaps {
            bitmap.usable()?;
            bitmap.entries_for(size, self.geometry()).ok_or_else(|| BitmapError::TooLarge(bitmap.name.clone()))?;
        }
        Ok(())
    }

    fn mark(&mut self, recording: &mut Recording, which: impl Fn(&Bitmap) -> bool) -> Result<(), Error> {
        let mut written = false;
        for Entry { bitmap, marked } in &mut recording.bitmaps {
            if !*marked && !bitmap.in_use && which(bitmap) {
                // Spec: "Flag in_use should be set while the bitmap is not synced."
                let flags = bitmap.flags() | IN_USE;
                self.storage.write_all_at(&flags.to_be_bytes(), bitmap.flags_offset.0)?;
                *marked = true;
                written = true;
            }
        }
        if written { Ok(self.storage.flush()?) } else { Ok(()) }
    }

    /// Notes that `range` of the disk changes.
    ///
    /// Spec: "The bitmap must reflect all changes of the virtual disk by any application that would write to this qcow2 file"
    pub(in crate::qcow2) fn note_change(&mut self, range: ByteRange) {
        if let Some(changed) = self.recording.as_mut().and_then(|recording| recording.changed.as_mut()) {
            changed.mark(range);
        }
    }

    /// Stores all that was written and then what the bitmaps have recorded, durably. The image can be written again.
    ///
    /// Without it, bitmaps that record changes stay marked as in use, and nobody will trust them again.
    ///
    /// # Errors
    ///
    /// The failure of the storage; bitmaps stay in use then.
    pub fn close(&mut self) -> Result<(), Error> {
        if self.writing.is_some() || self.failed {
            self.store()?;
        }
        let Some(recording) = self.recording.take() else { return Ok(()) };
        // Whatever writing begins next marks them again.
        self.writing = None;
        if recording.bitmaps.iter().all(|entry| !entry.marked) {
            return Ok(());
        }
        let mut lost = Vec::new();
        while let Err((index, error)) = self.store_recording(&recording, &lost) {
            // A bitmap that cannot be read stays in use; the others are stored.
            match (error, index) {
                (Error::Corrupt(_), Some(index)) if lost.len() < MOST_LOST => lost.push(index),
                (Error::Corrupt(_), Some(_)) => return Ok(()),
                (error, _) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stores the bitmaps of a recording but for those at `lost`. The index is that of the bitmap which failed.
    fn store_recording(&mut self, recording: &Recording, lost: &[usize]) -> Result<(), (Option<usize>, Error)> {
        let other = |error| (None, error);
        let mut shadow = self.shadow().map_err(other)?;
        let sizes = Sizes { old: recording.size, new: shadow.header.size };
        let mut bitmaps = Vec::with_capacity(recording.bitmaps.len());
        for (index, Entry { bitmap, marked }) in recording.bitmaps.iter().enumerate() {
            let mut bitmap = bitmap.clone();
            if lost.contains(&index) {
                bitmap.in_use = true;
            } else if *marked {
                let changed = recording.changed.as_ref().filter(|_| bitmap.auto);
                follow(&mut shadow, &mut bitmap, sizes, changed).map_err(|error| (Some(index), error))?;
            }
            bitmaps.push(bitmap);
        }
        put_directory(&mut shadow, &bitmaps).map_err(other)?;
        shadow.commit().map_err(other)
    }
}

impl<S: Resize> Shadow<'_, S> {
    /// Removes all bitmaps.
    pub(in crate::qcow2) fn drop_bitmaps(&mut self) -> Result<(), Error> {
        for bitmap in self.image().bitmaps()? {
            give_up(self, &bitmap)?;
        }
        put_directory(self, &[])
    }

    /// Lets all bitmaps follow a change of the disk's size, which [`Image::check_bitmaps_follow`] has allowed. None may be
    /// recording.
    pub(in crate::qcow2) fn resize_bitmaps(&mut self, size: u64) -> Result<(), Error> {
        let mut bitmaps = self.image().bitmaps()?;
        let sizes = Sizes { old: self.image().header.size, new: size };
        for bitmap in &mut bitmaps {
            follow(self, bitmap, sizes, None)?;
        }
        if bitmaps.is_empty() { Ok(()) } else { put_directory(self, &bitmaps) }
    }
}

/// The most bitmaps that are found to be corrupt one by one, before all of them stay in use.
const MOST_LOST: usize = 8;
