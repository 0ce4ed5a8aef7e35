//! Accepting clients, a thread for each, until the end.

use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::handshake::{Agreed, Handshake, Outcome};
use super::outgoing::Outgoing;
use super::registry::Registry;
use super::session::Session;
use super::{Encrypted, Listener, Server, Stream};

/// How long a server serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Until {
    /// Until it is told to stop.
    Stopped,
    /// Until the last client that transmitted has left, or it is told to stop.
    Unused,
}

impl Server {
    /// Serves the clients of `listeners`; `stop` is asked again and again whether to stop.
    ///
    /// When it ends, requests that are under way are answered, everything that was written is durable, and every disk is
    /// closed. Clients that do not take their answers are left behind.
    ///
    /// # Errors
    ///
    /// When the listeners cannot be waited for, or a disk cannot be closed.
    pub fn serve(&self, listeners: &[Listener], until: Until, stop: impl Fn() -> bool) -> io::Result<()> {
        for listener in listeners {
            listener.set_nonblocking()?;
        }
        let registry = Registry::new(self.limits);
        let accepted = thread::scope(|scope| {
            let accepted = self.accept(scope, listeners, &registry, until, &stop);
            registry.stop();
            let begun = Instant::now();
            while registry.wait(TICK) {
                if begun.elapsed() > GRACE {
                    registry.abandon();
                }
            }
            accepted
        });
        let mut closed = Ok(());
        for export in self.exports() {
            if let Err(error) = export.close() {
                closed = Err(io::Error::from(error));
            }
        }
        accepted.and(closed)
    }

    fn accept<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        listeners: &[Listener],
        registry: &'env Registry,
        until: Until,
        stop: &impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut id = 0_u64;
        while !stop() {
            if until == Until::Unused && registry.is_over() {
                return Ok(());
            }
            let mut ready: Vec<PollFd<'_>> = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
            match poll(&mut ready, Some(&TICK_SPEC)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for (listener, ready) in listeners.iter().zip(&ready) {
                if ready.revents().is_empty() {
                    continue;
                }
                match listener.accept() {
                    Ok(stream) => {
                        id = id.wrapping_add(1);
                        self.begin(scope, id, stream, registry);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // No descriptors are left, or the client is gone: others may leave soon.
                    Err(_) => thread::sleep(TICK),
                }
            }
        }
        Ok(())
    }

    /// Starts the thread of a client; when there is none left, the client is.
    fn begin<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>, id: u64, stream: Stream, registry: &'env Registry) {
        let stream = Arc::new(stream);
        registry.admit(id, Arc::clone(&stream));
        let work = move || {
            // What a client does wrong ends its connection, and says nothing about this side.
            let _ended = self.client(id, &stream, registry);
            stream.shutdown(Shutdown::Both);
            registry.leave(id);
        };
        if thread::Builder::new().name(format!("nbd client {id}")).spawn_scoped(scope, work).is_err() {
            registry.leave(id);
        }
    }

    /// Talks with a client to its end.
    fn client(&self, id: u64, stream: &Stream, registry: &Registry) -> io::Result<()> {
        let deadline = Instant::now().checked_add(self.limits.handshake_time);
        let handshake = || Handshake::new(&self.exports, self.tls.is_some(), || registry.enter(id));
        let mut timed = Timed { stream, deadline };
        match (handshake().run(&mut timed)?, &self.tls) {
            (Outcome::Transmit(agreed), _) => self.transmit_agreed(agreed, stream, &registry.stopping),
            (Outcome::StartTls { no_zeroes }, Some(tls)) => {
                let Encrypted { plain, pump } = tls.start(stream.try_clone()?)?;
                let mut timed = Timed { stream: &plain, deadline };
                let outcome = handshake().run_encrypted(&mut timed, no_zeroes);
                let done = match outcome {
                    Ok(Outcome::Transmit(agreed)) => self.transmit_agreed(agreed, &plain, &registry.stopping),
                    other => other.map(|_| ()),
                };
                plain.shutdown(Shutdown::Both);
                // The last replies are still on their way.
                let _ended = pump.join();
                done
            }
            _ => Ok(()),
        }
    }

    /// Carries out the requests of a client, on as many threads as a client has.
    pub(super) fn transmit_agreed(&self, agreed: Agreed<'_>, stream: &Stream, stopping: &AtomicBool) -> io::Result<()> {
        stream.set_timeout(None)?;
        let session = Session::open(agreed, stopping, &*self.report)?;
        let reader = Mutex::new(Some(BufReader::with_capacity(READ_AHEAD, stream)));
        let writer = Mutex::new(Outgoing::new(stream));
        let work = || {
            let done = session.work(&reader, &writer);
            if done.is_err() {
                // The others may wait for this client, who is lost.
                stream.shutdown(Shutdown::Both);
            }
            done
        };
        thread::scope(|scope| {
            for _ in 1..self.limits.threads {
                // Fewer do as well.
                let _none_left = thread::Builder::new().name("nbd worker".to_owned()).spawn_scoped(scope, work);
            }
            work()
        })
    }
}

/// A stream on which everything must be done before a deadline.
struct Timed<'a> {
    stream: &'a Stream,
    deadline: Option<Instant>,
}

impl Timed<'_> {
    fn wait(&self) -> io::Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        match deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            Some(left) => self.stream.set_timeout(Some(left)),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        self.stream.read(buf)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.wait()?;
        self.stream.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How often a server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);
const TICK_SPEC: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How long clients may take to receive their last replies.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of small requests that are read at once.
const READ_AHEAD: usize = 64 << 10;
