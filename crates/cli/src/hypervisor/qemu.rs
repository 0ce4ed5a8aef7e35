use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal};

use super::firmware::Firmware;
use super::qmp::Qmp;
use super::{DomainState, Hypervisor, folders, terminal};
use crate::context::Context;
use crate::domain::{self, Domain, QemuCommand, QemuFiles};
use crate::error::{CommandError, ErrorKind};
use crate::output::warn;
use crate::tool::Tool;

/// A machine that QEMU runs directly, as a process of this user.
///
/// The machine's folder is all that is known of it, so defining only checks, and nothing is left to undefine. QEMU holds a lock
/// on its process id's file for as long as it lives, which tells a running machine from a left file or a recycled number.
#[derive(Debug)]
pub struct Qemu<'a> {
    context: &'a Context,
    folder: PathBuf,
    files: QemuFiles,
}

impl<'a> Qemu<'a> {
    /// Returns the machine in `folder`, an absolute path.
    #[must_use]
    pub fn new(context: &'a Context, folder: &Path) -> Self {
        let sockets = folders::sockets(context, folder);
        let files = QemuFiles {
            monitor: sockets.join("monitor"),
            serial: sockets.join("serial"),
            pid: folder.join("qemu.pid"),
            sandbox: true,
            firmware: None,
        };
        Self { context, folder: folder.to_owned(), files }
    }

    /// Returns the process that runs the machine, if any does.
    ///
    /// # Errors
    ///
    /// When the lock on its file cannot be looked at.
    pub fn process(&self) -> Result<Option<Pid>, CommandError> {
        let cannot = |error| CommandError::io(format!("cannot look at `{}`", self.files.pid.display()), error);
        // Open for reading alone, so that the question cannot disturb the answer.
        let file = match File::open(&self.files.pid) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        // Would a lock for reading be granted? Only one for writing is in its way, and that is QEMU's.
        let holder = fcntl_getlk(&file, &Flock::from(FlockType::ReadLock)).map_err(|error| cannot(error.into()))?;
        Ok(holder.and_then(|lock| lock.pid))
    }

    /// Returns the files for `domain`, its firmware's variables made when they are missing.
    fn files_for(&self, domain: &Domain) -> Result<QemuFiles, CommandError> {
        let mut files = self.files.clone();
        if domain.firmware == domain::Firmware::Efi {
            let firmware = Firmware::find(self.context, domain.machine)?;
            let variables = self.folder.join("efi-vars.fd");
            firmware.make_variables(&variables)?;
            files.firmware = Some((firmware.code, variables));
        }
        Ok(files)
    }

    fn monitor(&self) -> Result<Qmp, CommandError> {
        Qmp::connect(&self.files.monitor, MONITOR_LIMIT)
    }

    /// Starts QEMU and returns when its monitor answers.
    fn launch(&self, domain: &Domain, files: &QemuFiles) -> Result<(), CommandError> {
        let command = QemuCommand::new(domain, files)?;
        if let Some(sockets) = files.monitor.parent() {
            folders::make_private(sockets)?;
        }
        let path = self.folder.join(LOG_FILE);
        let log = File::create(&path).map_err(|error| CommandError::io(format!("cannot make `{}`", path.display()), error))?;
        let tool = Tool::new(self.context, PROGRAM).args(command.arguments()).failing_as(ErrorKind::Hypervisor);
        let mut child = tool.spawn(log)?;
        let started = self.wait_for_monitor(&mut child);
        if started.is_err() {
            // Fails only when it has ended already.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        started
    }

    fn wait_for_monitor(&self, child: &mut Child) -> Result<(), CommandError> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                let said = self.last_words();
                return Err(CommandError::new(ErrorKind::Hypervisor, format!("QEMU ended ({status})")).with_source(said));
            }
            // The lock comes after the sockets, and only of this child: another QEMU would have kept it from starting.
            if self.process()?.is_some() && self.monitor().is_ok() {
                return Ok(());
            }
            self.context.interrupt().check()?;
            if begun.elapsed() > START_LIMIT {
                return Err(CommandError::new(ErrorKind::TimedOut, "QEMU does not begin").with_source(self.last_words()));
            }
            thread::sleep(STEP);
        }
    }

    fn last_words(&self) -> String {
        let bytes = fs::read(self.folder.join(LOG_FILE)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        line.unwrap_or("it said nothing").chars().filter(|c| !c.is_control()).take(500).collect()
    }

    fn signal(&self, process: &OwnedFd, signal: Signal, limit: Duration) -> Result<bool, CommandError> {
        // A process that has ended meanwhile is what was asked for.
        let _ended = pidfd_send_signal(process, signal);
        let begun = Instant::now();
        while self.process()?.is_some() {
            if begun.elapsed() > limit {
                return Ok(false);
            }
            thread::sleep(STEP);
        }
        Ok(true)
    }
}

impl Hypervisor for Qemu<'_> {
    fn define(&self, domain: &Domain) -> Result<(), CommandError> {
        QemuCommand::new(domain, &self.files_for(domain)?)?;
        if self.process()?.is_some() {
            return Err(CommandError::new(ErrorKind::Refused, "the machine runs already"));
        }
        Ok(())
    }

    fn start(&self, domain: &Domain) -> Result<(), CommandError> {
        if self.process()?.is_some() {
            return Err(CommandError::new(ErrorKind::Refused, "the machine runs already"));
        }
        let files = self.files_for(domain)?;
        match self.launch(domain, &files) {
            Err(error) if error.causes().iter().any(|cause| cause.contains("-sandbox")) => {
                warn(self.context, "this QEMU cannot give up system calls (it lacks seccomp); it runs without that");
                self.launch(domain, &QemuFiles { sandbox: false, ..files })
            }
            outcome => outcome,
        }
    }

    fn state(&self) -> Result<DomainState, CommandError> {
        if self.process()?.is_none() {
            return Ok(DomainState::ShutOff);
        }
        // Somebody else may be at the monitor: the machine runs all the same.
        let status = self.monitor().and_then(|mut monitor| monitor.execute("query-status", None));
        let status = status.ok().and_then(|status| status.get("status")?.as_str().map(str::to_owned));
        Ok(match status.as_deref() {
            Some("paused" | "suspended" | "prelaunch" | "io-error") => DomainState::Paused,
            Some("internal-error" | "guest-panicked") => DomainState::Crashed,
            _ => DomainState::Running,
        })
    }

    fn shutdown(&self) -> Result<(), CommandError> {
        self.monitor()?.execute("system_powerdown", None).map(drop)
    }

    fn destroy(&self) -> Result<(), CommandError> {
        let Some(pid) = self.process()? else { return Ok(()) };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        // The handle is of the process that holds the lock, or of a later one with its number: then another holds it, or none.
        if self.process()? != Some(pid) {
            return Ok(());
        }
        // QEMU writes what it still has of its images' tables when it is asked to end.
        if self.signal(&process, Signal::TERM, PATIENCE)? || self.signal(&process, Signal::KILL, PATIENCE)? {
            return Ok(());
        }
        Err(CommandError::new(ErrorKind::Hypervisor, format!("QEMU (process {}) does not end", pid.as_raw_nonzero())))
    }

    fn undefine(&self) -> Result<(), CommandError> {
        if self.process()?.is_some() {
            return Err(CommandError::new(ErrorKind::Refused, "the machine runs"));
        }
        if let Some(sockets) = self.files.monitor.parent() {
            // Made again when it is needed.
            let _removed = fs::remove_dir_all(sockets);
        }
        Ok(())
    }

    fn display(&self) -> Result<Option<String>, CommandError> {
        let answer = self.monitor()?.execute("query-vnc", None)?;
        let text = |key| answer.get(key).and_then(serde_json::Value::as_str);
        Ok(text("host").zip(text("service")).map(|(host, port)| format!("{host}:{port}")))
    }

    fn console(&self) -> Result<(), CommandError> {
        if self.process()?.is_none() {
            return Err(CommandError::new(ErrorKind::Refused, "the machine does not run"));
        }
        terminal::attach(self.context, &self.files.serial)
    }
}

/// The program that runs guests.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// What QEMU says, in the machine's folder.
const LOG_FILE: &str = "qemu.log";
const STEP: Duration = Duration::from_millis(10);
const MONITOR_LIMIT: Duration = Duration::from_secs(10);
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long QEMU has to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
