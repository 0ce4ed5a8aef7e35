//! Tables of 64-bit words, and stored bytes near the end of a file.

use zerocopy::IntoBytes as _;

use super::error::{Corrupt, Error};
use super::offset::{HostOffset, to_u64, to_usize};
use crate::block::BlockRead;
pub(super) use crate::block::is_zero;

/// Fills `buf` from `storage`, with zeros behind its end, as a file that ends inside a cluster means it.
///
/// # Errors
///
/// [`Error::Corrupt`] about `structure` when not even the first byte is stored: the image has been cut off.
pub(super) fn read_stored<S>(storage: &S, structure: &'static str, offset: HostOffset, buf: &mut [u8]) -> Result<(), Error>
where
    S: BlockRead + ?Sized,
{
    let stored = to_usize(storage.size().saturating_sub(offset.0)).min(buf.len());
    if stored == 0 && !buf.is_empty() {
        return Err(Corrupt::new(structure, offset.0, "it lies behind the end of the image").into());
    }
    let (inside, behind) = buf.split_at_mut(stored);
    behind.fill(0);
    Ok(storage.read_exact_at(inside, offset.0)?)
}

/// Reads `count` words. The caller has bounded the count.
pub(super) fn read_words<S>(storage: &S, structure: &'static str, offset: HostOffset, count: u64) -> Result<Vec<u64>, Error>
where
    S: BlockRead + ?Sized,
{
    let mut words = vec![0_u64; to_usize(count)];
    read_stored(storage, structure, offset, words.as_mut_slice().as_mut_bytes())?;
    for word in &mut words {
        *word = u64::from_be(*word);
    }
    Ok(words)
}

/// Returns the stored form of `words`.
pub(super) fn encode_words(words: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(words.len().saturating_mul(8));
    for word in words {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// Returns where word `index` of a table at `table` is stored.
pub(super) fn word_offset(table: HostOffset, index: u64) -> u64 {
    table.plus(index.saturating_mul(8)).0
}

/// Returns the bytes of `buf` as a length on a disk.
pub(super) fn len_of(buf: &[u8]) -> u64 {
    to_u64(buf.len())
}

#[cfg(test)]
mod tests {
    use super::{HostOffset, encode_words, read_words};
    use crate::block::MemoryDisk;

    #[test]
    fn words_survive_the_round_trip_and_end_in_zeros_with_the_file() {
        let disk = MemoryDisk::new(encode_words(&[1, u64::MAX, 7]));
        assert_eq!(read_words(&disk, "table", HostOffset(8), 4).unwrap(), [u64::MAX, 7, 0, 0]);
        read_words(&disk, "table", HostOffset(24), 1).unwrap_err();
    }
}
