//! What the entries of an archive say, each with its extension headers.

use std::collections::BTreeMap;
use std::sync::Arc;

use imgcore::block::{BlockRead, ByteRange};
use imgcore::fs::{Attributes, Content, Device, Node};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::acl;
use super::records::{Records, SPARSE_MAP};
use super::sparse::{Sparse, pairs};
use crate::error::{CommandError, ErrorKind};

/// A file of an archive.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its path as it is stored.
    pub(super) name: Vec<u8>,
    pub(super) what: What,
    pub(super) attributes: Attributes,
}

#[derive(Debug)]
pub(super) enum What {
    File(Content),
    Folder,
    /// A symbolic link with its text.
    Symlink(Vec<u8>),
    /// One more name of the file that has this path in the archive.
    HardLink(Vec<u8>),
    Node(Node),
}

/// The entries of an archive, first to last.
#[derive(Debug)]
pub(super) struct Entries {
    archive: Arc<dyn BlockRead>,
    /// Where the next header is.
    at: u64,
    /// Records for all that follows.
    global: Records,
}

/// What extension headers said about the entry that follows them.
#[derive(Default)]
struct Extra {
    records: Records,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Entries {
    pub(super) fn new(archive: Arc<dyn BlockRead>) -> Self {
        Self { archive, at: 0, global: Records::default() }
    }

    /// Returns the next entry, or `None` behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, CommandError> {
        let mut extra = Extra::default();
        extra.records.share(&self.global);
        let mut needs_file = false;
        while let Some(header) = self.header()? {
            let start = self.at.saturating_add(BLOCK);
            let number = |result: std::io::Result<u64>| result.map_err(|error| self.bad(error.to_string()));
            match header.entry_type() {
                EntryType::XHeader => {
                    let bytes = self.extension(number(header.entry_size())?)?;
                    extra.records.read(&bytes).map_err(|rule| self.bad(rule))?;
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.extension(number(header.entry_size())?)?;
                    self.global.read_global(&bytes).map_err(|rule| self.bad(rule))?;
                    extra.records.share(&self.global);
                }
                EntryType::GNULongName => extra.name = Some(until_nul(self.extension(number(header.entry_size())?)?)),
                EntryType::GNULongLink => extra.link = Some(until_nul(self.extension(number(header.entry_size())?)?)),
                kind => {
                    let stored = extra.records.number(b"size").map_err(|()| self.bad("its size is a number"))?;
                    let mut size = stored.map_or_else(|| number(header.entry_size()), Ok)?;
                    // Spec: "LNKTYPE [...] the size field shall be zero", and GNU tar stores the file's.
                    if kind == EntryType::Link {
                        size = 0;
                    }
                    if kind.as_byte() == VOLUME_LABEL {
                        self.skip(start, size)?;
                        continue;
                    }
                    return self.entry(&header, &extra, (start, size)).map(Some);
                }
            }
            needs_file |= header.entry_type() != EntryType::XGlobalHeader;
        }
        if needs_file {
            return Err(self.bad("an extension header is followed by its file"));
        }
        Ok(None)
    }

    /// Reads the header at the place reached, or returns `None` at the end of the archive.
    fn header(&self) -> Result<Option<Header>, CommandError> {
        let left = self.archive.size().saturating_sub(self.at);
        if left == 0 && self.at > 0 {
            return Ok(None);
        }
        if left < BLOCK {
            return Err(if self.at == 0 { self.no_archive() } else { self.bad("the archive ends inside a header") });
        }
        let mut header = Header::new_old();
        self.archive.read_exact_at(header.as_mut_bytes(), self.at)?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // Spec: ustar, "chksum": the sum of all bytes, its own as if they were spaces.
        let sum = |start: usize, end: usize| {
            bytes.get(start..end).unwrap_or_default().iter().map(|byte| u32::from(*byte)).sum::<u32>()
        };
        let sum = sum(0, 148).saturating_add(8 * 0x20).saturating_add(sum(156, 512));
        if header.cksum().is_ok_and(|stored| stored == sum) {
            return Ok(Some(header));
        }
        Err(if self.at == 0 { self.no_archive() } else { self.bad("its header has another checksum") })
    }

    /// Returns the error for what is no archive, with what would make it one.
    fn no_archive(&self) -> CommandError {
        let mut start = [0; 4];
        let is_long = self.archive.size() >= 4 && self.archive.read_exact_at(&mut start, 0).is_ok();
        let packed = PACKED.iter().find(|(magic, _)| is_long && start.starts_with(magic));
        let error = CommandError::new(ErrorKind::Corrupt, "this is no tar archive");
        match packed {
            Some((_, tool)) => error.hint(format!("it is compressed: send what `{tool} -dc` makes of it to `--tar -`")),
            None => error,
        }
    }

    /// Returns the data of an extension header, and goes behind it.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, CommandError> {
        if size > LARGEST_EXTENSION {
            return Err(self.bad(format!("an extension header has at most {LARGEST_EXTENSION} bytes")));
        }
        let range = self.data(self.at.saturating_add(BLOCK), size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.archive.read_exact_at(&mut bytes, range.start())?;
        self.go_behind(range);
        Ok(bytes)
    }

    fn skip(&mut self, start: u64, size: u64) -> Result<(), CommandError> {
        let range = self.data(start, size)?;
        self.go_behind(range);
        Ok(())
    }

    /// Returns where the data of an entry is.
    fn data(&self, start: u64, size: u64) -> Result<ByteRange, CommandError> {
        ByteRange::at(start, size)
            .filter(|range| range.end() <= self.archive.size())
            .ok_or_else(|| self.bad(format!("it has {size} bytes, and the archive ends before")))
    }

    fn go_behind(&mut self, range: ByteRange) {
        let end = range.end().checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        self.at = end.min(self.archive.size());
    }

    fn entry(&mut self, header: &Header, extra: &Extra, (start, size): (u64, u64)) -> Result<Entry, CommandError> {
        let records = &extra.records;
        let stored = records.get(b"path").map(<[u8]>::to_vec).or_else(|| extra.name.clone());
        let mut name = stored.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = records.get(b"linkpath").map(<[u8]>::to_vec).or_else(|| extra.link.clone());
        let link = || link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
        let mut attributes = self.attributes(header, records)?;
        let kind = header.entry_type();
        let mut behind = self.data(start, size)?;
        let what = match kind {
            // Before there was a type for folders, a slash told them.
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => What::Folder,
            EntryType::Regular | EntryType::Continuous => {
                let (content, real_name) = self.contents(records, behind)?;
                name = real_name.map_or(name, <[u8]>::to_vec);
                What::File(content)
            }
            EntryType::GNUSparse => {
                let (content, data) = self.old_sparse(header, behind, size)?;
                behind = data;
                What::File(content)
            }
            EntryType::Directory => What::Folder,
            _ if kind.as_byte() == DUMP_FOLDER => What::Folder,
            EntryType::Symlink => What::Symlink(link()),
            EntryType::Link => What::HardLink(link()),
            EntryType::Fifo => What::Node(Node::Fifo),
            EntryType::Char => What::Node(Node::CharDevice(self.device(header, records)?)),
            EntryType::Block => What::Node(Node::BlockDevice(self.device(header, records)?)),
            kind => {
                let letter = char::from(kind.as_byte()).escape_default();
                return Err(CommandError::new(
                    ErrorKind::Unsupported,
                    self.place(&format!("entries of type `{letter}` are not supported")),
                ));
            }
        };
        if matches!(what, What::Symlink(_)) {
            attributes.mode = None;
        }
        self.go_behind(behind);
        Ok(Entry { name, what, attributes })
    }

    fn attributes(&self, header: &Header, records: &Records) -> Result<Attributes, CommandError> {
        let bad = |what: &str| self.bad(format!("its {what} is a number that a file can have"));
        let owner = |key: &[u8], stored: std::io::Result<u64>| {
            let number = records.number(key).ok()?.map_or(stored, Ok).ok()?;
            u32::try_from(number).ok()
        };
        let mode = header.mode().map_err(|_| bad("mode"))? & 0o7777;
        let uid = owner(b"uid", header.uid()).ok_or_else(|| bad("owner"))?;
        let gid = owner(b"gid", header.gid()).ok_or_else(|| bad("group"))?;
        // GNU tar stores times before 1970 as negative numbers.
        let stored = header.mtime().map(|secs| (i64::from_le_bytes(secs.to_le_bytes()), 0)).map_err(|_| bad("time"));
        let (mtime, mtime_nanos) = records.time(b"mtime").map_err(|()| bad("time"))?.map_or(stored, Ok)?;
        let xattrs = self.xattrs(records)?;
        Ok(Attributes { mtime: Some(mtime), mtime_nanos, xattrs, ..Attributes::owned(mode, uid, gid) })
    }

    /// Returns the extended attributes, with the label and the access lists that GNU tar keeps apart from them.
    fn xattrs(&self, records: &Records) -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
        let mut xattrs = BTreeMap::new();
        for (name, value) in records.xattrs() {
            let name = String::from_utf8(name).map_err(|_| self.bad("the names of its extended attributes are UTF-8"))?;
            xattrs.insert(name, value.to_vec());
        }
        if let Some(label) = records.get(b"RHT.security.selinux") {
            xattrs
                .entry("security.selinux".to_owned())
                .or_insert_with(|| [label.strip_suffix(b"\0").unwrap_or(label), b"\0"].concat());
        }
        for (key, name) in
            [(&b"SCHILY.acl.access"[..], "system.posix_acl_access"), (b"SCHILY.acl.default", "system.posix_acl_default")]
        {
            // GNU tar writes names of the host into the text, and numbers beside it only as an extended attribute.
            let Some(text) = records.get(key).filter(|_| !xattrs.contains_key(name)) else { continue };
            let list = acl::from_text(text).ok_or_else(|| {
                self.bad("its access list can be read, and has numbers")
                    .hint("`tar -c --acls --xattrs --xattrs-include='*'` stores numbers beside the names")
            })?;
            xattrs.insert(name.to_owned(), list);
        }
        // One that says no more than the mode is none, as for the kernel.
        xattrs.retain(|name, list| name != "system.posix_acl_access" || list.len() > PLAIN_LIST);
        Ok(xattrs)
    }

    fn device(&self, header: &Header, records: &Records) -> Result<Device, CommandError> {
        let part = |key: &[u8], stored: std::io::Result<Option<u32>>| {
            let extended = records.number(key).ok()?.map(u32::try_from).transpose().ok()?;
            extended.or(stored.ok()?)
        };
        let major = part(b"SCHILY.devmajor", header.device_major());
        let minor = part(b"SCHILY.devminor", header.device_minor());
        let numbers = major.zip(minor).ok_or_else(|| self.bad("a device has a major and a minor number"))?;
        Ok(Device { major: numbers.0, minor: numbers.1 })
    }

    /// Returns the contents of a file whose data is `data`, and the name that a sparse one has.
    ///
    /// Spec: GNU tar manual, "Storing Sparse Files", PAX formats 0.0, 0.1 and 1.0.
    fn contents<'a>(&self, records: &'a Records, data: ByteRange) -> Result<(Content, Option<&'a [u8]>), CommandError> {
        let bad = || self.bad("its sparse map fits its data");
        let is_new = records.number(b"GNU.sparse.major").map_err(|()| bad())?.is_some_and(|major| major > 0);
        let (size, map, data) = if is_new {
            let size = records.number(b"GNU.sparse.realsize").map_err(|()| bad())?.ok_or_else(bad)?;
            let (map, data) = self.map_in_data(data).ok_or_else(bad)?;
            (size, map, data)
        } else if let Some(map) = records.get(SPARSE_MAP) {
            let size = records.number(b"GNU.sparse.size").map_err(|()| bad())?.ok_or_else(bad)?;
            (size, pairs(map).ok_or_else(bad)?, data)
        } else {
            return Ok((self.whole(data), None));
        };
        let sparse = Sparse::new(Arc::clone(&self.archive), size, &map, data).ok_or_else(bad)?;
        Ok((Content::Disk(Arc::new(sparse)), records.get(b"GNU.sparse.name")))
    }

    fn whole(&self, data: ByteRange) -> Content {
        Content::Disk(Arc::new(Sparse::whole(Arc::clone(&self.archive), data)))
    }

    /// Returns the map at the start of `data`, and the data behind its last block.
    fn map_in_data(&self, data: ByteRange) -> Option<(Vec<(u64, u64)>, ByteRange)> {
        let mut numbers = Numbers { archive: self.archive.as_ref(), data, at: data.start(), block: Vec::new() };
        let count = numbers.next()?;
        if count > MOST_RUNS {
            return None;
        }
        let map = (0..count).map(|_| Some((numbers.next()?, numbers.next()?))).collect::<Option<Vec<_>>>()?;
        Some((map, ByteRange::new(numbers.at, data.end())?))
    }

    /// Returns the contents of a sparse file in GNU tar's oldest form, and where they are.
    fn old_sparse(&self, header: &Header, data: ByteRange, size: u64) -> Result<(Content, ByteRange), CommandError> {
        let bad = || self.bad("its sparse map fits its data");
        let gnu = header.as_gnu().ok_or_else(bad)?;
        let real_size = gnu.real_size().map_err(|_| bad())?;
        let mut map = Vec::new();
        add_runs(&mut map, &gnu.sparse).ok_or_else(bad)?;
        let (mut more, mut start) = (gnu.is_extended(), data.start());
        while more {
            let mut extended = GnuExtSparseHeader::new();
            self.data(start, BLOCK)?;
            self.archive.read_exact_at(extended.as_mut_bytes(), start)?;
            add_runs(&mut map, extended.sparse()).filter(|()| within(&map)).ok_or_else(bad)?;
            start = start.saturating_add(BLOCK);
            more = extended.is_extended();
        }
        let data = self.data(start, size)?;
        let sparse = Sparse::new(Arc::clone(&self.archive), real_size, &map, data).ok_or_else(bad)?;
        Ok((Content::Disk(Arc::new(sparse)), data))
    }

    /// Returns the error for the entry at the place reached.
    fn bad(&self, rule: impl AsRef<str>) -> CommandError {
        CommandError::new(ErrorKind::Corrupt, self.place(rule.as_ref()))
    }

    fn place(&self, rule: &str) -> String {
        format!("the archive's entry at byte {} breaks a rule: {rule}", self.at)
    }
}

/// Lines with a number, block by block.
struct Numbers<'a> {
    archive: &'a dyn BlockRead,
    data: ByteRange,
    /// Where the next block is.
    at: u64,
    block: Vec<u8>,
}

impl Numbers<'_> {
    fn next(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for _ in 0..LONGEST_NUMBER {
            match self.byte()? {
                b'\n' => return Some(number),
                digit => {
                    number =
                        number.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?))?
                }
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        if self.block.is_empty() {
            let next = ByteRange::at(self.at, BLOCK).filter(|next| next.end() <= self.data.end())?;
            let mut block = vec![0; 512];
            self.archive.read_exact_at(&mut block, next.start()).ok()?;
            block.reverse();
            (self.block, self.at) = (block, next.end());
        }
        self.block.pop()
    }
}

fn add_runs(map: &mut Vec<(u64, u64)>, runs: &[GnuSparseHeader]) -> Option<()> {
    for run in runs.iter().filter(|run| !run.is_empty()) {
        map.push((run.offset().ok()?, run.length().ok()?));
    }
    Some(())
}

fn within(map: &[(u64, u64)]) -> bool {
    u64::try_from(map.len()).is_ok_and(|len| len <= MOST_RUNS)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Bytes of a header, and what data is padded to.
pub(super) const BLOCK: u64 = 512;
/// Far more than names, lists and labels of one file can have.
const LARGEST_EXTENSION: u64 = 16 << 20;
/// The most runs of a sparse file.
const MOST_RUNS: u64 = 1 << 20;
/// Digits of a number, and the line end.
const LONGEST_NUMBER: u32 = 21;
/// Bytes of an access list of owner, group and others alone.
const PLAIN_LIST: usize = 28;
/// Spec: GNU tar manual, "Standard": "GNUTYPE_VOLHDR" and "GNUTYPE_DUMPDIR".
const VOLUME_LABEL: u8 = b'V';
const DUMP_FOLDER: u8 = b'D';
/// What compressed files begin with, and what unpacks them.
const PACKED: &[(&[u8], &str)] =
    &[(&[0x1F, 0x8B], "gzip"), (&[0x28, 0xB5, 0x2F, 0xFD], "zstd"), (&[0xFD, b'7', b'z', b'X'], "xz"), (b"BZh", "bzip2")];
