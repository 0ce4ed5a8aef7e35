//! `vmimg disk partitions`: the partition table of an image.

use std::path::PathBuf;

use imgcore::block::BlockRead;
use imgcore::image::Format;
use imgcore::partition::{Partition, Table, TableKind};
use serde::Serialize;

use crate::context::Context;
use crate::error::CommandError;
use crate::open::{TrustArgs, open, options};
use crate::output::{ReportArgs, human_size, printable, table, warn};

/// The arguments of `vmimg disk partitions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg disk partitions debian-12.qcow2
  vmimg disk partitions --json -f raw disk.img")]
pub(super) struct Args {
    /// The image's format; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<Format>,
    #[command(flatten)]
    trust: TrustArgs,
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// A partition table, as JSON has it; all offsets and sizes are bytes.
#[derive(Debug, Serialize)]
pub(super) struct TableReport {
    /// `gpt` or `mbr`, nothing for a disk without a table.
    pub(super) label: Option<TableKind>,
    pub(super) sector_size: u64,
    pub(super) id: String,
    pub(super) size: u64,
    pub(super) partitions: Vec<PartitionReport>,
    pub(super) notes: Vec<String>,
}

/// A partition, as JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct PartitionReport {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) size: u64,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) bootable: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let disk = open(context, &args.image, &options(args.format, args.trust))?;
    let report = TableReport::new(Table::read(&disk)?, disk.size());
    for note in &report.notes {
        warn(context, note);
    }
    args.report.print(context, &report, TableReport::text)
}

impl TableReport {
    /// Returns the report on the table of a disk of `size` bytes.
    pub(super) fn new(table: Option<Table>, size: u64) -> Self {
        let Some(table) = table else {
            return Self { label: None, sector_size: 512, id: String::new(), size, partitions: Vec::new(), notes: Vec::new() };
        };
        let partitions = table.partitions.iter().map(PartitionReport::new).collect();
        Self {
            label: Some(table.kind),
            sector_size: table.sector_size,
            id: table.disk_id,
            size,
            partitions,
            notes: table.notes,
        }
    }

    pub(super) fn text(&self) -> String {
        let label = match self.label {
            None => return format!("no partition table, {}\n", human_size(self.size)),
            Some(TableKind::Gpt) => "GPT",
            Some(TableKind::Mbr) => "MBR",
        };
        let head = format!("{label} {}, {}, sectors of {} bytes\n", self.id, human_size(self.size), self.sector_size);
        let heading = ["NUMBER", "START", "SIZE", "", "TYPE", "NAME"].map(str::to_owned).to_vec();
        let rows = self.partitions.iter().map(|partition| {
            let name = printable(&partition.name);
            let name = if partition.bootable { format!("{name} (bootable)") } else { name };
            vec![
                partition.number.to_string(),
                partition.start.to_string(),
                partition.size.to_string(),
                format!("({})", human_size(partition.size)),
                type_name(&partition.kind).map_or_else(|| partition.kind.clone(), str::to_owned),
                name.trim_start().to_owned(),
            ]
        });
        let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
        head + &table(&rows, &[0, 1, 2])
    }
}

impl PartitionReport {
    fn new(partition: &Partition) -> Self {
        Self {
            number: partition.number,
            start: partition.range.start(),
            size: partition.range.len(),
            kind: partition.partition_type.to_string(),
            uuid: partition.part_uuid.clone(),
            name: partition.name.clone(),
            bootable: partition.bootable,
        }
    }
}

/// Returns what people call a partition type.
fn type_name(kind: &str) -> Option<&'static str> {
    let name = TYPES.iter().find(|(known, _)| *known == kind)?;
    Some(name.1)
}

/// The types of cloud images.
const TYPES: &[(&str, &str)] = &[
    ("0x05", "extended"),
    ("0x0c", "FAT32"),
    ("0x0f", "extended"),
    ("0x82", "Linux swap"),
    ("0x83", "Linux"),
    ("0x8e", "Linux LVM"),
    ("0xef", "EFI system"),
    ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux"),
    ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap"),
    ("21686148-6449-6E6F-744E-656564454649", "BIOS boot"),
    ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "Linux root (x86-64)"),
    ("B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "Linux root (arm64)"),
    ("BC13C2FF-59E6-4262-A352-B275FD6F7172", "Linux extended boot"),
    ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system"),
    ("E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM"),
];
