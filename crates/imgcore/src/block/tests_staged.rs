use std::sync::Arc;

use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

use crate::block::{BlockRead, BlockWrite, ByteRange, Change, ExtentKind, Hole, MemoryDisk, Resize, Staged, extents};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Source(u64, u64, u64),
    Resize(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u64..40_000, 1_usize..9000, any::<u8>()).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        3 => (0_u64..40_000, 0_u64..20_000).prop_map(|(at, len)| Step::Zero(at, len)),
        2 => (0_u64..40_000, 0_u64..20_000, 0_u64..9_000).prop_map(|(at, len, from)| Step::Source(at, len, from)),
        1 => prop_oneof![Just(40_000_u64), 1_u64..60_000].prop_map(Step::Resize),
    ];
    proptest::collection::vec(step, 1..24)
}

proptest! {
    #[test]
    fn reads_back_what_a_plain_vector_would_hold(steps in steps()) {
        let pattern: Vec<u8> = (0..30_001_u32).map(|at| (at % 251) as u8 | 1).collect();
        let mut model = pattern.clone();
        let elsewhere: Vec<u8> = (0..30_000_u32).map(|at| (at % 241) as u8 | 2).collect();
        let other: Arc<dyn BlockRead> = Arc::new(MemoryDisk::new(elsewhere.clone()));
        let mut staged = Staged::new(MemoryDisk::new(pattern.clone()));
        for step in steps {
            let size = model.len() as u64;
            match step {
                Step::Write(at, len, byte) => {
                    let result = staged.write_all_at(&vec![byte; len], at);
                    if at + len as u64 <= size {
                        result.unwrap();
                        model[at as usize..at as usize + len].fill(byte);
                    } else {
                        result.unwrap_err();
                    }
                }
                Step::Zero(at, len) => {
                    let result = staged.write_zeroes_at(ByteRange::at(at, len).unwrap(), Hole::Allow);
                    if at + len <= size {
                        result.unwrap();
                        model[at as usize..(at + len) as usize].fill(0);
                    } else {
                        result.unwrap_err();
                    }
                }
                Step::Source(at, len, from) => {
                    let result = staged.write_from_at(&other, from, ByteRange::at(at, len).unwrap());
                    if at + len <= size {
                        result.unwrap();
                        let bytes = &elsewhere[from as usize..(from + len) as usize];
                        model[at as usize..(at + len) as usize].copy_from_slice(bytes);
                    } else {
                        result.unwrap_err();
                    }
                }
                Step::Resize(size) => {
                    staged.resize(size).unwrap();
                    model.resize(size as usize, 0);
                }
            }
            let mut all = vec![0xEE; model.len()];
            staged.read_exact_at(&mut all, 0).unwrap();
            assert_eq!(all, model);
            let range = ByteRange::new(0, staged.size()).unwrap();
            let mut end = 0;
            for extent in extents(&staged, range) {
                let extent = extent.unwrap();
                assert_eq!(extent.range.start(), end);
                end = extent.range.end();
                if extent.kind != ExtentKind::Data {
                    assert!(model[extent.range.start() as usize..end as usize].iter().all(|byte| *byte == 0));
                }
            }
            assert_eq!(end, staged.size());
            // The changes over the base give the same bytes.
            let mut rebuilt = pattern.clone();
            rebuilt.resize(model.len(), 0);
            let mut last = 0;
            for change in staged.changes() {
                assert!(change.range().start() >= last && change.range().end() <= staged.size());
                last = change.range().end();
                let span = change.range().start() as usize..change.range().end() as usize;
                match change {
                    Change::Data(_, bytes) => rebuilt[span].copy_from_slice(bytes),
                    Change::Zeroes(_) => rebuilt[span].fill(0),
                    Change::Source(_, source, from) => source.read_exact_at(&mut rebuilt[span], from).unwrap(),
                }
            }
            assert_eq!(rebuilt, model);
        }
        assert_eq!(staged.into_base().into_bytes(), pattern);
    }
}
