//! The logical volumes of a group: where those lie that are plain extents, and why the others are not used.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use super::group::corrupt;
use super::text::{Section, Value};
use crate::block::ByteRange;

/// A logical volume.
#[derive(Clone, Debug)]
pub struct Logical {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the group says that it is not written.
    pub read_only: bool,
    /// Where its bytes are on the disk, in order; or why it is not used, as in `it is a thin volume`.
    pub place: Result<Vec<ByteRange>, String>,
}

/// The extents of a physical volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extents {
    /// Where they are on the disk, when it has them.
    pub(super) place: Option<ByteRange>,
    /// How many there are.
    pub(super) count: u64,
}

/// What is said of all volumes of a group.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub(super) group: &'a str,
    /// Why none is used.
    pub(super) obstacle: Option<String>,
}

/// A run of extents of a physical volume: its name, the first, how many.
type Run<'a> = (&'a str, u64, u64);

/// Reads `volumes`, those of a group; returns what a user sees.
pub(super) fn decode(
    names: &Names<'_>,
    volumes: &Section,
    physical: &BTreeMap<String, Extents>,
    extent_size: u64,
) -> Result<Vec<Logical>, Error> {
    let users = users(volumes);
    let mut taken = Vec::new();
    let mut all = Vec::new();
    for (name, stored) in volumes.sections() {
        let place = format!("logical volume `{}/{name}`", names.group);
        let mut size = 0_u64;
        let mut runs = Vec::new();
        let mut obstacle = names.obstacle.clone();
        for segment in segments(&place, stored)? {
            let number = |name: &str| {
                segment.number(name).ok_or_else(|| corrupt(&place, &format!("its segments must have a number `{name}`")))
            };
            let (start, count) = (number("start_extent")?, number("extent_count")?);
            if start != size || count == 0 {
                return Err(corrupt(&place, "its segments must follow each other without gaps"));
            }
            size = size.checked_add(count).ok_or_else(|| corrupt(&place, "its size must fit 64 bits"))?;
            match plain(segment, count, physical) {
                Ok(found) => {
                    taken.extend(found.iter().copied());
                    if found.len() > 1 {
                        obstacle.get_or_insert_with(|| "it is striped".to_owned());
                    }
                    runs.extend(found);
                }
                Err(reason) => {
                    // What it makes of its extents is not known here, but that they are its own.
                    taken.extend(areas(segment, count, physical));
                    obstacle.get_or_insert(reason);
                }
            }
        }
        if let Some(user) = users.get(name) {
            obstacle.get_or_insert_with(|| format!("`{user}` is made of it"));
        }
        let words: Vec<&str> = stored.words("status").collect();
        if let Some(word) = words.iter().find(|word| !KNOWN.contains(word)) {
            obstacle.get_or_insert_with(|| format!("it has the status {word}"));
        }
        let size = size.checked_mul(extent_size).ok_or_else(|| corrupt(&place, "its size must fit 64 bits"))?;
        let ranges = runs.iter().map(|run| below(&place, *run, physical, extent_size)).collect::<Result<Vec<_>, _>>();
        let found = match obstacle {
            Some(reason) => Err(reason),
            None => Ok(ranges?),
        };
        if words.contains(&"VISIBLE") {
            let uuid = stored.text("id").unwrap_or_default().to_owned();
            all.push(Logical { name: name.to_owned(), uuid, size, read_only: !words.contains(&"WRITE"), place: found });
        }
    }
    refuse_overlaps(names.group, taken)?;
    Ok(all)
}

/// Returns the segments of a volume in order.
fn segments<'a>(place: &str, stored: &'a Section) -> Result<Vec<&'a Section>, Error> {
    let count = stored.sections().filter(|(name, _)| name.starts_with("segment")).count();
    let numbered: Vec<_> = (1..=count).map_while(|number| stored.section(&format!("segment{number}"))).collect();
    if numbered.is_empty() || stored.number("segment_count") != u64::try_from(numbered.len()).ok() || numbered.len() != count {
        return Err(corrupt(place, "must have as many segments as it says"));
    }
    Ok(numbered)
}

/// Returns the extents that a segment of `count` is on, one run for each stripe; or why it is on no such.
fn plain<'a>(segment: &'a Section, count: u64, physical: &BTreeMap<String, Extents>) -> Result<Vec<Run<'a>>, String> {
    let kind = segment.text("type").unwrap_or("none");
    if kind != "striped" {
        return Err(format!("it is {}", kind_name(kind)));
    }
    let stripes = segment.number("stripe_count").unwrap_or(0);
    let list = segment.list("stripes").unwrap_or_default();
    let each = count.checked_div(stripes).unwrap_or(0);
    let mut runs = Vec::new();
    for pair in list.chunks(2) {
        let [Value::Text(name), Value::Number(first)] = pair else { return Err("its stripes are not of the form".to_owned()) };
        let Ok(first) = u64::try_from(*first) else { return Err("its stripes are not of the form".to_owned()) };
        let Some(extents) = physical.get(name) else { return Err(format!("it lies on `{name}`, which is no physical volume")) };
        if first.checked_add(each).is_none_or(|end| end > extents.count) {
            return Err(format!("it lies behind the end of the physical volume `{name}`"));
        }
        runs.push((name.as_str(), first, each));
    }
    if u64::try_from(runs.len()) != Ok(stripes) || stripes == 0 || each.checked_mul(stripes) != Some(count) {
        return Err("it has not as many stripes as it says".to_owned());
    }
    Ok(runs)
}

/// Returns the extents of physical volumes that a segment of `count` names, of whatever type it is.
fn areas<'a>(segment: &'a Section, count: u64, physical: &BTreeMap<String, Extents>) -> Vec<Run<'a>> {
    let stripes = segment.number("stripe_count").filter(|stripes| segment.text("type") == Some("striped") && *stripes > 0);
    let each = count.checked_div(stripes.unwrap_or(1)).unwrap_or(count);
    let pairs = segment.lists().flat_map(|list| list.windows(2));
    let run = |pair: &'a [Value]| match pair {
        [Value::Text(name), Value::Number(first)] if physical.contains_key(name) => {
            Some((name.as_str(), u64::try_from(*first).ok()?, each))
        }
        _ => None,
    };
    pairs.filter_map(run).collect()
}

/// Returns where a run is on the disk.
fn below(
    place: &str,
    (name, first, count): Run<'_>,
    physical: &BTreeMap<String, Extents>,
    extent_size: u64,
) -> Result<ByteRange, Error> {
    let range = physical.get(name).and_then(|extents| extents.place).and_then(|extents| {
        let start = first.checked_mul(extent_size)?.checked_add(extents.start())?;
        ByteRange::at(start, count.checked_mul(extent_size)?).filter(|range| range.end() <= extents.end())
    });
    range.ok_or_else(|| corrupt(place, "its extents must lie inside the physical volume"))
}

/// Refuses an extent that two segments have: to change one volume would change the other.
fn refuse_overlaps(group: &str, mut taken: Vec<Run<'_>>) -> Result<(), Error> {
    taken.sort_unstable();
    for pair in taken.windows(2) {
        if let [(name, first, count), (other, next, _)] = pair
            && name == other
            && first.saturating_add(*count) > *next
        {
            return Err(corrupt(
                &format!("volume group `{group}`"),
                &format!("two volumes must not have the same extent of `{name}`"),
            ));
        }
    }
    Ok(())
}

/// Returns the volumes that others are made of, snapshots and their origins too, each with one of these others.
fn users(volumes: &Section) -> BTreeMap<&str, &str> {
    let names: BTreeSet<&str> = volumes.sections().map(|(name, _)| name).collect();
    let mut users = BTreeMap::new();
    for (user, stored) in volumes.sections() {
        for (_, segment) in stored.sections() {
            let used = segment.strings().into_iter().filter(|text| *text != user);
            users.extend(used.filter_map(|text| names.get(text)).map(|used| (*used, user)));
        }
    }
    users
}

/// Returns what people call a type of segments.
fn kind_name(kind: &str) -> String {
    let name = match kind {
        "thin" => "a thin volume",
        "thin-pool" => "a thin pool",
        "cache" | "writecache" => "cached",
        "mirror" => "mirrored",
        "snapshot" => "a snapshot",
        "vdo" | "vdo-pool" => "on VDO",
        raid if raid.starts_with("raid") => "of RAID",
        other => return format!("of type `{}`", other.escape_debug()),
    };
    name.to_owned()
}

/// What the status of a plain volume is made of.
const KNOWN: [&str; 4] = ["READ", "WRITE", "VISIBLE", "FIXED_MINOR"];
