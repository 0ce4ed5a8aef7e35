//! One of an image's two trees: its identifiers, its order, and its folders and path tables as bytes.

use super::Error;
use super::hierarchy::{Entry, Hierarchy, Target};
use super::names;
use super::record::{self, Place};
use super::susp::{self, Continuation};

/// A tree of names over the same contents.
#[derive(Debug)]
pub(super) struct Space {
    rock_ridge: bool,
    /// By folder: identifiers and numbers of its entries, sorted by identifier.
    entries: Vec<Vec<(Vec<u8>, usize)>>,
    /// By path table number from 0: folder, identifier, and the path table number of its parent, from 1.
    table: Vec<(usize, Vec<u8>, u16)>,
}

/// Where everything in an image is.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) folders: Vec<Place>,
    pub(super) contents: Vec<Place>,
    pub(super) continuation: u32,
}

impl Space {
    /// Returns the primary tree, with Rock Ridge.
    pub(super) fn primary(hierarchy: &Hierarchy<'_>) -> Result<Self, Error> {
        Self::new(hierarchy, true, names::primary)
    }

    /// Returns Joliet's tree.
    pub(super) fn joliet(hierarchy: &Hierarchy<'_>) -> Result<Self, Error> {
        Self::new(hierarchy, false, names::joliet)
    }

    fn new(hierarchy: &Hierarchy<'_>, rock_ridge: bool, name: fn(&[Entry]) -> Vec<Vec<u8>>) -> Result<Self, Error> {
        let sorted = |folder: &super::hierarchy::Folder| {
            // Spec: ECMA-119, 9.3: records are sorted by identifier.
            let mut ids: Vec<_> = name(&folder.entries).into_iter().zip(0..).collect();
            ids.sort_unstable();
            ids
        };
        let entries = hierarchy.folders.iter().map(sorted).collect();
        let mut this = Self { rock_ridge, entries, table: vec![(0, vec![0], 1)] };
        // Spec: ECMA-119, 6.9.1: by level, then by the parent's number, then by identifier: breadth first.
        let mut next = 0_usize;
        while let Some((folder, _, _)) = this.table.get(next) {
            next = next.saturating_add(1);
            let parent = u16::try_from(next).map_err(|_| Error::TooLarge)?;
            let children = this.entries_of(hierarchy, *folder).filter_map(|(id, entry)| match entry.target {
                Target::Folder(folder) => Some((folder, id.to_vec(), parent)),
                Target::Content(_) => None,
            });
            let children: Vec<_> = children.collect();
            this.table.extend(children);
        }
        Ok(this)
    }

    /// Returns the path table with little- or big-endian numbers.
    ///
    /// Spec: ECMA-119, 9.4.
    pub(super) fn path_table(&self, places: &Places, big: bool) -> Vec<u8> {
        let mut table = Vec::new();
        for (folder, id, parent) in &self.table {
            let sector = places.folders.get(*folder).copied().unwrap_or_default().sector;
            table.extend_from_slice(&[u8::try_from(id.len()).unwrap_or(u8::MAX), 0]);
            table.extend_from_slice(&if big { sector.to_be_bytes() } else { sector.to_le_bytes() });
            table.extend_from_slice(&if big { parent.to_be_bytes() } else { parent.to_le_bytes() });
            table.extend_from_slice(id);
            if !id.len().is_multiple_of(2) {
                table.push(0);
            }
        }
        table
    }

    /// Returns the folders' bytes, by number, and those of the continuation area. Their lengths do not depend on `places`.
    pub(super) fn folders(&self, hierarchy: &Hierarchy<'_>, places: &Places, time: [u8; 7]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut continuation = Continuation::new(places.continuation);
        let numbers = 0..hierarchy.folders.len();
        let folders = numbers.map(|number| self.folder(hierarchy, number, places, time, &mut continuation)).collect();
        record::pad_to_sector(&mut continuation.bytes);
        (folders, continuation.bytes)
    }

    fn folder(
        &self,
        hierarchy: &Hierarchy<'_>,
        number: usize,
        places: &Places,
        time: [u8; 7],
        continuation: &mut Continuation,
    ) -> Vec<u8> {
        let place_of = |folder: usize| places.folders.get(folder).copied().unwrap_or_default();
        let parent = hierarchy.folders.get(number).map_or(0, |folder| folder.parent);
        let mut bytes = Vec::new();
        let own = match (self.rock_ridge, number) {
            (false, _) => Vec::new(),
            (true, 0) => susp::of_root(&folder_attributes(hierarchy, 0, time), continuation),
            (true, _) => folder_attributes(hierarchy, number, time),
        };
        record::append(&mut bytes, &record::encode(&[0], place_of(number), true, time, &own));
        let above = if self.rock_ridge { folder_attributes(hierarchy, parent, time) } else { Vec::new() };
        record::append(&mut bytes, &record::encode(&[1], place_of(parent), true, time, &above));
        for (id, entry) in self.entries_of(hierarchy, number) {
            let (place, is_folder, attributes) = match entry.target {
                Target::Folder(folder) => (place_of(folder), true, folder_attributes(hierarchy, folder, time)),
                Target::Content(content) => {
                    let place = places.contents.get(content).copied().unwrap_or_default();
                    (place, false, susp::attributes(false, 1, time))
                }
            };
            let system_use = if self.rock_ridge {
                susp::of_entry(&attributes, &entry.name, record::system_use_room(id), continuation)
            } else {
                Vec::new()
            };
            record::append(&mut bytes, &record::encode(id, place, is_folder, time, &system_use));
        }
        record::pad_to_sector(&mut bytes);
        bytes
    }

    /// Iterates over a folder's identifiers and entries, sorted by identifier.
    fn entries_of<'a>(
        &'a self,
        hierarchy: &'a Hierarchy<'_>,
        folder: usize,
    ) -> impl Iterator<Item = (&'a [u8], &'a Entry)> + use<'a> {
        let ids = self.entries.get(folder).into_iter().flatten();
        let folder = hierarchy.folders.get(folder);
        ids.filter_map(move |(id, number)| Some((id.as_slice(), folder?.entries.get(*number)?)))
    }
}

fn folder_attributes(hierarchy: &Hierarchy<'_>, number: usize, time: [u8; 7]) -> Vec<u8> {
    let folders = hierarchy.folders.get(number).map_or(0, super::hierarchy::Folder::folder_count);
    let links = u32::try_from(folders).unwrap_or(u32::MAX).saturating_add(2);
    susp::attributes(true, links, time)
}
