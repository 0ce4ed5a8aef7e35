//! Bitmaps against a model, and after power cuts.

use std::collections::BTreeMap;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::cut::{Leaks, Recorder, after_cut, assert_sound, contents, for_each_cut};
use super::{BitmapChange, BitmapError, Bits, CreateOptions, Error, Image, NewBitmap, create};
use crate::block::{BlockRead, BlockWrite, ByteRange, Hole, MemoryDisk, Resize};

/// What a bitmap is to be: its granularity, whether it records, whether it was lost, and the sectors that it marks.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Model {
    granularity: u64,
    auto: bool,
    lost: bool,
    marks: Vec<bool>,
}

impl Model {
    fn new(granularity: u64, size: u64) -> Self {
        Self { granularity, auto: true, lost: false, marks: vec![false; (size / 512) as usize] }
    }

    /// Marks all that `range` touches, in whole units of the granularity.
    fn mark(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let unit = (self.granularity / 512) as usize;
        let first = (range.start() / self.granularity) as usize * unit;
        let end = range.end().div_ceil(self.granularity) as usize * unit;
        let len = self.marks.len();
        self.marks[first.min(len)..end.min(len)].fill(true);
    }

    fn resize(&mut self, size: u64) {
        // Of a unit that both sizes end in, all is marked or nothing.
        let unit = (self.granularity / 512) as usize;
        let last = self.marks.len().saturating_sub(1) / unit * unit;
        let partial = self.marks.get(last) == Some(&true);
        let old = self.marks.len();
        self.marks.resize((size / 512) as usize, false);
        if partial && self.marks.len() > old {
            let end = (last + unit).min(self.marks.len());
            self.marks[old..end].fill(true);
        }
    }
}

fn marks(bits: &Bits) -> Vec<bool> {
    let mut marks = vec![false; (bits.size() / 512) as usize];
    for run in bits.runs() {
        marks[(run.start() / 512) as usize..(run.end() / 512) as usize].fill(true);
    }
    marks
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, u32),
    Change(u8, Vec<BitmapChange>),
    Write(u64, u64, u8),
    Resize(u64),
    Close,
    Lose,
}

const MAX: u64 = 3 << 20;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        1 => Just(BitmapChange::Remove),
        1 => Just(BitmapChange::Clear),
        2 => Just(BitmapChange::Enable),
        1 => Just(BitmapChange::Disable),
        2 => (0_u8..4).prop_map(|other| BitmapChange::Merge(name(other))),
        1 => Just(BitmapChange::Add(Some(2048))),
    ];
    let step = prop_oneof![
        4 => (0_u8..4, 9_u32..18).prop_map(|(index, bits)| Step::Add(index, bits)),
        4 => (0_u8..4, proptest::collection::vec(change, 1..3)).prop_map(|(index, changes)| Step::Change(index, changes)),
        6 => (0..MAX, 0_u64..70_000, any::<u8>()).prop_map(|(at, len, kind)| Step::Write(at, len, kind)),
        1 => (0..MAX, 1_000_000..MAX, any::<u8>()).prop_map(|(at, len, kind)| Step::Write(at, len, kind | 1)),
        2 => (1..MAX / 512).prop_map(|sectors| Step::Resize(sectors * 512)),
        3 => Just(Step::Close),
        1 => Just(Step::Lose),
    ];
    proptest::collection::vec(step, 1..30)
}

fn name(index: u8) -> String {
    format!("bitmap {index}")
}

fn write<S: Resize>(image: &mut Image<S>, at: u64, len: u64, kind: u8) -> ByteRange {
    let size = image.size();
    let range = ByteRange::new(at.min(size), (at.min(size) + len).min(size)).unwrap();
    match kind % 4 {
        0 => image.write_all_at(&vec![kind; range.len() as usize], range.start()).unwrap(),
        1 => image.write_zeroes_at(range, Hole::Allow).unwrap(),
        2 => image.write_zeroes_at(range, Hole::Keep).unwrap(),
        _ if len < 100_000 => image.write_all_at(&vec![0; range.len() as usize], range.start()).unwrap(),
        _ => image.write_zeroes_at(range, Hole::Allow).unwrap(),
    }
    range
}

/// Changes the model as [`Image::change_bitmap`] is to change the image, or says why it is not to.
fn change(models: &mut BTreeMap<String, Model>, size: u64, name: &str, changes: &[BitmapChange]) -> Result<(), BitmapError> {
    let mut new = models.get(name).cloned();
    for change in changes {
        if let BitmapChange::Add(granularity) = change {
            if new.is_some() {
                return Err(BitmapError::Exists(name.to_owned()));
            }
            new = Some(Model::new(granularity.unwrap(), size));
            continue;
        }
        let model = new.as_mut().ok_or_else(|| BitmapError::NotFound(name.to_owned()))?;
        if model.lost && *change != BitmapChange::Remove {
            return Err(BitmapError::Inconsistent(name.to_owned()));
        }
        match change {
            BitmapChange::Remove => new = None,
            BitmapChange::Clear => model.marks.fill(false),
            BitmapChange::Enable => model.auto = true,
            BitmapChange::Disable => model.auto = false,
            BitmapChange::Merge(other) if other == name => {}
            BitmapChange::Merge(other) => {
                let source = models.get(other).ok_or_else(|| BitmapError::NotFound(other.clone()))?;
                if source.lost {
                    return Err(BitmapError::Inconsistent(other.clone()));
                }
                for (sector, _) in source.marks.iter().enumerate().filter(|(_, marked)| **marked) {
                    model.mark(ByteRange::at(sector as u64 * 512, 512).unwrap());
                }
            }
            BitmapChange::Add(_) | BitmapChange::Mark(_) => unreachable!(),
        }
    }
    models.remove(name);
    models.extend(new.map(|new| (name.to_owned(), new)));
    Ok(())
}

fn assert_bitmaps(storage: &MemoryDisk, models: &BTreeMap<String, Model>) {
    let image = Image::open(storage.clone()).unwrap();
    let stored = image.bitmaps().unwrap();
    let names: BTreeMap<_, _> =
        stored.iter().map(|bitmap| (bitmap.name.clone(), (bitmap.granularity, bitmap.auto, bitmap.in_use))).collect();
    let expected: BTreeMap<_, _> =
        models.iter().map(|(name, model)| (name.clone(), (model.granularity, model.auto, model.lost))).collect();
    assert_eq!(names, expected);
    for (name, model) in models.iter().filter(|(_, model)| !model.lost) {
        let found = marks(&image.bitmap_bits(name).unwrap());
        let first = found.iter().zip(&model.marks).position(|(found, wanted)| found != wanted);
        assert!(found == model.marks, "{name} differs from sector {first:?} on");
    }
    assert_sound(storage.as_bytes(), Leaks::None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn bitmaps_are_vectors_under_changes_writes_and_other_sizes(
        steps in steps(),
        bits in prop_oneof![3 => Just(9_u32), 1 => Just(12), 1 => Just(16)],
        order in 0_u32..=6,
        sectors in 1..MAX / 512,
    ) {
        let mut storage = MemoryDisk::default();
        create(&mut storage, &CreateOptions { cluster_size: 1 << bits, refcount_bits: 1 << order, ..CreateOptions::new(sectors * 512) }).unwrap();
        let mut image = Image::open(storage).unwrap();
        let mut models = BTreeMap::<String, Model>::new();
        // Bitmaps that have been marked as in use and are not stored yet.
        let mut open = BTreeMap::<String, ()>::new();
        for step in steps {
            let size = image.size();
            match step {
                Step::Add(..) | Step::Change(..) => {
                    let (name, changes) = match step {
                        Step::Add(index, bits) => (name(index), vec![BitmapChange::Add(Some(1 << bits))]),
                        Step::Change(index, changes) => (name(index), changes),
                        _ => unreachable!(),
                    };
                    open.clear();
                    let expected = change(&mut models, size, &name, &changes);
                    match (image.change_bitmap(&name, &changes), expected) {
                        (Ok(()), Ok(())) => {}
                        (Err(Error::Bitmap(why)), Err(expected)) => assert_eq!(why, expected),
                        (result, expected) => panic!("{result:?}, and not {expected:?}"),
                    }
                    assert_bitmaps(&image.storage, &models);
                }
                Step::Write(at, len, kind) => {
                    let range = write(&mut image, at, len, kind);
                    for (name, model) in models.iter_mut().filter(|(_, model)| model.auto && !model.lost) {
                        open.insert(name.clone(), ());
                        model.mark(range);
                    }
                }
                Step::Resize(new) => {
                    let result = image.resize(new);
                    if models.values().any(|model| model.lost) && new != size {
                        result.unwrap_err();
                        continue;
                    }
                    result.unwrap();
                    models.values_mut().for_each(|model| model.resize(new));
                    if new > size {
                        open.extend(models.keys().map(|name| (name.clone(), ())));
                    } else if new < size {
                        open.clear();
                        assert_bitmaps(&image.storage, &models);
                    }
                }
                Step::Close => {
                    image.close().unwrap();
                    open.clear();
                    assert_bitmaps(&image.storage, &models);
                }
                Step::Lose => {
                    image.flush().unwrap();
                    let storage = image.into_storage();
                    models.iter_mut().filter(|(name, _)| open.contains_key(*name)).for_each(|(_, model)| model.lost = true);
                    open.clear();
                    assert_bitmaps(&storage, &models);
                    image = Image::open(storage).unwrap();
                }
            }
        }
        image.close().unwrap();
        assert_bitmaps(&image.into_storage(), &models);
    }
}

type Told = Vec<(String, u64, bool, bool, Option<Vec<bool>>)>;

/// Says everything about the bitmaps of an image.
fn told(bytes: &[u8]) -> Told {
    let image = Image::open(MemoryDisk::new(bytes.to_vec())).unwrap();
    let all = image.bitmaps().unwrap().into_iter();
    all.map(|bitmap| {
        let bits = (!bitmap.in_use).then(|| marks(&image.bitmap_bits(&bitmap.name).unwrap()));
        (bitmap.name, bitmap.granularity, bitmap.auto, bitmap.in_use, bits)
    })
    .collect()
}

fn with_bitmaps(bits: u32, order: u32, size: u64) -> MemoryDisk {
    let mut storage = MemoryDisk::default();
    create(&mut storage, &CreateOptions { cluster_size: 1 << bits, refcount_bits: 1 << order, ..CreateOptions::new(size) })
        .unwrap();
    let mut image = Image::open(storage).unwrap();
    for (index, granularity) in [(0, 512), (1, 4096), (2, 512)] {
        let mut bits = Bits::new(size, granularity);
        bits.mark(ByteRange::at(index * 40_000, 90_000).unwrap());
        image.store_bitmaps(&[NewBitmap { name: name(index as u8), auto: index < 2, bits }]).unwrap();
    }
    image.into_storage()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn a_cut_while_bitmaps_change_leaves_the_old_ones_or_the_new_ones(
        order in 0_u32..=6,
        bits in prop_oneof![Just(9_u32), Just(12)],
        luck in any::<u64>(),
    ) {
        let mut storage = with_bitmaps(bits, order, 1_500_160);
        for (index, changes) in [
            (0, vec![BitmapChange::Merge(name(1))]),
            (3, vec![BitmapChange::Add(None), BitmapChange::Merge(name(2)), BitmapChange::Disable]),
            (1, vec![BitmapChange::Disable]),
            (2, vec![BitmapChange::Enable]),
            (2, vec![BitmapChange::Clear]),
            (0, vec![BitmapChange::Remove, BitmapChange::Add(Some(1 << 20))]),
            (0, vec![BitmapChange::Remove]),
            (1, vec![BitmapChange::Remove]),
            (2, vec![BitmapChange::Remove]),
            (3, vec![BitmapChange::Remove]),
        ] {
            let before = storage.as_bytes().to_vec();
            let (recorder, changes_made) = Recorder::new(storage);
            Image::open(recorder).unwrap().change_bitmap(&name(index), &changes).unwrap();
            let done = changes_made.take();
            let after = after_cut(&before, &done, None);
            let (old, new) = (told(&before), told(&after));
            assert_ne!(old, new);
            for_each_cut(&before, &done, luck, |cut, bytes| {
                assert_sound(bytes, Leaks::None);
                let now = told(bytes);
                assert!(now == old || now == new, "{changes:?}, cut {cut} of {}", done.len());
            });
            storage = MemoryDisk::new(after);
        }
        assert!(told(storage.as_bytes()).is_empty());
    }

    #[test]
    fn a_cut_while_the_disk_is_written_leaves_no_bitmap_that_misses_a_change(
        rounds in proptest::collection::vec((0_u64..250_000, 0_u64..30_000, any::<u8>()), 1..6),
        grow in 0_u64..300,
        shrink in 0_u64..200,
        order in 0_u32..=6,
        luck in any::<u64>(),
    ) {
        let storage = with_bitmaps(9, order, 250_368);
        let before = storage.as_bytes().to_vec();
        let (old, old_content) = (told(&before), contents(&before, None));
        let (recorder, changes) = Recorder::new(storage);
        let mut image = Image::open(recorder).unwrap();
        for (index, (at, len, kind)) in rounds.iter().enumerate() {
            write(&mut image, *at, *len, *kind);
            if index == 1 {
                image.flush().unwrap();
                image.resize(250_368 + grow * 512).unwrap();
            }
        }
        image.close().unwrap();
        if shrink > 0 {
            image.resize(250_368 - shrink * 512).unwrap();
        }
        drop(image);
        let done = changes.take();
        for_each_cut(&before, &done, luck, |cut, bytes| {
            assert_sound(bytes, Leaks::Allowed);
            let content = contents(bytes, None);
            for (name, _, auto, in_use, marks) in told(bytes) {
                let Some(marks) = marks else { continue };
                assert!(!in_use);
                let was = old.iter().find(|bitmap| bitmap.0 == name).unwrap();
                let kept = was.4.as_ref().unwrap().iter().zip(&marks).all(|(was, is)| is >= was);
                assert!(kept, "{name} has lost marks, cut {cut} of {}", done.len());
                for (sector, (was, is)) in old_content.chunks(512).zip(content.chunks(512)).enumerate() {
                    assert!(!auto || was == is || marks[sector], "{name} misses sector {sector}, cut {cut} of {}", done.len());
                }
            }
        });
        let after = after_cut(&before, &done, None);
        assert_sound(&after, Leaks::None);
        assert!(told(&after).iter().all(|bitmap| !bitmap.3));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut storage = MemoryDisk::default();
    create(&mut storage, &CreateOptions::new(16 << 40)).unwrap();
    let mut image = Image::open(storage).unwrap();
    image.change_bitmap("bitmap 0", &[BitmapChange::Add(None)]).unwrap();
    let storage = image.into_storage();
    let before = storage.as_bytes().to_vec();
    let mut image = Image::open(storage).unwrap();
    let mut refused = |bitmap: &str, change| match image.change_bitmap(bitmap, &[change]).unwrap_err() {
        Error::Bitmap(why) => why.to_string(),
        other => other.to_string(),
    };
    for (bitmap, change, why) in [
        ("bitmap 0", BitmapChange::Add(None), "already exists"),
        ("other", BitmapChange::Clear, "not found"),
        ("bitmap 0", BitmapChange::Merge("other".to_owned()), "not found"),
        ("bitmap 0", BitmapChange::Mark(Bits::new(1 << 20, 512)), "for a disk of 1048576 bytes"),
        ("", BitmapChange::Add(None), "1 to 1023 bytes"),
        (&"x".repeat(1024), BitmapChange::Add(None), "1 to 1023 bytes"),
        ("other", BitmapChange::Add(Some(2048)), "larger than 512 MiB"),
        ("other", BitmapChange::Add(Some(256)), "power of two"),
        ("other", BitmapChange::Add(Some(1 << 32)), "power of two"),
        ("other", BitmapChange::Add(Some(3000)), "power of two"),
    ] {
        let error = refused(bitmap, change);
        assert!(error.contains(why), "{error}");
    }
    assert!(image.into_storage().as_bytes() == before);
}

#[test]
fn a_corrupt_bitmap_stays_in_use_beside_one_that_is_saved_and_can_be_removed() {
    let mut storage = with_bitmaps(9, 4, 1_500_160);
    let image = Image::open(storage.clone()).unwrap();
    let table = image.bitmaps().unwrap()[0].table;
    storage.write_all_at(&(1_u64 << 40).to_be_bytes(), table.0).unwrap();
    let mut image = Image::open(storage).unwrap();
    image.write_all_at(&[1; 512], 100_352).unwrap();
    image.close().unwrap();
    let bitmaps = image.bitmaps().unwrap();
    assert_eq!(bitmaps.iter().map(|bitmap| bitmap.in_use).collect::<Vec<_>>(), [true, false, false]);
    assert!(marks(&image.bitmap_bits(&name(1)).unwrap())[196]);
    image.change_bitmap(&name(0), &[BitmapChange::Remove]).unwrap();
    assert_eq!(image.bitmaps().unwrap().len(), 2);
    assert_sound(image.into_storage().as_bytes(), Leaks::Allowed);
}
