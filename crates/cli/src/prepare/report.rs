//! What `vmimg prepare` says: the plan before, the machine after.

use std::path::PathBuf;

use seed::plan::{Note, Step};
use serde::Serialize;

use super::{Outcome, Plan};
use crate::domain::Domain;
use crate::machine::{DataRecord, Machine, Root};
use crate::output::human_size;
use crate::size::Size;

/// A prepared machine as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its folder.
    pub folder: PathBuf,
    /// Its record, as in `machine.json`.
    pub machine: Machine,
    /// What the reader should know.
    pub notes: Vec<Note>,
}

impl Report {
    /// Returns the report of an outcome.
    #[must_use]
    pub fn new(outcome: Outcome, root: &Root) -> Self {
        Self { folder: root.folder(&outcome.machine.name), machine: outcome.machine, notes: outcome.notes }
    }

    /// Returns the report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let machine = &self.machine;
        let mut text = format!("{}: ready in {}\n", machine.name, self.folder.display());
        let seed = machine.seed.as_ref().map_or(String::new(), |seed| format!(", seed {}", seed.label));
        text.push_str(&format!(
            "  {} on {}, {}{seed}\n",
            machine.guest.os,
            machine.base.reference,
            human_size(machine.disk.size)
        ));
        machine.data.iter().for_each(|disk| text.push_str(&data_disk(disk)));
        for line in &machine.guest.known_hosts {
            text.push_str(&format!("  known host: {line}\n"));
        }
        text
    }
}

/// A plan as `--dry-run --json` prints it. Contents are told by size and digest, never shown: they may be secrets.
#[derive(Debug, Serialize)]
pub struct Description {
    /// The machine's name.
    pub name: String,
    /// Bytes of the system disk.
    pub size: u64,
    /// Whether the root's partition and file system grow.
    pub grows: bool,
    /// The data disks, in the order in which the guest sees them.
    pub data: Vec<DataRecord>,
    /// What is done to the guest's files, in order.
    pub edits: Vec<Step>,
    /// The files of the seed, with their sizes in bytes.
    pub seed: Vec<(String, usize)>,
    /// The volume label of the seed.
    pub seed_label: Option<&'static str>,
    /// The virtual machine.
    pub domain: Domain,
    /// What the reader should know.
    pub notes: Vec<Note>,
}

/// Describes a plan.
#[must_use]
pub fn describe(plan: &Plan) -> Description {
    let seed = plan.seed.iter().flat_map(|seed| seed.tree.iter());
    Description {
        name: plan.name.to_string(),
        size: plan.size,
        grows: plan.grows,
        data: plan.data.iter().map(|disk| disk.record().clone()).collect(),
        edits: plan.planned.describe(),
        seed: seed.map(|(path, bytes)| (path.to_owned(), bytes.len())).collect(),
        seed_label: plan.seed.as_ref().map(|seed| seed.label),
        domain: plan.domain.clone(),
        notes: plan.planned.notes.clone(),
    }
}

impl Description {
    /// Returns the description for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}: would be made with a disk of {}", self.name, Size(self.size));
        text.push_str(if self.grows { ", root partition and file system grown\n" } else { "\n" });
        for edit in &self.edits {
            text.push_str(&format!("  {edit}\n"));
        }
        self.data.iter().for_each(|disk| text.push_str(&data_disk(disk)));
        if let Some(label) = self.seed_label {
            text.push_str(&format!("  seed {label}: {} files\n", self.seed.len()));
        }
        for nic in &self.domain.nics {
            let mac = nic.mac.map_or_else(String::new, |mac| mac.to_string());
            text.push_str(&format!("  interface {mac}\n"));
        }
        text
    }
}

fn data_disk(disk: &DataRecord) -> String {
    format!("  data disk {}: {}, {}\n", disk.label, disk.r#type, human_size(disk.size))
}
