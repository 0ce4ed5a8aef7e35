//! A machine that the program prepared, and the guest in it when it runs.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk;
use crate::facts::Facts;
use crate::host::Host;

/// How long a guest may take to start, on a busy machine without KVM.
const PATIENCE: Duration = Duration::from_secs(240);

/// A prepared machine. Dropping it stops its guest.
#[derive(Debug)]
pub struct Machine<'h> {
    host: &'h Host,
    name: String,
    record: Value,
}

impl<'h> Machine<'h> {
    /// Prepares a machine from a base image and asserts what must hold after every prepare: other programs find the disk
    /// sound, and the base has the same bytes as before.
    ///
    /// # Panics
    ///
    /// When one of it does not hold.
    #[track_caller]
    pub fn prepare<I>(host: &'h Host, name: &str, base: &Path, arguments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let before = disk::digest(base);
        let arguments = arguments.into_iter().map(Into::into);
        host.vmimg().args(["prepare", name, "--image"]).arg(base).args(arguments).run();
        assert_eq!(disk::digest(base), before, "prepare changed the base image");
        let record = fs::read(host.path("machines").join(name).join("machine.json")).unwrap();
        let machine = Self { host, name: name.to_owned(), record: serde_json::from_slice(&record).unwrap() };
        disk::assert_sound(&machine.disk(), host.path("").as_path());
        machine
    }

    /// The machine's folder.
    pub fn folder(&self) -> PathBuf {
        self.host.path("machines").join(&self.name)
    }

    /// A value of the machine's record, by its JSON pointer.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn record(&self, pointer: &str) -> &Value {
        self.record.pointer(pointer).unwrap_or_else(|| panic!("machine.json has no {pointer}: {:#}", self.record))
    }

    /// A text of the machine's record, by its JSON pointer.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> &str {
        self.record(pointer).as_str().unwrap_or_else(|| panic!("{pointer} is no text"))
    }

    /// The system disk.
    #[track_caller]
    pub fn disk(&self) -> PathBuf {
        self.folder().join(self.text("/disk/file"))
    }

    /// The seed ISO.
    #[track_caller]
    pub fn seed(&self) -> PathBuf {
        self.folder().join(self.text("/seed/file"))
    }

    /// Boots the machine with the arguments of `vmimg boot` and returns when the command does.
    #[track_caller]
    pub fn boot<const N: usize>(&self, arguments: [&str; N]) -> Guest<'_> {
        let report = self.host.vmimg().args(["boot", &self.name, "--json"]).args(arguments).run();
        Guest { machine: self, report: serde_json::from_str(&report).unwrap() }
    }
}

/// A running guest. Dropping it pulls its plug.
#[derive(Debug)]
pub struct Guest<'m> {
    machine: &'m Machine<'m>,
    report: Value,
}

impl Guest<'_> {
    /// What `vmimg boot` reported, by its JSON pointer.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn report(&self, pointer: &str) -> &Value {
        self.report.pointer(pointer).unwrap_or_else(|| panic!("vmimg boot reports no {pointer}: {:#}", self.report))
    }

    /// What the guest has written to its serial port.
    pub fn console(&self) -> String {
        let log = self.report("/console").as_str().unwrap();
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }

    /// Waits until the console shows `text`.
    ///
    /// # Panics
    ///
    /// When it does not in four minutes.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.console().contains(text) {
            assert!(start.elapsed() < PATIENCE, "the console never shows {text:?}:\n{}", self.console());
            sleep(Duration::from_millis(100));
        }
    }

    /// The report of a tiny guest, when it has started.
    #[track_caller]
    pub fn facts(&self) -> Facts {
        self.wait_for("VMIMG-READY");
        Facts::read(&self.console())
    }

    /// Runs a command in the guest by `vmimg ssh`, as `login` with the private key `key`; returns its standard output.
    ///
    /// # Panics
    ///
    /// When the login or the command fails.
    #[track_caller]
    pub fn run(&self, login: &str, key: &Path, command: &str) -> String {
        let ssh = self.machine.host.vmimg().args(["ssh", &self.machine.name, "--user", login, "--identity"]).arg(key);
        ssh.args(["--", command]).run()
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        drop(self.machine.host.vmimg().args(["stop", "--force", &self.machine.name]).output());
    }
}
