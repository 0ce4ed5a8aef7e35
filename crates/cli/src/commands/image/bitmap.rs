//! `vmimg image bitmap`: changes of a persistent bitmap.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, FromArgMatches};
use imgcore::qcow2::{BitmapChange, BitmapError, Bits};

use super::reference::{ImageReference, SourceArgs};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::size::Size;

/// The arguments of `vmimg image bitmap`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "vmimg image bitmap [OPTIONS] ACTION... <IMG> <BITMAP>",
    after_help = "\
A bitmap says which parts of the disk have been written since some moment. What
a call asks for is done in its order, all of it or nothing.

Examples:
  vmimg image bitmap --add -g 64k web1.qcow2 since-sunday
  vmimg image bitmap --add --merge since-sunday --disable web1.qcow2 week
  vmimg image bitmap --merge week -b old.qcow2 -F qcow2 web1.qcow2 all
  vmimg image bitmap --remove web1.qcow2 week"
)]
pub(super) struct Args {
    #[command(flatten)]
    actions: Actions,
    #[command(flatten)]
    source: SourceArgs,
    /// Bytes of the disk for each bit, with --add
    #[arg(short = 'g', long, value_name = "SIZE", requires = "add")]
    granularity: Option<Size>,
    /// The image that has the bitmap for --merge; IMG otherwise
    #[arg(short = 'b', long, value_name = "FILE", requires = "merge")]
    source_file: Option<OsString>,
    /// The format of that image
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "source_file")]
    source_format: Option<String>,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
    /// The name of the bitmap
    #[arg(value_name = "BITMAP")]
    bitmap: String,
}

/// What is to be done, in the order of the command line.
#[derive(Clone, Debug)]
struct Actions(Vec<Action>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let trust = args.source.trust;
    let mut disk = args.source.reference(&args.image)?.open_writable(context, trust)?;
    let other = match &args.source_file {
        Some(name) => Some(ImageReference::parse(name, args.source_format.as_deref(), false)?.open(context, trust)?),
        None => None,
    };
    let marks_of = |name: &str| -> Result<Option<Bits>, CommandError> {
        let Some(other) = &other else { return Ok(None) };
        let image = other.qcow2().ok_or_else(|| BitmapError::NotFound(name.to_owned()))?;
        Ok(Some(image.bitmap_bits(name)?))
    };
    // QEMU takes 0 for the default.
    let granularity = args.granularity.map(|size| size.0).filter(|size| *size > 0);
    let mut changes = Vec::with_capacity(args.actions.0.len());
    for action in &args.actions.0 {
        changes.push(match action {
            Action::Add => BitmapChange::Add(granularity),
            Action::Remove => BitmapChange::Remove,
            Action::Clear => BitmapChange::Clear,
            Action::Enable => BitmapChange::Enable,
            Action::Disable => BitmapChange::Disable,
            Action::Merge(name) => marks_of(name)?.map_or_else(|| BitmapChange::Merge(name.clone()), BitmapChange::Mark),
        });
    }
    let Some(image) = disk.qcow2_mut() else {
        return Err(CommandError::new(ErrorKind::Unsupported, "the format `raw` has no bitmaps"));
    };
    Ok(image.change_bitmap(&args.bitmap, &changes)?)
}

impl FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found: Vec<(usize, Action)> = Vec::new();
        for (id, _, action) in FLAGS {
            found.extend(matches.indices_of(id).into_iter().flatten().map(|index| (index, action.clone())));
        }
        let sources = matches.get_many::<String>(MERGE).into_iter().flatten();
        found.extend(matches.indices_of(MERGE).into_iter().flatten().zip(sources.cloned().map(Action::Merge)));
        found.sort_by_key(|(index, _)| *index);
        Ok(Self(found.into_iter().map(|(_, action)| action).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Actions {
    fn augment_args(command: Command) -> Command {
        let flags = FLAGS.iter().map(|(id, help, _)| {
            Arg::new(*id)
                .long(*id)
                .help(*help)
                .action(ArgAction::Append)
                .num_args(0)
                .default_missing_value(*id)
                .help_heading(HEADING)
        });
        let merge = Arg::new(MERGE).long(MERGE).value_name("SOURCE").action(ArgAction::Append).help_heading(HEADING);
        let merge = merge.help("Add what the bitmap SOURCE marks");
        let ids = FLAGS.iter().map(|(id, ..)| *id).chain([MERGE]);
        command.args(flags).arg(merge).group(ArgGroup::new("actions").args(ids).required(true).multiple(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

const HEADING: &str = "Actions";
const MERGE: &str = "merge";
const FLAGS: &[(&str, &str, Action)] = &[
    ("add", "Make the bitmap, which then records every write", Action::Add),
    ("remove", "Remove the bitmap", Action::Remove),
    ("clear", "Remove all of its marks", Action::Clear),
    ("enable", "Record every write from now on", Action::Enable),
    ("disable", "Record nothing from now on", Action::Disable),
];
