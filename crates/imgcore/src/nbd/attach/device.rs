use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{FlockOperation, OFlags};

use super::{Error, scan};

/// One of the kernel's devices, connected or not.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Device(u32);

/// A server behind a device, from its connection to its end; one that comes later is another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// The thread that connected it, as the kernel counts.
    thread: u32,
    identifier: Option<Vec<u8>>,
}

/// A partition on a device, as the kernel sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Partition {
    /// Its number in the table.
    pub number: u32,
    /// Its node.
    pub path: PathBuf,
    /// Where it begins on the device, in bytes.
    pub start: u64,
    /// Its bytes.
    pub size: u64,
}

impl Device {
    /// Returns the device of number `index`.
    #[must_use]
    pub fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns all that the kernel has, by number.
    ///
    /// # Errors
    ///
    /// When sysfs cannot be read.
    pub fn all() -> Result<Vec<Self>, Error> {
        let cannot = || Error::system(format!("read `{SYSFS}`"));
        let mut devices = Vec::new();
        for entry in fs::read_dir(SYSFS).map_err(cannot())? {
            let name = entry.map_err(cannot())?.file_name();
            devices.extend(name.to_str().and_then(|name| name.parse::<Self>().ok()));
        }
        devices.sort_unstable();
        Ok(devices)
    }

    /// Returns its number.
    #[must_use]
    pub fn index(self) -> u32 {
        self.0
    }

    /// Returns its node.
    #[must_use]
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/nbd{}", self.0))
    }

    /// Returns whether a server is behind it.
    #[must_use]
    pub fn is_connected(self) -> bool {
        self.thread().is_some()
    }

    /// Returns the server behind it.
    #[must_use]
    pub fn connection(self) -> Option<Connection> {
        loop {
            let thread = self.thread()?;
            let identifier = self.identifier();
            // The kernel shows the thread before the identifier, and takes it away before it.
            if self.thread() == Some(thread) {
                return Some(Connection { thread, identifier });
            }
        }
    }

    /// Returns its bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        self.number::<u64>("size").unwrap_or(0).saturating_mul(SECTOR)
    }

    /// Returns whether it cannot be written.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        self.number::<u8>("ro") == Some(1)
    }

    /// Returns the partitions that the kernel knows, by number.
    #[must_use]
    pub fn partitions(self) -> Vec<Partition> {
        let folder = self.sysfs();
        let mut partitions = Vec::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let sectors = |field: &str| read_number::<u64>(&folder.join(&name).join(field));
            if let (Some(number), Some(start), Some(size)) =
                (read_number(&folder.join(&name).join("partition")), sectors("start"), sectors("size"))
            {
                let (start, size) = (start.saturating_mul(SECTOR), size.saturating_mul(SECTOR));
                partitions.push(Partition { number, path: Path::new("/dev").join(&name), start, size });
            }
        }
        partitions.sort_unstable_by_key(|partition| partition.number);
        partitions
    }

    /// Returns whether the kernel knows partitions, or is about to forget them.
    #[must_use]
    pub fn has_partitions(self) -> bool {
        let prefix = format!("nbd{}p", self.0);
        let is_one = |entry: fs::DirEntry| entry.file_name().as_bytes().starts_with(prefix.as_bytes());
        fs::read_dir(self.sysfs()).into_iter().flatten().flatten().any(is_one)
    }

    /// Makes the kernel read the partition table. When this returns the partitions are there, and so are their nodes where
    /// devtmpfs makes them; returns whether the device can have partitions at all.
    ///
    /// # Errors
    ///
    /// When its node is missing or is another device's, and when the device cannot be read.
    pub fn scan(self) -> Result<bool, Error> {
        let node = self.open(OFlags::empty())?;
        scan::scan(&node).map_err(Error::system(format!("read the partitions of `{}`", self.path().display())))
    }

    /// Takes the device for this process alone: nobody has mounted it or a partition of it, and nobody can while it is held.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] when somebody has, and as [`Device::scan`].
    pub fn claim(self) -> Result<File, Error> {
        self.open(OFlags::EXCL)
    }

    /// Keeps programs that look at every new device, as udev does, from this one while the lock is held: they neither mount it nor
    /// activate what is on it. Waits for those that look at it just now.
    ///
    /// # Spec
    ///
    /// systemd, "Locking Block Device Access": "take a BSD file lock on the device node", with `LOCK_EX`.
    ///
    /// # Errors
    ///
    /// As [`Device::scan`].
    pub fn lock(self) -> Result<File, Error> {
        let node = self.open(OFlags::empty())?;
        let locked = rustix::fs::flock(&node, FlockOperation::LockExclusive);
        locked.map_err(|error| Error::system(format!("lock `{}`", self.path().display()))(error.into()))?;
        Ok(node)
    }

    /// Makes durable what was written to the device and its partitions, other than through file systems that are mounted.
    ///
    /// # Errors
    ///
    /// As [`Device::scan`], and when the server cannot make it durable.
    pub fn flush(self) -> Result<(), Error> {
        for partition in self.partitions() {
            // One that is gone has been written when it was closed.
            if let Ok(node) = File::open(&partition.path) {
                node.sync_all().map_err(Error::system(format!("flush `{}`", partition.path.display())))?;
            }
        }
        let node = self.open(OFlags::empty())?;
        node.sync_all().map_err(Error::system(format!("flush `{}`", self.path().display())))
    }

    /// Opens the node to tell the kernel about the device.
    pub(super) fn node(self) -> Result<File, Error> {
        self.open(OFlags::empty())
    }

    /// Opens the node for reading, if it is that of the device.
    fn open(self, flags: OFlags) -> Result<File, Error> {
        let path = self.path();
        let flags = i32::try_from((flags | OFlags::NONBLOCK).bits()).unwrap_or(0);
        let node = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Error::InUse(path.clone()),
            io::ErrorKind::NotFound => Error::OtherNode(path.clone()),
            _ => Error::system(format!("open `{}`", path.display()))(error),
        })?;
        let metadata = node.metadata().map_err(Error::system(format!("look at `{}`", path.display())))?;
        let number = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let expected = fs::read_to_string(self.sysfs().join("dev")).ok();
        let is_device = metadata.file_type().is_block_device();
        match expected {
            Some(expected) if is_device && expected.trim_end() == format!("{}:{}", number.0, number.1) => Ok(node),
            _ => Err(Error::OtherNode(path)),
        }
    }

    fn thread(self) -> Option<u32> {
        self.number("pid")
    }

    fn identifier(self) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.sysfs().join("backend")).ok()?;
        bytes.pop_if(|last| *last == b'\n');
        Some(bytes)
    }

    fn sysfs(self) -> PathBuf {
        Path::new(SYSFS).join(format!("nbd{}", self.0))
    }

    fn number<T: FromStr>(self, field: &str) -> Option<T> {
        read_number(&self.sysfs().join(field))
    }
}

impl Connection {
    /// Returns the process that connected the device. That is none when its thread is gone, and for what other namespaces have
    /// connected. Without netlink, a connection whose thread is gone is at its end, and lasts only as long as somebody has the device
    /// open.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.thread)).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
    }

    /// Returns the process that connected the device or, when there is none, the number of the thread that did.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().unwrap_or(self.thread)
    }

    /// Returns what was said about the server: [`Connect::identifier`](super::Connect::identifier). Kernels before 5.14 do not keep
    /// it, and none does without netlink.
    #[must_use]
    pub fn identifier(&self) -> Option<&[u8]> {
        self.identifier.as_deref()
    }
}

/// Reads a device from its name, `nbd3`, or the path of its node.
impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let name = text.strip_prefix("/dev/").unwrap_or(text);
        let number = name.strip_prefix("nbd").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.filter(|digits| *digits == "0" || !digits.starts_with('0')).and_then(|digits| digits.parse().ok());
        // A minor number has 20 bits.
        let number = number.filter(|number| *number < 1 << 20);
        number.map(Self).ok_or_else(|| Error::Unfit(format!("`{text}` is no nbd device, as `/dev/nbd0` is")))
    }
}

fn read_number<T: FromStr>(path: &Path) -> Option<T> {
    OsStr::from_bytes(&fs::read(path).ok()?).to_str()?.trim_end().parse().ok()
}

/// Where the kernel shows its block devices.
const SYSFS: &str = "/sys/block";

/// The unit of sizes in sysfs.
const SECTOR: u64 = 512;

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn devices_are_named_as_their_nodes() {
        assert_eq!("/dev/nbd12".parse::<Device>().unwrap(), Device::new(12));
        assert_eq!("nbd0".parse::<Device>().unwrap().path().to_str(), Some("/dev/nbd0"));
        for wrong in ["/dev/sda", "nbd", "nbd01", "nbd+1", "nbd0p1", "/dev/../nbd0", "nbd4294967296", "nbd1048576"] {
            wrong.parse::<Device>().unwrap_err();
        }
    }
}
