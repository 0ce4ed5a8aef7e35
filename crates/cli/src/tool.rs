//! Other programs: the one place that starts them.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// A run of another program, as `virsh` or `ssh`.
///
/// It gets the environment of the [`Context`] and nothing of its streams but what is asked for. Errors name the program, what it
/// said, and for a missing one the package that has it.
#[derive(Debug)]
pub struct Tool {
    name: String,
    command: Command,
    input: Option<Vec<u8>>,
    timeout: Option<Duration>,
    kind: ErrorKind,
}

/// What a program that ended by itself has left.
#[derive(Clone, Debug)]
#[must_use]
pub struct ToolOutput {
    /// The program's exit status.
    pub status: ExitStatus,
    /// Everything from its standard output.
    pub stdout: Vec<u8>,
    /// Everything from its standard error.
    pub stderr: Vec<u8>,
}

/// What a program has said that was to go on in the background.
#[derive(Clone, Debug)]
#[must_use]
pub struct Background {
    /// Its exit status, when it did not get ready.
    pub status: Option<ExitStatus>,
    /// What it said on its standard output until it was ready.
    pub stdout: Vec<u8>,
    /// What it said on its standard error until then.
    pub stderr: Vec<u8>,
}

impl Tool {
    /// Returns a run of `name`, which is looked for in `PATH` unless it has a slash.
    #[must_use]
    pub fn new(context: &Context, name: impl AsRef<OsStr>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the wrapper that names the tool in its errors")]
        let mut command = Command::new(name.as_ref());
        command.env_clear().envs(context.environment());
        let name = Path::new(name.as_ref()).file_name().unwrap_or(name.as_ref()).to_string_lossy().into_owned();
        Self { name, command, input: None, timeout: None, kind: ErrorKind::Unexpected }
    }

    /// Returns a run of this program.
    ///
    /// # Errors
    ///
    /// When it cannot be found.
    pub fn own(context: &Context) -> Result<Self, CommandError> {
        let program = std::env::current_exe().map_err(|error| CommandError::io("cannot find the program itself", error))?;
        Ok(Self::new(context, program))
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Sets what the program reads from its standard input, which is empty otherwise.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Sets how long the program may take; it is killed then.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets the class of the program's failures, [`ErrorKind::Unexpected`] otherwise.
    #[must_use]
    pub fn failing_as(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Runs the program to its end and returns what it left, whatever its exit status.
    ///
    /// # Errors
    ///
    /// When the program cannot be started, [`ErrorKind::TimedOut`] when its time runs out, [`ErrorKind::Interrupted`] when a
    /// signal comes; it is dead then.
    pub fn output(mut self, context: &Context) -> Result<ToolOutput, CommandError> {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        // A group of its own, so that what the program has started ends with it.
        self.command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(self.start()?);
        let (stdin, stdout, stderr) = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
        let input = self.input.take().unwrap_or_default();
        thread::scope(|scope| {
            scope.spawn(move || {
                // A program that does not read its input says so with its exit status.
                stdin.map(|mut stdin| stdin.write_all(&input))
            });
            let stdout = scope.spawn(move || read_all(stdout));
            let stderr = scope.spawn(move || read_all(stderr));
            let status = self.wait(&mut child, context);
            if status.is_err() {
                // Closes the pipes, so that the threads end.
                child.end();
            }
            let stdout = stdout.join().unwrap_or_default();
            let stderr = stderr.join().unwrap_or_default();
            Ok(ToolOutput { status: status?, stdout, stderr })
        })
    }

    /// Runs the program to its end and returns its standard output as text.
    ///
    /// # Errors
    ///
    /// As [`Tool::output`], and the class of [`Tool::failing_as`] when the program fails, with what it said.
    pub fn run(self, context: &Context) -> Result<String, CommandError> {
        let (name, kind) = (self.name.clone(), self.kind);
        let output = self.output(context)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let error = CommandError::new(kind, format!("`{name}` failed ({})", output.status));
        Err(match last_words(&output.stderr) {
            Some(words) => error.with_source(words),
            None => error,
        })
    }

    /// Runs the program on the terminal of this one, to its end.
    ///
    /// # Errors
    ///
    /// When the program cannot be started or waited for.
    pub fn interactive(mut self) -> Result<ExitStatus, CommandError> {
        self.command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let mut child = self.start()?;
        child.wait().map_err(|error| self.error("cannot wait for", error))
    }

    /// Becomes the program: its exit status is this one's, and its streams are. Returns only when that fails.
    #[must_use]
    pub fn exec(mut self) -> CommandError {
        let error = self.command.exec();
        self.error("cannot start", error)
    }

    /// Starts the program and leaves it running, with its output going to `log`. It is in a process group of its own, so the
    /// terminal's signals for this program do not reach it.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn spawn(mut self, log: std::fs::File) -> Result<Child, CommandError> {
        let copy = log.try_clone().map_err(|error| self.error("cannot give a log to", error))?;
        self.command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(copy);
        self.start()
    }

    /// Starts the program with pipes to its standard input and from its standard output, in a process group of its own; what it
    /// says on its standard error goes to `errors`.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn converse(mut self, errors: Stdio) -> Result<Child, CommandError> {
        self.command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        self.start()
    }

    /// Starts a program that closes its streams and goes on in the background once it has said that it is ready; it did not get
    /// ready when its standard output is empty.
    ///
    /// # Errors
    ///
    /// When the program cannot be started or waited for.
    pub fn background(mut self) -> Result<Background, CommandError> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.start()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = thread::scope(|scope| {
            let stderr = scope.spawn(move || read_all(stderr));
            (read_all(stdout), stderr.join().unwrap_or_default())
        });
        let status =
            if stdout.is_empty() { Some(child.wait().map_err(|error| self.error("cannot wait for", error))?) } else { None };
        Ok(Background { status, stdout, stderr })
    }

    fn start(&mut self) -> Result<Child, CommandError> {
        self.command.spawn().map_err(|error| self.error("cannot start", error))
    }

    fn error(&self, doing: &str, source: io::Error) -> CommandError {
        let missing = source.kind() == io::ErrorKind::NotFound;
        let error = CommandError::new(self.kind, format!("{doing} `{}`", self.name)).with_source(source);
        match package(&self.name) {
            Some(package) if missing => error.hint(format!("on Debian and Ubuntu: `apt-get install {package}`")),
            _ => error,
        }
    }

    fn wait(&self, child: &mut Running, context: &Context) -> Result<ExitStatus, CommandError> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(status) = child.0.try_wait().map_err(|error| self.error("cannot wait for", error))? {
                return Ok(status);
            }
            context.interrupt().check()?;
            if let Some(limit) = self.timeout.filter(|limit| begun.elapsed() > *limit) {
                let message = format!("`{}` did not end within {} seconds", self.name, limit.as_secs_f32());
                return Err(CommandError::new(ErrorKind::TimedOut, message));
            }
            thread::sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_millis(20));
        }
    }
}

/// A program that is killed with its whole group, and reaped, when it is dropped.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn end(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // Fails only when the program has ended already.
            let _ended = kill_process_group(group, Signal::KILL);
        }
        let _reaped = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn read_all(stream: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What was read before a failure is still worth having.
        let _partial = stream.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
    }
    bytes
}

/// Returns the end of what a program said, on one line.
fn last_words(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(3);
    let words = lines.get(from..).unwrap_or_default().join("; ");
    (!words.is_empty()).then_some(words)
}

/// Returns the Debian package that has the program.
fn package(name: &str) -> Option<&'static str> {
    let package = PACKAGES.iter().find(|(program, _)| *program == name)?;
    Some(package.1)
}

/// More than any program that is run here says; the rest is not kept.
const OUTPUT_LIMIT: u64 = 64 << 20;

const PACKAGES: &[(&str, &str)] = &[
    ("e2fsck", "e2fsprogs"),
    ("genisoimage", "genisoimage"),
    ("libvirtd", "libvirt-daemon-system"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("sgdisk", "gdisk"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("virsh", "libvirt-clients"),
    ("virt-xml-validate", "libvirt-clients"),
    ("virtqemud", "libvirt-daemon"),
    ("xorriso", "xorriso"),
];

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::Tool;
    use crate::context::Context;
    use crate::error::ErrorKind;

    fn context() -> Context {
        let context = Context::detached(PathBuf::from("/"), Box::new(std::io::sink()), Box::new(std::io::sink()));
        context.with_variable("PATH", "/usr/bin:/bin")
    }

    #[test]
    fn output_and_input_pass_through() {
        let text = Tool::new(&context(), "cat").input("hello").run(&context()).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_failure_names_the_program_and_repeats_what_it_said() {
        let tool = Tool::new(&context(), "sh").args(["-c", "echo no luck >&2; exit 3"]).failing_as(ErrorKind::Hypervisor);
        let error = tool.run(&context()).unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit status: 3)");
        assert_eq!(error.causes(), ["no luck"]);
        assert_eq!(error.kind(), ErrorKind::Hypervisor);
    }

    #[test]
    fn a_missing_program_comes_with_its_package() {
        let context = context().with_variable("PATH", "/nowhere");
        let error = Tool::new(&context, "virsh").run(&context).unwrap_err();
        assert_eq!(error.hints(), ["on Debian and Ubuntu: `apt-get install libvirt-clients`"]);
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let tool = Tool::new(&context(), "sleep").arg("60").timeout(Duration::from_millis(20));
        assert_eq!(tool.run(&context()).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_signal_ends_the_wait() {
        let context = context();
        context.interrupt().set();
        let error = Tool::new(&context, "sleep").arg("60").run(&context).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }
}
