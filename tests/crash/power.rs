//! Disks whose power is cut.

use std::sync::{Arc, Mutex};

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Error, Hole, MemoryDisk, Resize};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// One thing that was done to a disk.
#[derive(Debug)]
pub(crate) enum Step {
    Write(u64, Vec<u8>),
    Resize(u64),
    Flush,
}

/// A disk in memory that records what is done to it.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) disk: MemoryDisk,
    pub(crate) steps: Arc<Mutex<Vec<Step>>>,
}

impl Recorded {
    fn note(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }
}

impl BlockRead for Recorded {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, offset)
    }
}

impl BlockWrite for Recorded {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.note(Step::Write(offset, buf.to_vec()));
        self.disk.write_all_at(buf, offset)
    }
    fn write_zeroes_at(&mut self, range: ByteRange, hole: Hole) -> Result<(), Error> {
        self.note(Step::Write(range.start(), vec![0; range.len() as usize]));
        self.disk.write_zeroes_at(range, hole)
    }
    fn flush(&mut self) -> Result<(), Error> {
        self.note(Step::Flush);
        Ok(())
    }
}

impl Resize for Recorded {
    fn resize(&mut self, size: u64) -> Result<(), Error> {
        self.note(Step::Resize(size));
        self.disk.resize(size)
    }
}

/// The disk after a cut before step `cut`: all that was flushed is there, and of the rest what `luck` lets through, by sectors.
pub(crate) fn after_cut(before: &[u8], steps: &[Step], cut: usize, luck: Option<u64>) -> Vec<u8> {
    let flushed = steps[..cut].iter().rposition(|step| matches!(step, Step::Flush)).unwrap_or(0);
    let mut random = ChaCha8Rng::seed_from_u64(luck.unwrap_or_default());
    let mut disk = before.to_vec();
    for (number, step) in steps[..cut].iter().enumerate() {
        let certain = number < flushed || luck.is_none();
        match step {
            Step::Resize(size) => disk.resize(*size as usize, 0),
            Step::Flush => {}
            Step::Write(offset, bytes) => {
                for (sector, bytes) in bytes.chunks(512).enumerate() {
                    let at = *offset as usize + sector * 512;
                    if certain || random.next_u32() & 1 == 1 {
                        disk[at..][..bytes.len()].copy_from_slice(bytes);
                    }
                }
            }
        }
    }
    disk
}
