//! Signals that ask the program to stop: it undoes what it was doing, then dies of the signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{CommandError, ErrorKind};

/// Whether a signal has asked the program to stop.
///
/// Commands call [`Interrupt::check`] between their steps and return its error: the drop guards of what they were making then
/// remove it, and [`Interrupt::die_of_signal`] ends the process at its edge.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    /// The number of the last signal, 0 for none.
    signal: Arc<AtomicUsize>,
    /// Whether signals of this process set it.
    of_process: bool,
    /// Whether the program serves others.
    serves: Arc<AtomicBool>,
}

impl Interrupt {
    /// Returns one that no signal reaches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns one that is set by SIGINT, SIGTERM and SIGHUP from now on.
    #[must_use]
    pub fn of_process() -> Self {
        let interrupt = Self { of_process: true, ..Self::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).unwrap_or_default();
            // Without a handler the signal kills at once, and the next run removes what is left.
            let _id = signal_hook::flag::register_usize(signal, Arc::clone(&interrupt.signal), number);
        }
        interrupt
    }

    /// Has Ctrl-C kill at once when a signal has come before, for who does not want to wait for the program to undo what it did;
    /// the next run removes what is left.
    ///
    /// SIGTERM and SIGHUP do not: programs such as timeout(1) send them twice. Servers, which answer what was asked first, never
    /// call this.
    pub fn die_at_second(&self) {
        if !self.of_process {
            return;
        }
        let noted = Arc::new(AtomicBool::new(false));
        // The handlers of a signal run in this order: the first is noted after it was asked for.
        let _id = signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&noted));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let _id = signal_hook::flag::register(signal, Arc::clone(&noted));
        }
    }

    /// Returns an error once a signal has come.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Interrupted`].
    pub fn check(&self) -> Result<(), CommandError> {
        if self.is_set() { Err(CommandError::new(ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
    }

    /// Returns whether a signal has come.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.signal.load(Ordering::SeqCst) != 0
    }

    /// Lets a signal be the wish that a server ends: what its clients have asked for is still done, however long that takes.
    pub fn begin_to_serve(&self) {
        self.serves.store(true, Ordering::SeqCst);
    }

    /// Returns whether a signal has come, and nobody else is served.
    #[must_use]
    pub fn ends_waiting(&self) -> bool {
        self.is_set() && !self.serves.load(Ordering::SeqCst)
    }

    /// Takes the signal back that has come, if one has: it was what a server waits for, and the process ends by itself.
    pub fn answer(&self) {
        self.signal.store(0, Ordering::SeqCst);
    }

    /// Does what [`Interrupt::check`] waits for, without a signal.
    pub fn set(&self) {
        self.signal.store(usize::try_from(SIGTERM).unwrap_or(usize::MAX), Ordering::SeqCst);
    }

    /// Ends the process by the signal that came, so that its parent sees how it ended; returns when none has.
    pub fn die_of_signal(&self) {
        let signal = i32::try_from(self.signal.load(Ordering::SeqCst)).unwrap_or_default();
        if signal != 0 {
            let _failed = signal_hook::low_level::emulate_default_handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Interrupt;
    use crate::error::ErrorKind;

    #[test]
    fn a_check_fails_once_a_signal_has_come() {
        let interrupt = Interrupt::new();
        interrupt.check().unwrap();
        interrupt.clone().set();
        assert_eq!(interrupt.check().unwrap_err().kind(), ErrorKind::Interrupted);
        assert!(interrupt.ends_waiting());
        interrupt.clone().begin_to_serve();
        assert!(interrupt.is_set() && !interrupt.ends_waiting(), "clients get their answers");
    }
}
