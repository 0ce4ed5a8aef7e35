//! Changes of bitmaps that a user asks for.

use super::store::{Sizes, follow, give_up, put_directory, put_new};
use super::{Bitmap, BitmapError, Bits, directory};
use crate::block::Resize;
use crate::qcow2::error::Error;
use crate::qcow2::header::Version;
use crate::qcow2::image::Image;

/// One change of a bitmap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BitmapChange {
    /// Make it, without marks and recording every write, with this many bytes for each bit; by default those of a cluster,
    /// but at least 4 KiB and at most 64 KiB.
    Add(Option<u64>),
    /// Remove it. This alone is possible with a bitmap that is in use.
    Remove,
    /// Remove all marks.
    Clear,
    /// Record every write from now on.
    Enable,
    /// Record nothing from now on.
    Disable,
    /// Mark what another bitmap of the image marks.
    Merge(String),
    /// Mark these as well. They must be for a disk of the same size.
    Mark(Bits),
}

/// A bitmap to be stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewBitmap {
    /// Its name, unique in the image and of at most 1023 bytes.
    pub name: String,
    /// Whether it records every write from now on.
    pub auto: bool,
    /// What it marks, and its granularity. They must be for a disk of the same size.
    pub bits: Bits,
}

/// What becomes of one bitmap.
struct Draft {
    /// As the directory will describe it; `None` where there will be none.
    bitmap: Option<Bitmap>,
    /// Whether the marks that are stored stay.
    keeps: bool,
    added: Bits,
}

impl<S: Resize> Image<S> {
    /// Changes the bitmap `name`: all of `changes`, one after the other, or none of them, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Bitmap`] when there is no such bitmap, or it does not allow a change, [`Error::Unsupported`] when the image
    /// cannot be written, [`Error::Corrupt`] when the directory breaks a rule, [`Error::Storage`].
    pub fn change_bitmap(&mut self, name: &str, changes: &[BitmapChange]) -> Result<(), Error> {
        self.close()?;
        self.check_writable()?;
        let mut bitmaps = self.bitmaps()?;
        let place = bitmaps.iter().position(|bitmap| bitmap.is_named(name));
        let old = place.and_then(|place| bitmaps.get(place)).cloned();
        let size = self.header.size;
        let granularity = old.as_ref().map_or(1, |bitmap| bitmap.granularity);
        let mut draft = Draft { bitmap: old.clone(), keeps: true, added: Bits::new(size, granularity) };
        for change in changes {
            self.apply(&mut draft, name, change)?;
        }
        let mut shadow = self.shadow()?;
        let keeps = draft.keeps && old.is_some();
        if let Some(old) = old.filter(|_| !keeps) {
            give_up(&mut shadow, &old)?;
        }
        if let Some(bitmap) = &mut draft.bitmap {
            let same = Sizes { old: size, new: size };
            match keeps {
                true => follow(&mut shadow, bitmap, same, Some(&draft.added))?,
                false => put_new(&mut shadow, bitmap, Some(&draft.added))?,
            }
        }
        match (place, draft.bitmap) {
            (Some(place), Some(bitmap)) => bitmaps.iter_mut().skip(place).take(1).for_each(|old| *old = bitmap.clone()),
            (Some(place), None) => drop(bitmaps.remove(place)),
            (None, new) => bitmaps.extend(new),
        }
        put_directory(&mut shadow, &bitmaps)?;
        shadow.commit()
    }

    /// Adds bitmaps: all of them or none, durably.
    ///
    /// # Errors
    ///
    /// As [`Image::change_bitmap`].
    pub fn store_bitmaps(&mut self, new: &[NewBitmap]) -> Result<(), Error> {
        self.close()?;
        self.check_writable()?;
        let mut bitmaps = self.bitmaps()?;
        let size = self.header.size;
        let first = bitmaps.len();
        for NewBitmap { name, auto, bits } in new {
            if bitmaps.iter().any(|bitmap| bitmap.is_named(name)) {
                return Err(BitmapError::Exists(name.clone()).into());
            }
            same_size(size, bits)?;
            bitmaps.push(Bitmap { auto: *auto, ..self.new_bitmap(name, Some(bits.granularity()))? });
        }
        let mut shadow = self.shadow()?;
        for (bitmap, new) in bitmaps.iter_mut().skip(first).zip(new) {
            put_new(&mut shadow, bitmap, Some(&new.bits))?;
        }
        put_directory(&mut shadow, &bitmaps)?;
        shadow.commit()
    }

    fn apply(&self, draft: &mut Draft, name: &str, change: &BitmapChange) -> Result<(), Error> {
        if let BitmapChange::Add(granularity) = change {
            if draft.bitmap.is_some() {
                return Err(BitmapError::Exists(name.to_owned()).into());
            }
            let bitmap = self.new_bitmap(name, *granularity)?;
            let added = Bits::new(self.header.size, bitmap.granularity);
            *draft = Draft { bitmap: Some(bitmap), keeps: false, added };
            return Ok(());
        }
        let bitmap = draft.bitmap.as_mut().ok_or_else(|| BitmapError::NotFound(name.to_owned()))?;
        if *change != BitmapChange::Remove {
            bitmap.usable()?;
        }
        let mut merge = |bits: &Bits| bits.runs().for_each(|run| draft.added.mark(run));
        match change {
            // Above.
            BitmapChange::Add(_) => {}
            BitmapChange::Remove => (draft.bitmap, draft.keeps) = (None, false),
            BitmapChange::Clear => {
                draft.keeps = false;
                draft.added = Bits::new(self.header.size, bitmap.granularity);
            }
            BitmapChange::Enable => bitmap.auto = true,
            BitmapChange::Disable => bitmap.auto = false,
            // What it marks, it marks already.
            BitmapChange::Merge(other) if other == name => {}
            BitmapChange::Merge(other) => merge(&self.bitmap_bits(other)?),
            BitmapChange::Mark(bits) => {
                same_size(self.header.size, bits)?;
                merge(bits);
            }
        }
        Ok(())
    }

    /// Returns a bitmap that is not stored yet.
    fn new_bitmap(&self, name: &str, granularity: Option<u64>) -> Result<Bitmap, Error> {
        if self.header.version == Version::V2 {
            return Err(BitmapError::NotHere("a version 2 image").into());
        }
        if self.header.size == 0 {
            return Err(BitmapError::NotHere("an empty disk").into());
        }
        if name.is_empty() || name.len() > directory::MAX_NAME {
            return Err(BitmapError::Name.into());
        }
        let geometry = self.geometry();
        let granularity = granularity.unwrap_or_else(|| geometry.cluster_size().clamp(4096, 65536));
        let bits = u8::try_from(granularity.trailing_zeros()).unwrap_or(u8::MAX);
        if !granularity.is_power_of_two() || !directory::GRANULARITY_BITS.contains(&bits) {
            return Err(BitmapError::Granularity(granularity).into());
        }
        let bitmap = Bitmap::unstored(name, granularity);
        match bitmap.entries_for(self.header.size, geometry) {
            Some(_) => Ok(bitmap),
            None => Err(BitmapError::TooLarge(name.to_owned()).into()),
        }
    }
}

fn same_size(size: u64, bits: &Bits) -> Result<(), BitmapError> {
    if bits.size() == size { Ok(()) } else { Err(BitmapError::Size { ours: size, theirs: bits.size() }) }
}
