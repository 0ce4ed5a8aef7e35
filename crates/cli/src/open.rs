//! Opening the images that a command line names.

use std::path::Path;

use imgcore::image::{self, Disk, Format, OpenOptions, OpenPolicy, WritableDisk};

use crate::context::Context;
use crate::error::CommandError;
use crate::place::Place;

/// What a command trusts an image with.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct TrustArgs {
    /// Open no file that an image names, and no image that could be another
    #[arg(long, global = true)]
    pub untrusted: bool,
}

impl TrustArgs {
    /// Trusts images as the user's own: for those that are named on the command line by themselves, as a backing file.
    pub const OWN: Self = Self { untrusted: false };
}

/// How the commands open an image that the user names: files that it names are followed as qemu-img follows them, which is
/// plain paths and nothing else, unless the image is not trusted.
#[must_use]
pub fn options(format: Option<Format>, trust: TrustArgs) -> OpenOptions {
    OpenOptions { format, policy: policy(trust), ..OpenOptions::default() }
}

/// What of the files that an image names may be opened.
#[must_use]
pub fn policy(trust: TrustArgs) -> OpenPolicy {
    if trust.untrusted { OpenPolicy::Untrusted } else { OpenPolicy::PlainPaths }
}

/// Opens the image that `name` means, a path from the working folder or an address, for reading.
///
/// # Errors
///
/// What is wrong with the image, or with the files below it.
pub fn open(context: &Context, name: &Path, options: &OpenOptions) -> Result<Disk, CommandError> {
    image::open(Place::of(context, name)?.location(), options).map_err(CommandError::from)
}

/// Opens the image that `name` means, a path from the working folder or an address, for writing.
///
/// # Errors
///
/// As [`open`].
pub fn open_writable(context: &Context, name: &Path, options: &OpenOptions) -> Result<WritableDisk, CommandError> {
    image::open_writable(Place::of(context, name)?.location(), options).map_err(CommandError::from)
}
