//! Volume groups on images, made by lvm2 itself. This machine's kernel need not have device-mapper: nothing is activated.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::device::Loop;
use crate::mount::as_root;
use crate::tool::Tool;

/// A part of an image that lvm2 is shown, and nothing else, behind a loop device that is there as long as a command runs.
#[derive(Debug)]
pub struct Physical {
    image: PathBuf,
    offset: u64,
    size: u64,
}

impl Physical {
    /// The `size` bytes from `offset` of the file `image`.
    pub fn of(image: &Path, offset: u64, size: u64) -> Self {
        Self { image: image.to_owned(), offset, size }
    }

    /// What stands for the device in a command.
    pub fn path(&self) -> &str {
        self.image.to_str().unwrap()
    }

    /// Runs a command of lvm2, as in `vgcreate vg DEVICE`, with this device and `others` in sight.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn run_with(&self, others: &[&Self], line: &str) -> String {
        let all: Vec<_> = others.iter().chain([&self]).collect();
        let loops: Vec<_> = all.iter().map(|one| Loop::attach_part(&one.image, one.offset, one.size)).collect();
        let devices: Vec<_> = loops.iter().map(|device| format!("\"a|^{}$|\"", device.path())).collect();
        let config = format!(
            "devices {{ use_devicesfile=0 scan_lvs=0 hints=\"none\" filter=[{}, \"r|.*|\"] }} activation {{ udev_sync=0 udev_rules=0 }} \
             backup {{ backup=0 archive=0 }}",
            devices.join(", ")
        );
        let device = |word| all.iter().position(|one| one.path() == word).map_or(word, |at| loops[at].path());
        let mut words = line.split_whitespace().map(device);
        let tool = as_root("lvm").args(words.next()).args(["--driverloaded", "n", "--config", &config]).args(words);
        tool.env("LVM_SUPPRESS_FD_WARNINGS", "1").run()
    }

    /// Runs a command of lvm2 with this device in sight.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.run_with(&[], line)
    }

    /// Makes a logical volume of a group.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn create(&self, line: &str) {
        self.run(&format!("lvcreate -an -y -Zn -Wn {line}"));
    }

    /// Where the bytes of a logical volume are in the image, in order: offset and length, as lvm2 says it.
    ///
    /// # Panics
    ///
    /// When lvm2 says it in another form.
    #[track_caller]
    pub fn place(&self, volume: &str) -> Vec<(u64, u64)> {
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        let start = number(&self.run(&format!("pvs --noheadings --nosuffix --units b -o pe_start {}", self.path())));
        let said = self.run(&format!(
            "lvs --noheadings --nosuffix --units b --segments --separator ; -o vg_extent_size,seg_pe_ranges {volume}"
        ));
        let mut all = Vec::new();
        for line in said.lines().filter(|line| line.contains(';')) {
            let fields: Vec<&str> = line.split(';').collect();
            let extent = number(fields[0]);
            let (first, last) = fields[1].rsplit_once(':').unwrap().1.split_once('-').unwrap();
            let count = number(last) - number(first) + 1;
            all.push((self.offset + start + number(first) * extent, count * extent));
        }
        all
    }

    /// Writes the contents of the file `from` onto a logical volume.
    ///
    /// # Panics
    ///
    /// When they do not fit.
    #[track_caller]
    pub fn write(&self, volume: &str, from: &Path) {
        let bytes = fs::read(from).unwrap();
        let image = File::options().write(true).open(&self.image).unwrap();
        let mut rest = bytes.as_slice();
        for (offset, len) in self.place(volume) {
            let (piece, behind) = rest.split_at(rest.len().min(usize::try_from(len).unwrap()));
            image.write_all_at(piece, offset).unwrap();
            rest = behind;
        }
        assert!(rest.is_empty());
        image.sync_all().unwrap();
    }
}

/// Copies what `places` are in the file `image` into the new file `to`.
///
/// # Panics
///
/// When it cannot be read.
#[track_caller]
pub fn extract(image: &Path, places: &[(u64, u64)], to: &Path) {
    let image = File::open(image).unwrap();
    let mut bytes = Vec::new();
    for (offset, len) in places {
        let mut piece = vec![0; usize::try_from(*len).unwrap()];
        image.read_exact_at(&mut piece, *offset).unwrap();
        bytes.extend(piece);
    }
    fs::write(to, bytes).unwrap();
}

/// Makes a file system of type ext4 with the files of `tree` in the new file `path`.
///
/// # Panics
///
/// When mke2fs fails.
#[track_caller]
pub fn ext4(tree: &Path, label: &str, path: &Path, size: &str) {
    let mke2fs = Tool::new("mke2fs").args(["-q", "-t", "ext4", "-L", label, "-E", "root_owner=0:0", "-d"]);
    mke2fs.arg(tree).arg(path).arg(size).run();
}
