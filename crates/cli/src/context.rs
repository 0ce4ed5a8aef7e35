//! Everything that a command takes from outside, in one value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRngCore, OsRng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::error::{CommandError, ErrorKind};
use crate::interrupt::Interrupt;

/// The program's surroundings: environment, working folder, streams, clock, entropy and signals.
///
/// It is made once, at the program's edge, and handed to every command; nothing else reads any of these. `SOURCE_DATE_EPOCH`,
/// seconds since 1970, stops the clock, as reproducible builds have it.
pub struct Context {
    environment: BTreeMap<OsString, OsString>,
    working_folder: PathBuf,
    out: Mutex<Box<dyn Write + Send>>,
    err: Mutex<Box<dyn Write + Send>>,
    out_is_terminal: bool,
    err_is_terminal: bool,
    interrupt: Interrupt,
}

impl Context {
    /// Returns the surroundings of this process, with its signals caught from now on.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            environment: std::env::vars_os().collect(),
            working_folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            out: Mutex::new(Box::new(io::stdout())),
            err: Mutex::new(Box::new(io::stderr())),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            interrupt: Interrupt::of_process(),
        }
    }

    /// Returns surroundings without an environment or a terminal, with `out` and `err` as streams.
    #[must_use]
    pub fn detached(working_folder: PathBuf, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self {
            environment: BTreeMap::new(),
            working_folder,
            out: Mutex::new(out),
            err: Mutex::new(err),
            out_is_terminal: false,
            err_is_terminal: false,
            interrupt: Interrupt::new(),
        }
    }

    /// Returns the surroundings with the environment variable `name` set.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Returns the environment variable `name`; an empty one counts as missing.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Returns the whole environment, for programs that are started.
    #[must_use]
    pub fn environment(&self) -> &BTreeMap<OsString, OsString> {
        &self.environment
    }

    /// Returns the user's home folder, from `HOME`.
    #[must_use]
    pub fn home(&self) -> Option<&Path> {
        self.variable("HOME").map(Path::new).filter(|home| home.is_absolute())
    }

    /// Returns whether the program runs as root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Returns `path` made absolute by the working folder.
    #[must_use]
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.working_folder.join(path)
    }

    /// Returns the time now, or that of `SOURCE_DATE_EPOCH`.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let fixed = self.variable("SOURCE_DATE_EPOCH").and_then(OsStr::to_str).and_then(|text| text.parse().ok());
        let fixed = fixed.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        fixed.unwrap_or_else(SystemTime::now)
    }

    /// Returns the seconds since 1970 of [`Context::now`].
    #[must_use]
    pub fn unix_time(&self) -> i64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// Returns a source of random bytes: the system's, or one that gives the same bytes for the same `seed_value`.
    #[must_use]
    pub fn entropy(&self, seed_value: Option<&str>) -> Box<dyn CryptoRngCore + Send> {
        match seed_value {
            None => Box::new(OsRng),
            Some(text) => Box::new(ChaCha20Rng::from_seed(Sha256::digest(text.as_bytes()).into())),
        }
    }

    /// Returns whether signals have asked the program to stop.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Returns whether standard output is a terminal.
    #[must_use]
    pub fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// Returns whether standard error is a terminal.
    #[must_use]
    pub fn err_is_terminal(&self) -> bool {
        self.err_is_terminal
    }

    /// Returns whether messages on standard error may be colored: on a terminal, unless `NO_COLOR` or a dumb `TERM` says no.
    #[must_use]
    pub fn colors(&self) -> bool {
        self.err_is_terminal && self.variable("NO_COLOR").is_none() && self.variable("TERM").is_some_and(|term| term != "dumb")
    }

    /// Writes `bytes` to standard output.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutputClosed`] when its reader is gone, [`ErrorKind::Storage`] otherwise.
    pub fn write_out(&self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut out = self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        out.write_all(bytes).map_err(output_error)
    }

    /// Makes sure that everything written so far has left the program.
    ///
    /// # Errors
    ///
    /// As [`Context::write_out`].
    pub fn flush(&self) -> Result<(), CommandError> {
        let mut out = self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        out.flush().map_err(output_error)
    }

    /// Writes `text` to standard error; a failure is ignored, as there is nowhere left to report it.
    pub fn write_error(&self, text: &str) {
        let mut err = self.err.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _lost = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

fn output_error(error: io::Error) -> CommandError {
    let closed = error.kind() == io::ErrorKind::BrokenPipe;
    let kind = if closed { ErrorKind::OutputClosed } else { ErrorKind::Storage };
    CommandError::new(kind, "cannot write to standard output").with_source(error)
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("working_folder", &self.working_folder).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::Context;

    fn context() -> Context {
        Context::detached(PathBuf::from("/home/ada"), Box::new(std::io::sink()), Box::new(std::io::sink()))
    }

    #[test]
    fn the_clock_stands_still_at_the_source_date() {
        assert_eq!(context().with_variable("SOURCE_DATE_EPOCH", "1700000000").unix_time(), 1_700_000_000);
        assert!(context().with_variable("SOURCE_DATE_EPOCH", "soon").unix_time() > 1_700_000_000);
    }

    #[test]
    fn the_same_seed_value_gives_the_same_bytes_and_none_gives_others() {
        let draw = |seed| context().entropy(seed).next_u64();
        assert_eq!(draw(Some("a")), draw(Some("a")));
        assert_ne!(draw(Some("a")), draw(Some("b")));
        assert_ne!(draw(None), draw(None));
    }

    #[test]
    fn paths_are_taken_from_the_working_folder() {
        assert_eq!(context().absolute(Path::new("a/b")), Path::new("/home/ada/a/b"));
        assert_eq!(context().absolute(Path::new("/a")), Path::new("/a"));
    }
}
