//! `vmimg image snapshot`: states of a disk that are kept inside the image.

use std::ffi::OsString;
use std::time::UNIX_EPOCH;

use imgcore::image::{Disk, OpenOptions, SnapshotInfo, SnapshotList};
use imgcore::qcow2::NewSnapshot;

use super::reference::SourceArgs;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{open, open_writable};

/// The arguments of `vmimg image snapshot`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A snapshot keeps the disk as it is, and shares with it what stays the same. To
apply one gives up what was written since, unless another snapshot keeps it.
Nothing below the image is opened or kept.

Examples:
  vmimg image snapshot -c before-upgrade web1.qcow2
  vmimg image snapshot -l web1.qcow2
  vmimg image snapshot -a before-upgrade web1.qcow2
  vmimg image snapshot -d before-upgrade web1.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    action: Action,
    #[command(flatten)]
    source: SourceArgs,
    /// List them even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Accepted for scripts: there is nothing to be silent about
    #[arg(short = 'q', long, hide = true)]
    quiet: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
}

/// What is to be done, which is one thing.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Action {
    /// List the snapshots, which is also what happens without an action
    #[arg(short = 'l', long)]
    list: bool,
    /// Keep the disk as it is under a name, which need not be unique
    #[arg(short = 'c', long, value_name = "NAME")]
    create: Option<String>,
    /// Make the disk what it was: by id, or else by name
    #[arg(short = 'a', long, value_name = "SNAPSHOT")]
    apply: Option<String>,
    /// Delete the first of that name
    #[arg(short = 'd', long, value_name = "NAME")]
    delete: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let reference = args.source.reference(&args.image)?.shared(args.force_share);
    let trust = args.source.trust;
    let Action { create, apply, delete, .. } = &args.action;
    if create.is_none() && apply.is_none() && delete.is_none() {
        let how = OpenOptions { follow: false, ..reference.options(trust) };
        return list(&open(context, &reference.path, &how)?, context);
    }
    let how = OpenOptions { follow: false, ..reference.options_to_write(trust)? };
    let mut disk = open_writable(context, &reference.path, &how)?;
    let image =
        disk.qcow2_mut().ok_or_else(|| CommandError::new(ErrorKind::Unsupported, "the format `raw` has no snapshots"))?;
    if let Some(name) = create {
        let time = context.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        image.create_snapshot(&NewSnapshot { name: name.clone(), seconds, nanoseconds: time.subsec_nanos() })?;
    } else if let Some(which) = apply {
        image.apply_snapshot(which)?;
    } else if let Some(name) = delete {
        image.delete_snapshot(name)?;
    }
    Ok(())
}

fn list(disk: &Disk, context: &Context) -> Result<(), CommandError> {
    let snapshots = disk.qcow2().map_or_else(|| Ok(Vec::new()), |image| image.snapshots())?;
    let infos: Vec<SnapshotInfo> = snapshots.iter().map(SnapshotInfo::from).collect();
    context.write_out(SnapshotList(&infos).to_string().as_bytes())
}
