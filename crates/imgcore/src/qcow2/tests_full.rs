//! Storage that is full for a while: what was written is read and kept, and what fails takes nothing else with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use proptest::prelude::{ProptestConfig, any, proptest};

use super::cut::{Leaks, assert_sound, contents};
use super::{CreateOptions, Image, NewBacking, create};
use crate::block::{BlockRead, BlockWrite, ByteRange, Error, ErrorKind, Hole, MemoryDisk, Resize};

/// A disk of which so many writes succeed.
#[derive(Debug)]
struct Full {
    disk: MemoryDisk,
    left: Arc<AtomicU64>,
}

impl Full {
    fn spend(&self) -> Result<(), Error> {
        let spent = self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| Error::new(ErrorKind::NoSpace, "the disk is full"))
    }
}

impl BlockRead for Full {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, offset)
    }
}

impl BlockWrite for Full {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.spend()?;
        self.disk.write_all_at(buf, offset)
    }
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.spend()?;
        self.disk.write_zeroes_at(range, hole)
    }
    fn flush(&mut self) -> Result<(), Error> {
        self.disk.flush()
    }
}

impl Resize for Full {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        self.disk.resize(size)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn storage_that_is_full_for_a_while_loses_nothing_that_was_written(
        steps in proptest::collection::vec((0_u64..120_000, 1_usize..6000, 0_u8..8, 0_u64..40), 2..30),
        order in 0_u32..=6,
        extended in any::<bool>(),
    ) {
        let options = CreateOptions {
            cluster_size: if extended { 16384 } else { 512 },
            extended_l2: extended,
            refcount_bits: 1 << order,
            backing: Some(NewBacking { name: b"base".to_vec(), format: "raw".to_owned() }),
            ..CreateOptions::new(126_976)
        };
        let base: Arc<MemoryDisk> = Arc::new(MemoryDisk::new((0..130_000_u32).map(|at| (at % 250) as u8 + 1).collect()));
        let mut disk = MemoryDisk::default();
        create(&mut disk, &options).unwrap();
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let mut image = Image::open(Full { disk, left: Arc::clone(&left) }).unwrap();
        image.set_backing(base.clone());
        // Of what fails nothing is known.
        let mut model: Vec<Option<u8>> = base.as_bytes()[..126_976].iter().map(|byte| Some(*byte)).collect();
        let agrees = |found: &[u8], model: &[Option<u8>], what: &str| {
            let wrong = found.iter().zip(model).position(|(found, known)| known.is_some_and(|known| known != *found));
            assert_eq!(wrong, None, "{what}");
        };
        let mut found = vec![0; 126_976];
        for (at, len, kind, space) in steps {
            left.store(space, SeqCst);
            let len = len.min(model.len() - at as usize);
            let span = at as usize..at as usize + len;
            let (done, byte) = match kind {
                0 => (image.flush(), None),
                1 => (image.write_zeroes_at(ByteRange::at(at, len as u64).unwrap(), Hole::Allow), Some(0)),
                kind => (image.write_all_at(&vec![kind; len], at), Some(kind)),
            };
            if let Some(byte) = byte {
                model[span].fill(done.is_ok().then_some(byte));
            }
            image.read_exact_at(&mut found, 0).unwrap();
            agrees(&found, &model, "while it is full");
        }
        left.store(u64::MAX, SeqCst);
        image.flush().unwrap();
        image.read_exact_at(&mut found, 0).unwrap();
        agrees(&found, &model, "once there is space");
        let bytes = image.storage().disk.as_bytes();
        assert_sound(bytes, Leaks::Allowed);
        agrees(&contents(bytes, Some(&base)), &model, "what is stored");
    }
}
