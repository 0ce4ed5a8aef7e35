//! The server of one device, from its connection to its end.

use std::io::{self, PipeReader};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use imgcore::nbd::attach::{Connect, Connection, Device, Error, Kernel};
use imgcore::nbd::server::{Export, Limits, Server, Stream};

use super::super::identity::Identity;
use super::super::keeper::{Event, Keeper};
use super::super::report::Report;
use super::{Args, export, limit};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::warn;
use crate::place::Place;

/// A device that is connected: it is disconnected when this is dropped, if that has not happened.
#[derive(Debug)]
struct Attached<'a> {
    kernel: &'a Kernel,
    device: Device,
    connection: Connection,
}

/// What a device needs on this side.
struct Side<'a> {
    args: &'a Args,
    context: &'a Context,
    kernel: &'a Kernel,
    identity: &'a Identity,
    export: &'a Export,
    reports: &'a Receiver<String>,
}

/// Serves the image behind a device, `wanted` or a free one, until it is disconnected or a signal comes.
pub(super) fn run(args: &Args, wanted: Option<Device>, context: &Context) -> Result<(), CommandError> {
    if args.detach {
        // Fails only in a process that leads a session already.
        let _leads = rustix::process::setsid();
    }
    if args.attend {
        let interrupt = context.interrupt().clone();
        // It waits for as long as the process runs.
        let _waits = thread::Builder::new().name("nbd attend".to_owned()).spawn(move || {
            let _ended = io::copy(&mut io::stdin(), &mut io::sink());
            interrupt.set();
        });
    }
    let kernel = Kernel::open()?;
    let identity = match Place::of(context, &args.image)? {
        Place::File(path) => Identity::of_process(&path),
        Place::Export(uri) => Identity::of_process(Path::new(&uri.to_string())),
    };
    let (report, reports) = sync_channel::<String>(64);
    // Who serves does not wait for whoever reads the messages; what does not fit is lost.
    let report = Box::new(move |line: &str| drop(report.try_send(line.to_owned())));
    let server = Server::new(vec![export(args, context)?], Limits::default(), report);
    let [export] = server.exports() else { return Err(CommandError::new(ErrorKind::Unexpected, "there is one export")) };
    let side = Side { args, context, kernel: &kernel, identity: &identity, export, reports: &reports };
    context.interrupt().begin_to_serve();
    let served = side.serve(&server, wanted);
    let closed = export.close().map_err(CommandError::from);
    reports.try_iter().for_each(|line| warn(context, line));
    let done = served.and(closed);
    if !done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
        // What went wrong is not hidden by the signal either.
        context.interrupt().answer();
    }
    done
}

impl Side<'_> {
    /// Answers the kernel's requests while the device is connected.
    fn serve(&self, server: &Server, wanted: Option<Device>) -> Result<(), CommandError> {
        let cannot = |error| CommandError::io("cannot make a socket for the kernel", error);
        let (own, kernels) = UnixStream::pair().map_err(cannot)?;
        let (ended, end) = io::pipe().map_err(cannot)?;
        let own = Stream::Unix(own);
        thread::scope(|scope| {
            let work = || {
                let done = server.transmit(self.export, &own);
                own.shutdown(Shutdown::Both);
                drop(end);
                done
            };
            let worker = thread::Builder::new().name("nbd kernel".to_owned()).spawn_scoped(scope, work).map_err(cannot)?;
            let held = self.hold(kernels, &ended, wanted);
            // Without a device nothing more will come.
            own.shutdown(Shutdown::Both);
            match worker.join() {
                Ok(done) => held.and(done.map_err(|error| CommandError::io("the kernel's requests make no sense", error))),
                Err(_) => Err(CommandError::new(ErrorKind::Unexpected, "the thread that serves the kernel has panicked")),
            }
        })
    }

    /// Connects the device, says so, and waits for its end.
    fn hold(&self, socket: UnixStream, ended: &PipeReader, wanted: Option<Device>) -> Result<(), CommandError> {
        let mut keeper = Keeper::start(self.context, self.identity, None)?;
        let attached = self.attach(&socket, wanted, &mut keeper)?;
        // The kernel has it now, and is alone in having it.
        drop(socket);
        self.lock(&mut keeper)?;
        let has_partitions = keeper.scan(self.context)?;
        if !has_partitions {
            warn(self.context, "the nbd driver makes no partitions: it was loaded with max_part=0");
        }
        self.announce(&attached)?;
        loop {
            match keeper.wait(ended, self.context)? {
                Event::Ended => return Ok(()),
                Event::Signal => break,
                // It was killed: the device is not without one for long.
                Event::Keeper => {
                    keeper = Keeper::start(self.context, self.identity, Some(attached.device))?;
                    self.lock(&mut keeper)?;
                }
            }
            self.reports.try_iter().for_each(|line| warn(self.context, line));
        }
        if keeper.flush(self.context)? {
            warn(self.context, format!("`{}` is in use; what was not written is lost", attached.device.path().display()));
        }
        Ok(())
    }

    /// Leaves whoever started this alone with the device.
    fn lock(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        if self.args.attend { keeper.lock(self.context) } else { Ok(()) }
    }

    /// Connects `wanted`, or the first device that is free.
    fn attach(&self, socket: &UnixStream, wanted: Option<Device>, keeper: &mut Keeper) -> Result<Attached<'_>, CommandError> {
        let disk = Connect {
            size: self.export.size(),
            block_size: self.args.block_size,
            flags: Server::plain_flags(self.export),
            timeout: limit(self.args.timeout),
            dead_timeout: Duration::from_secs(self.args.dead_timeout),
            identifier: &self.identity.encode(),
        };
        let candidates = match wanted {
            Some(device) => vec![device],
            None => free()?,
        };
        let mut last = None;
        for device in candidates {
            // The keeper knows before there is something to keep.
            keeper.watch(device, self.context)?;
            let connected = self.kernel.connect(device, socket.as_fd(), &disk);
            if connected.is_err() {
                keeper.leave(self.context)?;
            }
            match connected {
                Ok(()) => {
                    // Somebody may have disconnected it already.
                    let connection = device.connection().ok_or_else(|| Error::NotConnected(device.path()))?;
                    let attached = Attached { kernel: self.kernel, device, connection };
                    keeper.connected(self.context)?;
                    return Ok(attached);
                }
                Err(error @ Error::InUse(_)) => last = Some(in_use(error, device)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.unwrap_or_else(|| CommandError::new(ErrorKind::Refused, "no nbd device is free")))
    }

    /// Says which device it is, and leaves the streams of who started this when they are not needed any more.
    fn announce(&self, attached: &Attached<'_>) -> Result<(), CommandError> {
        self.args.report.print(self.context, &Report::of(attached.device, &attached.connection), |report| {
            let nodes = std::iter::once(&report.device).chain(report.partitions.iter().map(|part| &part.device));
            nodes.map(|node| format!("{}\n", node.display())).collect()
        })?;
        self.context.flush()?;
        if self.args.detach {
            let cannot = |error: io::Error| CommandError::io("cannot leave the terminal", error);
            let null = std::fs::File::options().read(true).write(true).open(Path::new("/dev/null")).map_err(cannot)?;
            rustix::stdio::dup2_stdout(&null).map_err(|error| cannot(error.into()))?;
            rustix::stdio::dup2_stderr(&null).map_err(|error| cannot(error.into()))?;
            // It keeps no folder of the user's from being removed.
            std::env::set_current_dir("/").map_err(cannot)?;
        }
        Ok(())
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if self.device.connection().as_ref() == Some(&self.connection) {
            // What cannot be disconnected here is left to the keeper.
            let _kept = self.kernel.disconnect(self.device);
        }
    }
}

/// Returns the devices without a server, and then one that does not exist yet.
fn free() -> Result<Vec<Device>, CommandError> {
    let all = Device::all()?;
    let next = all.last().map_or(0, |last| last.index().saturating_add(1));
    let free = all.into_iter().filter(|device| !device.is_connected());
    Ok(free.chain([Device::new(next)]).collect())
}

/// Says who uses a device.
fn in_use(error: Error, device: Device) -> CommandError {
    let by = device.connection().map(|connection| match Identity::of(&connection) {
        Some(identity) => format!("it serves `{}`", identity.image.display()),
        None => format!("process {} has connected it", connection.pid()),
    });
    let error = CommandError::from(error);
    match by {
        Some(by) => error.with_source(by),
        None => error,
    }
}
