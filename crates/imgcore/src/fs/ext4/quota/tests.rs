use std::collections::BTreeMap;

use proptest::prelude::{any, proptest};

use super::blocks::BLOCK;
use super::{Kind, QuotaFile, Usage};

/// A file without entries, as a new one is.
fn empty() -> Vec<u8> {
    let mut bytes = vec![0; 2 * BLOCK];
    for (place, word) in bytes.chunks_exact_mut(4).zip([0xD9C0_1F11_u32, 1, 604_800, 604_800, 0, 2, 0, 0]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Result<QuotaFile, crate::fs::Error> {
    QuotaFile::decode(Kind::User, "quota file".to_owned(), bytes)
}

/// The bytes of a file that was decoded from `before`.
fn stored(file: &mut QuotaFile, before: &[u8]) -> Vec<u8> {
    let mut bytes = before.to_vec();
    let (size, changed) = file.changed();
    bytes.resize(bytes.len().max(size as usize), 0);
    for (number, block) in changed {
        bytes[number as usize * BLOCK..][..BLOCK].copy_from_slice(&block);
    }
    bytes
}

fn usage(space: i128, inodes: i128) -> Usage {
    Usage { space, inodes }
}

fn change(bytes: &[u8], changes: &[(u32, Usage)]) -> Vec<u8> {
    let mut file = decode(bytes).unwrap();
    changes.iter().for_each(|(id, change)| file.change(*id, *change).unwrap());
    stored(&mut file, bytes)
}

#[test]
fn a_thousand_ids_come_and_go_and_their_blocks_are_used_again() {
    let ids: Vec<u32> = (0..1000).map(|at: u32| at.wrapping_mul(2_654_435_761)).collect();
    let (mut bytes, mut sizes) = (empty(), Vec::new());
    for _ in 0..3 {
        bytes = change(&bytes, &ids.iter().map(|id| (*id, usage(4096, 1))).collect::<Vec<_>>());
        assert_eq!(decode(&bytes).unwrap().usage().len(), 1000);
        sizes.push(bytes.len());
        bytes = change(&bytes, &ids.iter().rev().map(|id| (*id, usage(-4096, -1))).collect::<Vec<_>>());
        assert!(decode(&bytes).unwrap().usage().is_empty());
    }
    assert!(sizes.windows(2).all(|two| two[0] == two[1]), "{sizes:?}");
    assert_eq!(bytes[BLOCK..2 * BLOCK], [0; BLOCK], "the root refers to nothing");
}

#[test]
fn limits_stay_and_keep_an_entry_and_the_end_of_an_excess_ends_its_time() {
    let mut bytes = change(&empty(), &[(1000, usage(10_240, 3))]);
    let at = bytes.len() - BLOCK + 16;
    // Soft limits of 4 KiB and 2 inodes, both exceeded since a while.
    for (field, value) in [(16, 2_u64), (40, 4), (56, 7), (64, 8)] {
        bytes[at + field..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let word = |bytes: &[u8], field: usize| u64::from_le_bytes(bytes[at + field..][..8].try_into().unwrap());
    let less = change(&bytes, &[(1000, usage(-6144, 0))]);
    assert_eq!((word(&less, 48), word(&less, 56), word(&less, 64)), (4096, 0, 8));
    let none = change(&less, &[(1000, usage(-4096, -3))]);
    assert_eq!(decode(&none).unwrap().usage().get(&1000), Some(&usage(0, 0)));
    assert_eq!((word(&none, 16), word(&none, 40), word(&none, 64)), (2, 4, 0));
}

#[test]
fn a_file_that_breaks_a_rule_is_an_error_that_names_the_block() {
    let sound = change(&empty(), &[(1, usage(1, 1)), (2, usage(1, 1)), (0x0100_0001, usage(1, 1))]);
    let word = |at: usize| u32::from_le_bytes(sound[at..][..4].try_into().unwrap());
    // From the root: the first block below it, the last level, and the entries.
    let path = [BLOCK, word(BLOCK) as usize * BLOCK];
    let cases = [
        (0, 7, "magic"),
        (4, 0, "version"),
        (20, 9999, "blocks that it says"),
        (20, 1, "blocks that it says"),
        (path[0], 1, "none"),
        (path[0], 77, "none"),
        (path[1], word(path[0]), "one place"),
        (path[0] + 4, word(path[0]), "one place"),
        (24, word(path[0]), "listed as empty"),
        (24, 9999, "none"),
        (28, word(path[0]), "having room"),
        (word(28) as usize * BLOCK, word(28), "having room"),
        (word(28) as usize * BLOCK + 4, 1, "before it"),
        (word(28) as usize * BLOCK + 8, 9, "as many entries"),
        (word(28) as usize * BLOCK + 16, 55, "has the entry"),
    ];
    for (at, value, rule) in cases {
        let mut bytes = sound.clone();
        bytes[at..][..4].copy_from_slice(&value.to_le_bytes());
        let error = decode(&bytes).map(drop).unwrap_err().to_string();
        assert!(error.contains(rule) && error.contains("quota file"), "{at}: {error}");
    }
}

proptest! {
    #[test]
    fn any_changes_leave_a_sound_file_with_the_sums(
        steps in proptest::collection::vec((0_u32..60, any::<bool>(), 0_i128..5000, 0_i128..3), 1..400),
    ) {
        let mut sums: BTreeMap<u32, Usage> = BTreeMap::new();
        let mut bytes = empty();
        for steps in steps.chunks(20) {
            let mut file = decode(&bytes).unwrap();
            for (id, clears, space, inodes) in steps {
                let id = id.wrapping_mul(80_000_000);
                let sum = sums.entry(id).or_default();
                let change = if *clears { usage(0, 0).minus(*sum) } else { usage(*space, *inodes) };
                file.change(id, change).unwrap();
                *sum = sum.plus(change);
            }
            sums.retain(|_, sum| *sum != usage(0, 0));
            bytes = stored(&mut file, &bytes);
            assert_eq!(decode(&bytes).unwrap().usage(), &sums);
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_file_that_can_be_changed(damage in proptest::collection::vec((0_usize..9000, any::<u8>()), 0..6)) {
        let mut bytes = change(&empty(), &(0..20).map(|id| (id * 3, usage(1, 1))).collect::<Vec<_>>());
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(mut file) = decode(&bytes) {
            for id in 0..60 {
                file.change(id, usage(1 - i128::from(id % 3), 1 - i128::from(id % 2))).unwrap();
            }
            decode(&stored(&mut file, &bytes)).unwrap();
        }
    }
}
