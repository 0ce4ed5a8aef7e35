//! Images that were made to do harm, thrown at every command: no panic, no signal, no waiting, bounded memory, nothing opened that
//! an image names as an address or a pipe, and nothing changed by reading.

mod craft;
mod image;

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use tempfile::TempDir;
use vmimg_tests::tool::Tool;

use self::image::{Crafted, Image};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_vmimg-program");

/// Commands that only read the image `img`.
const READING: &[&str] = &[
    "image info img",
    "image info --backing-chain --output=json img",
    "image check img",
    "image check --output=json -f qcow2 img",
    "image map --output=json img",
    "image compare img img2",
    "image measure -O qcow2 img",
    "image measure -O raw --output=json img",
    "image snapshot -l img",
    "image convert -O qcow2 -c img out.qcow2",
    "image convert -O qcow2 -B img2 -F raw img out.qcow2",
    "image convert -l s1 img out.raw",
    "image dd bs=64k count=4 if=img of=out.raw",
    "image bench -c 4 -f qcow2 img",
    "image --untrusted info img",
    "image --untrusted convert -O qcow2 img out.qcow2",
    "disk inspect img",
    "disk ls img",
];

/// Commands that may change it; each gets its own copy.
const WRITING: &[&str] = &[
    "image resize -f qcow2 img +1M",
    "image resize -f qcow2 --shrink img 4k",
    "image check -r all -f qcow2 img",
    "image check -r leaks -f qcow2 img",
    "image snapshot -c new img",
    "image snapshot -a s1 img",
    "image snapshot -d s1 img",
    "image rebase -u -f qcow2 -b img2 -F raw img",
    "image rebase -f qcow2 -b img2 -F raw img",
    "image rebase -f qcow2 -b '' img",
    "image commit -f qcow2 img",
    "image amend -f qcow2 -o lazy_refcounts=on img",
    "image amend -f qcow2 -o compat=0.10 img",
    "image amend -f qcow2 -o refcount_bits=1 img",
    "image bitmap --add -f qcow2 img new",
    "image bitmap --remove -f qcow2 img b0",
    "image bitmap --clear -f qcow2 img b0",
    "image bench -w -c 4 -f qcow2 img",
    "image convert -n -f raw -O qcow2 img2 img",
    "disk grow -f qcow2 --no-fs img",
];

/// Somewhere to put an image and what it may name.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("vmimg-hostile-").tempdir().unwrap();
        let place = Self { folder };
        Tool::new("mkfifo").arg(place.path().join("fifo")).run();
        fs::write(place.path().join("secret"), "a secret").unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn put(&self, crafted: &Crafted) {
        fs::write(self.path().join("img"), &crafted.bytes).unwrap();
        fs::write(self.path().join("img2"), vec![7; 200_000]).unwrap();
        for (name, bytes) in &crafted.beside {
            fs::write(self.path().join(name), bytes).unwrap();
        }
        if let Some(length) = crafted.length {
            fs::OpenOptions::new().write(true).open(self.path().join("img")).unwrap().set_len(length).unwrap();
        }
    }

    /// Runs the program within bounds of time and memory, and returns what went wrong.
    fn run(&self, line: &str) -> Option<String> {
        let bounds = ["-s", "KILL", BLOCKED, "prlimit", "--core=0", SECONDS, MEMORY, PROGRAM];
        let words = line.split_whitespace().map(|word| if word == "''" { "" } else { word });
        let output = Tool::new("timeout").args(bounds).args(words).current_dir(self.path()).output();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let wrong = [
            (code >= 124, "was stopped by a signal or took too long"),
            (stderr.contains("panicked"), "panicked"),
            (stderr.contains("unrecognized subcommand") || stderr.contains("Usage:"), "is no command line"),
        ];
        let why = wrong.iter().find(|(wrong, _)| *wrong)?.1;
        Some(format!("`{line}` {why} ({code}): {}", stderr.chars().take(400).collect::<String>()))
    }

    fn check(&self, crafted: &Crafted) -> Vec<String> {
        let mut wrong = Vec::new();
        self.put(crafted);
        for line in READING {
            wrong.extend(self.run(line));
        }
        let now = fs::read(self.path().join("img")).map(|mut bytes| {
            bytes.truncate(crafted.bytes.len());
            bytes
        });
        if crafted.length.is_none() && now.ok().as_deref() != Some(&crafted.bytes) {
            wrong.push("reading has changed it".to_owned());
        }
        for line in WRITING {
            self.put(crafted);
            wrong.extend(self.run(line));
        }
        if fs::read(self.path().join("secret")).unwrap() != b"a secret" {
            wrong.push("a file that it names has changed".to_owned());
        }
        wrong
    }
}

/// Throws `images` at every command, in two threads.
#[track_caller]
fn throw(images: &[Crafted]) {
    let halves = images.split_at(images.len() / 2);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let work = |half: &'_ [Crafted]| {
            let place = Place::new();
            half.iter()
                .flat_map(|image| place.check(image).into_iter().map(|wrong| format!("{}: {wrong}", image.name)))
                .collect::<Vec<_>>()
        };
        let other = scope.spawn(move || work(halves.1));
        let mut wrong = work(halves.0);
        wrong.extend(other.join().unwrap());
        wrong
    });
    assert!(wrong.is_empty(), "{} of {} images:\n{}", wrong.len(), images.len(), wrong.join("\n"));
}

/// A part of `images`, spread evenly: all of them when `VMIMG_HOSTILE_ALL` is set.
fn some(images: Vec<Crafted>, count: usize) -> Vec<Crafted> {
    #[expect(clippy::disallowed_methods, reason = "how much is tested is the caller's choice")]
    let all = std::env::var_os("VMIMG_HOSTILE_ALL").is_some();
    let step = if all { 1 } else { images.len().div_ceil(count).max(1) };
    images.into_iter().step_by(step).collect()
}

#[test]
fn the_image_that_is_damaged_is_sound_before() {
    for bits in [9, 12, 16] {
        let place = Place::new();
        place.put(&Crafted::new("sound", Image::sound(bits).bytes));
        let tool = |name: &str| Tool::new(name).current_dir(place.path());
        tool("qemu-img").args(["check", "-f", "qcow2", "img"]).run();
        tool(PROGRAM).args(["image", "check", "-f", "qcow2", "img"]).run();
        let listed = tool("qemu-img").args(["info", "-f", "qcow2", "img"]).run();
        assert!(listed.contains("s1") && listed.contains("b0"), "{listed}");
    }
}

#[test]
fn headers_with_impossible_fields_are_refused_or_read() {
    throw(&some(craft::headers(), 24));
}

#[test]
fn tables_that_lead_nowhere_are_refused_or_read() {
    throw(&some(craft::tables(), 36));
}

#[test]
fn bombs_stay_small() {
    throw(&some(craft::bombs(), usize::MAX));
}

#[test]
fn what_an_image_names_is_not_opened_unless_it_is_a_plain_file() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    throw(&some(craft::references(listener.local_addr().unwrap().port()), 24));
    let refused = listener.accept().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock, "an address was opened");
}

#[test]
fn files_that_are_two_things_are_one_at_most() {
    throw(&craft::polyglots());
}

#[test]
fn random_damage_is_an_error_or_other_bytes() {
    throw(&some(craft::mutations(7, 400), 24));
}

/// How long a command may take. A build without optimization is slower than the ten seconds that people get.
const SECONDS: &str = if cfg!(debug_assertions) { "--cpu=30" } else { "--cpu=10" };

/// How many seconds a command may take that waits for something.
const BLOCKED: &str = "200";
/// Bytes of memory that a command may take.
const MEMORY: &str = "--data=536870912";
