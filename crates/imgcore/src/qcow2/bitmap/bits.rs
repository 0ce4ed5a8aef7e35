use std::collections::BTreeMap;

use super::shift;
use crate::block::ByteRange;
use crate::qcow2::offset::{to_u64, to_usize};
use crate::qcow2::table::{is_zero, len_of};

/// Which parts of a disk are marked: a bit for each `granularity` bytes.
///
/// Memory is taken for what is marked in part, up to 64 MiB; beyond that, what is marked in part is marked in larger pieces. So
/// a set may say that more has changed, and never less.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bits {
    size: u64,
    granularity: u64,
    /// Pages with marks by their index.
    pages: BTreeMap<u64, Page>,
    /// How many pages are marked in part.
    mixed: usize,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Page {
    Full,
    Mixed(Box<[u64; WORDS]>),
}

impl Bits {
    /// Returns a set without marks for a disk of `size` bytes.
    ///
    /// A granularity of 0 counts as 1 byte.
    #[must_use]
    pub fn new(size: u64, granularity: u64) -> Self {
        Self { size, granularity: granularity.max(1), pages: BTreeMap::new(), mixed: 0 }
    }

    /// Returns the bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes of the disk for each bit.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        self.granularity
    }

    /// Returns whether nothing is marked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Marks all that `range` touches; what lies outside the disk is ignored.
    pub fn mark(&mut self, range: ByteRange) {
        let end = range.end().min(self.size);
        if range.start() >= end {
            return;
        }
        let first = range.start().checked_div(self.granularity).unwrap_or(0);
        self.mark_bits(first, end.div_ceil(self.granularity));
    }

    /// Returns what is marked: ascending runs with gaps between them, in bytes of the disk.
    pub fn runs(&self) -> impl Iterator<Item = ByteRange> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let (start, end) = self.run_from(from)?;
            from = end;
            let byte = |bit: u64| bit.saturating_mul(self.granularity).min(self.size);
            ByteRange::new(byte(start), byte(end))
        })
    }

    /// Marks the bits from `first` to before `end`.
    pub(super) fn mark_bits(&mut self, first: u64, end: u64) {
        let mut bit = first;
        while bit < end {
            let page = bit.checked_div(PAGE_BITS).unwrap_or(0);
            let start = page.saturating_mul(PAGE_BITS);
            let to = end.min(start.saturating_add(PAGE_BITS));
            self.mark_page(page, bit.saturating_sub(start), to.saturating_sub(start));
            bit = to;
        }
    }

    /// Marks the bits that are set in `bytes`, the first of which is bit `first`, the start of a byte.
    pub(super) fn mark_stored(&mut self, first: u64, bytes: &[u8]) {
        let mut bit = first;
        let mut rest = bytes;
        while !rest.is_empty() {
            let page = bit.checked_div(PAGE_BITS).unwrap_or(0);
            let inside = to_usize(bit.saturating_sub(page.saturating_mul(PAGE_BITS)).wrapping_shr(3));
            let (part, behind) = rest.split_at(PAGE_LEN.saturating_sub(inside).min(rest.len()));
            if !is_zero(part) {
                self.mark_page_stored(page, inside, part);
            }
            bit = bit.saturating_add(len_of(part).saturating_mul(8));
            rest = behind;
        }
    }

    /// Marks the bits that are set in `bytes`, which begin at byte `inside` of the page.
    fn mark_page_stored(&mut self, page: u64, inside: usize, bytes: &[u8]) {
        if !self.pages.contains_key(&page) {
            let new = if self.mixed >= MOST_MIXED { Page::Full } else { Page::Mixed(Box::new([0; WORDS])) };
            self.mixed = self.mixed.saturating_add(usize::from(new != Page::Full));
            self.pages.insert(page, new);
        }
        let Some(Page::Mixed(words)) = self.pages.get_mut(&page) else { return };
        for (at, byte) in (inside..).zip(bytes) {
            if let Some(word) = words.get_mut(at.wrapping_shr(3)) {
                *word |= u64::from(*byte).wrapping_shl(shift(to_u64(at & 7)).wrapping_mul(8));
            }
        }
        if words.iter().all(|word| *word == u64::MAX) {
            self.mixed = self.mixed.saturating_sub(1);
            self.pages.insert(page, Page::Full);
        }
    }

    /// Returns the same marks at another granularity: all that they touch.
    pub(super) fn with_granularity(&self, granularity: u64) -> Self {
        if granularity == self.granularity {
            return self.clone();
        }
        let mut bits = Self::new(self.size, granularity);
        self.runs().for_each(|run| bits.mark(run));
        bits
    }

    /// Gives the disk `size` bytes, which are not fewer than before. New space is not marked.
    pub(super) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Marks bits of one page, counted from its start.
    fn mark_page(&mut self, page: u64, first: u64, end: u64) {
        let whole = first == 0 && end == PAGE_BITS;
        let full = match self.pages.get_mut(&page) {
            Some(Page::Full) => return,
            Some(Page::Mixed(words)) => {
                set(words, first, end);
                if words.iter().any(|word| *word != u64::MAX) {
                    return;
                }
                self.mixed = self.mixed.saturating_sub(1);
                true
            }
            None => whole || self.mixed >= MOST_MIXED,
        };
        if full {
            self.pages.insert(page, Page::Full);
        } else {
            let mut words = Box::new([0; WORDS]);
            set(&mut words, first, end);
            self.pages.insert(page, Page::Mixed(words));
            self.mixed = self.mixed.saturating_add(1);
        }
    }

    /// Returns the first run of marked bits at or behind bit `from`.
    pub(super) fn run_from(&self, from: u64) -> Option<(u64, u64)> {
        let start = self.next_marked(from)?;
        let mut end = start;
        loop {
            let page = end.checked_div(PAGE_BITS).unwrap_or(0);
            let base = page.saturating_mul(PAGE_BITS);
            let next = match self.pages.get(&page) {
                None => return Some((start, end)),
                Some(Page::Full) => None,
                Some(Page::Mixed(words)) => find(words, end.saturating_sub(base), 0),
            };
            match next {
                Some(clear) => return Some((start, base.saturating_add(clear))),
                None => end = base.saturating_add(PAGE_BITS),
            }
        }
    }

    fn next_marked(&self, from: u64) -> Option<u64> {
        let first = from.checked_div(PAGE_BITS).unwrap_or(0);
        self.pages.range(first..).find_map(|(page, marks)| {
            let base = page.saturating_mul(PAGE_BITS);
            let inside = from.saturating_sub(base);
            match marks {
                Page::Full => Some(base.saturating_add(inside)),
                Page::Mixed(words) => find(words, inside, u64::MAX).map(|bit| base.saturating_add(bit)),
            }
        })
    }
}

/// Sets the bits from `first` to before `end`.
fn set(words: &mut [u64; WORDS], first: u64, end: u64) {
    let mut bit = first;
    while bit < end {
        let place = bit & 63;
        let count = end.saturating_sub(bit).min(64_u64.saturating_sub(place));
        let ones = u64::MAX.checked_shr(shift(64_u64.saturating_sub(count))).unwrap_or(0);
        if let Some(word) = words.get_mut(to_usize(bit.wrapping_shr(6))) {
            *word |= ones.wrapping_shl(shift(place));
        }
        bit = bit.saturating_add(count);
    }
}

/// Returns the first bit at or behind `from` that is as all bits of `wanted` are.
fn find(words: &[u64; WORDS], from: u64, wanted: u64) -> Option<u64> {
    let first = from.wrapping_shr(6);
    let mut skip = from & 63;
    for (index, word) in words.iter().enumerate().skip(to_usize(first)) {
        // What is wanted is a one here.
        let hits = (word ^ !wanted) & u64::MAX.wrapping_shl(shift(skip));
        if hits != 0 {
            return Some(to_u64(index).wrapping_shl(6).saturating_add(u64::from(hits.trailing_zeros())));
        }
        skip = 0;
    }
    None
}

const WORDS: usize = 512;
/// Bits of a page.
const PAGE_BITS: u64 = 32_768;
/// Bytes of a page.
const PAGE_LEN: usize = 4096;
/// The most pages that are marked in part: 64 MiB of them.
const MOST_MIXED: usize = 16_384;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Bits, ByteRange, MOST_MIXED, PAGE_BITS};

    proptest! {
        #[test]
        fn runs_are_what_was_marked(
            marks in proptest::collection::vec((0_u64..200_000, 0_u64..70_000), 0..20),
            shift in 0_u32..4,
            size in 1_u64..200_000,
            from in any::<u16>(),
        ) {
            let granularity = 1 << shift;
            let mut bits = Bits::new(size, granularity);
            let mut model = vec![false; size.div_ceil(granularity) as usize];
            for (start, len) in marks {
                bits.mark(ByteRange::at(start, len).unwrap());
                let end = (start + len).min(size);
                if start < end {
                    model[(start / granularity) as usize..end.div_ceil(granularity) as usize].fill(true);
                }
            }
            let mut seen = vec![false; model.len()];
            let mut last = None;
            for run in bits.runs() {
                assert!(!run.is_empty() && last.is_none_or(|last| last < run.start()) && run.end() <= size);
                last = Some(run.end());
                seen[(run.start() / granularity) as usize..run.end().div_ceil(granularity) as usize].fill(true);
            }
            assert!(seen == model);
            assert_eq!(bits.is_empty(), !model.contains(&true));
            let next = (usize::from(from)..model.len()).find(|bit| model[*bit]);
            assert_eq!(bits.run_from(u64::from(from)).map(|run| run.0 as usize), next);
        }
    }

    #[test]
    fn stored_bits_are_marked_where_they_are() {
        let mut bits = Bits::new(100_000, 1);
        bits.mark_stored(32_760, &[0x80, 1, 0]);
        bits.mark_stored(65_536, &[0xff; 4096]);
        let runs: Vec<(u64, u64)> = bits.runs().map(|run| (run.start(), run.end())).collect();
        assert_eq!(runs, [(32_767, 32_769), (65_536, 98_304)]);
        assert_eq!(bits.mixed, 2);
        let coarse: Vec<_> = bits.with_granularity(1 << 16).runs().collect();
        assert_eq!(coarse, [ByteRange::new(0, 100_000).unwrap()]);
    }

    #[test]
    fn huge_runs_cost_little_and_memory_is_bounded() {
        let mut bits = Bits::new(1 << 62, 512);
        bits.mark(ByteRange::new(1 << 40, (1 << 40) + (1 << 36)).unwrap());
        assert_eq!(bits.mixed, 0);
        let step = PAGE_BITS * 512;
        for page in 0..MOST_MIXED as u64 + 10 {
            bits.mark(ByteRange::at(page * step + 512, 512).unwrap());
        }
        assert_eq!(bits.mixed, MOST_MIXED);
        let last = (MOST_MIXED as u64 + 9) * step;
        assert_eq!(bits.runs().find(|run| run.contains(last + 512)).map(|run| run.contains(last)), Some(true));
    }
}
