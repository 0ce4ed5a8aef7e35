//! `vmimg disk df`: how full a file system is.

use imgcore::fs::ext4::Space;
use serde::Serialize;

use super::volume::{Volume, VolumeArgs};
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{ReportArgs, human_size, table};

/// The arguments of `vmimg disk df`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg disk df debian-12.qcow2
  vmimg disk df --json --partition 16 ubuntu-24.04.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    volume: VolumeArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Room in a file system, as JSON has it; sizes are bytes.
#[derive(Serialize)]
struct Room {
    size: u64,
    used: u64,
    free: u64,
    /// Free space that only root may use.
    reserved: u64,
    block_size: u32,
    inodes: u32,
    free_inodes: u32,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let volume = Volume::open(context, &args.volume)?;
    let Space { block_size, blocks, free_blocks, reserved_blocks, inodes, free_inodes } = volume.space()?;
    let bytes = |blocks: u64| blocks.saturating_mul(u64::from(block_size));
    let used = bytes(blocks.saturating_sub(free_blocks));
    let (size, free, reserved) = (bytes(blocks), bytes(free_blocks), bytes(reserved_blocks.min(free_blocks)));
    args.report.print(context, &Room { size, used, free, reserved, block_size, inodes, free_inodes }, Room::text)
}

impl Room {
    fn text(&self) -> String {
        let heads = ["SIZE", "USED", "FREE", "RESERVED", "INODES", "FREE"].map(str::to_owned).to_vec();
        let sizes = [self.size, self.used, self.free, self.reserved].map(human_size);
        let counts = [self.inodes, self.free_inodes].map(|count| count.to_string());
        table(&[heads, sizes.into_iter().chain(counts).collect()], &[0, 1, 2, 3, 4, 5])
    }
}
