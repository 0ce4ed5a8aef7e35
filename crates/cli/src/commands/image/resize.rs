//! `vmimg image resize`: a larger disk.

use std::ffi::OsString;

use imgcore::block::BlockRead;
use imgcore::image::{self, Format, ResizeOptions};

use super::options::Preallocation;
use super::reference::SourceArgs;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{print_line, warn};
use crate::size::Size;

/// The arguments of `vmimg image resize`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Partitions and file systems stay as they are; `vmimg disk grow` lets them follow.

Examples:
  vmimg image resize -f qcow2 web1.qcow2 20G
  vmimg image resize -f raw disk.raw +512M")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// What is done for the new space: off, metadata, falloc, full
    #[arg(long, value_name = "MODE", default_value = "off", hide_possible_values = true)]
    preallocation: Preallocation,
    /// Allow a smaller size: what is behind it is lost
    #[arg(long)]
    shrink: bool,
    /// Say nothing
    #[arg(short = 'q')]
    quiet: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
    /// The new size, or a change with + or - in front
    #[arg(value_name = "SIZE", allow_hyphen_values = true)]
    size: NewSize,
}

/// A size, or a change of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NewSize {
    To(Size),
    By(Size),
    Less(Size),
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let reference = args.source.reference(&args.image)?;
    let mut disk = reference.open_writable(context, args.source.trust)?;
    if reference.format.is_none() && disk.format() == Format::Raw {
        warn(context, format!("the format of `{}` was guessed to be raw; `-f raw` declares it", reference.path.display()));
    }
    let new = match args.size {
        NewSize::To(size) => size.0,
        // What is out of range either way is refused as such.
        NewSize::By(size) => disk.size().saturating_add(size.0),
        NewSize::Less(size) => disk.size().saturating_sub(size.0),
    };
    let how = ResizeOptions { shrink: args.shrink, preallocation: args.preallocation.into() };
    image::resize(&mut disk, new, &how)?;
    if args.quiet { Ok(()) } else { print_line(context, "Image resized.") }
}

impl std::str::FromStr for NewSize {
    type Err = crate::size::SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(more), _) => more.parse().map(Self::By),
            (_, Some(less)) => less.parse().map(Self::Less),
            _ => text.parse().map(Self::To),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NewSize;
    use crate::size::Size;

    #[test]
    fn sizes_may_be_changes() {
        assert_eq!("20G".parse(), Ok(NewSize::To(Size(20 << 30))));
        assert_eq!("+1M".parse(), Ok(NewSize::By(Size(1 << 20))));
        assert_eq!("-512".parse(), Ok(NewSize::Less(Size(512))));
        "++1".parse::<NewSize>().unwrap_err();
    }
}
