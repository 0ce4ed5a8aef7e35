//! What runs guests: QEMU itself, or libvirt.
//!
//! Both do what libvirt's verbs mean: *define* makes a domain known and replaces its description, *start* runs it, *shutdown*
//! asks the guest to end, *destroy* pulls the plug, *undefine* forgets the domain. None of them touches a disk's content.

mod booted;
mod choice;
mod firmware;
mod folders;
pub mod kvm;
mod libvirt;
mod qemu;
mod qmp;
mod terminal;

use std::fmt::Debug;

use serde::Serialize;

pub use self::booted::{Booted, Runner, occupy};
pub use self::choice::{AcceleratorChoice, accelerator};
pub use self::libvirt::Libvirt;
pub use self::qemu::Qemu;
use crate::domain::Domain;
use crate::error::CommandError;

/// Something that runs the domain of one machine.
pub trait Hypervisor: Debug {
    /// Makes the domain known, or replaces what is known of it.
    ///
    /// # Errors
    ///
    /// When the domain is not possible, runs, or is another machine's.
    fn define(&self, domain: &Domain) -> Result<(), CommandError>;

    /// Runs the domain, which was defined as `domain`, its ports forwarded.
    ///
    /// # Errors
    ///
    /// When it is not defined, runs already, or the hypervisor fails; it does not run then.
    fn start(&self, domain: &Domain) -> Result<(), CommandError>;

    /// Returns what the domain does.
    ///
    /// # Errors
    ///
    /// When the hypervisor cannot be asked.
    fn state(&self) -> Result<DomainState, CommandError>;

    /// Asks the guest to end, and returns at once.
    ///
    /// # Errors
    ///
    /// When it does not run or the hypervisor fails.
    fn shutdown(&self) -> Result<(), CommandError>;

    /// Ends the domain at once, as when the power fails.
    ///
    /// # Errors
    ///
    /// When the hypervisor fails. That it does not run is a success.
    fn destroy(&self) -> Result<(), CommandError>;

    /// Forgets the domain.
    ///
    /// # Errors
    ///
    /// When it runs or the hypervisor fails. That it is not known is a success.
    fn undefine(&self) -> Result<(), CommandError>;

    /// Returns where the guest's display is served, as `HOST:PORT`, if it has one.
    ///
    /// # Errors
    ///
    /// When the domain does not run or the hypervisor fails.
    fn display(&self) -> Result<Option<String>, CommandError>;

    /// Connects this terminal to the guest's serial console until the user leaves it.
    ///
    /// # Errors
    ///
    /// When the domain does not run or has no console.
    fn console(&self) -> Result<(), CommandError>;
}

/// What a domain does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DomainState {
    /// The hypervisor does not know it.
    Undefined,
    /// It does not run.
    ShutOff,
    /// It runs.
    Running,
    /// It is stopped between two instructions.
    Paused,
    /// The guest has crashed, and its memory is kept.
    Crashed,
}

impl DomainState {
    /// Returns whether the domain holds its disks.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Crashed)
    }

    /// Returns the state in libvirt's words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::ShutOff => "shut off",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Crashed => "crashed",
        }
    }
}
