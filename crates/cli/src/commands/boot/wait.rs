use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::hypervisor::{Booted, Hypervisor};

/// Waits until the guest is ready: its SSH server answers or its console says so; with a `marker`, only when it says that.
///
/// # Errors
///
/// [`ErrorKind::Hypervisor`] when the machine ends, [`ErrorKind::TimedOut`] after `limit`, [`ErrorKind::Interrupted`].
pub(super) fn until_ready(
    context: &Context,
    hypervisor: &dyn Hypervisor,
    booted: &Booted,
    marker: Option<&str>,
    limit: Duration,
) -> Result<(), CommandError> {
    let begun = Instant::now();
    let mut console = Console::new(&booted.console, marker);
    let ssh = booted.ssh_port.filter(|_| marker.is_none());
    let mut said: Option<Instant> = None;
    let mut looked = begun;
    loop {
        if said.is_none() && console.says_ready() {
            said = Some(Instant::now());
        }
        // The login prompt may come a little before the SSH server, which not every guest has.
        let grace = if ssh.is_some() { GRACE } else { Duration::ZERO };
        if said.is_some_and(|said| said.elapsed() >= grace) || ssh.is_some_and(|port| has_banner(port, PATIENCE)) {
            return Ok(());
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            if !hypervisor.state()?.is_active() {
                return Err(CommandError::new(ErrorKind::Hypervisor, "the machine ended before it was ready"));
            }
        }
        context.interrupt().check()?;
        if begun.elapsed() >= limit {
            let message = format!("the guest is not ready after {} seconds; it keeps running", limit.as_secs());
            return Err(CommandError::new(ErrorKind::TimedOut, message));
        }
        thread::sleep(STEP);
    }
}

/// Returns whether an SSH server greets at the port. QEMU takes the connection whether or not the guest does.
fn has_banner(port: u16, patience: Duration) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) else { return false };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(patience)).is_ok() && stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-"
}

/// The guest's console, read as it grows.
struct Console<'a> {
    path: &'a Path,
    marker: Option<&'a str>,
    file: Option<File>,
    /// The end of what was read, long enough for a marker that comes in two parts.
    tail: Vec<u8>,
}

impl<'a> Console<'a> {
    fn new(path: &'a Path, marker: Option<&'a str>) -> Self {
        Self { path, marker, file: None, tail: Vec::new() }
    }

    /// Reads what is new, and returns whether the guest says there that it is ready.
    fn says_ready(&mut self) -> bool {
        if self.file.is_none() {
            self.file = File::open(self.path).ok();
        }
        let Some(file) = &mut self.file else { return false };
        let mut buf = [0; 16384];
        loop {
            match file.read(&mut buf) {
                Ok(0) => return false,
                Ok(len) => {
                    self.tail.extend(buf.iter().take(len));
                    let text = String::from_utf8_lossy(&self.tail);
                    if is_ready(&text, self.marker) {
                        return true;
                    }
                    let surplus = self.tail.len().saturating_sub(TAIL);
                    self.tail.drain(..surplus);
                }
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

fn is_ready(text: &str, marker: Option<&str>) -> bool {
    match marker {
        Some(marker) => text.contains(marker),
        None => {
            text.lines().any(|line| line.contains("login:") || (line.contains("Cloud-init") && line.contains("finished at")))
        }
    }
}

const STEP: Duration = Duration::from_millis(100);
/// How often the hypervisor is asked whether the machine still runs.
const LOOK: Duration = Duration::from_secs(2);
/// How long the SSH server may take to greet before it is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the SSH server has after the console's login prompt.
const GRACE: Duration = Duration::from_secs(10);
const TAIL: usize = 4096;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::{Console, has_banner, is_ready};

    #[test]
    fn a_console_is_ready_at_its_login_prompt_or_with_cloud_init_or_the_marker() {
        assert!(is_ready("Debian GNU/Linux 12 web1 ttyS0\n\nweb1 login: ", None));
        assert!(is_ready("Cloud-init v. 22.4.2 finished at Sat, 21 Nov 2026\n", None));
        assert!(!is_ready("Cloud-init v. 22.4.2 running 'init'\nfinished at last\n", None));
        assert!(!is_ready("login:", Some("VMIMG-READY")));
        assert!(is_ready("x VMIMG-READY", Some("VMIMG-READY")));
    }

    #[test]
    fn a_marker_in_two_parts_is_seen_and_a_log_that_comes_late_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let mut console = Console::new(&path, None);
        assert!(!console.says_ready());
        let mut log = std::fs::File::create(&path).unwrap();
        log.write_all(&vec![b'x'; 100_000]).unwrap();
        log.write_all(b"\nweb1 log").unwrap();
        assert!(!console.says_ready());
        log.write_all(b"in: ").unwrap();
        assert!(console.says_ready());
    }

    #[test]
    fn only_an_ssh_server_greets_as_one() {
        for (greeting, expected) in [("SSH-2.0-OpenSSH\r\n", true), ("220 mail\r\n", false), ("", false)] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = thread::spawn(move || listener.accept().unwrap().0.write_all(greeting.as_bytes()).unwrap());
            assert_eq!(has_banner(port, Duration::from_secs(10)), expected, "{greeting}");
            server.join().unwrap();
        }
    }
}
