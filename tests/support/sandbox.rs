//! The program in a private folder, with nothing of this machine around it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use crate::tool::Tool;

/// A folder of its own to run the program in: the environment is empty but for `PATH`, `HOME` and `COLUMNS`, and the clock
/// stands still at the first second of 2026.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
    program: PathBuf,
}

/// What a run of the program has left, with the sandbox's path written as `[SANDBOX]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status, or 128 and the signal that ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Sandbox {
    /// A sandbox for the program at `program`: `env!("CARGO_BIN_EXE_vmimg-program")` of the test.
    ///
    /// # Panics
    ///
    /// When the folder cannot be made.
    #[track_caller]
    pub fn new(program: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("vmimg-cli-").tempdir().unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        Self { folder, program: program.into() }
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with the folders above it, and returns its path.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[track_caller]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// The names in the folder, sorted, but for `home`.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "home");
        names.sort_unstable();
        names
    }

    /// Another program, run in the folder.
    pub fn tool(&self, name: &str) -> Tool {
        Tool::new(name).current_dir(self.folder.path())
    }

    /// The program, to be run in the folder.
    pub fn program(&self) -> Tool {
        let tool = Tool::new(&self.program).current_dir(self.folder.path());
        tool.env("HOME", self.path("home")).env("COLUMNS", "80").env("SOURCE_DATE_EPOCH", "1767225600")
    }

    /// Runs the program with the words of `line`.
    #[track_caller]
    pub fn run(&self, line: &str) -> Outcome {
        self.outcome(self.program().args(line.split_whitespace()).output())
    }

    /// Runs qemu-img with the words of `line`.
    #[track_caller]
    pub fn qemu_img(&self, line: &str) -> Outcome {
        self.outcome(self.tool("qemu-img").args(line.split_whitespace()).output())
    }

    /// Runs the program with the words of `line` and returns its standard output; it must succeed.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn done(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.status, 0, "vmimg {line}\n{outcome}");
        outcome.stdout
    }

    /// What `output` says, without the sandbox's own path.
    pub fn outcome(&self, output: Output) -> Outcome {
        use std::os::unix::process::ExitStatusExt as _;
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace(&folder, "[SANDBOX]");
        let status = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        Outcome { status: status.unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit status {}", self.status)?;
        if !self.stdout.is_empty() {
            write!(f, "--- stdout\n{}", self.stdout)?;
        }
        if !self.stderr.is_empty() {
            write!(f, "--- stderr\n{}", self.stderr)?;
        }
        Ok(())
    }
}
