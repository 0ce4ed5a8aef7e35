//! What commands ask of a machine that may run.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::hypervisor::{Booted, DomainState, Hypervisor};
use crate::machine::{MachineName, Root};

/// A machine and what was to run it last.
#[derive(Debug)]
pub(super) struct Running<'a> {
    /// The machine's folder.
    pub(super) folder: PathBuf,
    /// How it was started last, if ever.
    pub(super) booted: Option<Booted>,
    /// What was to run it.
    hypervisor: Option<Box<dyn Hypervisor + 'a>>,
    context: &'a Context,
    name: MachineName,
}

impl<'a> Running<'a> {
    /// Returns the machine `name`, whose record is not looked at.
    ///
    /// # Errors
    ///
    /// When the record of its last start cannot be read.
    pub(super) fn find(context: &'a Context, root: &Root, name: &MachineName) -> Result<Self, CommandError> {
        let folder = root.folder(name);
        let booted = Booted::load(&folder)?;
        let hypervisor = booted.as_ref().map(|booted| booted.hypervisor.hypervisor(context, &folder, name));
        Ok(Self { folder, booted, hypervisor, context, name: name.clone() })
    }

    /// Returns what the machine does; one that was never started is shut off.
    ///
    /// # Errors
    ///
    /// When the hypervisor cannot be asked.
    pub(super) fn state(&self) -> Result<DomainState, CommandError> {
        match &self.hypervisor {
            None => Ok(DomainState::ShutOff),
            Some(hypervisor) => match hypervisor.state()? {
                // Undefined by somebody else: the machine is still there.
                DomainState::Undefined => Ok(DomainState::ShutOff),
                state => Ok(state),
            },
        }
    }

    /// Returns how the machine runs, and what runs it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when it does not run.
    pub(super) fn active(&self) -> Result<(&Booted, &(dyn Hypervisor + 'a)), CommandError> {
        match (&self.booted, &self.hypervisor) {
            (Some(booted), Some(hypervisor)) if self.state()?.is_active() => Ok((booted, hypervisor.as_ref())),
            _ => Err(CommandError::new(ErrorKind::Refused, format!("the machine `{}` does not run", self.name))
                .hint(format!("`vmimg boot {}` starts it", self.name))),
        }
    }

    /// Returns what was to run the machine, running or not.
    pub(super) fn hypervisor(&self) -> Option<&(dyn Hypervisor + 'a)> {
        self.hypervisor.as_deref()
    }

    /// Waits until the machine has ended, for at most `limit`; returns whether it has.
    ///
    /// # Errors
    ///
    /// When the hypervisor cannot be asked, and [`ErrorKind::Interrupted`].
    pub(super) fn wait_for_end(&self, limit: Duration) -> Result<bool, CommandError> {
        let begun = Instant::now();
        loop {
            if !self.state()?.is_active() {
                return Ok(true);
            }
            self.context.interrupt().check()?;
            if begun.elapsed() >= limit {
                return Ok(false);
            }
            thread::sleep(STEP);
        }
    }
}

const STEP: Duration = Duration::from_millis(100);
