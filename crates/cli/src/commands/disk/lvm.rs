//! What `vmimg disk inspect` says of LVM.

use imgcore::lvm::{Group, Logical, Lvm, Physical};
use serde::Serialize;

use crate::output::{human_size, printable};

/// The physical volumes and volume groups of a disk, as JSON has them; sizes are bytes.
#[derive(Debug, Serialize)]
pub(super) struct LvmReport {
    physical_volumes: Vec<PhysicalReport>,
    volume_groups: Vec<GroupReport>,
}

#[derive(Debug, Serialize)]
struct PhysicalReport {
    /// 0 for a whole disk.
    partition: u32,
    uuid: String,
    group: Option<String>,
    /// Why it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
}

#[derive(Debug, Serialize)]
struct GroupReport {
    name: String,
    uuid: String,
    /// How often it was changed.
    seqno: u64,
    extent_size: u64,
    logical_volumes: Vec<LogicalReport>,
}

#[derive(Debug, Serialize)]
struct LogicalReport {
    name: String,
    uuid: String,
    size: u64,
    read_only: bool,
    /// Why it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
}

impl LvmReport {
    pub(super) fn new(lvm: &Lvm) -> Self {
        let physical = |physical: &Physical| PhysicalReport {
            partition: physical.partition,
            uuid: physical.uuid.clone(),
            group: physical.group.clone(),
            obstacle: physical.obstacle.clone(),
        };
        Self {
            physical_volumes: lvm.physical.iter().map(physical).collect(),
            volume_groups: lvm.groups.iter().map(GroupReport::new).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.physical_volumes.is_empty()
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for group in &self.volume_groups {
            let parts = self.physical_volumes.iter().filter(|physical| physical.group.as_ref() == Some(&group.name));
            let parts: Vec<_> = parts.map(|physical| physical.partition.to_string()).collect();
            let place = if parts == ["0"] { "the whole disk".to_owned() } else { format!("partition {}", parts.join(" and ")) };
            let extent = human_size(group.extent_size);
            text.push_str(&format!("volume group {} on {place}, extents of {extent}\n", printable(&group.name)));
            for logical in &group.logical_volumes {
                text.push_str(&format!(
                    "  {}/{}: {}\n",
                    printable(&group.name),
                    printable(&logical.name),
                    human_size(logical.size)
                ));
            }
        }
        text
    }
}

impl GroupReport {
    fn new(group: &Group) -> Self {
        let logical = |logical: &Logical| LogicalReport {
            name: logical.name.clone(),
            uuid: logical.uuid.clone(),
            size: logical.size,
            read_only: logical.read_only,
            obstacle: logical.place.as_ref().err().cloned(),
        };
        Self {
            name: group.name.clone(),
            uuid: group.uuid.clone(),
            seqno: group.seqno,
            extent_size: group.extent_size,
            logical_volumes: group.logical.iter().map(logical).collect(),
        }
    }
}
