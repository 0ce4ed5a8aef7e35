//! Storing bitmaps: what changes goes to free clusters, the rest stays where it is.

use super::read::clear_from;
use super::{Bitmap, BitmapError, Bits, Part, Place, directory, read_table, table};
use crate::block::Resize;
use crate::qcow2::error::Error;
use crate::qcow2::extension::Extension;
use crate::qcow2::feature;
use crate::qcow2::offset::HostOffset;
use crate::qcow2::shadow::Shadow;
use crate::qcow2::table::{is_zero, len_of, read_stored};

/// The sizes of a disk, in bytes, before and after a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) old: u64,
    pub(super) new: u64,
}

/// Lets a bitmap follow the size of the disk, and marks in it what `added` marks; new space is not marked.
pub(super) fn follow<S: Resize>(
    shadow: &mut Shadow<'_, S>,
    bitmap: &mut Bitmap,
    sizes: Sizes,
    added: Option<&Bits>,
) -> Result<(), Error> {
    let geometry = shadow.image().geometry();
    let old = read_table(&shadow.image().storage, geometry, bitmap.table, bitmap.table_entries)?;
    let parts = change_parts(shadow, bitmap, old.clone(), sizes, added)?;
    if parts == old {
        return Ok(());
    }
    let len = bitmap.table_entries.saturating_mul(8);
    shadow.refer(bitmap.table, len, -1)?;
    put_table(shadow, bitmap, &parts)
}

/// Stores a bitmap that is not stored yet, or whose clusters have been given up.
pub(super) fn put_new<S: Resize>(shadow: &mut Shadow<'_, S>, bitmap: &mut Bitmap, bits: Option<&Bits>) -> Result<(), Error> {
    let size = shadow.header.size;
    let parts = change_parts(shadow, bitmap, Vec::new(), Sizes { old: 0, new: size }, bits)?;
    put_table(shadow, bitmap, &parts)
}

/// Gives up the clusters of a bitmap. What a corrupt one names and nothing counts is left alone, so that it can be removed.
pub(super) fn give_up<S: Resize>(shadow: &mut Shadow<'_, S>, bitmap: &Bitmap) -> Result<(), Error> {
    let geometry = shadow.image().geometry();
    let parts = match read_table(&shadow.image().storage, geometry, bitmap.table, bitmap.table_entries) {
        Ok(parts) => parts,
        Err(Error::Corrupt(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    for part in parts {
        lenient(free(shadow, part))?;
    }
    lenient(shadow.refer(bitmap.table, bitmap.table_entries.saturating_mul(8), -1))
}

/// Returns the result of giving something up, where nothing wrong is that it is free already.
fn lenient(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Corrupt(_)) => Ok(()),
        other => other,
    }
}

/// Stores the directory, or takes it away with the last bitmap.
pub(super) fn put_directory<S: Resize>(shadow: &mut Shadow<'_, S>, bitmaps: &[Bitmap]) -> Result<(), Error> {
    if let Some(old) = Place::find(&shadow.image().header)? {
        shadow.refer(old.offset, old.len, -1)?;
    }
    shadow.header.extensions.retain(|extension| extension.kind != Extension::BITMAPS);
    if bitmaps.is_empty() {
        shadow.header.autoclear &= !feature::BITMAPS;
        return Ok(());
    }
    let bytes = directory::encode(bitmaps);
    let count = u32::try_from(bitmaps.len()).ok().filter(|count| *count <= directory::MAX_BITMAPS);
    let place = Place { offset: put(shadow, &bytes)?, len: len_of(&bytes), count: count.ok_or(BitmapError::TooMany)? };
    shadow.header.extensions.insert(0, place.extension());
    shadow.header.autoclear |= feature::BITMAPS;
    shadow.header.drop_names_without_room();
    Ok(())
}

/// Returns the parts of a bitmap for the new size, with what `added` marks; clusters that none of them names are given up.
fn change_parts<S: Resize>(
    shadow: &mut Shadow<'_, S>,
    bitmap: &Bitmap,
    mut parts: Vec<Part>,
    sizes: Sizes,
    added: Option<&Bits>,
) -> Result<Vec<Part>, Error> {
    let geometry = shadow.image().geometry();
    let each = geometry.cluster_size().saturating_mul(8);
    let entries = bitmap.entries_for(sizes.new, geometry).ok_or_else(|| BitmapError::TooLarge(bitmap.name.clone()))?;
    let entries = super::to_usize(entries);
    for part in parts.drain(entries.min(parts.len())..) {
        free(shadow, part)?;
    }
    parts.resize(entries, Part::Zeros);
    let limits = [sizes.old, sizes.new].map(|size| size.div_ceil(bitmap.granularity));
    let mut next = 0_u64;
    let added = added.map(|added| added.with_granularity(bitmap.granularity));
    // Where the disk ends, bits beyond the end come and go.
    let ends = limits.map(|bits| bits.saturating_sub(1).checked_div(each).unwrap_or(0));
    let ends: &[u64] = if sizes.old == sizes.new { &[] } else { &ends };
    loop {
        let marked = added.as_ref().and_then(|added| added.run_from(next.saturating_mul(each)));
        let marked = marked.and_then(|(bit, _)| bit.checked_div(each));
        let end = ends.iter().copied().filter(|end| *end >= next).min();
        let Some(index) = marked.into_iter().chain(end).min() else { return Ok(parts) };
        let Some(place) = parts.get_mut(super::to_usize(index)) else { return Ok(parts) };
        *place = change_part(shadow, *place, index, limits, added.as_ref())?;
        next = index.saturating_add(1);
    }
}

/// Returns the part `index` with what is added to it; `limits` are the bits of the bitmap before and after.
fn change_part<S: Resize>(
    shadow: &mut Shadow<'_, S>,
    part: Part,
    index: u64,
    limits: [u64; 2],
    added: Option<&Bits>,
) -> Result<Part, Error> {
    let geometry = shadow.image().geometry();
    let each = geometry.cluster_size().saturating_mul(8);
    let first = index.saturating_mul(each);
    let [old_end, new_end] = limits.map(|bits| bits.saturating_sub(first).min(each));
    let covers = |(start, end): (u64, u64)| start == first && end >= first.saturating_add(each);
    if new_end == each && added.and_then(|added| added.run_from(first)).is_some_and(covers) {
        free(shadow, part)?;
        return Ok(Part::Ones);
    }
    let mut old = vec![if part == Part::Ones { u8::MAX } else { 0 }; geometry.cluster_len()];
    if let Part::Stored(host) = part {
        read_stored(&shadow.image().storage, "bitmap data", host, &mut old)?;
    }
    let mut bytes = old.clone();
    clear_from(&mut bytes, old_end);
    let mut at = first;
    while let Some((start, end)) = added.and_then(|added| added.run_from(at)).filter(|run| run.0 < first.saturating_add(each)) {
        let inside = |bit: u64| bit.saturating_sub(first).min(each);
        set_bits(&mut bytes, inside(start), inside(end));
        at = end;
    }
    // Spec: "the last cluster of the bitmap data contains some unused tail bits. These bits must be zero."
    clear_from(&mut bytes, new_end);
    if matches!(part, Part::Stored(_)) && bytes == old {
        return Ok(part);
    }
    free(shadow, part)?;
    Ok(match bytes.iter().all(|byte| *byte == u8::MAX) {
        true => Part::Ones,
        false if is_zero(&bytes) => Part::Zeros,
        false => Part::Stored(put(shadow, &bytes)?),
    })
}

fn free<S: Resize>(shadow: &mut Shadow<'_, S>, part: Part) -> Result<(), Error> {
    let len = shadow.image().geometry().cluster_size();
    if let Part::Stored(host) = part { shadow.refer(host, len, -1) } else { Ok(()) }
}

fn put_table<S: Resize>(shadow: &mut Shadow<'_, S>, bitmap: &mut Bitmap, parts: &[Part]) -> Result<(), Error> {
    bitmap.table = put(shadow, &table::encode(parts))?;
    bitmap.table_entries = super::to_u64(parts.len());
    Ok(())
}

/// Writes `bytes` to free clusters, with zeros behind them.
fn put<S: Resize>(shadow: &mut Shadow<'_, S>, bytes: &[u8]) -> Result<HostOffset, Error> {
    let geometry = shadow.image().geometry();
    let host = shadow.allocate(geometry.clusters(len_of(bytes)))?;
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().next_multiple_of(geometry.cluster_len()), 0);
    shadow.write(host, &whole)?;
    Ok(host)
}

/// Sets the bits from `first` to before `end`.
fn set_bits(bytes: &mut [u8], first: u64, end: u64) {
    let mut bit = first;
    while bit < end {
        let place = bit & 7;
        let count = end.saturating_sub(bit).min(8_u64.saturating_sub(place));
        let ones = u8::MAX.wrapping_shr(super::shift(8_u64.saturating_sub(count)));
        if let Some(byte) = bytes.get_mut(super::to_usize(bit.wrapping_shr(3))) {
            *byte |= ones.wrapping_shl(super::shift(place));
        }
        bit = bit.saturating_add(count);
    }
}
