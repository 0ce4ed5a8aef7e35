use super::edit::{read_piece, runs_to_compare};
use super::extent::FileExtent;
use super::inline::is_inline;
use super::inode::Inode;
use super::verify::differs;
use super::volume::Volume;
use crate::block::BlockRead;
use crate::fs::{Content, Error, FileKind, GuestPath, Wanted};

/// Compares what is at a path with what is wanted there, by this module's reader: for file systems that the other one refuses.
pub(super) fn compare<D: BlockRead>(
    volume: &Volume<D>,
    path: &GuestPath,
    inode: Option<&Inode>,
    extents: &[FileExtent],
    wanted: &Wanted,
) -> Result<(), Error> {
    let (inode, wanted) = match (inode, wanted) {
        (None, Wanted::Absent) => return Ok(()),
        (Some(_), Wanted::Absent) => return Err(differs(path, "it is still there")),
        (None, Wanted::Present { .. }) => return Err(differs(path, "it is not there")),
        (Some(inode), wanted) => (inode, wanted),
    };
    let Wanted::Present { kind, content, lines, target, attributes, .. } = wanted else { return Ok(()) };
    let found = inode.metadata()?;
    if kind.is_some_and(|kind| kind != found.kind) {
        return Err(differs(path, format!("it is a {:?}", found.kind)));
    }
    // A link that was there before keeps its mode, which nobody heeds.
    if let Some(mode) = attributes.mode.filter(|mode| *mode != found.mode && found.kind != FileKind::Symlink) {
        return Err(differs(path, format!("its mode is {:o}, not {mode:o}", found.mode)));
    }
    if (found.uid, found.gid) != (attributes.uid.unwrap_or(found.uid), attributes.gid.unwrap_or(found.gid)) {
        return Err(differs(path, format!("its owner is {}:{}", found.uid, found.gid)));
    }
    if found.kind == FileKind::Symlink
        && let Some(target) = target
        && volume.link_target(inode)? != target.as_bytes()
    {
        return Err(differs(path, "the link has another text"));
    }
    if let Some(content) = content {
        compare_content(volume, path, inode, extents, content)?;
    }
    if lines.is_empty() {
        return Ok(());
    }
    let text = volume.contents(inode, inode.size())?.unwrap_or_default();
    let missing = |line: &&String| !text.split(|byte| *byte == b'\n').any(|old| old == line.as_bytes());
    if lines.iter().any(|line| missing(&line)) { Err(differs(path, "a line is missing")) } else { Ok(()) }
}

/// Compares the end of a file with what was put there.
pub(super) fn compare_end<D: BlockRead>(
    volume: &Volume<D>,
    path: &GuestPath,
    inode: &Inode,
    end: &Content,
) -> Result<(), Error> {
    let at = inode.size().checked_sub(end.len()).ok_or_else(|| differs(path, "it is shorter than what was put behind it"))?;
    if is_inline(inode) {
        let stored = volume.contents(inode, inode.size())?.unwrap_or_default();
        let behind = stored.get(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
        let same = *read_piece(end, 0, behind.len())? == *behind;
        return if same { Ok(()) } else { Err(differs(path, "its end differs")) };
    }
    let extents = volume.tree(inode)?.extents;
    let mut offset = 0;
    while offset < end.len() {
        let len = usize::try_from(end.len().saturating_sub(offset).min(PIECE)).unwrap_or(usize::MAX);
        let mut stored = vec![0; len];
        volume.read_at(&extents, &mut stored, at.saturating_add(offset))?;
        if read_piece(end, offset, len)? != stored {
            return Err(differs(path, "its end differs"));
        }
        offset = offset.saturating_add(PIECE);
    }
    Ok(())
}

fn compare_content<D: BlockRead>(
    volume: &Volume<D>,
    path: &GuestPath,
    inode: &Inode,
    extents: &[FileExtent],
    content: &Content,
) -> Result<(), Error> {
    if inode.size() != content.len() {
        return Err(differs(path, format!("it has {} bytes, not {}", inode.size(), content.len())));
    }
    if is_inline(inode) {
        let same = volume
            .contents(inode, inode.size())?
            .is_some_and(|stored| read_piece(content, 0, stored.len()).is_ok_and(|wanted| wanted == stored));
        return if same { Ok(()) } else { Err(differs(path, "its contents differ")) };
    }
    for run in runs_to_compare(content, extents, volume.layout().block_size.into())? {
        let mut offset = run.start;
        while offset < run.end {
            let len = run.end.saturating_sub(offset).min(PIECE);
            let mut stored = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            volume.read_at(extents, &mut stored, offset)?;
            if read_piece(content, offset, stored.len())? != stored {
                return Err(differs(path, format!("its contents differ behind byte {offset}")));
            }
            offset = offset.saturating_add(len);
        }
    }
    Ok(())
}

/// Bytes that are compared at a time.
const PIECE: u64 = 1 << 20;
