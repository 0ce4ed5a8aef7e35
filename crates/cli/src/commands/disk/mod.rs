//! `vmimg disk`: what is inside an image, without mounting it.

mod attached;
mod carry_out;
mod cat;
mod change;
mod chmod;
mod chown;
mod dest;
mod df;
mod diff;
mod get;
mod grow;
mod host_file;
mod host_tree;
mod host_xattr;
mod inject;
mod inspect;
mod ln;
mod ls;
mod lvm;
mod manifest;
mod mkdir;
mod mkfs;
mod mv;
mod partitions;
mod pipe;
mod put;
mod resize;
mod rm;
mod stat;
mod tar;
mod undo;
mod volume;
mod walk;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg disk`.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
An image is a qcow2 or raw file, a block device, or an export such as
nbd://HOST/NAME or nbd+unix:///NAME?socket=PATH. `--partition` is needed only
where it is not clear which partition, or logical volume of LVM, holds the root.

Whatever ends a change before it is done, a power cut too, leaves the old disk or
the new one. It is made in place, by one transaction of the file system's own
journal; without a journal that has room for it, in a copy of the image file,
which then replaces it. Devices and exports are always changed in place; there
`--undo-log` keeps the old contents for what the journal cannot do."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what is on a disk: partitions, file systems and the guest
    Inspect(inspect::Args),
    /// Show the partition table
    Partitions(partitions::Args),
    /// List files in a guest
    Ls(ls::Args),
    /// Print files of a guest
    Cat(cat::Args),
    /// Show everything about files of a guest
    Stat(stat::Args),
    /// Show how full a file system is
    Df(df::Args),
    /// Show which files differ between two disks
    Diff(diff::Args),
    /// Copy a file or folder out of a guest
    Get(get::Args),
    /// Copy a file or folder into a guest
    Put(put::Args),
    /// Remove files and folders of a guest
    Rm(rm::Args),
    /// Rename or move a file or folder of a guest
    Mv(mv::Args),
    /// Make a link in a guest
    Ln(ln::Args),
    /// Make folders in a guest
    Mkdir(mkdir::Args),
    /// Change the permissions of files of a guest
    Chmod(chmod::Args),
    /// Change the owner of files of a guest
    Chown(chown::Args),
    /// Carry out a list of changes to a guest's files, all of them or none
    Inject(inject::Args),
    /// Give a partition and its file system the space that the disk has
    Grow(grow::Args),
    /// Give a file system a certain size
    Resize(resize::Args),
    /// Make a file system or swap space
    Mkfs(mkfs::Args),
    /// Bring back what a change with an undo log has overwritten
    Undo(undo::Args),
}

/// Runs `vmimg disk`.
///
/// # Errors
///
/// What the verb failed with.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.verb {
        Verb::Inspect(args) => inspect::run(&args, context),
        Verb::Partitions(args) => partitions::run(&args, context),
        Verb::Ls(args) => ls::run(&args, context),
        Verb::Cat(args) => cat::run(&args, context),
        Verb::Stat(args) => stat::run(&args, context),
        Verb::Df(args) => df::run(&args, context),
        Verb::Diff(args) => diff::run(&args, context),
        Verb::Get(args) => get::run(&args, context),
        Verb::Put(args) => put::run(&args, context),
        Verb::Rm(args) => rm::run(&args, context),
        Verb::Mv(args) => mv::run(args, context),
        Verb::Ln(args) => ln::run(args, context),
        Verb::Mkdir(args) => mkdir::run(args, context),
        Verb::Chmod(args) => chmod::run(&args, context),
        Verb::Chown(args) => chown::run(&args, context),
        Verb::Inject(args) => inject::run(&args, context),
        Verb::Grow(args) => grow::run(&args, context),
        Verb::Resize(args) => resize::run(&args, context),
        Verb::Mkfs(args) => mkfs::run(&args, context),
        Verb::Undo(args) => undo::run(&args, context),
    }
}
