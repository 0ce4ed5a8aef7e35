use std::str::FromStr;

use super::kvm::{Verdict, verdict};
use super::qemu::PROGRAM;
use crate::context::Context;
use crate::domain::{Accelerator, Error};
use crate::error::CommandError;

/// What the user says about KVM.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AcceleratorChoice {
    /// KVM where a guest really runs with it.
    #[default]
    Auto,
    /// This one, whatever a trial would say.
    Always(Accelerator),
}

impl FromStr for AcceleratorChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        Accelerator::from_domain_type(text).map(Self::Always)
    }
}

/// Returns the accelerator of `choice`, found out by trying where the user leaves it open.
///
/// # Errors
///
/// As [`verdict`].
pub fn accelerator(context: &Context, choice: AcceleratorChoice) -> Result<Verdict, CommandError> {
    match choice {
        AcceleratorChoice::Auto => verdict(context, PROGRAM),
        AcceleratorChoice::Always(accelerator) => Ok(Verdict { accelerator, reason: None }),
    }
}
