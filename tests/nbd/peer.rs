//! Servers of others.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use vmimg_tests::sandbox::Sandbox;

/// A server, ended when this is dropped.
pub(crate) struct Peer {
    child: Child,
    /// The address of its export.
    pub(crate) uri: String,
}

impl Peer {
    /// Starts `program` with the words of `line`, in which SOCKET is where it listens, and waits until it does.
    #[track_caller]
    pub(crate) fn start(sandbox: &Sandbox, program: &str, line: &str) -> Self {
        let name = format!("socket-{}", sandbox.names().len());
        let socket = sandbox.path(&name);
        let words = line.split_whitespace().map(|word| word.replace("SOCKET", &socket.display().to_string()));
        let child = sandbox.tool(program).args(words).spawn_with(Stdio::null());
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{program} {line} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, uri: format!("nbd+unix:///?socket={name}") }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
