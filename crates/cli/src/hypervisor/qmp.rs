use std::io::{BufRead, BufReader, ErrorKind as IoErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use serde_json::{Value, json};

use crate::error::{CommandError, ErrorKind};

/// A connection to the QMP monitor of a running QEMU.
///
/// A monitor serves one connection at a time; another one waits for the greeting until its time runs out.
///
/// # Spec
///
/// QEMU, docs/interop/qmp-spec.rst: one JSON object a line; a greeting, then `qmp_capabilities`, then commands.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
    limit: Duration,
}

impl Qmp {
    /// Connects to the monitor at `path` and gets it ready for commands; each step may take `limit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Hypervisor`] when nobody listens or what answers is no monitor, [`ErrorKind::TimedOut`].
    pub(super) fn connect(path: &Path, limit: Duration) -> Result<Self, CommandError> {
        let cannot = |error: std::io::Error| {
            let kind = if is_timeout(&error) { ErrorKind::TimedOut } else { ErrorKind::Hypervisor };
            CommandError::new(kind, "cannot reach the monitor of QEMU").with_source(error)
        };
        let address = SocketAddrUnix::new(path).map_err(|error| cannot(error.into()))?;
        let handle = socket(AddressFamily::UNIX, SocketType::STREAM, None).map_err(|error| cannot(error.into()))?;
        // Connecting, too, waits where the monitor has a connection already.
        set_socket_timeout(&handle, Timeout::Send, Some(limit)).map_err(|error| cannot(error.into()))?;
        connect(&handle, &address).map_err(|error| cannot(error.into()))?;
        let mut qmp = Self { stream: BufReader::new(UnixStream::from(handle)), limit };
        let greeting = qmp.receive(Instant::now())?;
        // Spec: "The greeting message format is: { "QMP": { "version": json-object, "capabilities": json-array } }"
        if greeting.get("QMP").is_none() {
            return Err(no_monitor("the greeting is not QMP's"));
        }
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    /// Runs `command` and returns what it returns. Events that come before the answer are dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Hypervisor`] when QEMU refuses or the connection ends, [`ErrorKind::TimedOut`].
    pub(super) fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, CommandError> {
        let begun = Instant::now();
        let mut request = json!({ "execute": command });
        if let (Some(object), Some(arguments)) = (request.as_object_mut(), arguments) {
            object.insert("arguments".to_owned(), arguments);
        }
        let sent = self.stream.get_mut().write_all(format!("{request}\n").as_bytes());
        sent.map_err(|error| lost(&error))?;
        for _ in 0..MAX_EVENTS {
            let mut answer = self.receive(begun)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let reason = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
                let message = format!("QEMU refuses `{command}`");
                return Err(CommandError::new(ErrorKind::Hypervisor, message).with_source(reason));
            }
        }
        Err(no_monitor("it sends events without end"))
    }

    /// Returns the next object, which must be complete before the limit has passed since `begun`.
    fn receive(&mut self, begun: Instant) -> Result<Value, CommandError> {
        let mut line = Vec::new();
        loop {
            let left = self.limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(CommandError::new(ErrorKind::TimedOut, "the monitor of QEMU does not answer"));
            }
            self.stream.get_ref().set_read_timeout(Some(left)).map_err(|error| lost(&error))?;
            let part = match self.stream.fill_buf() {
                Ok([]) => return Err(lost(&IoErrorKind::UnexpectedEof.into())),
                Ok(part) => part,
                Err(error) if error.kind() == IoErrorKind::Interrupted || is_timeout(&error) => continue,
                Err(error) => return Err(lost(&error)),
            };
            let end = part.iter().position(|byte| *byte == b'\n');
            let len = end.map_or(part.len(), |end| end.saturating_add(1));
            line.extend(part.iter().take(len));
            self.stream.consume(len);
            if line.len() > LINE_LIMIT {
                return Err(no_monitor("it sends a line without end"));
            }
            if end.is_some() {
                return serde_json::from_slice(&line).map_err(|_| no_monitor("it sends what is not JSON"));
            }
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), IoErrorKind::WouldBlock | IoErrorKind::TimedOut)
}

fn lost(error: &std::io::Error) -> CommandError {
    CommandError::new(ErrorKind::Hypervisor, "the connection to the monitor of QEMU is lost").with_source(error.to_string())
}

fn no_monitor(reason: &str) -> CommandError {
    CommandError::new(ErrorKind::Hypervisor, "what answers is not the monitor of QEMU").with_source(reason.to_owned())
}

/// More than any answer to the commands that are used here.
const LINE_LIMIT: usize = 1 << 20;
/// More than come between a command and its answer.
const MAX_EVENTS: usize = 1000;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::Duration;

    use super::Qmp;
    use crate::error::{CommandError, ErrorKind};

    #[test]
    fn commands_are_answered_past_events_and_refusals_give_their_reason() {
        let status = talk(&[
            r#"{"QMP": {"version": {}, "capabilities": []}}"#,
            r#"{"return": {}}"#,
            "{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"running\"}}",
        ]);
        assert_eq!(status.unwrap(), "running");
        let refused =
            talk(&[r#"{"QMP": {}}"#, r#"{"return": {}}"#, r#"{"error": {"class": "GenericError", "desc": "not now"}}"#]);
        assert_eq!(refused.unwrap_err().causes(), ["not now"]);
    }

    #[test]
    fn a_stranger_or_a_silent_monitor_is_not_waited_for_for_ever() {
        assert_eq!(talk(&["SSH-2.0-x"]).unwrap_err().kind(), ErrorKind::Hypervisor);
        assert_eq!(talk(&[r#"{"hello": 1}"#]).unwrap_err().kind(), ErrorKind::Hypervisor);
        assert_eq!(talk(&[r#"{"QMP": {}}"#, r#"{"return": {}}"#, "{"]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(talk(&[&"x".repeat(2 << 20)]).unwrap_err().kind(), ErrorKind::Hypervisor);
    }

    /// Asks a monitor that says one of `lines` at first and one after each command for its status.
    fn talk(lines: &[&str]) -> Result<String, CommandError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        // Only half an answer is waited for in vain.
        let limit = if lines.contains(&"{") { Duration::from_millis(200) } else { Duration::from_secs(10) };
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let monitor = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines {
                let end = if line == "{" { "" } else { "\n" };
                // The client may have given up.
                let _ = stream.write_all((line + end).as_bytes());
                let _ = commands.next();
            }
        });
        let answer = Qmp::connect(&path, limit).and_then(|mut qmp| qmp.execute("query-status", None));
        monitor.join().unwrap();
        answer.map(|value| value["status"].as_str().unwrap().to_owned())
    }
}
