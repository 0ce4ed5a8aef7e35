//! `vmimg disk ls`: what is in a folder of a guest.

use imgcore::fs::{DirEntry, FileKind, FileSystem, GuestPath, Metadata};
use serde::Serialize;

use super::volume::{Volume, VolumeArgs};
use super::walk::{Met, PassedOver};
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{ReportArgs, print_json, printable, table};
use crate::time::utc;

/// The arguments of `vmimg disk ls`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg disk ls debian-12.qcow2 /etc
  vmimg disk ls -lR debian-12.qcow2 /home
  vmimg disk ls --partition 15 --json debian-12.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    volume: VolumeArgs,
    /// Show type, mode, links, owner, size and time as well
    #[arg(short = 'l', long)]
    long: bool,
    /// Go down into folders
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Accepted out of habit: names that begin with a dot are always shown
    #[arg(short = 'a', long = "all", hide = true)]
    _all: bool,
    /// The folder or file in the guest
    #[arg(value_name = "PATH", default_value = "/")]
    path: GuestPath,
    #[command(flatten)]
    report: ReportArgs,
}

/// A file, as JSON has it.
#[derive(Serialize)]
struct Listed {
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Octal.
    mode: String,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// Seconds since 1970.
    mtime: i64,
    inode: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let volume = Volume::open(context, &args.volume)?;
    let mut listing =
        Listing { context, args, files: volume.file_system(), all: Vec::new(), passed_over: PassedOver::default() };
    listing.start()?;
    if args.report.json {
        print_json(context, &listing.all)?;
    }
    listing.passed_over.check()
}

struct Listing<'a> {
    context: &'a Context,
    args: &'a Args,
    files: &'a dyn FileSystem,
    /// What JSON will say; text is printed folder by folder.
    all: Vec<Listed>,
    passed_over: PassedOver,
}

impl Listing<'_> {
    fn start(&mut self) -> Result<(), CommandError> {
        let path = &self.args.path;
        let start = self.files.metadata(path).or_else(|error| match self.files.symlink_metadata(path) {
            // It is there, wherever it leads.
            Ok(link) if link.kind == FileKind::Symlink => Ok(link),
            _ => Err(error),
        })?;
        if start.kind != FileKind::Directory {
            let file = self.look(path.as_str().to_owned(), path)?;
            return self.show(vec![file]);
        }
        let mut folders = vec![(path.clone(), start.inode)];
        let mut met = Met::new(self.files);
        while let Some((folder, inode)) = folders.pop() {
            self.context.interrupt().check()?;
            if !met.is_new(self.context, &folder, inode) {
                continue;
            }
            let entries = self.files.read_dir(&folder)?;
            if self.args.recursive && !self.args.report.json {
                let gap = if folder == *path { "" } else { "\n" };
                self.context.write_out(format!("{gap}{folder}:\n").as_bytes())?;
            }
            let below = entries.iter().rev().filter(|entry| entry.kind == FileKind::Directory);
            if self.args.recursive {
                folders.extend(below.filter_map(|entry| Some((path_of(&folder, entry)?, entry.inode))));
            }
            self.show_folder(&folder, &entries)?;
        }
        Ok(())
    }

    fn show_folder(&mut self, folder: &GuestPath, entries: &[DirEntry]) -> Result<(), CommandError> {
        if !self.args.long && !self.args.report.json {
            let names: String = entries.iter().map(|entry| printable(&entry.name) + "\n").collect();
            return self.context.write_out(names.as_bytes());
        }
        let mut files = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(path) = path_of(folder, entry) else {
                self.passed_over.add(self.context, &entry.name, folder);
                continue;
            };
            let name = if self.args.report.json { path.to_string() } else { text(&entry.name) };
            files.push(self.look(name, &path)?);
        }
        self.show(files)
    }

    fn look(&self, name: String, path: &GuestPath) -> Result<Listed, CommandError> {
        let Metadata { kind, mode, uid, gid, size, links, mtime, inode, .. } = self.files.symlink_metadata(path)?;
        let target = match kind {
            FileKind::Symlink => Some(text(&self.files.read_link(path)?)),
            _ => None,
        };
        let (mode, kind) = (format!("{mode:04o}"), name_of(kind));
        Ok(Listed { path: name, kind, mode, links, uid, gid, size, mtime, inode, target })
    }

    fn show(&mut self, files: Vec<Listed>) -> Result<(), CommandError> {
        if self.args.report.json {
            self.all.extend(files);
            return Ok(());
        }
        if !self.args.long {
            let names: String = files.iter().map(|file| printable(&file.path) + "\n").collect();
            return self.context.write_out(names.as_bytes());
        }
        let rows: Vec<Vec<String>> = files.iter().map(Listed::row).collect();
        self.context.write_out(table(&rows, &[1, 2, 3, 4]).as_bytes())
    }
}

impl Listed {
    fn row(&self) -> Vec<String> {
        let name = match &self.target {
            Some(target) => format!("{} -> {}", printable(&self.path), printable(target)),
            None => printable(&self.path),
        };
        let mode = u32::from_str_radix(&self.mode, 8).unwrap_or_default();
        vec![
            permissions(self.kind, mode),
            self.links.to_string(),
            self.uid.to_string(),
            self.gid.to_string(),
            self.size.to_string(),
            utc(self.mtime),
            name,
        ]
    }
}

fn path_of(folder: &GuestPath, entry: &DirEntry) -> Option<GuestPath> {
    folder.join(std::str::from_utf8(&entry.name).ok()?).ok()
}

/// Returns a name, or the text of a link, for programs: as it is, but for what is not UTF-8.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn name_of(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::CharDevice => "char-device",
        FileKind::BlockDevice => "block-device",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
    }
}

/// Returns type and permission bits as `ls -l` writes them.
fn permissions(kind: &str, mode: u32) -> String {
    let first = match kind {
        "directory" => 'd',
        "symlink" => 'l',
        "char-device" => 'c',
        "block-device" => 'b',
        "fifo" => 'p',
        "socket" => 's',
        _ => '-',
    };
    let mut text = String::from(first);
    for (shift, special, name) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => name,
            (true, false) => name.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::permissions;

    #[test]
    fn permissions_look_as_in_ls() {
        assert_eq!(permissions("file", 0o644), "-rw-r--r--");
        assert_eq!(permissions("directory", 0o1777), "drwxrwxrwt");
        assert_eq!(permissions("file", 0o4755), "-rwsr-xr-x");
        assert_eq!(permissions("file", 0o2644), "-rw-r-Sr--");
    }
}
