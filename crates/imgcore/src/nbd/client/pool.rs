use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::Duration;

use super::connection::Connection;
use super::fault::Fault;
use super::handshake::{Agreement, Handshake};
use super::stream::{Patience, Receiver, Sender, Socket};
use super::tls;
use crate::block::ByteRange;
use crate::nbd::Uri;
use crate::nbd::wire::flag;

/// The connections to one export.
#[derive(Debug)]
pub(super) struct Pool {
    uri: Uri,
    pub(super) agreement: Agreement,
    patience: Patience,
    lines: RwLock<Vec<Arc<Line>>>,
    /// Held by the thread that opens one more.
    opening: Mutex<()>,
    /// Whether one more may be opened.
    open_more: AtomicBool,
}

/// A connection with the number of threads that use it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) connection: Connection,
    users: AtomicUsize,
}

/// A thread's use of a connection.
pub(super) struct Turn(Arc<Line>);

impl std::ops::Deref for Turn {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0.connection
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Connects once.
    pub(super) fn open(uri: &Uri, patience: Patience) -> Result<Self, Fault> {
        let (connection, agreement) = connect(uri, patience, patience)?;
        // Spec: "the server MUST" make a flush on one connection hold for all of them
        let open_more = AtomicBool::new(agreement.flags & flag::transmission::CAN_MULTI_CONN != 0);
        let lines = RwLock::new(vec![Arc::new(Line { connection, users: AtomicUsize::new(0) })]);
        let opening = Mutex::new(());
        Ok(Self { uri: uri.clone(), agreement, patience, lines, opening, open_more })
    }

    /// Returns the connection that the fewest threads use, a new one when all are in use.
    pub(super) fn idlest(&self) -> Result<Turn, Fault> {
        let lines = self.lines();
        let users = |line: &Arc<Line>| line.users.load(Ordering::Relaxed);
        let found = lines.iter().min_by_key(|line| users(line)).map(Arc::clone);
        let new = if found.as_ref().is_none_or(|line| users(line) > 0) { self.one_more(lines.len())? } else { None };
        self.take(new.or(found))
    }

    /// Returns the connection on which the fewest bytes are under way, a new one when there are many on all.
    pub(super) fn freest(&self) -> Result<Turn, Fault> {
        let lines = self.lines();
        let found = lines.iter().map(|line| (line.connection.outstanding(), line)).min_by_key(|(bytes, _)| *bytes);
        let new = if found.is_none_or(|(bytes, _)| bytes >= MANY) { self.one_more(lines.len())? } else { None };
        self.take(new.or(found.map(|(_, line)| Arc::clone(line))))
    }

    /// Waits until no write that was sent before touches `range`.
    pub(super) fn settle(&self, range: ByteRange) -> Result<(), Fault> {
        self.lines().iter().try_for_each(|line| line.connection.settle(range))
    }

    /// Fails once the program is asked to stop.
    pub(super) fn go_on(&self) -> Result<(), Fault> {
        if self.uri.stop().is_asked() { Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into()) } else { Ok(()) }
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, line: Option<Arc<Line>>) -> Result<Turn, Fault> {
        let line = line.ok_or_else(|| Fault::lie("there is no connection"))?;
        line.users.fetch_add(1, Ordering::Relaxed);
        Ok(Turn(line))
    }

    /// Opens another connection, if there are `open` of them and no other thread does it now.
    ///
    /// A server that does not take it is used over the others alone.
    fn one_more(&self, open: usize) -> Result<Option<Arc<Line>>, Fault> {
        if open >= MOST_CONNECTIONS || !self.open_more.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let _opening = match self.opening.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let short = Patience { answer: SHORT.min(self.patience.answer), ..self.patience };
        let Ok((connection, agreement)) = connect(&self.uri, short, self.patience) else {
            self.open_more.store(false, Ordering::Relaxed);
            return Ok(None);
        };
        if agreement != self.agreement {
            return Err(Fault::lie("another connection shows another export"));
        }
        let line = Arc::new(Line { connection, users: AtomicUsize::new(0) });
        self.lines.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&line));
        Ok(Some(line))
    }
}

/// Opens a connection, being `first` patient, and later `then`.
fn connect(uri: &Uri, first: Patience, then: Patience) -> Result<(Connection, Agreement), Fault> {
    let socket = Arc::new(Socket::connect(uri, first)?);
    let (mut sender, mut receiver) = (Sender::new(Arc::clone(&socket)), Receiver::new(Arc::clone(&socket)));
    let mut handshake = Handshake::begin(&mut sender, &mut receiver, first)?;
    if uri.tls().is_some() {
        handshake.start_tls()?;
        let (fixed, no_zeroes) = (handshake.fixed, handshake.no_zeroes);
        let (session, incoming) = tls::start(&socket, uri, first.until(0))?;
        sender.encrypt(Arc::clone(&session));
        receiver.encrypt(session, incoming)?;
        handshake = Handshake { sender: &mut sender, receiver: &mut receiver, patience: first, fixed, no_zeroes };
    }
    let agreement = handshake.finish(uri.export())?;
    let connection = Connection::new(socket, agreement.style, then, (sender, receiver));
    agreement.check_end()?;
    Ok((connection, agreement))
}

/// Connections to one export.
const MOST_CONNECTIONS: usize = 4;

/// Bytes that are worth another connection.
const MANY: u64 = 512 << 10;

/// How long an answer is waited for that is not needed.
const SHORT: Duration = Duration::from_secs(2);
