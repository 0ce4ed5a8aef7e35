//! How often each cluster is referred to: pages that exist only where something is.
//!
//! ```text
//! page of 4096 clusters: bits         while no cluster of it has more than one reference
//!                        16-bit counts as soon as one has two
//!                        64-bit counts as soon as one has 65,536
//! ```

use std::collections::BTreeMap;

use crate::qcow2::error::{Error, Unsupported};
use crate::qcow2::offset::{to_u64, to_usize};

/// Counts of references, by the index of the cluster.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pages: Vec<Page>,
    places: BTreeMap<u64, usize>,
    /// The page that was used last.
    last: Option<(u64, usize)>,
    /// Bytes of memory that the pages take.
    bytes: u64,
    /// The largest count that a refcount can hold.
    max: u64,
}

#[derive(Clone, Debug)]
enum Page {
    Bits(Box<[u64; WORDS]>),
    Narrow(Box<[u16; CLUSTERS]>),
    Wide(Box<[u64; CLUSTERS]>),
}

impl Counts {
    /// Returns counts of 0, none of which will exceed `max`.
    pub(super) fn new(max: u64) -> Self {
        Self { pages: Vec::new(), places: BTreeMap::new(), last: None, bytes: 0, max }
    }

    /// Returns how often `cluster` is referred to.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let (number, place) = split(cluster);
        let page = self.places.get(&number).and_then(|at| self.pages.get(*at));
        page.map_or(0, |page| page.get(place))
    }

    /// Adds `weight` references to each of `count` clusters from `first` on. `overflowed` is told which have more references than a
    /// refcount can hold; these keep the most that it can.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when the counts would need too much memory.
    pub(super) fn add(&mut self, first: u64, count: u64, weight: u64, overflowed: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let (mut cluster, mut left) = (first, count);
        while left > 0 {
            let (number, place) = split(cluster);
            let here = left.min(to_u64(CLUSTERS.saturating_sub(place)));
            let max = self.max;
            let at = self.page(number)?;
            let before = self.pages.get(at).map_or(0, Page::bytes);
            if let Some(page) = self.pages.get_mut(at) {
                page.add(place, to_usize(here), weight, max, &mut |place| {
                    overflowed(number.saturating_mul(to_u64(CLUSTERS)).saturating_add(to_u64(place)));
                });
            }
            let after = self.pages.get(at).map_or(0, Page::bytes);
            self.reserve(after.saturating_sub(before))?;
            cluster = cluster.saturating_add(here);
            left = left.saturating_sub(here);
        }
        Ok(())
    }

    /// Returns whether each of `count` clusters from `first` on is referred to exactly once.
    pub(super) fn all_ones(&self, first: u64, count: u64) -> bool {
        let (mut cluster, mut left) = (first, count);
        while left > 0 {
            let (number, place) = split(cluster);
            let here = left.min(to_u64(CLUSTERS.saturating_sub(place)));
            let page = self.places.get(&number).and_then(|at| self.pages.get(*at));
            if !page.is_some_and(|page| page.are_ones(place, place.saturating_add(to_usize(here)))) {
                return false;
            }
            cluster = cluster.saturating_add(here);
            left = left.saturating_sub(here);
        }
        true
    }

    /// Returns the first cluster from `from` on whose page has counts, and the first behind that page.
    pub(super) fn next_page(&self, from: u64) -> Option<(u64, u64)> {
        let (number, _) = split(from);
        let (number, _) = self.places.range(number..).next()?;
        let start = number.saturating_mul(to_u64(CLUSTERS));
        Some((start.max(from), start.saturating_add(to_u64(CLUSTERS))))
    }

    fn page(&mut self, number: u64) -> Result<usize, Error> {
        if let Some((last, at)) = self.last
            && last == number
        {
            return Ok(at);
        }
        let at = match self.places.get(&number) {
            Some(at) => *at,
            None => {
                let page = Page::Bits(Box::new([0; WORDS]));
                self.reserve(page.bytes().saturating_add(OVERHEAD))?;
                self.pages.push(page);
                let at = self.pages.len().saturating_sub(1);
                self.places.insert(number, at);
                at
            }
        };
        self.last = Some((number, at));
        Ok(at)
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MOST_BYTES {
            return Err(Unsupported::TooLarge("count of references", MOST_BYTES).into());
        }
        Ok(())
    }
}

impl Page {
    fn bytes(&self) -> u64 {
        to_u64(match self {
            Self::Bits(_) => size_of::<[u64; WORDS]>(),
            Self::Narrow(_) => size_of::<[u16; CLUSTERS]>(),
            Self::Wide(_) => size_of::<[u64; CLUSTERS]>(),
        })
    }

    fn get(&self, place: usize) -> u64 {
        match self {
            Self::Bits(bits) => bits.get(place.wrapping_shr(6)).map_or(0, |word| word.wrapping_shr(bit(place)) & 1),
            Self::Narrow(counts) => counts.get(place).map_or(0, |count| u64::from(*count)),
            Self::Wide(counts) => counts.get(place).copied().unwrap_or(0),
        }
    }

    fn are_ones(&self, place: usize, end: usize) -> bool {
        match self {
            Self::Bits(bits) => masks(place, end).all(|(word, mask)| bits.get(word).is_some_and(|word| word & mask == mask)),
            Self::Narrow(counts) => counts.get(place..end).is_some_and(|counts| counts.iter().all(|count| *count == 1)),
            Self::Wide(counts) => counts.get(place..end).is_some_and(|counts| counts.iter().all(|count| *count == 1)),
        }
    }

    fn add(&mut self, place: usize, count: usize, weight: u64, max: u64, overflowed: &mut dyn FnMut(usize)) {
        let end = place.saturating_add(count);
        if let Self::Bits(bits) = self {
            if weight == 1 && masks(place, end).all(|(word, mask)| bits.get(word).is_some_and(|word| word & mask == 0)) {
                for (word, mask) in masks(place, end) {
                    if let Some(word) = bits.get_mut(word) {
                        *word |= mask;
                    }
                }
                return;
            }
            *self = self.narrow();
        }
        if let Self::Narrow(counts) = self {
            let fits = |count: &u16| u64::from(*count).saturating_add(weight) <= max.min(u64::from(u16::MAX));
            let part = counts.get_mut(place..end).unwrap_or_default();
            if part.iter().all(fits) {
                let weight = u16::try_from(weight).unwrap_or(u16::MAX);
                part.iter_mut().for_each(|count| *count = count.saturating_add(weight));
                return;
            }
            if max > u64::from(u16::MAX) {
                *self = self.wide();
            }
        }
        for place in place..end {
            let sum = self.get(place).saturating_add(weight);
            if sum > max {
                overflowed(place);
            }
            self.set(place, sum.min(max));
        }
    }

    /// Sets a count that the page has room for.
    fn set(&mut self, place: usize, value: u64) {
        match self {
            Self::Bits(_) => {}
            Self::Narrow(counts) => {
                if let Some(count) = counts.get_mut(place) {
                    *count = u16::try_from(value).unwrap_or(u16::MAX);
                }
            }
            Self::Wide(counts) => {
                if let Some(count) = counts.get_mut(place) {
                    *count = value;
                }
            }
        }
    }

    fn narrow(&self) -> Self {
        let mut counts = Box::new([0; CLUSTERS]);
        for (place, count) in counts.iter_mut().enumerate() {
            *count = u16::try_from(self.get(place)).unwrap_or(u16::MAX);
        }
        Self::Narrow(counts)
    }

    fn wide(&self) -> Self {
        let mut counts = Box::new([0; CLUSTERS]);
        for (place, count) in counts.iter_mut().enumerate() {
            *count = self.get(place);
        }
        Self::Wide(counts)
    }
}

/// Iterates over the words that hold the bits `place..end`, each with a mask of them.
fn masks(place: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    let (first, last) = (place.wrapping_shr(6), end.saturating_sub(1).wrapping_shr(6));
    (first..=last).map(move |word| {
        let low = if word == first { u64::MAX.wrapping_shl(bit(place)) } else { u64::MAX };
        let high =
            if word == last { u64::MAX.wrapping_shr(63_u32.saturating_sub(bit(end.saturating_sub(1)))) } else { u64::MAX };
        (word, low & high)
    })
}

fn bit(place: usize) -> u32 {
    u32::try_from(place & 63).unwrap_or(0)
}

/// Returns the page of a cluster, and its place there.
fn split(cluster: u64) -> (u64, usize) {
    let clusters = to_u64(CLUSTERS);
    (cluster.wrapping_shr(clusters.trailing_zeros()), to_usize(cluster & clusters.saturating_sub(1)))
}

/// Clusters in a page.
const CLUSTERS: usize = 4096;
/// Words of bits in a page.
const WORDS: usize = CLUSTERS / 64;
/// Bytes that a page needs beside itself, about.
const OVERHEAD: u64 = 64;
/// Bytes of counts: a repair has three of them, and no image may take more than 512 MiB. Enough for 50 TiB of clusters of 64 KiB, or
/// for 4 TiB when most of them are shared.
const MOST_BYTES: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::Counts;

    proptest! {
        #[test]
        fn counts_are_a_vector(
            steps in proptest::collection::vec((0_u64..9000, 1_u64..5000, 0_usize..4), 1..12),
            max in proptest::prelude::prop_oneof![proptest::prelude::Just(1_u64), proptest::prelude::Just(65_535), proptest::prelude::Just(u64::MAX)],
        ) {
            let mut counts = Counts::new(max);
            let mut model = vec![0_u64; 14_000];
            let (mut told, mut wanted) = (Vec::new(), Vec::new());
            for (first, count, weight) in steps {
                let weight = [1, 1, 2, 70_000][weight];
                counts.add(first, count, weight, &mut |cluster| told.push(cluster)).unwrap();
                for cluster in first..first + count {
                    let sum = model[cluster as usize] + weight;
                    if sum > max {
                        wanted.push(cluster);
                    }
                    model[cluster as usize] = sum.min(max);
                }
            }
            assert!((0..14_000).all(|cluster| counts.get(cluster) == model[cluster as usize]));
            assert_eq!(told, wanted);
            for first in (0..13_000).step_by(377) {
                let ones = model[first..first + 700].iter().all(|count| *count == 1);
                assert_eq!(counts.all_ones(first as u64, 700), ones);
            }
        }
    }

    #[test]
    fn pages_exist_only_where_something_is() {
        let mut counts = Counts::new(65_535);
        counts.add(1 << 40, 1, 1, &mut |_| {}).unwrap();
        assert_eq!((counts.next_page(0), counts.next_page((1 << 40) + 5000)), (Some((1 << 40, (1 << 40) + 4096)), None));
        assert_eq!(counts.next_page((1 << 40) + 7), Some(((1 << 40) + 7, (1 << 40) + 4096)));
        let many = (0..1 << 20).try_for_each(|page| counts.add(page << 20, 1, 1, &mut |_| {}));
        many.unwrap_err();
    }
}
