//! The steps of a plan, each with what it means to `fs::ext4::Editor`.

mod attributes;
mod make;
mod names;

use std::fs::File;

use imgcore::block::BlockRead;
use imgcore::fs::{Attributes, Content, Edit, Error, FileKind, GuestPath};
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use self::make::Make;
use super::contents::store;
use super::error::failed;
use super::kept::Kept;
use super::resolve::{Place, open_at, resolve};
use super::{Mounted, kind_of};

/// What runs one step.
#[derive(Debug)]
pub(super) struct Editor<'a> {
    mounted: &'a Mounted,
    now: i64,
    /// The path of the step.
    path: &'a GuestPath,
}

impl<'a> Editor<'a> {
    pub(super) fn new(mounted: &'a Mounted, now: i64, path: &'a GuestPath) -> Self {
        Self { mounted, now, path }
    }

    /// Runs the step.
    pub(super) fn step(&self, edit: &Edit) -> Result<(), Error> {
        match edit {
            Edit::Write { content, attributes, .. } => self.write(content, attributes),
            Edit::CreateFile { content, attributes, .. } => self.make_at(&Make::File(content), attributes),
            Edit::Append { content, attributes, .. } => self.append(content, attributes),
            Edit::CreateDir { attributes, .. } => self.create_dir(attributes),
            Edit::HardLink { target, .. } => self.hard_link(target),
            Edit::MakeNode { node, attributes, .. } => self.make_at(&Make::Node(*node), attributes),
            Edit::Rename { from, .. } => self.rename(from),
            Edit::Symlink { target, attributes, .. } => self.symlink(target, attributes),
            Edit::Remove { .. } => self.remove_path(),
            Edit::SetAttributes { attributes, .. } => {
                let place = self.resolve(false)?;
                self.change(&place, place.expect(self.path)?, attributes)
            }
            Edit::AppendLine { line, attributes, .. } => self.append_line(line, attributes),
            _ => Err(self.unrepresentable("this step is not known for mounted file systems")),
        }
    }

    fn write(&self, content: &Content, attributes: &Attributes) -> Result<(), Error> {
        let place = self.resolve(true)?;
        match &place.found {
            Some(stat) => self.rewrite(&place, stat, content, attributes),
            None => self.make(place, &Make::File(content), attributes),
        }
    }

    /// Replaces the contents of a file.
    fn rewrite(&self, place: &Place, stat: &Stat, content: &Content, attributes: &Attributes) -> Result<(), Error> {
        self.expect_kind(stat, FileKind::File)?;
        self.put(place, stat, OFlags::TRUNC, content, 0)?;
        self.finish_file(place, stat, attributes)
    }

    fn append(&self, content: &Content, attributes: &Attributes) -> Result<(), Error> {
        let place = self.resolve(true)?;
        let Some(stat) = &place.found else { return self.make(place, &Make::File(content), attributes) };
        self.expect_kind(stat, FileKind::File)?;
        if content.is_empty() {
            return self.change(&place, stat, attributes);
        }
        self.put(&place, stat, OFlags::empty(), content, u64::try_from(stat.st_size).unwrap_or_default())?;
        self.finish_file(&place, stat, attributes)
    }

    /// Writes to a file that exists, from `at` on, which is its end.
    fn put(&self, place: &Place, stat: &Stat, flags: OFlags, content: &Content, at: u64) -> Result<(), Error> {
        let kept = Kept::of(place, stat).map_err(self.cannot("be looked at"))?;
        let file = open_at(&place.folder, place.name(), OFlags::WRONLY | flags, Mode::empty());
        store(&File::from(file.map_err(self.cannot("be opened"))?), content, at, self.path)?;
        kept.restore(place).map_err(self.cannot("be changed"))
    }

    /// Sets the time of a file that has other contents now, and attributes.
    fn finish_file(&self, place: &Place, stat: &Stat, attributes: &Attributes) -> Result<(), Error> {
        if attributes.mtime.is_none() {
            self.set_time(&place.folder, place.name(), (self.now, 0), false)?;
        }
        self.set_attributes(place, stat, attributes)
    }

    fn create_dir(&self, attributes: &Attributes) -> Result<(), Error> {
        let place = self.resolve(false)?;
        let Some(stat) = &place.found else { return self.make(place, &Make::Folder, attributes) };
        let kind = kind_of(stat);
        if kind != FileKind::Symlink {
            self.expect_kind(stat, FileKind::Directory)?;
            return self.change(&place, stat, attributes);
        }
        // A link to a folder will do, as for `mkdir -p`.
        let place = self.resolve(true)?;
        let stat = place.found.as_ref().ok_or_else(|| Error::WrongKind { path: self.path.clone(), kind })?;
        self.expect_kind(stat, FileKind::Directory)?;
        self.change(&place, stat, attributes)
    }

    fn symlink(&self, target: &str, attributes: &Attributes) -> Result<(), Error> {
        if target.is_empty() || target.len() > LONGEST_LINK || target.contains('\0') {
            return Err(self.unrepresentable(format!("a link has 1 to {LONGEST_LINK} bytes, and no NUL")));
        }
        self.make_at(&Make::Link(target), attributes)
    }

    fn append_line(&self, line: &str, attributes: &Attributes) -> Result<(), Error> {
        if line.contains('\n') {
            return Err(self.unrepresentable("a line has no line end in it"));
        }
        let place = self.resolve(true)?;
        let Some(stat) = &place.found else {
            let content = Content::from(format!("{line}\n").as_str());
            return self.make(place, &Make::File(&content), attributes);
        };
        self.expect_kind(stat, FileKind::File)?;
        let file = place.open_file(self.path)?;
        let text = file.read(self.path, LARGEST_TEXT)?;
        if text.split(|byte| *byte == b'\n').any(|old| old == line.as_bytes()) {
            return self.change(&place, stat, attributes);
        }
        let end = if text.last().is_some_and(|last| *last != b'\n') { "\n" } else { "" };
        self.put(&place, stat, OFlags::empty(), &Content::from(format!("{end}{line}\n").as_str()), file.size())?;
        self.finish_file(&place, stat, attributes)
    }

    /// Sets attributes of what exists, if there are some to set.
    fn change(&self, place: &Place, stat: &Stat, attributes: &Attributes) -> Result<(), Error> {
        if *attributes == Attributes::default() { Ok(()) } else { self.set_attributes(place, stat, attributes) }
    }

    fn resolve(&self, follow_last: bool) -> Result<Place, Error> {
        resolve(self.mounted, self.path, follow_last)
    }

    fn expect_kind(&self, stat: &Stat, wanted: FileKind) -> Result<(), Error> {
        let kind = kind_of(stat);
        if kind == wanted { Ok(()) } else { Err(Error::WrongKind { path: self.path.clone(), kind }) }
    }

    fn unrepresentable(&self, rule: impl Into<String>) -> Error {
        Error::Unrepresentable { path: self.path.clone(), rule: rule.into() }
    }

    fn cannot(&self, doing: &'static str) -> impl Fn(Errno) -> Error + '_ {
        move |error| failed(self.path, doing, error)
    }
}

/// The most bytes of the text of a link, and of a file that a line is appended to.
const LONGEST_LINK: usize = 4095;
const LARGEST_TEXT: u64 = 64 << 20;
