//! `vmimg disk inspect`: what is on a disk.

use std::path::PathBuf;
use std::sync::Arc;

use imgcore::block::BlockRead;
use imgcore::image::Format;
use seed::guest::{Guest, Tree, Volume, VolumeContent, VolumeId, VolumeNames};
use serde::Serialize;

use super::lvm::LvmReport;
use super::partitions::TableReport;
use crate::context::Context;
use crate::error::CommandError;
use crate::layout::Layout;
use crate::open::{TrustArgs, open, options};
use crate::output::{ReportArgs, human_size, printable};
use crate::volumes::volumes;

/// The arguments of `vmimg disk inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg disk inspect debian-12.qcow2
  vmimg disk inspect --partition debian-vg/root lvm.qcow2
  vmimg disk inspect --json -f raw disk.raw")]
pub(super) struct Args {
    /// The image's format; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The root's partition, or GROUP/NAME on LVM, where that is not clear
    #[arg(long, value_name = "N")]
    partition: Option<VolumeId>,
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// What is on a disk, as JSON has it; sizes are bytes.
#[derive(Serialize)]
struct DiskReport {
    format: String,
    size: u64,
    table: TableReport,
    #[serde(skip_serializing_if = "LvmReport::is_empty")]
    lvm: LvmReport,
    file_systems: Vec<FileSystemReport>,
    guest: Option<Guest>,
    /// Why nothing is known about the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_guest: Option<String>,
}

#[derive(Serialize)]
struct FileSystemReport {
    /// 0 for a disk without a partition table, `GROUP/NAME` for a logical volume.
    partition: VolumeId,
    /// `ext4`, or why the partition cannot be read.
    content: String,
    #[serde(flatten)]
    names: VolumeNames,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let disk = Arc::new(open(context, &args.image, &options(args.format, args.trust))?);
    let (format, size) = (disk.format().to_string(), disk.size());
    let layout = Layout::read(&disk)?;
    let volumes = volumes(&disk, &layout)?;
    let lvm = LvmReport::new(&layout.lvm);
    let tree = Tree::assemble(&volumes, args.partition.as_ref());
    let guest = tree.and_then(|tree| Guest::inspect(&tree));
    let (guest, no_guest) = match guest {
        Ok(guest) => (Some(guest), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let file_systems = volumes.into_iter().map(FileSystemReport::new).collect();
    let report = DiskReport { format, size, table: TableReport::new(layout.table, size), lvm, file_systems, guest, no_guest };
    args.report.print(context, &report, DiskReport::text)
}

impl FileSystemReport {
    fn new(volume: Volume) -> Self {
        let content = match volume.content {
            VolumeContent::Files(_) => "ext4".to_owned(),
            VolumeContent::Other(reason) => reason,
        };
        Self { partition: volume.partition, content, names: volume.names }
    }
}

impl DiskReport {
    fn text(&self) -> String {
        let mut text = format!("{} image, {}\n", self.format, human_size(self.size));
        text.push_str(&self.table.text());
        text.push_str(&self.lvm.text());
        for files in &self.file_systems {
            let place = match &files.partition {
                VolumeId::Partition(0) => "whole disk".to_owned(),
                id => id.described(),
            };
            let label = files.names.label.as_ref().map(|label| format!(", label {}", printable(label))).unwrap_or_default();
            text.push_str(&format!("{place}: {}{label}\n", printable(&files.content)));
        }
        match (&self.guest, &self.no_guest) {
            (Some(guest), _) => text.push_str(&guest_text(guest)),
            (None, reason) => text.push_str(&format!("guest: {}\n", reason.as_deref().unwrap_or("none"))),
        }
        text
    }
}

fn guest_text(guest: &Guest) -> String {
    let name = guest.os.pretty_name.clone().unwrap_or_else(|| guest.os.id.clone());
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let users: Vec<&str> =
        guest.users.iter().filter(|user| user.uid >= 1000 && user.uid < 65534).map(|user| user.name.as_str()).collect();
    let lines = [
        format!("guest: {}, root on {}", printable(name), guest.root_partition.described()),
        format!("host name: {}", printable(guest.hostname.as_deref().unwrap_or("none"))),
        format!("users: {}", if users.is_empty() { "none but the system's".to_owned() } else { printable(users.join(", ")) }),
        format!("cloud-init: {}", yes_no(guest.cloud_init)),
        format!("SSH server: {}", yes_no(guest.ssh_server.is_some())),
        format!("Salt minion: {}", yes_no(guest.salt_minion.is_some())),
        format!("SELinux: {}", yes_no(guest.selinux.is_some())),
    ];
    lines.join("\n") + "\n"
}
