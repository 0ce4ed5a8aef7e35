use std::collections::{BTreeMap, BTreeSet};

use super::acl::for_programs;
use super::cluster::{clusters_of, whole};
use super::edit::{load_block_map, load_inode_map};
use super::error::corrupt;
use super::extent::FileExtent;
use super::group::sum_free;
use super::inode::{CHECKSUM_HI_END, EXTENTS_FLAG, Inode, ROOT_INODE};
use super::journal::replay;
use super::node::node_of;
use super::own;
use super::quota::check_usage;
use super::resolve::resolve;
use super::survey::survey;
use super::view::{Listing, Stored, Verdict, View, compare_listed};
use super::volume::{Volume, has_tree};
use super::walk::Walk;
use super::xattr::{read_value, read_xattrs, split_name};
use crate::block::{BlockRead, Staged};
use crate::fs::{EditPlan, Error, Expected, FileKind, GuestPath, SameFiles, Wanted, expectations, same_files};

/// Checks that `disk`, a file system, is sound where `plan` changed it, and holds what `plan` says.
///
/// The groups of the planned files: bitmaps, descriptors and superblock agree, checksums are right, the blocks of the planned
/// files are in use and of one file each; quota files are sound, and count every inode and what the planned files take. Then `ext4-view`, another reader, opens the file system, and type, contents, mode,
/// owner, link text or absence of each planned path are compared, by this module's reader where that one does not know the file
/// system (inodes of 128 bytes, block maps, the `legacy` hash, some features); times and extended attributes, and the contents of more than 64
/// files in one folder, are read by this module. Paths
/// are those of the final state. The cost follows the plan, not the disk.
///
/// # Errors
///
/// [`Error::Mismatch`] names the first path that differs, [`Error::Corrupt`] the first broken rule; otherwise the failure of
/// `disk`.
pub fn verify(disk: &dyn BlockRead, plan: &EditPlan) -> Result<(), Error> {
    let mut replayed = Staged::new(disk);
    replay(&mut replayed)?;
    let disk: &dyn BlockRead = &replayed;
    let volume = Volume::open(disk)?;
    check_sums(&volume)?;
    survey(&volume)?;
    let expected = expected(&volume, plan)?;
    // The other reader refuses inodes of 128 bytes.
    let is_known = volume.layout().inode_size > 128 && !is_short(&volume, &volume.inode(ROOT_INODE)?);
    let view = if is_known { View::open(disk, volume.layout())? } else { None };
    let mut groups = BTreeSet::new();
    let mut runs = BTreeMap::new();
    let mut found = Vec::new();
    for (expected, inode) in &expected {
        let extents = match inode {
            Some(inode) => claim(&volume, inode, &mut groups, &mut runs)?,
            None => Vec::new(),
        };
        found.push((expected, inode.clone(), extents));
    }
    check_groups(&volume, &groups, &runs)?;
    let block_size = u64::from(volume.layout().block_size);
    let short = check_folders(&volume, &found)?;
    let listings = match &view {
        Some(view) => list_large(disk, &volume, view, &found)?,
        None => BTreeMap::new(),
    };
    if !found.is_empty() {
        check_usage(&volume, found.iter().filter_map(|(_, inode, _)| inode.as_ref()))?;
    }
    for (expected, inode, extents) in found {
        let at = Stored { path: &expected.path, extents: &extents, block_size };
        // It hashes names as signed bytes only.
        let view = view.as_ref().filter(|_| !volume.layout().unsigned_hash || expected.path.as_str().is_ascii());
        let view = view.filter(|_| !inode.as_ref().is_some_and(may_have_mapped_holes));
        let is_short = inode.as_ref().is_some_and(|inode| is_short(&volume, inode)) || short.contains(&expected.path.parent());
        let view = view.filter(|_| !is_short);
        let listing = expected.path.parent().and_then(|folder| listings.get(&folder));
        let verdict = match (view, listing) {
            (None, _) => None,
            (Some(_), Some(listing)) => compare_listed(listing, expected).map(|()| None)?,
            (Some(view), None) => Some(view.compare(disk, expected, &at)?),
        };
        if verdict != Some(Verdict::Same) {
            own::compare(&volume, &expected.path, inode.as_ref(), &extents, &expected.wanted)?;
        }
        if let Some(inode) = &inode {
            compare_rest(&volume, inode, expected)?;
        }
    }
    Ok(())
}

/// Returns whether a block map says where the contents of `inode` are: the other reader takes a hole in it for block 0, and a file
/// may be nothing but a hole.
fn may_have_mapped_holes(inode: &Inode) -> bool {
    let mapped = !inode.has_flag(EXTENTS_FLAG) && inode.kind().is_ok_and(|kind| has_tree(inode, kind));
    mapped && inode.size() > 0
}

/// Returns whether `inode` has space for half of its checksum: the other reader takes what lies behind for the other half.
fn is_short<D: BlockRead>(volume: &Volume<D>, inode: &Inode) -> bool {
    volume.layout().has_metadata_csum() && !inode.has_extra(CHECKSUM_HI_END)
}

/// Returns what `plan` leaves, and what is there.
fn expected<D: BlockRead>(volume: &Volume<D>, plan: &EditPlan) -> Result<Vec<(Expected, Option<Inode>)>, Error> {
    let walk = Walk::new(volume);
    let expect = |same: &SameFiles| expectations(plan, |path, follow| walk.canonical(path, follow), same);
    let mut all = expect(&SameFiles::new())?;
    let mut inodes = Vec::with_capacity(all.len());
    for expected in &all {
        inodes.push(walk.find(&expected.path)?);
    }
    let same = same_files(&all, |at| inodes.get(at)?.as_ref().map(|inode| inode.number));
    if !same.is_empty() {
        all = expect(&same)?;
    }
    Ok(all.into_iter().zip(inodes).collect())
}

/// What the plan leaves at a path, what is there, and where its contents are.
type Found<'a> = (&'a Expected, Option<Inode>, Vec<FileExtent>);

/// Checks the indexes of the folders that the other reader looks names up in, whose sizes it takes as they are; returns those
/// folders to which it does not find the way.
fn check_folders<D: BlockRead>(volume: &Volume<D>, found: &[Found<'_>]) -> Result<BTreeSet<Option<GuestPath>>, Error> {
    let (mut parents, mut seen, mut short) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (expected, ..) in found {
        if !parents.insert(expected.path.parent()) {
            continue;
        }
        // A file may be in the way.
        let folders = resolve(volume, &expected.path, false).map(|place| place.folders);
        for folder in folders.unwrap_or_default() {
            if is_short(volume, &folder) {
                short.insert(expected.path.parent());
            }
            if seen.insert(folder.number) {
                volume.check_index(&folder)?;
            }
        }
    }
    Ok(short)
}

/// Has the other reader list the folders in which the plan concerns many names: finding each by its path would read the folder's
/// blocks as often.
fn list_large<D: BlockRead>(
    disk: &dyn BlockRead,
    volume: &Volume<D>,
    view: &View,
    found: &[Found<'_>],
) -> Result<BTreeMap<GuestPath, Listing>, Error> {
    let mut folders: BTreeMap<GuestPath, (BTreeSet<Vec<u8>>, BTreeSet<u64>)> = BTreeMap::new();
    for (expected, inode, _) in found {
        let (Some(folder), Some(name)) = (expected.path.parent(), expected.path.name()) else { continue };
        let (names, blocks) = folders.entry(folder).or_default();
        names.insert(name.as_bytes().to_vec());
        if let Some(inode) = inode {
            blocks.insert(volume.inode_place(inode.number)?.0);
        }
    }
    let mut listings = BTreeMap::new();
    for (path, (names, mut blocks)) in folders.into_iter().filter(|(_, (names, _))| names.len() > MANY) {
        let Ok(Some(folder)) = resolve(volume, &path, true).map(|place| place.found) else { continue };
        if folder.kind()? == FileKind::Directory && has_tree(&folder, FileKind::Directory) {
            blocks.extend(volume.folder_blocks(&folder)?.into_iter().map(|(_, block)| block));
        }
        let size = u64::from(volume.layout().block_size);
        if let Some(listing) = view.list(disk, &path, &names, (&blocks, size))? {
            listings.insert(path, listing);
        }
    }
    Ok(listings)
}

/// Checks that the superblock's free counts are the sums of the groups'.
fn check_sums<D: BlockRead>(volume: &Volume<D>) -> Result<(), Error> {
    let (clusters, inodes) = sum_free(volume.store.disk(), volume.layout())?;
    let blocks = clusters.saturating_mul(u64::from(volume.layout().cluster_blocks));
    let stored = (volume.raw.free_blocks_count(), u64::from(volume.raw.s_free_inodes_count.get()));
    if stored == (blocks, inodes) {
        return Ok(());
    }
    Err(corrupt("superblock", "its free blocks and inodes are the sums of the groups'"))
}

/// Notes the groups that `inode` concerns, and its blocks; returns where its contents are.
fn claim<D: BlockRead>(
    volume: &Volume<D>,
    inode: &Inode,
    groups: &mut BTreeSet<u32>,
    runs: &mut BTreeMap<u64, (u64, u32)>,
) -> Result<Vec<FileExtent>, Error> {
    groups.extend(volume.layout().group_of_inode(inode.number).map(|(group, _)| group));
    if !has_tree(inode, inode.kind()?) {
        return Ok(Vec::new());
    }
    let tree = volume.tree(inode)?;
    let nodes = tree.nodes.iter().map(|node| (*node, 1));
    let size = volume.layout().cluster_blocks;
    for run in clusters_of(&tree.extents, size).into_iter().chain(nodes) {
        let (start, len) = whole(run, size);
        let end = start.saturating_add(u64::from(len));
        let before = runs.range(..end).next_back();
        let shared = before.is_some_and(|(_, (until, owner))| *until > start && *owner != inode.number);
        if shared {
            return Err(corrupt(format!("block {start}"), "a block, or cluster of blocks, is of one file"));
        }
        runs.insert(start, (end, inode.number));
        for block in [start, end.saturating_sub(1)] {
            groups.extend(volume.layout().group_of_block(block).map(|(group, _)| group));
        }
    }
    Ok(tree.extents)
}

/// Checks the bitmaps of groups, and that claimed blocks are in use.
fn check_groups<D: BlockRead>(
    volume: &Volume<D>,
    groups: &BTreeSet<u32>,
    runs: &BTreeMap<u64, (u64, u32)>,
) -> Result<(), Error> {
    let mut maps = BTreeMap::new();
    for group in groups {
        load_inode_map(volume, *group)?;
        maps.insert(*group, load_block_map(volume, *group)?);
    }
    for (start, (end, _)) in runs {
        let size = usize::try_from(volume.layout().cluster_blocks).unwrap_or(usize::MAX);
        for block in (*start..*end).step_by(size) {
            let Some((group, index)) = volume.layout().cluster_of_block(block) else { continue };
            if maps.get(&group).is_some_and(|map| !map.get(index)) {
                return Err(corrupt(format!("block {block}"), "a block of a file is in use"));
            }
        }
    }
    Ok(())
}

/// Compares what the other reader does not tell: time and extended attributes.
fn compare_rest<D: BlockRead>(volume: &Volume<D>, inode: &Inode, expected: &Expected) -> Result<(), Error> {
    let Wanted::Present { attributes, end, node, .. } = &expected.wanted else { return Ok(()) };
    if node.is_some() && *node != node_of(inode)? {
        return Err(differs(&expected.path, "it is another device"));
    }
    if let Some(end) = end {
        own::compare_end(volume, &expected.path, inode, end)?;
    }
    if let Some(mtime) = attributes.mtime.filter(|mtime| *mtime != inode.mtime()) {
        return Err(differs(&expected.path, format!("its time is {}, not {mtime}", inode.mtime())));
    }
    if attributes.xattrs.is_empty() {
        return Ok(());
    }
    let all = read_xattrs(volume, inode)?;
    for (name, value) in &attributes.xattrs {
        let stored = all.iter().find(|stored| split_name(name) == Some((stored.index, &stored.name)));
        let mut stored = stored.map(|stored| read_value(volume, &stored.value)).transpose()?;
        if name.starts_with("system.posix_acl_") {
            stored = stored.as_deref().and_then(for_programs);
        }
        if stored.as_ref() != Some(value) {
            return Err(differs(&expected.path, format!("its extended attribute `{name}` differs")));
        }
    }
    Ok(())
}

/// Names in one folder from which on the other reader lists it: contents are then compared by this module's reader.
const MANY: usize = 64;

/// Returns the error for a path that is not as planned.
pub(super) fn differs(path: &GuestPath, difference: impl Into<String>) -> Error {
    Error::Mismatch { path: path.clone(), difference: difference.into() }
}
