use std::ops::Range;

/// A bitmap of a group: one bit for each block or inode, set when it is in use, the lowest bit of a byte first.
#[derive(Clone, Debug)]
pub(super) struct Bitmap {
    bytes: Vec<u8>,
}

impl Bitmap {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Returns a bitmap of `len` bytes whose first `count` bits are clear and the others, its padding, set.
    pub(super) fn empty(len: usize, count: u32) -> Self {
        let mut bitmap = Self { bytes: vec![0; len] };
        let bits = u32::try_from(len.saturating_mul(8)).unwrap_or(u32::MAX);
        bitmap.set(count..bits, true);
        bitmap
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns whether bit `index` is set; one outside is.
    pub(super) fn get(&self, index: u32) -> bool {
        let (byte, mask) = place(index);
        self.bytes.get(byte).is_none_or(|byte| byte & mask != 0)
    }

    pub(super) fn set(&mut self, range: Range<u32>, used: bool) {
        let whole = range.start.next_multiple_of(8)..range.end & !7;
        if whole.start < whole.end {
            let bytes = place(whole.start).0..place(whole.end).0.min(self.bytes.len());
            self.bytes.get_mut(bytes).unwrap_or_default().fill(if used { u8::MAX } else { 0 });
            self.set_each(range.start..whole.start, used);
            self.set_each(whole.end..range.end, used);
        } else {
            self.set_each(range, used);
        }
    }

    fn set_each(&mut self, range: Range<u32>, used: bool) {
        for index in range {
            let (byte, mask) = place(index);
            if let Some(byte) = self.bytes.get_mut(byte) {
                *byte = if used { *byte | mask } else { *byte & !mask };
            }
        }
    }

    /// Returns how many of the first `count` bits are clear.
    pub(super) fn count_free(&self, count: u32) -> u32 {
        let whole = usize::try_from(count / 8).unwrap_or(usize::MAX).min(self.bytes.len());
        let zeros = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_zeros()).sum::<u32>();
        let rest = (count & !7..count).filter(|index| !self.get(*index)).count();
        zeros(self.bytes.get(..whole).unwrap_or_default()).saturating_add(u32::try_from(rest).unwrap_or(u32::MAX))
    }

    /// Returns the first clear bit from `from` to before `count`.
    pub(super) fn first_free(&self, from: u32, count: u32) -> Option<u32> {
        self.next_run(from, count).map(|run| run.start)
    }

    /// Returns the first run of `wanted` clear bits among the first `count`, else the longest run.
    pub(super) fn find_run(&self, wanted: u32, count: u32) -> Range<u32> {
        let mut longest = 0..0;
        let mut from = 0;
        while let Some(run) = self.next_run(from, count) {
            from = run.end;
            if run.len() >= usize::try_from(wanted).unwrap_or(usize::MAX) {
                return run.start..run.start.saturating_add(wanted);
            }
            if run.len() > longest.len() {
                longest = run;
            }
        }
        longest
    }

    /// Returns the next run of clear bits from `from` to before `count`.
    fn next_run(&self, from: u32, count: u32) -> Option<Range<u32>> {
        let start = self.skip(from, count, true);
        if start >= count {
            return None;
        }
        Some(start..self.skip(start, count, false))
    }

    /// Returns the first bit from `at` that is not `used`, or `count`.
    fn skip(&self, mut at: u32, count: u32, used: bool) -> u32 {
        while at < count {
            if at.is_multiple_of(8) {
                // Most bits lie in words that are all alike.
                let words = self.bytes.get(place(at).0..).unwrap_or_default().as_chunks::<8>().0;
                let same = if used { u64::MAX } else { 0 };
                let alike = words.iter().take_while(|word| u64::from_le_bytes(**word) == same).count();
                if alike > 0 {
                    at = at.saturating_add(u32::try_from(alike.saturating_mul(64)).unwrap_or(u32::MAX));
                    continue;
                }
            }
            if self.get(at) != used {
                return at;
            }
            at = at.saturating_add(1);
        }
        count
    }
}

fn place(index: u32) -> (usize, u8) {
    (usize::try_from(index / 8).unwrap_or(usize::MAX), 1 << (index % 8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::Bitmap;

    proptest! {
        #[test]
        fn a_range_is_set_as_its_bits_one_by_one(bytes in proptest::collection::vec(any::<u8>(), 1..12), ends in (0_u32..100, 0_u32..100)) {
            let range = ends.0.min(ends.1)..ends.0.max(ends.1);
            for used in [false, true] {
                let (mut at_once, mut one_by_one) = (Bitmap::new(bytes.clone()), Bitmap::new(bytes.clone()));
                at_once.set(range.clone(), used);
                one_by_one.set_each(range.clone(), used);
                assert_eq!(at_once.bytes(), one_by_one.bytes());
            }
        }

        #[test]
        fn runs_and_counts_are_those_of_a_plain_list(bytes in proptest::collection::vec(any::<u8>(), 1..12), wanted in 1_u32..20) {
            let count = bytes.len() as u32 * 8 - 3;
            let bitmap = Bitmap::new(bytes.clone());
            let free = |at: u32| bytes[at as usize / 8] >> (at % 8) & 1 == 0;
            assert_eq!(bitmap.count_free(count), (0..count).filter(|at| free(*at)).count() as u32);
            assert_eq!(bitmap.first_free(0, count), (0..count).find(|at| free(*at)));
            let run = bitmap.find_run(wanted, count);
            assert!(run.clone().all(free) && run.end <= count);
            let starts = (0..count).filter(|at| at + wanted <= count && (*at..at + wanted).all(free));
            match starts.min() {
                Some(start) => assert_eq!(run, start..start + wanted),
                None => assert!(run.len() < wanted as usize),
            }
        }
    }
}
