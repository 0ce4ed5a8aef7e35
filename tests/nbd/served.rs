//! A `vmimg nbd serve` that runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use vmimg_tests::sandbox::Sandbox;
use vmimg_tests::tool::Tool;

/// A server, ended when this is dropped.
pub(crate) struct Served {
    child: Child,
    /// How clients name its exports, in order.
    pub(crate) uris: Vec<String>,
}

impl Served {
    /// Starts a server with the words of `line` and waits until it says where it listens, `exports` times.
    #[track_caller]
    pub(crate) fn start(sandbox: &Sandbox, line: &str, exports: usize) -> Self {
        Self::start_tool(sandbox.program().args(["nbd", "serve"]).args(line.split_whitespace()), exports)
    }

    #[track_caller]
    pub(crate) fn start_tool(tool: Tool, exports: usize) -> Self {
        let mut child = tool.spawn_with(Stdio::piped());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(exports);
        let uris: Vec<String> = lines.map(|line| line.unwrap()).collect();
        let mut served = Self { child, uris };
        if served.uris.len() != exports {
            let said = served.end();
            panic!("the server did not start: {said:?}");
        }
        served
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        Tool::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).run();
    }

    /// Asks it to stop, and returns its exit status and what it said.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        self.signal("TERM");
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if begun.elapsed() > Duration::from_secs(60) => panic!("the server does not end"),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }

    /// A number of `/proc/PID/status`, KiB for memory.
    pub(crate) fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A client that can do wrong: greeted, with its flags sent.
pub(crate) fn greeted(socket: &std::path::Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&[0, 0, 0, 3]).unwrap();
    stream
}
