//! Who is connected.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Limits, Stream};

/// The connections of a server, so that old ones can make room and all can be ended.
#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    clients: Mutex<BTreeMap<u64, Client>>,
    /// Whenever one has left.
    left: Condvar,
    /// Whether one has transmitted.
    used: AtomicBool,
    /// Whether the server ends.
    pub(super) stopping: AtomicBool,
}

#[derive(Debug)]
struct Client {
    stream: Arc<Stream>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Handshake,
    Transmission,
    /// It was told to leave, and is about to.
    Leaving,
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            clients: Mutex::default(),
            left: Condvar::new(),
            used: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<u64, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a client, and ends the oldest handshake when there are too many.
    pub(super) fn admit(&self, id: u64, stream: Arc<Stream>) {
        let mut clients = self.clients();
        let mut waiting: Vec<&mut Client> = clients.values_mut().filter(|client| client.phase == Phase::Handshake).collect();
        if waiting.len() >= self.limits.handshakes
            && let Some(oldest) = waiting.first_mut()
        {
            oldest.phase = Phase::Leaving;
            oldest.stream.shutdown(Shutdown::Both);
        }
        clients.insert(id, Client { stream, phase: Phase::Handshake });
    }

    /// Takes a place among the clients that transmit, if there is one.
    pub(super) fn enter(&self, id: u64) -> bool {
        let mut clients = self.clients();
        if clients.values().filter(|client| client.phase == Phase::Transmission).count() >= self.limits.clients {
            return false;
        }
        clients.get_mut(&id).filter(|client| client.phase == Phase::Handshake).is_some_and(|client| {
            client.phase = Phase::Transmission;
            self.used.store(true, Ordering::SeqCst);
            true
        })
    }

    pub(super) fn leave(&self, id: u64) {
        self.clients().remove(&id);
        self.left.notify_all();
    }

    /// Returns whether clients have transmitted, and none does any more.
    pub(super) fn is_over(&self) -> bool {
        self.used.load(Ordering::SeqCst) && !self.clients().values().any(|client| client.phase == Phase::Transmission)
    }

    /// Waits for a client to leave, for some time; returns whether there are others.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let clients = self.clients();
        if clients.is_empty() {
            return false;
        }
        let clients = self.left.wait_timeout(clients, time).unwrap_or_else(PoisonError::into_inner).0;
        !clients.is_empty()
    }

    /// Lets every client finish what it has asked for, and no more.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for client in self.clients().values() {
            client.stream.shutdown(if client.phase == Phase::Transmission { Shutdown::Read } else { Shutdown::Both });
        }
    }

    /// Ends every connection at once.
    pub(super) fn abandon(&self) {
        for client in self.clients().values() {
            client.stream.shutdown(Shutdown::Both);
        }
    }
}
