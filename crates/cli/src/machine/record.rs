use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{FileIdentity, MachineName};
use crate::domain::Domain;

/// A machine as its `machine.json` records it.
///
/// The record is written last, into a folder that is renamed into place: a machine that has one is complete.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The version of this form: 1.
    pub format: u32,
    /// The name; the folder has the same.
    pub name: MachineName,
    /// How far the machine has come.
    pub state: State,
    /// When it was prepared, in seconds since 1970.
    pub created: u64,
    /// The one identity: instance id, SMBIOS system UUID and the domain's UUID.
    pub uuid: Uuid,
    /// The image that the disk is an overlay of.
    pub base: BaseRecord,
    /// The system disk.
    pub disk: DiskRecord,
    /// The data disks, in the order in which the guest sees them behind the system disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataRecord>,
    /// The seed ISO, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<SeedRecord>,
    /// The virtual machine; `domain.xml` says the same to libvirt.
    pub domain: Domain,
    /// What is known of the guest.
    pub guest: GuestRecord,
}

/// How far a machine has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// Prepared, verified and synced.
    Ready,
}

/// The base image of a machine, and how to notice that it has changed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRecord {
    /// What the user named: a path, a name in the store, or `builtin:demo`.
    pub reference: String,
    /// The file, absolute.
    pub path: PathBuf,
    /// The format, `raw` or `qcow2`.
    pub format: String,
    /// Size, time and inode when the machine was prepared.
    pub identity: FileIdentity,
    /// SHA-256 of the file in hexadecimal, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A disk of a machine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecord {
    /// The file's name in the machine's folder; none for a disk in an export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The address of the export, for a disk that is in one: it has all bytes of the base image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// The format: `qcow2`, or `raw` in an export.
    pub format: String,
    /// Bytes that the guest sees.
    pub size: u64,
}

/// A data disk of a machine, as it was made: what is on it belongs to the guest.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecord {
    /// The file's name in the machine's folder.
    pub file: String,
    /// The format: `qcow2`.
    pub format: String,
    /// Bytes that the guest sees.
    pub size: u64,
    /// The file system, `ext4`, `vfat`, `ext3` or `ext2`; or `swap`.
    pub r#type: String,
    /// Its label: `ephemeral0` and so on, or `swap`.
    pub label: String,
    /// Its UUID, or vfat's serial number.
    pub uuid: String,
}

/// The seed of a machine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SeedRecord {
    /// The file's name in the machine's folder.
    pub file: String,
    /// The volume label: `cidata` or `config-2`.
    pub label: String,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
}

/// What is known of a machine's guest.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GuestRecord {
    /// The operating system, as its os-release names it.
    pub os: String,
    /// The host name.
    pub hostname: String,
    /// The account that `vmimg ssh` logs in to.
    pub login: String,
    /// Lines for a known_hosts file, when the host keys were minted.
    pub known_hosts: Vec<String>,
    /// The Salt minion's id, when one was seeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minion: Option<String>,
}

/// The record's file in a machine's folder.
pub const RECORD_FILE: &str = "machine.json";
