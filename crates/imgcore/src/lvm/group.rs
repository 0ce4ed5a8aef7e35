//! A volume group, from its text and the physical volumes that were found.

use std::collections::BTreeMap;

use super::label::{Label, SECTOR};
use super::logical::{self, Extents, Logical};
use super::text::Section;
use super::{Error, logical::Names};
use crate::block::ByteRange;

/// A volume group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// How often its text was changed.
    pub seqno: u64,
    /// Bytes of an extent.
    pub extent_size: u64,
    /// The logical volumes that a user sees, by name.
    pub logical: Vec<Logical>,
    /// Which of the physical volumes that were read are its own.
    pub(super) members: Vec<usize>,
}

/// A physical volume that was read: which one, where, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) range: ByteRange,
    pub(super) label: Label,
    pub(super) text: Option<Vec<u8>>,
}

impl Group {
    /// Reads the group that `text` describes; `found` are the physical volumes of the disk.
    pub(super) fn decode(text: &[u8], found: &[&Member]) -> Result<Self, Error> {
        let all = Section::decode(text)?;
        if all.text("contents") != Some("Text Format Volume Group") || all.number("version") != Some(1) {
            return Err(Error::Unsupported("a text that is not `Text Format Volume Group` of version 1".to_owned()));
        }
        let mut sections = all.sections();
        let (Some((name, group)), None) = (sections.next(), sections.next()) else {
            return Err(corrupt("text", "must have one volume group"));
        };
        let place = format!("volume group `{name}`");
        let need =
            |name: &str, value: Option<u64>| value.ok_or_else(|| corrupt(&place, &format!("must have a number `{name}`")));
        if !is_name(name) {
            return Err(corrupt("text", "must give the volume group a name that LVM allows"));
        }
        let extent_size = need("extent_size", group.number("extent_size"))?.checked_mul(SECTOR);
        let extent_size = extent_size.filter(|size| *size > 0).ok_or_else(|| corrupt(&place, "must have an extent size"))?;
        let (extents, members) = extents(text, group, found, extent_size)?;
        let empty = Section::default();
        let volumes = group.section("logical_volumes").unwrap_or(&empty);
        if let Some((bad, _)) = volumes.sections().find(|(name, _)| !is_name(name)) {
            return Err(corrupt(&place, &format!("has a logical volume with a name that LVM does not allow: {bad}")));
        }
        let names = Names { group: name, obstacle: obstacle(name, group, &extents) };
        let logical = logical::decode(&names, volumes, &extents, extent_size)?;
        Ok(Self {
            name: name.to_owned(),
            uuid: group.text("id").unwrap_or_default().to_owned(),
            seqno: need("seqno", group.number("seqno"))?,
            extent_size,
            logical,
            members,
        })
    }
}

/// Returns where each physical volume of the group has its extents, by the name that the text gives it, and which they are.
fn extents(
    text: &[u8],
    group: &Section,
    found: &[&Member],
    extent_size: u64,
) -> Result<(BTreeMap<String, Extents>, Vec<usize>), Error> {
    let (mut all, mut members) = (BTreeMap::new(), Vec::new());
    for (name, stored) in group.section("physical_volumes").into_iter().flat_map(Section::sections) {
        let place = format!("physical volume `{name}`");
        let uuid = stored.text("id").ok_or_else(|| corrupt(&place, "must have an `id`"))?;
        let number = |name: &str| stored.number(name).ok_or_else(|| corrupt(&place, &format!("must have a number `{name}`")));
        let (start, count) = (number("pe_start")?, number("pe_count")?);
        let Some(member) = found.iter().find(|member| member.label.uuid == uuid) else {
            all.insert(name.to_owned(), Extents { place: None, count });
            continue;
        };
        if members.contains(&member.index) {
            return Err(corrupt(&place, "must not be another one too"));
        }
        if member.text.as_deref().is_some_and(|own| own != text) {
            return Err(corrupt(&place, "must hold the text of its volume group"));
        }
        let size = count.checked_mul(extent_size);
        let inside = start.checked_mul(SECTOR).zip(size).and_then(|(start, size)| ByteRange::at(start, size));
        let inside = inside.filter(|inside| inside.end() <= member.range.len());
        let inside = inside.ok_or_else(|| corrupt(&place, "its extents must lie inside its partition"))?;
        if inside.start() != member.label.data {
            return Err(corrupt(&place, "its extents must begin where its header says"));
        }
        let below = member.range.start().checked_add(inside.start()).and_then(|start| ByteRange::at(start, inside.len()));
        members.push(member.index);
        all.insert(name.to_owned(), Extents { place: below, count });
    }
    Ok((all, members))
}

/// Returns why no volume of the group is used, if that is so.
fn obstacle(name: &str, group: &Section, extents: &BTreeMap<String, Extents>) -> Option<String> {
    let missing = extents.values().filter(|extents| extents.place.is_none()).count();
    if missing > 0 {
        let all = extents.len();
        return Some(format!("its volume group `{name}` has {all} physical volumes, of which {missing} are not on this disk"));
    }
    let mut words = group.words("status");
    match words.find(|word| !matches!(*word, "RESIZEABLE" | "READ" | "WRITE")) {
        Some("EXPORTED") => return Some(format!("its volume group `{name}` is exported")),
        Some(other) => return Some(format!("its volume group `{name}` has the status {other}")),
        None => {}
    }
    // A volume that was away while the group was changed keeps the flag MISSING when it is back: what is on it may be old.
    let mut marks = group.section("physical_volumes").into_iter().flat_map(Section::sections).flat_map(|(volume, stored)| {
        let words = stored.words("flags").chain(stored.words("status").filter(|word| *word != "ALLOCATABLE"));
        words.map(move |word| format!("the physical volume `{volume}` of its volume group `{name}` is marked {word}"))
    });
    marks.next()
}

/// Returns whether LVM allows a name.
///
/// Spec: lvm(8), "VALID NAMES": "a-z A-Z 0-9 + _ . -"; "cannot begin with a hyphen", "cannot be '.' and '..'"; at most 127 characters.
fn is_name(name: &str) -> bool {
    let allowed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte));
    allowed && !name.is_empty() && name.len() <= 127 && !name.starts_with('-') && name != "." && name != ".."
}

pub(super) fn corrupt(place: &str, rule: &str) -> Error {
    Error::corrupt(place, rule)
}
