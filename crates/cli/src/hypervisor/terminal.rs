use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// Connects this terminal to the socket at `path` until Ctrl-] is typed, its input ends, or the other end goes away.
///
/// # Errors
///
/// [`ErrorKind::Hypervisor`] when nobody listens at the socket, and when output cannot be written.
pub(super) fn attach(context: &Context, path: &Path) -> Result<(), CommandError> {
    let lost = |error| CommandError::new(ErrorKind::Hypervisor, "cannot reach the guest's serial port").with_source(error);
    let stream: UnixStream = UnixStream::connect(path).map_err(|error: io::Error| lost(error))?;
    let keys = stream.try_clone().map_err(lost)?;
    context.write_error("connected to the guest's console; Ctrl-] leaves it\r\n");
    let raw = RawTerminal::new();
    // Ends with the program, or when the socket is closed below.
    thread::spawn(move || send_keys(keys));
    let outcome = show(context, stream).map_err(|error| error.context("the console has ended"));
    drop(raw);
    context.write_error("\n");
    outcome
}

/// Sends what is typed, and closes the socket at the end.
fn send_keys(mut keys: UnixStream) {
    let mut stdin = io::stdin().lock();
    let mut buf = [0; 256];
    while let Ok(len) = stdin.read(&mut buf) {
        let typed = buf.get(..len).unwrap_or_default();
        let leave = typed.iter().position(|key| *key == LEAVE);
        let typed = typed.get(..leave.unwrap_or(len)).unwrap_or_default();
        if keys.write_all(typed).is_err() || leave.is_some() || len == 0 {
            break;
        }
    }
    // Fails only when the other end has closed it.
    let _closed = keys.shutdown(Shutdown::Both);
}

fn show(context: &Context, mut stream: UnixStream) -> Result<(), CommandError> {
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                context.write_out(buf.get(..len).unwrap_or_default())?;
                context.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => context.interrupt().check()?,
            Err(error) => return Err(CommandError::io("cannot read from the guest's serial port", error)),
        }
    }
}

/// This terminal without line editing and signals, as it was again when dropped. Nothing, when it is no terminal.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn new() -> Self {
        let Ok(before) = tcgetattr(io::stdin()) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let set = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs no restoring.
            let _restored = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Ctrl-], as in telnet and virsh.
const LEAVE: u8 = 0x1d;
