use imgcore::block::BlockRead;
use imgcore::fs::{Content, EditPlan, Error, Expected, FileKind, GuestPath, Node, SameFiles, Wanted, expectations, same_files};
use rustix::fs::{Mode, OFlags, Stat, major, minor};

use super::contents::OpenFile;
use super::error::failed;
use super::resolve::{Place, open_at, read_link, resolve};
use super::view::xattr;
use super::{Mounted, kind_of};

/// Checks that the file system holds what `plan` says.
pub(super) fn verify(mounted: &Mounted, plan: &EditPlan) -> Result<(), Error> {
    let expect = |same: &SameFiles| expectations(plan, |path, follow| canonical(mounted, path, follow), same);
    let mut all = expect(&SameFiles::new())?;
    // What is open is few: a plan can have more paths than a process files.
    let mut found: Vec<Option<Stat>> = Vec::with_capacity(all.len());
    for expected in &all {
        found.push(match resolve(mounted, &expected.path, false) {
            Ok(place) => place.found,
            // A file is in the way: nothing is there.
            Err(Error::WrongKind { .. }) => None,
            Err(error) => return Err(error),
        });
    }
    let same = same_files(&all, |at| found.get(at)?.as_ref().map(|stat| (stat.st_dev, stat.st_ino)));
    if !same.is_empty() {
        all = expect(&same)?;
    }
    all.iter().zip(&found).try_for_each(|(expected, stat)| compare(mounted, expected, stat.as_ref()))
}

/// Compares what is at a path with what is wanted there.
fn compare(mounted: &Mounted, expected: &Expected, stat: Option<&Stat>) -> Result<(), Error> {
    let path = &expected.path;
    let (stat, wanted) = match (stat, &expected.wanted) {
        (None, Wanted::Absent) => return Ok(()),
        (Some(_), Wanted::Absent) => return Err(differs(path, "it is still there")),
        (None, Wanted::Present { .. }) => return Err(differs(path, "it is not there")),
        (Some(stat), wanted) => (stat, wanted),
    };
    let Wanted::Present { kind, target, attributes, node, .. } = wanted else { return Ok(()) };
    let found = kind_of(stat);
    if kind.is_some_and(|kind| kind != found) {
        return Err(differs(path, format!("it is a {found:?}")));
    }
    let has = stat.st_mode & 0o7777;
    if let Some(mode) = attributes.mode.filter(|mode| *mode != has) {
        return Err(differs(path, format!("its mode is {has:o}, not {mode:o}")));
    }
    let owner = (stat.st_uid, stat.st_gid);
    if owner != (attributes.uid.unwrap_or(owner.0), attributes.gid.unwrap_or(owner.1)) {
        return Err(differs(path, format!("its owner is {}:{}", owner.0, owner.1)));
    }
    if let Some(mtime) = attributes.mtime.filter(|mtime| *mtime != stat.st_mtime) {
        return Err(differs(path, format!("its time is {}, not {mtime}", stat.st_mtime)));
    }
    if node.is_some_and(|node| !is_node(stat, node)) {
        return Err(differs(path, "it is another device"));
    }
    let place = resolve(mounted, path, false)?;
    if let (FileKind::Symlink, Some(target)) = (found, target) {
        let link = open_at(&place.folder, place.name(), OFlags::PATH, Mode::empty());
        let text = link.and_then(read_link).map_err(|error| failed(path, "be read", error))?;
        if text != target.as_bytes() {
            return Err(differs(path, "the link has another text"));
        }
    }
    for (name, value) in &attributes.xattrs {
        let stored = xattr(&place, name).map_err(|error| failed(path, "be read", error))?;
        if stored.as_ref() != Some(value) && !is_in_mode(name, stored.as_deref(), value) {
            return Err(differs(path, format!("its extended attribute `{name}` differs")));
        }
    }
    compare_contents(&place, path, wanted)
}

fn compare_contents(place: &Place, path: &GuestPath, wanted: &Wanted) -> Result<(), Error> {
    let Wanted::Present { content, lines, end, .. } = wanted else { return Ok(()) };
    if content.is_none() && end.is_none() && lines.is_empty() {
        return Ok(());
    }
    let file: OpenFile = place.open_file(path)?;
    let size = |content: &Content| content.len();
    if let Some(content) = content {
        if file.size() != size(content) {
            return Err(differs(path, format!("it has {} bytes, not {}", file.size(), size(content))));
        }
        if !file.has_at(content, 0)? {
            return Err(differs(path, "its contents differ"));
        }
    }
    if let Some(end) = end {
        let at =
            file.size().checked_sub(size(end)).ok_or_else(|| differs(path, "it is shorter than what was put behind it"))?;
        if !file.has_at(end, at)? {
            return Err(differs(path, "its end differs"));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let text = file.read(path, file.size())?;
    let missing = |line: &&String| !text.split(|byte| *byte == b'\n').any(|old| old == line.as_bytes());
    if lines.iter().any(|line| missing(&line)) { Err(differs(path, "a line is missing")) } else { Ok(()) }
}

/// Returns whether a file is the device, FIFO or socket that was planned.
fn is_node(stat: &Stat, node: Node) -> bool {
    let same = match node {
        Node::CharDevice(device) | Node::BlockDevice(device) => {
            (major(stat.st_rdev), minor(stat.st_rdev)) == (device.major, device.minor)
        }
        Node::Fifo | Node::Socket => true,
    };
    same && kind_of(stat) == node.kind()
}

/// Returns whether an access list is not stored since it says no more than the mode, which the kernel keeps instead: it has three
/// entries, behind a version of four bytes.
fn is_in_mode(name: &str, stored: Option<&[u8]>, value: &[u8]) -> bool {
    name == "system.posix_acl_access" && stored.is_none() && value.len() == 4 + 3 * 8
}

/// Returns `path` without links, as far as it exists.
fn canonical(mounted: &Mounted, path: &GuestPath, follow: bool) -> Result<GuestPath, Error> {
    let place = match resolve(mounted, path, follow) {
        Ok(place) => place,
        // A later edit put something else in the way.
        Err(Error::WrongKind { .. } | Error::TooManyLinks(_)) => return Ok(path.clone()),
        Err(error) => return Err(error),
    };
    let names = place.names.iter().chain(&place.missing).map(|name| String::from_utf8_lossy(name));
    let text: String = names.map(|name| format!("/{name}")).collect();
    Ok(GuestPath::new(if text.is_empty() { "/" } else { &text }).unwrap_or_else(|_| path.clone()))
}

fn differs(path: &GuestPath, difference: impl Into<String>) -> Error {
    Error::Mismatch { path: path.clone(), difference: difference.into() }
}
