//! Other programs, run so that a failure says everything.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A program to run. Its environment is empty but for `PATH` and what [`Tool::env`] adds.
#[derive(Debug)]
#[must_use]
pub struct Tool {
    program: OsString,
    command: Command,
    input: Vec<u8>,
}

impl Tool {
    /// A program by its name or path, without arguments.
    #[expect(clippy::disallowed_methods, reason = "this is the one wrapper of the tests")]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program.as_ref());
        command.env_clear().env("PATH", search_path()).env("LC_ALL", "C.UTF-8");
        Self { program: program.as_ref().to_owned(), command, input: Vec::new() }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives the program these bytes on its standard input, which is empty otherwise.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Runs the program to its end and returns what it said, whatever its exit code.
    ///
    /// # Panics
    ///
    /// When the program cannot be started: a missing tool fails a test.
    #[track_caller]
    pub fn output(mut self) -> Output {
        let input = std::mem::take(&mut self.input);
        let name = self.program.clone();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn();
        let mut pipe = child.stdin.take().unwrap();
        // A program that does not read its input to the end is no failure.
        let writer = std::thread::spawn(move || drop(pipe.write_all(&input)));
        let output = child.wait_with_output().unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        writer.join().unwrap();
        output
    }

    /// Runs the program and returns its standard output as text.
    ///
    /// # Panics
    ///
    /// When it cannot be started or fails.
    #[track_caller]
    pub fn run(self) -> String {
        let shown = format!("{:?}", self.command);
        let output = self.output();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{shown}: {}\n{stdout}\n{stderr}", output.status);
        stdout
    }

    /// Starts the program and returns at once. Standard streams are as the caller of this process has them, unless
    /// [`Tool::log_to`] says otherwise.
    ///
    /// # Panics
    ///
    /// When the program cannot be started.
    #[track_caller]
    pub fn spawn(&mut self) -> Child {
        match self.command.spawn() {
            Ok(child) => child,
            Err(error) => {
                panic!("cannot run {} (scripts/install-tools installs what the tests need): {error}", self.program.display())
            }
        }
    }

    /// Starts the program with `stdout` as its standard output, its standard error in a pipe, and nothing to read.
    ///
    /// # Panics
    ///
    /// When the program cannot be started.
    #[track_caller]
    pub fn spawn_with(mut self, stdout: Stdio) -> Child {
        self.command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        self.spawn()
    }

    /// Sends what the program prints into a file, and gives it nothing to read.
    ///
    /// # Panics
    ///
    /// When the file cannot be made.
    #[track_caller]
    pub fn log_to(mut self, file: &Path) -> Self {
        let log = std::fs::File::create(file).unwrap();
        self.command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self
    }
}

/// `PATH`, with the folders of system programs, which an ordinary user's may lack.
fn search_path() -> OsString {
    #[expect(clippy::disallowed_methods, reason = "where tools are is this machine's own business")]
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
