//! A guest's files as an archive.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, ByteRange, extents};
use imgcore::fs::{FileKind, GuestPath, Metadata, Node};
use tar::{EntryType, Header};
use tempfile::NamedTempFile;

use super::acl;
use super::entry::BLOCK;
use super::records::{encode, xattr_keyword};
use crate::commands::disk::volume::Volume;
use crate::commands::disk::walk::walk;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::{printable, warn};

/// Where an archive goes: standard output, or a new file that appears when it is whole.
#[derive(Debug)]
pub(in crate::commands::disk) struct Output<'a> {
    context: &'a Context,
    file: Option<(NamedTempFile, PathBuf)>,
    len: u64,
}

impl<'a> Output<'a> {
    /// Makes the new file `path`, or takes standard output for `-`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the file exists, [`ErrorKind::Usage`] for a terminal, otherwise the failure of the operating
    /// system.
    pub(in crate::commands::disk) fn open(context: &'a Context, path: &Path) -> Result<Self, CommandError> {
        if path == Path::new("-") {
            if context.out_is_terminal() {
                return Err(CommandError::new(ErrorKind::Usage, "an archive is nothing for a terminal")
                    .hint("name a file, or send it to `tar -x`"));
            }
            return Ok(Self { context, file: None, len: 0 });
        }
        let path = context.absolute(path);
        if path.symlink_metadata().is_ok() {
            return Err(exists(&path));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut builder = tempfile::Builder::new();
        // Narrowed by the process's mask.
        let builder = builder.prefix(".vmimg-").permissions(Permissions::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(|error| cannot(&path, error))?;
        Ok(Self { context, file: Some((file, path)), len: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        self.len = self.len.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        match &mut self.file {
            Some((file, path)) => file.write_all(bytes).map_err(|error| cannot(path, error)),
            None => self.context.write_out(bytes),
        }
    }

    /// Fills with zeros up to a multiple of `to`.
    fn pad(&mut self, to: u64) -> Result<(), CommandError> {
        let missing = self.len.next_multiple_of(to).saturating_sub(self.len);
        self.put(&vec![0; usize::try_from(missing).unwrap_or_default()])
    }

    /// Ends the archive; a file gets its name now.
    fn finish(mut self) -> Result<(), CommandError> {
        // Spec: "two 512-octet logical records filled with binary zeros", and records of 20 of them.
        self.put(&[0; 1024])?;
        self.pad(RECORD)?;
        let Some((file, path)) = self.file else { return self.context.flush() };
        file.as_file().sync_data().map_err(|error| cannot(&path, error))?;
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(_) if path.symlink_metadata().is_ok() => Err(exists(&path)),
            Err(error) => Err(cannot(&path, error.error)),
        }
    }
}

/// Writes `path` of a guest with all that is below it; names in the archive are relative to it, those of a single file its own.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when `path` itself is a link; the failures of the file system and of the output.
pub(in crate::commands::disk) fn write(output: Output<'_>, volume: &Volume, path: &GuestPath) -> Result<(), CommandError> {
    let context = output.context;
    let files = volume.file_system();
    let mut archive = Archive { output, volume, seen: BTreeMap::new() };
    let top = files.symlink_metadata(path)?;
    if top.kind == FileKind::Symlink {
        let target = printable(files.read_link(path)?);
        return Err(CommandError::new(ErrorKind::Refused, format!("`{path}` is a link to `{target}`"))
            .hint("name what it leads to, or the folder that it is in"));
    }
    let passed_over = walk(context, files, path, true, |inside, found| {
        let below = inside.strip_prefix(path).unwrap_or_else(GuestPath::root);
        let name = match (top.kind, below.as_str()) {
            (FileKind::Directory, "/") => "./".to_owned(),
            (FileKind::Directory, below) => format!(".{below}"),
            _ => inside.name().unwrap_or_default().to_owned(),
        };
        archive.add(&inside, name, &found)
    })?;
    archive.output.finish()?;
    passed_over.check()
}

struct Archive<'a> {
    output: Output<'a>,
    volume: &'a Volume,
    /// Names of the files that have several, by inode.
    seen: BTreeMap<u64, String>,
}

/// A header and the records that it has no room for.
struct Head {
    header: Header,
    records: Vec<u8>,
}

impl Archive<'_> {
    fn add(&mut self, path: &GuestPath, name: String, found: &Metadata) -> Result<(), CommandError> {
        let kind = match found.kind {
            FileKind::File => EntryType::Regular,
            FileKind::Directory => EntryType::Directory,
            FileKind::Symlink => EntryType::Symlink,
            FileKind::CharDevice => EntryType::Char,
            FileKind::BlockDevice => EntryType::Block,
            FileKind::Fifo => EntryType::Fifo,
            FileKind::Socket => {
                warn(self.output.context, format!("`{path}` is a socket, for which archives have no type"));
                return Ok(());
            }
        };
        let stored = if kind == EntryType::Directory && !name.ends_with('/') { format!("{name}/") } else { name.clone() };
        let mut head = Head::new(&stored, kind, found);
        if found.links > 1 && kind != EntryType::Directory {
            if let Some(first) = self.seen.get(&found.inode) {
                head.header.set_entry_type(EntryType::Link);
                head.set_link(first.as_bytes());
                return self.put_head(head);
            }
            self.seen.insert(found.inode, name);
        }
        self.attributes(&mut head, path)?;
        if kind == EntryType::Symlink {
            head.set_link(&self.volume.file_system().read_link(path)?);
        }
        if let Some(Node::CharDevice(device) | Node::BlockDevice(device)) = self.volume.node(path)? {
            let set = head.header.set_device_major(device.major).and_then(|()| head.header.set_device_minor(device.minor));
            set.map_err(|error| CommandError::io(format!("`{path}` has no place in an archive"), error))?;
        }
        if kind == EntryType::Regular { self.put_file(head, path, &stored) } else { self.put_head(head) }
    }

    /// Adds records for the extended attributes of a file, its label and access lists as GNU tar has them.
    fn attributes(&self, head: &mut Head, path: &GuestPath) -> Result<(), CommandError> {
        for (name, value) in self.volume.xattrs(path)? {
            let list = match name.as_slice() {
                b"system.posix_acl_access" => Some("SCHILY.acl.access"),
                b"system.posix_acl_default" => Some("SCHILY.acl.default"),
                _ => None,
            };
            if let Some((keyword, text)) = list.zip(acl::to_text(&value)) {
                head.record(keyword.as_bytes(), text.as_bytes());
                continue;
            }
            if name == b"security.selinux" {
                head.record(b"RHT.security.selinux", value.strip_suffix(b"\0").unwrap_or(&value));
            }
            head.record(&xattr_keyword(&name), &value);
        }
        Ok(())
    }

    fn put_head(&mut self, head: Head) -> Result<(), CommandError> {
        let Head { mut header, records } = head;
        if !records.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            put_text(&mut extended.as_old_mut().name, b"./PaxHeaders");
            extended.set_mode(0o644);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_mtime(0);
            extended.set_size(u64::try_from(records.len()).unwrap_or(u64::MAX));
            extended.set_cksum();
            self.output.put(extended.as_bytes())?;
            self.output.put(&records)?;
            self.output.pad(BLOCK)?;
        }
        header.set_cksum();
        self.output.put(header.as_bytes())
    }

    /// Writes a file, without its holes when it has some.
    ///
    /// Spec: GNU tar manual, "Storing Sparse Files", PAX format 1.0.
    fn put_file(&mut self, mut head: Head, path: &GuestPath, name: &str) -> Result<(), CommandError> {
        let contents = self.volume.open_file(path)?;
        let size = contents.size();
        let mut data = Vec::new();
        for extent in extents(&contents, ByteRange::new(0, size).unwrap_or_default()) {
            let extent = extent?;
            if !extent.reads_as_zeros() {
                data.push(extent.range);
            }
        }
        let stored: u64 = data.iter().map(|run| run.len()).sum();
        let mut map = String::new();
        if stored < size {
            head.record(b"GNU.sparse.major", b"1");
            head.record(b"GNU.sparse.minor", b"0");
            head.record(b"GNU.sparse.name", name.as_bytes());
            head.record(b"GNU.sparse.realsize", size.to_string().as_bytes());
            put_text(&mut head.header.as_old_mut().name, b"./GNUSparseFile.0/file");
            // The last run tells where the file ends.
            let end = (data.last().is_none_or(|last| last.end() < size)).then_some((size, 0));
            let runs: Vec<(u64, u64)> = data.iter().map(|run| (run.start(), run.len())).chain(end).collect();
            map = format!("{}\n", runs.len());
            runs.iter().for_each(|(offset, len)| map.push_str(&format!("{offset}\n{len}\n")));
        }
        let map_len = u64::try_from(map.len()).unwrap_or(u64::MAX).next_multiple_of(BLOCK);
        head.set_size(map_len.saturating_add(stored));
        self.put_head(head)?;
        self.output.put(map.as_bytes())?;
        self.output.pad(BLOCK)?;
        let mut buffer = Vec::new();
        for run in data {
            let mut offset = run.start();
            while offset < run.end() {
                self.output.context.interrupt().check()?;
                let len = run.end().saturating_sub(offset).min(PIECE);
                buffer.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                contents.read_exact_at(&mut buffer, offset)?;
                self.output.put(&buffer)?;
                offset = offset.saturating_add(len);
            }
        }
        self.output.pad(BLOCK)
    }
}

impl Head {
    fn new(name: &str, kind: EntryType, found: &Metadata) -> Self {
        let mut head = Self { header: Header::new_ustar(), records: Vec::new() };
        let header = &mut head.header;
        header.set_entry_type(kind);
        header.set_mode(found.mode);
        header.set_uid(u64::from(found.uid.min(LARGEST_OWNER)));
        header.set_gid(u64::from(found.gid.min(LARGEST_OWNER)));
        header.set_size(0);
        let secs = u64::try_from(found.mtime).unwrap_or_default();
        header.set_mtime(secs.min(LARGEST_NUMBER));
        let fits = put_text(&mut header.as_old_mut().name, name.as_bytes());
        if !fits {
            head.record(b"path", name.as_bytes());
        }
        for (keyword, owner) in [(&b"uid"[..], found.uid), (b"gid", found.gid)] {
            if owner > LARGEST_OWNER {
                head.record(keyword, owner.to_string().as_bytes());
            }
        }
        if found.mtime_nanos > 0 || found.mtime < 0 || secs > LARGEST_NUMBER {
            head.record(b"mtime", decimal(found.mtime, found.mtime_nanos).as_bytes());
        }
        head
    }

    fn set_link(&mut self, target: &[u8]) {
        if !put_text(&mut self.header.as_old_mut().linkname, target) {
            self.record(b"linkpath", target);
        }
    }

    fn set_size(&mut self, size: u64) {
        self.header.set_size(size.min(LARGEST_NUMBER));
        if size > LARGEST_NUMBER {
            self.record(b"size", size.to_string().as_bytes());
        }
    }

    fn record(&mut self, keyword: &[u8], value: &[u8]) {
        self.records.extend(encode(keyword, value));
    }
}

/// Returns a time in decimal notation.
fn decimal(secs: i64, nanos: u32) -> String {
    if secs >= 0 || nanos == 0 {
        return format!("{secs}.{nanos:09}");
    }
    // The whole seconds are counted towards 1970.
    let (secs, nanos) = (secs.saturating_add(1), 1_000_000_000_u32.saturating_sub(nanos));
    format!("-{}.{nanos:09}", secs.unsigned_abs())
}

/// Puts a text into a field and returns whether it fits.
fn put_text(field: &mut [u8], text: &[u8]) -> bool {
    field.fill(0);
    field.iter_mut().zip(text).for_each(|(place, byte)| *place = *byte);
    text.len() <= field.len()
}

fn exists(path: &Path) -> CommandError {
    CommandError::new(ErrorKind::Refused, format!("`{}` exists", path.display())).hint("name a new file, or remove that one")
}

fn cannot(path: &Path, error: std::io::Error) -> CommandError {
    CommandError::io(format!("cannot write `{}`", path.display()), error)
}

/// What archives are padded to.
const RECORD: u64 = 20 * BLOCK;
/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;
/// What 7 and 11 octal digits can say.
const LARGEST_OWNER: u32 = 0o777_7777;
const LARGEST_NUMBER: u64 = 0o777_7777_7777;
