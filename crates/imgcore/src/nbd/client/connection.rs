//! One connection in transmission, which any number of threads use at a time.
//!
//! ```text
//! send     one thread after the other
//! receive  one of the waiting threads reads headers; an answer to another one's request is left to that one, which reads the
//!          bytes to where they belong; answers to writes that nobody waits for are taken by whoever reads
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fault::Fault;
use super::reply::Answer;
use super::stream::{Patience, Receiver, Sender, Socket, Wait};
use crate::block::ByteRange;
use crate::nbd::wire::{Command, HeaderStyle, ReplyHeader, Request, flag};

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Arc<Socket>,
    style: HeaderStyle,
    patience: Patience,
    sender: Mutex<Sender>,
    state: Mutex<State>,
    /// Told when the state has changed in a way that somebody may wait for.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// `None` while a thread reads.
    receiver: Option<Receiver>,
    /// A header that was read, for the thread that waits for this cookie.
    left: Option<ReplyHeader>,
    /// What answers are to come, by cookie.
    expected: HashMap<u64, Expected>,
    next_cookie: u64,
    /// The cost of all requests that are not answered.
    outstanding: u64,
    /// Why the connection is of no use any more.
    dead: Option<Fault>,
    /// Why a write that nobody waited for has failed.
    lost: Option<Fault>,
}

#[derive(Debug)]
enum Expected {
    /// A thread waits for it, and this is its cost.
    Awaited(u64),
    /// A write that nobody waits for, with its range and its cost, and with its answer unless a thread reads that now.
    Behind(ByteRange, u64, Option<Answer<'static>>),
}

impl Expected {
    fn cost(&self) -> u64 {
        match self {
            Self::Awaited(cost) | Self::Behind(_, cost, _) => *cost,
        }
    }
}

/// What a thread waits for.
enum Goal<'a, 'b> {
    /// The answers to its requests.
    Answers(&'a mut HashMap<u64, Answer<'b>>),
    /// That of the writes which nobody waits for, none touches the range.
    Settled(ByteRange),
    /// That a write of this cost may follow the others.
    Room(u64),
}

impl Goal<'_, '_> {
    fn is_reached(&self, state: &State) -> bool {
        let mut behind = state.expected.values().filter_map(|expected| match expected {
            Expected::Behind(range, cost, _) => Some((*range, *cost)),
            Expected::Awaited(_) => None,
        });
        match self {
            Self::Answers(waiting) => waiting.is_empty(),
            Self::Settled(range) => !behind.any(|(run, _)| run.intersection(*range).is_some()),
            Self::Room(cost) => {
                let (count, all) = behind
                    .fold((0_usize, 0_u64), |(count, all), (_, cost)| (count.saturating_add(1), all.saturating_add(cost)));
                count == 0 || (count < MOST_REQUESTS && all.saturating_add(*cost) <= MOST_BEHIND)
            }
        }
    }

    fn waits_for(&self, cookie: u64) -> bool {
        matches!(self, Self::Answers(waiting) if waiting.contains_key(&cookie))
    }
}

impl Connection {
    pub(super) fn new(socket: Arc<Socket>, style: HeaderStyle, patience: Patience, io: (Sender, Receiver)) -> Self {
        let state = State {
            receiver: Some(io.1),
            left: None,
            expected: HashMap::new(),
            next_cookie: 1,
            outstanding: 0,
            dead: None,
            lost: None,
        };
        Self { socket, style, patience, sender: Mutex::new(io.0), state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn style(&self) -> HeaderStyle {
        self.style
    }

    /// Returns the cost of all requests that are not answered, in bytes.
    pub(super) fn outstanding(&self) -> u64 {
        self.state().outstanding
    }

    /// Asks for all that `answers` are about, [`MOST_REQUESTS`] at most, and returns when they have come; without an error each
    /// holds its own outcome.
    pub(super) fn call<'b>(&self, flags: u16, answers: Vec<Answer<'b>>) -> Result<Vec<Answer<'b>>, Fault> {
        let mut done = Vec::with_capacity(answers.len());
        let mut waiting = HashMap::with_capacity(answers.len());
        let mut message = Vec::new();
        let mut flushes = false;
        let mut state = self.state();
        for answer in answers {
            flushes |= answer.command == Command::Flush;
            let cookie = state.expect(Expected::Awaited(answer.cost()))?;
            message.extend(self.request(flags, cookie, &answer).encode(self.style));
            waiting.insert(cookie, answer);
        }
        let outstanding = state.outstanding;
        drop(state);
        self.send(&[&message])?;
        let until = if flushes { self.patience.until_flushed() } else { self.patience.until(outstanding) };
        self.wait(&mut Goal::Answers(&mut waiting), &mut done, until)?;
        Ok(done)
    }

    /// Sends a request that changes `range`, and returns before it is answered; a failure is told to who comes next.
    pub(super) fn write_behind(&self, command: Command, flags: u16, range: ByteRange, bytes: &[u8]) -> Result<(), Fault> {
        let answer = Answer::new(self.style, command, range, 0, &mut []);
        let cost = answer.cost();
        self.wait(&mut Goal::Room(cost), &mut Vec::new(), self.patience.until(MOST_BEHIND))?;
        let request = self.request(flags, 0, &answer);
        let mut state = self.state();
        let cookie = state.expect(Expected::Behind(range, cost, Some(answer)))?;
        drop(state);
        self.send(&[&Request { cookie, ..request }.encode(self.style), bytes])
    }

    /// Waits until no write that was sent before touches `range`.
    pub(super) fn settle(&self, range: ByteRange) -> Result<(), Fault> {
        let goal = Goal::Settled(range);
        let state = self.state();
        if goal.is_reached(&state) && state.lost.is_none() {
            return Ok(());
        }
        let until = self.patience.until(state.outstanding);
        drop(state);
        let mut goal = goal;
        self.wait(&mut goal, &mut Vec::new(), until)
    }

    fn request(&self, flags: u16, cookie: u64, answer: &Answer<'_>) -> Request {
        // Spec: "the client MUST set this flag for `NBD_CMD_WRITE`" with extended headers
        let payload = self.style == HeaderStyle::Extended && answer.command == Command::Write;
        let flags = if payload { flags | flag::command::PAYLOAD_LEN } else { flags };
        Request { flags, command: answer.command.number(), cookie, offset: answer.range.start(), len: answer.range.len() }
    }

    fn send(&self, parts: &[&[u8]]) -> Result<(), Fault> {
        let bytes = parts.iter().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
        let until = self.patience.until(bytes);
        let sent = lock(&self.sender).send(parts, until);
        sent.map_err(|fault| self.kill(fault))
    }

    /// Lets the thread take part in reading until its goal is reached; answers that are complete go to `finished`.
    fn wait<'b>(&self, goal: &mut Goal<'_, 'b>, finished: &mut Vec<Answer<'b>>, until: Wait) -> Result<(), Fault> {
        let mut state = self.state();
        loop {
            if goal.is_reached(&state) {
                return state.lost.clone().map_or(Ok(()), Err);
            }
            if let Some(dead) = &state.dead {
                return Err(dead.clone());
            }
            let is_free = state.left.as_ref().is_none_or(|header| goal.waits_for(cookie_of(header)));
            let Some(mut receiver) = state.receiver.take_if(|_| is_free) else {
                let waited = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                if let Err(error) = self.socket.in_time(until)
                    && !goal.is_reached(&state)
                    && state.dead.is_none()
                {
                    drop(state);
                    return Err(self.kill(Fault::from(error)));
                }
                continue;
            };
            let left = state.left.take();
            drop(state);
            let read = self.read(goal, finished, left, &mut receiver, until);
            if let Err(fault) = &read {
                self.kill(fault.clone());
            }
            state = self.state();
            state.receiver = Some(receiver);
            state.left = read.unwrap_or(None);
            self.changed.notify_all();
        }
    }

    /// Reads answers until the goal is reached, or until one is another thread's: its header is returned.
    fn read<'b>(
        &self,
        goal: &mut Goal<'_, 'b>,
        finished: &mut Vec<Answer<'b>>,
        left: Option<ReplyHeader>,
        receiver: &mut Receiver,
        until: Wait,
    ) -> Result<Option<ReplyHeader>, Fault> {
        let mut left = left;
        loop {
            let header = match left.take() {
                Some(header) => header,
                None => self.header(receiver, until)?,
            };
            let cookie = cookie_of(&header);
            if let Goal::Answers(waiting) = goal
                && let Some(answer) = waiting.get_mut(&cookie)
            {
                if answer.take(&header, receiver, until)? {
                    finished.extend(waiting.remove(&cookie));
                    self.state().forget(cookie);
                }
            } else {
                let Some(mut answer) = self.state().take_answer(cookie)? else { return Ok(Some(header)) };
                let done = answer.take(&header, receiver, until)?;
                self.state().settle(cookie, answer, done);
            }
            if goal.is_reached(&self.state()) {
                return Ok(None);
            }
        }
    }

    fn header(&self, receiver: &mut Receiver, until: Wait) -> Result<ReplyHeader, Fault> {
        let magic: [u8; ReplyHeader::MAGIC_LEN] = receiver.read_array(until)?;
        let len = ReplyHeader::len(magic, self.style)?;
        let mut bytes = [0; LONGEST_HEADER];
        let bytes = bytes.get_mut(..len).ok_or_else(|| Fault::lie("a header is too long"))?;
        let (first, rest) = bytes.split_at_mut(magic.len());
        first.copy_from_slice(&magic);
        receiver.read_exact(rest, until)?;
        Ok(ReplyHeader::decode(bytes, self.style)?)
    }

    /// Ends the connection because of `fault`, and returns the first reason there was.
    fn kill(&self, fault: Fault) -> Fault {
        let first = self.state().dead.get_or_insert(fault).clone();
        self.socket.shut_down();
        self.changed.notify_all();
        first
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A server that meets the end of the connection may leave out what it was asked for before.
        let all = ByteRange::new(0, u64::MAX).unwrap_or_default();
        let _failed = self.wait(&mut Goal::Settled(all), &mut Vec::new(), Wait::of(LAST_ANSWERS));
        let request = Request { flags: 0, command: Command::Disconnect.number(), cookie: 0, offset: 0, len: 0 };
        if self.state().dead.is_none() {
            // The server notices the end of the connection as well.
            let _ = lock(&self.sender).send(&[&request.encode(self.style)], Wait::of(GOODBYE));
        }
        self.socket.shut_down();
    }
}

impl State {
    /// Notes that an answer is to come, and returns the cookie for its request.
    fn expect(&mut self, expected: Expected) -> Result<u64, Fault> {
        if let Some(fault) = self.dead.as_ref().or(self.lost.as_ref()) {
            return Err(fault.clone());
        }
        let cookie = self.next_cookie;
        self.next_cookie = cookie.wrapping_add(1);
        self.outstanding = self.outstanding.saturating_add(expected.cost());
        self.expected.insert(cookie, expected);
        Ok(cookie)
    }

    fn forget(&mut self, cookie: u64) {
        if let Some(expected) = self.expected.remove(&cookie) {
            self.outstanding = self.outstanding.saturating_sub(expected.cost());
        }
    }

    /// Takes the answer to the request with this cookie to be read, or none when a thread waits for it.
    fn take_answer(&mut self, cookie: u64) -> Result<Option<Answer<'static>>, Fault> {
        match self.expected.get_mut(&cookie) {
            Some(Expected::Awaited(_)) => Ok(None),
            Some(Expected::Behind(_, _, answer)) => Ok(answer.take()),
            None => Err(Fault::lie("a reply is for a request that was not made")),
        }
    }

    /// Puts back an answer, or takes note of its outcome when it is `done`.
    fn settle(&mut self, cookie: u64, answer: Answer<'static>, done: bool) {
        if done {
            if let Some(failure) = &answer.failure {
                self.lost.get_or_insert(Fault::refusal(failure));
            }
            self.forget(cookie);
        } else if let Some(Expected::Behind(_, _, place)) = self.expected.get_mut(&cookie) {
            *place = Some(answer);
        }
    }
}

fn cookie_of(header: &ReplyHeader) -> u64 {
    match header {
        ReplyHeader::Simple(reply) => reply.cookie,
        ReplyHeader::Chunk(chunk) => chunk.cookie,
    }
}

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests that are under way at a time, of one thread or of all writes.
pub(super) const MOST_REQUESTS: usize = 64;

/// Bytes of writes that nobody waits for.
const MOST_BEHIND: u64 = 8 << 20;

/// Bytes of the longest header of a reply.
const LONGEST_HEADER: usize = 32;

/// How often a thread looks at the clock while another one reads.
const LOOK: Duration = Duration::from_millis(500);

/// How long the answers to writes may take that nobody has asked to be durable.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long a goodbye may take.
pub(super) const GOODBYE: Duration = Duration::from_millis(500);
