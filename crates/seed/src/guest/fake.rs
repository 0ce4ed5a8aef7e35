//! A file system in memory, and trees like those of real distributions, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use imgcore::fs::{DirEntry, Error, FileKind, FileSystem, GuestPath, Metadata};

use super::{Guest, Tree, Volume, VolumeContent, VolumeNames};

/// Files by path, without links in their folders.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeFiles {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug)]
struct Node {
    kind: FileKind,
    mode: u32,
    uid: u32,
    content: Vec<u8>,
}

impl FakeFiles {
    pub(crate) fn dir(self, path: &str) -> Self {
        self.node(path, FileKind::Directory, 0o755, 0, b"")
    }

    /// A folder that says it has more names than anybody reads.
    pub(crate) fn huge_dir(self, path: &str) -> Self {
        self.node(path, FileKind::Directory, 0o755, 0, &vec![0; (4 << 20) + 1])
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.node(path, FileKind::File, 0o644, 0, content.as_ref())
    }

    pub(crate) fn owned_file(self, path: &str, mode: u32, uid: u32, content: impl AsRef<[u8]>) -> Self {
        self.node(path, FileKind::File, mode, uid, content.as_ref())
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.node(path, FileKind::Symlink, 0o777, 0, target.as_bytes())
    }

    fn node(mut self, path: &str, kind: FileKind, mode: u32, uid: u32, content: &[u8]) -> Self {
        let parent = GuestPath::new(path).unwrap().parent();
        if let Some(parent) = parent.filter(|parent| parent.as_str() != "/" && !self.nodes.contains_key(parent.as_str())) {
            self = self.dir(parent.as_str());
        }
        self.nodes.insert(path.to_owned(), Node { kind, mode, uid, content: content.to_vec() });
        self
    }

    /// The only volume of a disk, as partition 1.
    pub(crate) fn volume(self, partition: u32, label: &str) -> Volume {
        let partition = partition.into();
        let names = VolumeNames { label: Some(label.to_owned()), ..VolumeNames::default() };
        Volume { partition, names, content: VolumeContent::Files(Arc::new(self)) }
    }

    pub(crate) fn inspect(self) -> (Guest, Tree) {
        let tree = Tree::assemble(&[self.volume(1, "root")], None).unwrap();
        (Guest::inspect(&tree).unwrap(), tree)
    }

    fn get(&self, path: &GuestPath) -> Result<Option<&Node>, Error> {
        let mut parent = path.parent();
        while let Some(folder) = parent.filter(|folder| folder.as_str() != "/") {
            match self.nodes.get(folder.as_str()).map(|node| node.kind) {
                Some(FileKind::Directory) => {}
                Some(kind) => return Err(Error::WrongKind { path: folder, kind }),
                None => return Err(Error::NotFound(path.clone())),
            }
            parent = folder.parent();
        }
        Ok(self.nodes.get(path.as_str()))
    }
}

impl FileSystem for FakeFiles {
    fn metadata(&self, path: &GuestPath) -> Result<Metadata, Error> {
        self.symlink_metadata(path)
    }

    fn symlink_metadata(&self, path: &GuestPath) -> Result<Metadata, Error> {
        let root = Node { kind: FileKind::Directory, mode: 0o755, uid: 0, content: Vec::new() };
        let node = if path.as_str() == "/" { Some(&root) } else { self.get(path)? };
        let node = node.ok_or_else(|| Error::NotFound(path.clone()))?;
        Ok(Metadata {
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.uid,
            size: u64::try_from(node.content.len()).unwrap(),
            links: 1,
            mtime: 0,
            mtime_nanos: 0,
            inode: 1,
        })
    }

    fn read(&self, path: &GuestPath, limit: u64) -> Result<Vec<u8>, Error> {
        let node = self.get(path)?.ok_or_else(|| Error::NotFound(path.clone()))?;
        let size = u64::try_from(node.content.len()).unwrap();
        match node.kind {
            FileKind::File if size <= limit => Ok(node.content.clone()),
            FileKind::File => Err(Error::TooLarge { path: path.clone(), size, limit }),
            kind => Err(Error::WrongKind { path: path.clone(), kind }),
        }
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>, Error> {
        let below = if path.as_str() == "/" { "/".to_owned() } else { format!("{path}/") };
        let names = self.nodes.iter().filter_map(|(own, node)| {
            let name = own.strip_prefix(&below).filter(|name| !name.contains('/'))?;
            Some(DirEntry { name: name.as_bytes().to_vec(), kind: node.kind, inode: 1 })
        });
        Ok(names.collect())
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>, Error> {
        Ok(self.get(path)?.ok_or_else(|| Error::NotFound(path.clone()))?.content.clone())
    }

    fn xattr(&self, _: &GuestPath, _: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
}

/// A Debian 12 with merged /usr, sshd, systemd and cloud-init.
pub(crate) fn debian() -> FakeFiles {
    FakeFiles::default()
        .link("/bin", "usr/bin")
        .link("/sbin", "usr/sbin")
        .link("/lib", "usr/lib")
        .file("/usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n")
        .link("/etc/os-release", "../usr/lib/os-release")
        .file("/usr/bin/bash", "")
        .link("/usr/sbin/init", "/lib/systemd/systemd")
        .file("/usr/lib/systemd/systemd", "")
        .file("/usr/sbin/sshd", "")
        .file("/usr/bin/cloud-init", "")
        .file("/usr/bin/sudo", "")
        .file("/etc/sudoers", "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n")
        .file("/usr/sbin/netplan", "")
        .file("/etc/hostname", "localhost\n")
        .file("/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\told.example.org old\n::1\tlocalhost\n")
        .file("/etc/fstab", "LABEL=root / ext4 rw 0 1\nLABEL=ESP /boot/efi vfat umask=077 0 1\n")
        .file("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\ndebian:x:1000:1000:Debian:/home/debian:/bin/bash\n")
        .owned_file("/etc/shadow", 0o640, 0, "root:*:19000:0:99999:7:::\ndebian:!:19000:0:99999:7:::\n")
        .file("/etc/group", "root:x:0:\nsudo:x:27:debian\ndebian:x:1000:\n")
        .owned_file("/etc/gshadow", 0o640, 0, "root:*::\nsudo:*::debian\ndebian:!::\n")
        .file("/etc/skel/.bashrc", "# skel\n")
        .file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        .link("/var/lib/dbus/machine-id", "/etc/machine-id")
        .file("/usr/share/zoneinfo/Europe/Madrid", "TZif")
        .file("/etc/timezone", "Etc/UTC\n")
        .link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
        .dir("/root")
        .dir("/home/debian")
        .dir("/boot/efi")
        .dir("/etc/ssh")
}

/// An Alpine with OpenRC and without os-release's family.
pub(crate) fn alpine() -> FakeFiles {
    FakeFiles::default()
        .file("/etc/os-release", "ID=alpine\nVERSION_ID=3.20.0\n")
        .file("/bin/busybox", "")
        .link("/sbin/init", "/bin/busybox")
        .link("/bin/sh", "/bin/busybox")
        .file("/sbin/openrc", "")
        .file("/usr/sbin/sshd", "")
        .file("/etc/passwd", "root:x:0:0:root:/root:/bin/ash\n")
        .file("/etc/group", "root:x:0:root\n")
        .file("/etc/shadow", "root:*::0:::::\n")
        .file("/etc/hostname", "localhost\n")
        .file("/etc/hosts", "127.0.0.1\tlocalhost localhost.localdomain\n")
        .dir("/root")
}
