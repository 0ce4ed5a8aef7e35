use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ext4_view::{Ext4Error, Ext4Read, FileType};

use super::edit::{read_piece, runs_to_compare};
use super::error::corrupt;
use super::extent::FileExtent;
use super::layout::Layout;
use super::verify::differs;
use crate::block::BlockRead;
use crate::fs::{Attributes, Content, Error, Expected, FileKind, GuestPath, Wanted};

/// The file system as the crate `ext4-view` reads it.
///
/// That crate wants a reader of its own for good. This one only has pages that were fetched for it: what is missing is noted and
/// the read fails; then the pages are fetched from the device and the operation is tried again.
pub(super) struct View {
    ext4: ext4_view::Ext4,
    pages: Arc<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<u64, Box<[u8]>>,
    missing: BTreeSet<u64>,
}

impl Pages {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `operation` until it has all the pages that it needs.
    fn retry<T>(
        &self,
        disk: &dyn BlockRead,
        mut operation: impl FnMut() -> Result<T, Ext4Error>,
    ) -> Result<Result<T, Ext4Error>, Error> {
        loop {
            let result = operation();
            let missing = std::mem::take(&mut self.state().missing);
            if missing.is_empty() {
                return Ok(result);
            }
            for page in missing {
                self.fetch(disk, page, page.saturating_add(1))?;
            }
        }
    }

    /// Fetches the pages under the bytes from `start` to before `end`.
    fn fetch(&self, disk: &dyn BlockRead, start: u64, end: u64) -> Result<(), Error> {
        let mut page = start & !(PAGE.wrapping_sub(1));
        let end = end.min(disk.size());
        while page < end {
            // The pages that are missing here, one after the other, are read at once.
            let mut behind = page;
            while behind < end && !self.state().known.contains_key(&behind) {
                behind = behind.saturating_add(PAGE);
            }
            if behind == page {
                page = page.saturating_add(PAGE);
                continue;
            }
            let len = behind.min(disk.size()).saturating_sub(page);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            disk.read_exact_at(&mut bytes, page)?;
            let mut state = self.state();
            for piece in bytes.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX)) {
                state.known.insert(page, piece.into());
                page = page.saturating_add(PAGE);
            }
        }
        Ok(())
    }

    /// Drops the pages when they are many.
    fn prune(&self) {
        let mut state = self.state();
        if state.known.len() > MAX_PAGES {
            state.known.clear();
        }
    }
}

struct Reader(Arc<Pages>);

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, to: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut state = self.0.state();
        let mut offset = start;
        let mut rest = to;
        while !rest.is_empty() {
            let page = offset & !(PAGE.wrapping_sub(1));
            let inside = usize::try_from(offset.saturating_sub(page)).unwrap_or(usize::MAX);
            let room = usize::try_from(PAGE).unwrap_or(usize::MAX).saturating_sub(inside);
            let (part, behind) = rest.split_at_mut(room.min(rest.len()));
            match state.known.get(&page) {
                Some(bytes) => {
                    let from = bytes.get(inside..).and_then(|bytes| bytes.get(..part.len()));
                    part.copy_from_slice(from.ok_or("a read ends behind the device")?);
                }
                None => {
                    state.missing.insert(page);
                }
            }
            offset = page.checked_add(PAGE).ok_or("a read ends behind the device")?;
            rest = behind;
        }
        if state.missing.is_empty() { Ok(()) } else { Err("a page is to be fetched".into()) }
    }
}

impl View {
    /// Opens the file system of `disk`, or returns `None` when it has a feature that the other reader does not know.
    pub(super) fn open(disk: &dyn BlockRead, layout: &Layout) -> Result<Option<Self>, Error> {
        let pages = Arc::new(Pages::default());
        // It reads all descriptors, and would begin again at each page that is missing.
        for first in (0..layout.groups).step_by(usize::try_from(layout.descriptors_per_block()).unwrap_or(usize::MAX)) {
            let from = layout.descriptor_offset(first);
            pages.fetch(disk, from, from.saturating_add(u64::from(layout.block_size)))?;
        }
        let loaded = pages.retry(disk, || ext4_view::Ext4::load(Box::new(Reader(Arc::clone(&pages)))))?;
        match loaded {
            Ok(ext4) => Ok(Some(Self { ext4, pages })),
            Err(Ext4Error::Incompatible(_)) => Ok(None),
            Err(error) => Err(corrupt("file system", error.to_string())),
        }
    }

    /// Compares what is at a path with what is expected there.
    pub(super) fn compare(&self, disk: &dyn BlockRead, expected: &Expected, at: &Stored<'_>) -> Result<Verdict, Error> {
        let path = at.path;
        self.pages.prune();
        let metadata = self.pages.retry(disk, || self.ext4.symlink_metadata(path.as_str()))?;
        let (metadata, wanted) = match (metadata, &expected.wanted) {
            (Err(Ext4Error::NotFound | Ext4Error::NotADirectory), Wanted::Absent) => return Ok(Verdict::Same),
            (Err(Ext4Error::Incompatible(_)), _) => return Ok(Verdict::CannotRead),
            // That crate takes the low half of a time for a signed number even where the high half makes it later than 2038.
            (Err(error @ Ext4Error::Corrupt(_)), _) if error.to_string().ends_with("invalid timestamp") => {
                return Ok(Verdict::CannotRead);
            }
            (Ok(_), Wanted::Absent) => return Err(differs(path, "it is still there")),
            (Err(error), _) => return Err(differs(path, error.to_string())),
            (Ok(metadata), wanted) => (metadata, wanted),
        };
        let Wanted::Present { kind, content, lines, target, attributes, .. } = wanted else { return Ok(Verdict::Same) };
        let found = kind_of(metadata.file_type());
        if kind.is_some_and(|kind| kind != found) {
            return Err(differs(path, format!("it is a {found:?}")));
        }
        compare_owner(path, &metadata, attributes)?;
        if let Some(content) = content {
            if metadata.len() != content.len() {
                return Err(differs(path, format!("it has {} bytes, not {}", metadata.len(), content.len())));
            }
            self.compare_content(disk, at, content)?;
        }
        if let Some(target) = target {
            // A link may have any text, but that crate reads only those that could be a path.
            if ext4_view::Path::try_from(target.as_str()).is_err() {
                return Ok(Verdict::CannotRead);
            }
            let found = self.pages.retry(disk, || self.ext4.read_link(path.as_str()))?;
            let found = found.map_err(|error| differs(path, error.to_string()))?;
            if AsRef::<[u8]>::as_ref(&found) != target.as_bytes() {
                return Err(differs(path, "the link has another text"));
            }
        }
        if !lines.is_empty() {
            let found = self.pages.retry(disk, || self.ext4.read(path.as_str()))?;
            let found = found.map_err(|error| differs(path, error.to_string()))?;
            for line in lines {
                let times = found.split(|byte| *byte == b'\n').filter(|old| *old == line.as_bytes()).count();
                if times == 0 {
                    return Err(differs(path, "a line is missing"));
                }
            }
        }
        Ok(Verdict::Same)
    }

    /// Returns what `folder` says of these names: nothing where it does not have one. `near` are blocks, of `block_size` bytes,
    /// that it is likely to read for that.
    pub(super) fn list(
        &self,
        disk: &dyn BlockRead,
        folder: &GuestPath,
        names: &BTreeSet<Vec<u8>>,
        (near, block_size): (&BTreeSet<u64>, u64),
    ) -> Result<Option<Listing>, Error> {
        self.pages.prune();
        for block in near {
            let from = block.saturating_mul(block_size);
            self.pages.fetch(disk, from, from.saturating_add(block_size).saturating_add(READ_AHEAD))?;
        }
        let listed = self.pages.retry(disk, || {
            let mut listing = Listing::new();
            for entry in self.ext4.read_dir(folder.as_str())? {
                let entry = entry?;
                let name = entry.file_name();
                let name: &[u8] = name.as_ref();
                if names.contains(name) {
                    listing.insert(name.to_vec(), entry.metadata()?);
                }
            }
            Ok(listing)
        })?;
        // What it does not know is compared one by one, which says more.
        Ok(listed.ok())
    }

    fn compare_content(&self, disk: &dyn BlockRead, at: &Stored<'_>, content: &Content) -> Result<(), Error> {
        let path = at.path;
        let failed = |error: Ext4Error| differs(path, error.to_string());
        let mut file = self.pages.retry(disk, || self.ext4.open(path.as_str()))?.map_err(failed)?;
        let piece = usize::try_from(content.len()).unwrap_or(usize::MAX).min(PIECE);
        let mut stored = vec![0; piece];
        for run in runs_to_compare(content, at.extents, at.block_size)? {
            let (mut offset, mut fetched, mut ready) = (run.start, run.start, run.start == 0);
            while offset < run.end {
                if offset >= fetched {
                    fetched = offset.saturating_add(u64::try_from(PIECE).unwrap_or(u64::MAX));
                    self.fetch(disk, at, offset, fetched)?;
                }
                let read = self.pages.retry(disk, || {
                    if !ready {
                        file.seek_to(offset)?;
                        if !self.pages.state().missing.is_empty() {
                            return Err(Ext4Error::NotFound);
                        }
                    }
                    ready = false;
                    let len = file.read_bytes(&mut stored)?;
                    ready = true;
                    Ok(len)
                })?;
                let len = read.map_err(failed)?;
                if len == 0 || stored.get(..len) != Some(&*read_piece(content, offset, len)?) {
                    return Err(differs(path, format!("its contents differ at or behind byte {offset}")));
                }
                offset = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }

    /// Fetches the blocks of a file from `start` to before `end`, so that few reads fail.
    fn fetch(&self, disk: &dyn BlockRead, at: &Stored<'_>, start: u64, end: u64) -> Result<(), Error> {
        self.pages.prune();
        for extent in at.extents {
            let first = u64::from(extent.logical).saturating_mul(at.block_size);
            let from = first.max(start);
            let to = extent.logical_end().saturating_mul(at.block_size).min(end);
            if from < to {
                let below = extent.physical.saturating_mul(at.block_size).saturating_add(from.saturating_sub(first));
                let behind = below.saturating_add(to.saturating_sub(from)).saturating_add(READ_AHEAD);
                self.pages.fetch(disk, below, behind)?;
            }
        }
        Ok(())
    }
}

/// Compares type, owner, mode and size of what is expected in a folder with what the other reader listed there.
pub(super) fn compare_listed(listing: &Listing, expected: &Expected) -> Result<(), Error> {
    let path = &expected.path;
    let metadata = path.name().and_then(|name| listing.get(name.as_bytes()));
    match (metadata, &expected.wanted) {
        (None, Wanted::Absent) => Ok(()),
        (Some(_), Wanted::Absent) => Err(differs(path, "it is still there")),
        (None, Wanted::Present { .. }) => Err(differs(path, "it is not there")),
        (Some(metadata), Wanted::Present { kind, content, attributes, .. }) => {
            let found = kind_of(metadata.file_type());
            if kind.is_some_and(|kind| kind != found) {
                return Err(differs(path, format!("it is a {found:?}")));
            }
            if let Some(content) = content
                && metadata.len() != content.len()
            {
                return Err(differs(path, format!("it has {} bytes, not {}", metadata.len(), content.len())));
            }
            compare_owner(path, metadata, attributes)
        }
    }
}

/// What the other reader says of names in a folder.
pub(super) type Listing = BTreeMap<Vec<u8>, ext4_view::Metadata>;

/// What a comparison says when nothing differs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// All is as expected.
    Same,
    /// The other reader does not know how a folder on the way is kept.
    CannotRead,
}

/// A file, and where its contents are.
pub(super) struct Stored<'a> {
    pub(super) path: &'a GuestPath,
    pub(super) extents: &'a [FileExtent],
    pub(super) block_size: u64,
}

fn compare_owner(path: &GuestPath, found: &ext4_view::Metadata, wanted: &Attributes) -> Result<(), Error> {
    let mode = u32::from(found.mode() & 0o7777);
    // A link that was there before keeps its mode, which nobody heeds.
    let is_link = kind_of(found.file_type()) == FileKind::Symlink;
    if let Some(wanted) = wanted.mode.filter(|wanted| *wanted != mode && !is_link) {
        return Err(differs(path, format!("its mode is {mode:o}, not {wanted:o}")));
    }
    let found = (found.uid(), found.gid());
    if found != (wanted.uid.unwrap_or(found.0), wanted.gid.unwrap_or(found.1)) {
        return Err(differs(path, format!("its owner is {}:{}", found.0, found.1)));
    }
    Ok(())
}

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::Directory => FileKind::Directory,
        FileType::Fifo => FileKind::Fifo,
        FileType::Regular => FileKind::File,
        FileType::Socket => FileKind::Socket,
        FileType::Symlink => FileKind::Symlink,
    }
}

const PAGE: u64 = 4096;
/// Pages that are kept for reading again.
const MAX_PAGES: usize = 4096;
/// Bytes that the other reader takes behind the block that it wants.
const READ_AHEAD: u64 = 32 << 10;
/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;
