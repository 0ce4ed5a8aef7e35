//! Between an encrypted connection and its plain side: one thread that waits for both.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use imgcore::nbd::server::Stream;
use imgcore::nbd::tls::Layer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Moves bytes until both sides have ended. Memory is bounded: a side that is full stops the other.
pub(super) struct Pump {
    stream: Stream,
    plain: UnixStream,
    tls: Box<dyn Layer>,
    /// Bytes that came from the client.
    encrypted: Vec<u8>,
    /// Bytes that are decrypted, and how many of them the plain side has taken.
    decrypted: Vec<u8>,
    taken: usize,
    buffer: Vec<u8>,
    /// Whether the client sends no more.
    client_ended: bool,
    /// When the server had no more to say.
    server_ended: Option<Instant>,
    /// When the server had left, whatever was still to be sent.
    server_left: Option<Instant>,
    /// How long the last bytes may take to leave.
    grace: Duration,
}

impl Pump {
    pub(super) fn new(stream: Stream, plain: UnixStream, tls: Box<dyn Layer>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        plain.set_nonblocking(true)?;
        let (encrypted, buffer) = (vec![0; RECORDS], vec![0; BUFFER]);
        let (decrypted, taken) = (Vec::new(), 0);
        let (server_ended, server_left, grace) = (None, None, GRACE);
        let client_ended = false;
        Ok(Self { stream, plain, tls, encrypted, decrypted, taken, buffer, client_ended, server_ended, server_left, grace })
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        let done = self.turns();
        // Whatever happened, nobody waits for this any longer.
        self.stream.shutdown(Shutdown::Both);
        let _gone = self.plain.shutdown(Shutdown::Both);
        done
    }

    fn turns(&mut self) -> io::Result<()> {
        loop {
            let wants_write = self.tls.wants_write();
            let is_over = |begun: Option<Instant>| begun.is_some_and(|begun| begun.elapsed() > self.grace);
            if self.server_ended.is_some() && !wants_write || is_over(self.server_ended) || is_over(self.server_left) {
                return Ok(());
            }
            // Encrypted bytes that wait hold the plain ones back.
            let takes_plain = self.server_ended.is_none() && !wants_write;
            let takes_client = !self.client_ended && self.decrypted.is_empty();
            let stream = flags(takes_client, wants_write);
            let plain = flags(takes_plain, !self.decrypted.is_empty());
            // Who takes nothing does not hold a server that is gone.
            let watch = self.server_ended.is_none() && self.server_left.is_none();
            let ready = wait((&self.stream, stream), (&self.plain, plain, watch))?;
            if watch && ready.1.contains(PollFlags::HUP) {
                self.server_left = Some(Instant::now());
            }
            if takes_client && ready.0.intersects(READABLE) {
                self.receive()?;
            }
            if !self.decrypted.is_empty() {
                self.deliver()?;
            }
            if takes_plain && ready.1.intersects(READABLE) {
                self.take()?;
            }
            self.send()?;
        }
    }

    /// Reads encrypted bytes, and decrypts what is whole.
    fn receive(&mut self) -> io::Result<()> {
        let len = match (&self.stream).read(&mut self.encrypted) {
            Ok(len) => len,
            Err(error) if is_later(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.client_ended |= len == 0;
        let decrypted = self.decrypt(len);
        if decrypted.is_err() {
            // The client learns what is wrong with it.
            let _gone = self.send();
        }
        decrypted?;
        if self.client_ended && self.decrypted.is_empty() {
            self.plain.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Decrypts the first `len` bytes that were read.
    fn decrypt(&mut self, len: usize) -> io::Result<()> {
        let mut rest = self.encrypted.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let fed = self.tls.feed(rest)?;
            if fed == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            rest = rest.get(fed..).unwrap_or_default();
            loop {
                let begin = self.decrypted.len();
                self.decrypted.resize(begin.saturating_add(RECORD), 0);
                let read = self.tls.read(self.decrypted.get_mut(begin..).unwrap_or_default());
                self.decrypted.truncate(begin.saturating_add(*read.as_ref().unwrap_or(&0)));
                match read {
                    Ok(0) => {
                        self.client_ended = true;
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(error) if is_later(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Gives decrypted bytes to the server.
    fn deliver(&mut self) -> io::Result<()> {
        while let Some(rest) = self.decrypted.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match self.plain.write(rest) {
                Ok(written) => self.taken = self.taken.saturating_add(written),
                Err(error) if is_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.decrypted.clear();
        self.taken = 0;
        if self.client_ended {
            self.plain.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Takes what the server says, and encrypts it.
    fn take(&mut self) -> io::Result<()> {
        match self.plain.read(&mut self.buffer) {
            Ok(0) => {
                self.tls.close();
                self.server_ended = Some(Instant::now());
                Ok(())
            }
            Ok(len) => self.tls.write(self.buffer.get(..len).unwrap_or_default()),
            Err(error) if is_later(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.send(&mut &self.stream) {
                Ok(_) => {}
                Err(error) if is_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn flags(read: bool, write: bool) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, read);
    flags.set(PollFlags::OUT, write);
    flags
}

/// Waits until one side is ready for what it is asked, or has ended when that is to be known, or for a while.
fn wait(stream: (&Stream, PollFlags), plain: (&UnixStream, PollFlags, bool)) -> io::Result<(PollFlags, PollFlags)> {
    // A side that nothing is asked of would report its end again and again.
    let mut both = Vec::with_capacity(2);
    let (with_stream, with_plain) = (!stream.1.is_empty(), plain.2 || !plain.1.is_empty());
    if with_stream {
        both.push(PollFd::new(stream.0, stream.1));
    }
    if with_plain {
        both.push(PollFd::new(plain.0, plain.1));
    }
    match poll(&mut both, Some(&TICK)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut found = both.iter().map(PollFd::revents);
    let mut next = |is_there: bool| if is_there { found.next().unwrap_or(PollFlags::empty()) } else { PollFlags::empty() };
    Ok((next(with_stream), next(with_plain)))
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What a read will meet: bytes, or the end.
const READABLE: PollFlags = PollFlags::IN.union(PollFlags::HUP).union(PollFlags::ERR);

/// Bytes that are encrypted at once.
const BUFFER: usize = 256 << 10;

/// Bytes that are decrypted at once, and the most of a record.
const RECORDS: usize = 64 << 10;
const RECORD: usize = 16 << 10;

/// How long the last bytes may take to leave.
const GRACE: Duration = Duration::from_secs(5);

const TICK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use imgcore::nbd::server::Stream;
    use imgcore::nbd::tls::Layer;

    use super::Pump;

    /// Encryption that changes nothing.
    #[derive(Debug)]
    struct Plain(Vec<u8>);

    impl Layer for Plain {
        fn is_handshaking(&self) -> bool {
            false
        }
        fn feed(&mut self, encrypted: &[u8]) -> io::Result<usize> {
            Ok(encrypted.len())
        }
        fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn write(&mut self, plain: &[u8]) -> io::Result<()> {
            self.0.extend(plain);
            Ok(())
        }
        fn close(&mut self) {}
        fn wants_write(&self) -> bool {
            !self.0.is_empty()
        }
        fn send(&mut self, out: &mut dyn Write) -> io::Result<usize> {
            let sent = out.write(&self.0)?;
            self.0.drain(..sent);
            Ok(sent)
        }
    }

    #[test]
    fn a_client_that_takes_nothing_does_not_outlive_the_server() {
        let (_client, stream) = UnixStream::pair().unwrap();
        let (server, plain) = UnixStream::pair().unwrap();
        let mut pump = Pump::new(Stream::Unix(stream), plain, Box::new(Plain(Vec::new()))).unwrap();
        pump.grace = Duration::from_millis(100);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(pump.run().is_ok()));
        server.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        while (&server).write(&[7; 4096]).is_ok() {}
        server.shutdown(Shutdown::Both).unwrap();
        assert!(told.recv_timeout(Duration::from_secs(10)).unwrap());
    }
}
