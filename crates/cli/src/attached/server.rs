use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::thread::{self, JoinHandle};

use imgcore::nbd::attach::Device;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use seed::guest::VolumeId;

use super::{Access, Image};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::tool::Tool;

/// The process that serves an image. It ends, and frees the device, when this is dropped or this process is gone.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Its end is that of the server.
    input: Option<ChildStdin>,
    /// What it says is read while it is said, or it might wait.
    said: Option<JoinHandle<Vec<u8>>>,
    device: Device,
}

impl Server {
    /// Starts to serve the volume `id` of an image, and waits for the device.
    pub(super) fn start(context: &Context, image: &Image, id: &VolumeId) -> Result<Self, CommandError> {
        let mut tool = Tool::own(context)?.args(["nbd", "connect", "--foreground", "--attend", "--format"]);
        tool = tool.arg(image.format.to_string());
        tool = match image.access {
            Access::Writable => tool,
            Access::ReadOnly => tool.arg("--read-only"),
            Access::Private => tool.arg("--cow"),
        };
        if image.trust.untrusted {
            tool = tool.arg("--untrusted");
        }
        if *id != VolumeId::Partition(0) {
            tool = tool.args(["--partition", &id.to_string()]);
        }
        let mut child = tool.arg("--").arg(&image.name).folder(&context.absolute(Path::new(""))).converse(Stdio::piped())?;
        let (input, mut output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            if let Some(mut errors) = errors {
                let _partial = (&mut errors).take(MOST_SAID).read_to_end(&mut said);
                let _rest = io::copy(&mut errors, &mut io::sink());
            }
            said
        });
        let mut server = Self { child, input, said: Some(said), device: Device::new(0) };
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            context.interrupt().check()?;
            let Some(output) = output.as_mut() else { break };
            if !poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&TICK)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            let mut byte = [0];
            if !output.read(&mut byte).is_ok_and(|read| read == 1) || line.len() > LONGEST_LINE {
                return Err(server.failure(context));
            }
            line.extend(byte);
        }
        server.device = String::from_utf8_lossy(&line).trim_end().parse()?;
        Ok(server)
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Ends it, with everything durable that was written.
    pub(super) fn close(mut self) -> Result<(), CommandError> {
        let (status, said) = self.end();
        if status == Some(0) && said.is_empty() {
            return Ok(());
        }
        let error = CommandError::new(ErrorKind::Storage, "the image could not be written by way of its device");
        let said = String::from_utf8_lossy(&said)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        Err(if said.is_empty() { error } else { error.with_source(said) })
    }

    /// Says why it did not start, as it has said.
    fn failure(&mut self, context: &Context) -> CommandError {
        let (status, said) = self.end();
        context.write_error(&String::from_utf8_lossy(&said));
        match status.and_then(|status| u8::try_from(status).ok()) {
            Some(status) if status > 0 && !said.is_empty() => CommandError::answer(status),
            _ => CommandError::new(ErrorKind::Unexpected, "the process that serves the image has ended"),
        }
    }

    /// Returns its exit status, and what it said.
    fn end(&mut self) -> (Option<i32>, Vec<u8>) {
        self.input = None;
        let status = self.child.wait().ok().and_then(|status| status.code());
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        (status, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// How often signals are looked for.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Bytes of what it says that are kept, and of the name of a device.
const MOST_SAID: u64 = 64 << 10;
const LONGEST_LINE: usize = 4096;
