//! Every folder of an image, read with bounds on everything that its bytes can ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imgcore::block::BlockRead;
use zerocopy::FromBytes as _;

use super::error::corrupt;
use super::raw::{ASSOCIATED, FOLDER, MULTI_EXTENT, RawRecord};
use super::read::{Names, byte_offset, place};
use super::record::Place;
use super::susp::NM_CONTINUE;
use super::{Error, SECTOR};
use crate::document::{Tree, TreeError};

/// A reader of one tree of an image.
pub(super) struct Walk<'a> {
    disk: &'a dyn BlockRead,
    names: Names,
    /// Bytes of system use that are not Rock Ridge's.
    skip: usize,
    seen: BTreeSet<u32>,
    folder_bytes: u64,
    contents: BTreeMap<(u32, u32), Arc<[u8]>>,
}

/// What Rock Ridge says about a record.
#[derive(Default)]
struct SystemUse {
    name: Vec<u8>,
    mode: Option<u32>,
    /// The sector of a folder that is kept elsewhere.
    child: Option<u32>,
    /// The folder is here, but belongs elsewhere.
    relocated: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(disk: &'a dyn BlockRead, names: Names, skip: usize) -> Self {
        Self { disk, names, skip, seen: BTreeSet::new(), folder_bytes: 0, contents: BTreeMap::new() }
    }

    /// Returns all files below `root`.
    pub(super) fn tree(mut self, root: Place) -> Result<Tree, Error> {
        let mut tree = Tree::new();
        let mut open = vec![(root, String::new())];
        while let Some((folder, path)) = open.pop() {
            if !self.seen.insert(folder.sector) {
                return Err(corrupt("a folder", folder.sector, "a folder is in one place"));
            }
            for (name, target, is_folder) in self.folder(folder)? {
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                if is_folder {
                    if path.len() > MAX_PATH {
                        return Err(corrupt("a folder", folder.sector, "a path has at most 4095 bytes"));
                    }
                    open.push((target, path));
                } else {
                    let contents = self.contents(target)?;
                    tree.insert(&path, contents).map_err(|error| match error {
                        TreeError::TooLarge => Error::Unsupported("more than 65000 files or a gigabyte"),
                        _ => corrupt("a folder", folder.sector, "its names are different and plain"),
                    })?;
                }
            }
        }
        Ok(tree)
    }

    /// Returns name, place and kind of a folder's entries.
    fn folder(&mut self, folder: Place) -> Result<Vec<(String, Place, bool)>, Error> {
        self.folder_bytes = self.folder_bytes.saturating_add(folder.len.into());
        if self.folder_bytes > MAX_FOLDER_BYTES {
            return Err(Error::Unsupported("folders of more than 64 MiB"));
        }
        let bytes = self.bytes("a folder", folder)?;
        let mut entries = Vec::new();
        for sector in bytes.chunks(SECTOR) {
            let mut rest = sector;
            // Spec: ECMA-119, 6.8.1.1: what follows the last record of a sector is zero.
            while let Some(len) = rest.first().copied().filter(|len| *len != 0) {
                let split = rest.split_at_checked(len.into());
                let split = split.ok_or_else(|| corrupt("a folder", folder.sector, "a record ends in its sector"))?;
                entries.extend(self.record(split.0, folder.sector)?);
                rest = split.1;
            }
        }
        Ok(entries)
    }

    /// Returns name, place and kind of a record, or `None` for those that are no entries.
    fn record(&self, bytes: &[u8], sector: u32) -> Result<Option<(String, Place, bool)>, Error> {
        let fail = |rule| corrupt("a directory record", sector, rule);
        let (raw, rest) = RawRecord::read_from_prefix(bytes).map_err(|_| fail("it has at least 33 bytes"))?;
        let (id, rest) = rest.split_at_checked(raw.id_len.into()).ok_or_else(|| fail("it holds its identifier"))?;
        let mut target = place(&raw).ok_or_else(|| fail("the two halves of a number are equal"))?;
        if matches!(id, [0] | [1]) || raw.flags & ASSOCIATED != 0 {
            return Ok(None);
        }
        if raw.flags & MULTI_EXTENT != 0 || raw.unit_size != 0 || raw.gap != 0 {
            return Err(Error::Unsupported("a file in several parts"));
        }
        let mut is_folder = raw.flags & FOLDER != 0;
        let name = match self.names {
            Names::Joliet => joliet_name(id),
            Names::Primary => Some(primary_name(id)),
            Names::RockRidge => {
                let padding = usize::from(raw.id_len.is_multiple_of(2));
                let area = rest.get(padding.saturating_add(self.skip)..).unwrap_or_default();
                let system_use = self.system_use(area, sector)?;
                if system_use.relocated {
                    return Ok(None);
                }
                if let Some(child) = system_use.child {
                    (target, is_folder) = (self.relocated(child)?, true);
                } else if system_use.mode.is_some_and(|mode| mode & 0o170_000 != if is_folder { 0o40_000 } else { 0o100_000 }) {
                    return Err(Error::Unsupported("links and special files"));
                }
                let own = system_use.name.is_empty().then(|| primary_name(id));
                own.or_else(|| String::from_utf8(system_use.name).ok())
            }
        };
        let name = name.filter(|name| !name.contains('/')).ok_or_else(|| fail("a name is text without a slash"))?;
        Ok(Some((name, target, is_folder)))
    }

    /// Returns the place of a relocated folder, whose length stands in its own record.
    fn relocated(&self, sector: u32) -> Result<Place, Error> {
        let bytes = self.bytes("a relocated folder", Place { sector, len: 2048 })?;
        let raw = RawRecord::read_from_prefix(&bytes).ok().and_then(|(raw, _)| place(&raw));
        raw.filter(|own| own.sector == sector)
            .ok_or_else(|| corrupt("a relocated folder", sector, "it begins with its own record"))
    }

    /// Reads system use entries, through their continuations.
    fn system_use(&self, area: &[u8], sector: u32) -> Result<SystemUse, Error> {
        let mut found = SystemUse::default();
        let mut area = area.to_vec();
        for _ in 0..MAX_CONTINUATIONS {
            match self.entries(&area, sector, &mut found)? {
                Some(next) => area = next,
                None => return Ok(found),
            }
        }
        Err(corrupt("system use", sector, "it continues a few times at most"))
    }

    /// Reads the entries of one area and returns the next one.
    fn entries(&self, area: &[u8], sector: u32, found: &mut SystemUse) -> Result<Option<Vec<u8>>, Error> {
        let mut next = None;
        let mut rest = area;
        while let [first, second, len, _, ..] = rest {
            let split = rest.split_at_checked((*len).into()).filter(|_| *len >= 4);
            let (entry, after) = split.ok_or_else(|| corrupt("system use", sector, "an entry lies in its area"))?;
            let body = entry.get(4..).unwrap_or_default();
            match [*first, *second] {
                [b'N', b'M'] => {
                    // Flags 2 and 4 are the folder itself and the one above, which have no name of their own.
                    if let Some((flags, name)) = body.split_first().filter(|(flags, _)| **flags & !NM_CONTINUE == 0) {
                        found.name.extend_from_slice(name);
                        if found.name.len() > 255 || (*flags == 0 && found.name.is_empty()) {
                            return Err(corrupt("system use", sector, "a name has 1 to 255 bytes"));
                        }
                    }
                }
                [b'P', b'X'] => found.mode = little(body, 0),
                [b'C', b'L'] => found.child = little(body, 0),
                [b'R', b'E'] => found.relocated = true,
                [b'Z', b'F'] => return Err(Error::Unsupported("compressed files")),
                [b'C', b'E'] => next = Some(self.continuation(body, sector)?),
                [b'S', b'T'] => break,
                _ => {}
            }
            rest = after;
        }
        Ok(next)
    }

    fn continuation(&self, body: &[u8], sector: u32) -> Result<Vec<u8>, Error> {
        let fields = (little(body, 0), little(body, 8), little(body, 16));
        let (Some(at), Some(offset), Some(len)) = fields else {
            return Err(corrupt("system use", sector, "a continuation has place, offset and length"));
        };
        if offset > 2048 || len > 2048 {
            return Err(corrupt("system use", sector, "a continuation lies in one sector"));
        }
        let bytes = self.bytes("system use", Place { sector: at, len: offset.saturating_add(len) })?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(bytes.get(start..).unwrap_or_default().to_vec())
    }

    /// Returns a file's bytes; two files in one place share them.
    fn contents(&mut self, at: Place) -> Result<Arc<[u8]>, Error> {
        if let Some(known) = self.contents.get(&(at.sector, at.len)) {
            return Ok(Arc::clone(known));
        }
        let bytes: Arc<[u8]> = if at.len == 0 { Arc::from([]) } else { self.bytes("a file", at)?.into() };
        self.contents.insert((at.sector, at.len), Arc::clone(&bytes));
        Ok(bytes)
    }

    fn bytes(&self, structure: &'static str, at: Place) -> Result<Vec<u8>, Error> {
        let offset = byte_offset(at.sector);
        let inside = offset.checked_add(at.len.into()).is_some_and(|end| end <= self.disk.size());
        if !inside || at.len > MAX_FILE {
            return Err(corrupt(structure, at.sector, "it lies inside the image and is at most a gigabyte"));
        }
        let mut bytes = vec![0; usize::try_from(at.len).unwrap_or(0)];
        self.disk.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn joliet_name(id: &[u8]) -> Option<String> {
    let units = id.chunks_exact(2).map(|pair| pair.iter().fold(0, |unit: u16, byte| unit.wrapping_shl(8) | u16::from(*byte)));
    let name = String::from_utf16(&units.collect::<Vec<_>>()).ok()?;
    Some(name.strip_suffix(";1").unwrap_or(&name).to_owned())
}

fn primary_name(id: &[u8]) -> String {
    let name = String::from_utf8_lossy(id);
    let name = name.split_once(';').map_or(name.as_ref(), |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

/// Returns the little-endian half of a number in both orders.
fn little(body: &[u8], offset: usize) -> Option<u32> {
    body.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

const MAX_PATH: usize = 4095;
const MAX_FOLDER_BYTES: u64 = 64 << 20;
const MAX_FILE: u32 = 1 << 30;
const MAX_CONTINUATIONS: usize = 32;
