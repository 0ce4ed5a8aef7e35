//! Devices for people and programs.

use std::path::PathBuf;

use imgcore::nbd::attach::{Connection, Device};
use serde::Serialize;

use super::identity::Identity;

/// A device that is connected.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) device: PathBuf,
    /// None when another program serves it.
    pub(super) image: Option<String>,
    pub(super) pid: u32,
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) partitions: Vec<Part>,
}

/// A partition of it.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) device: PathBuf,
    pub(super) start: u64,
    pub(super) size: u64,
}

impl Report {
    /// Returns what there is to say about `device`, with the server of `connection`.
    pub(super) fn of(device: Device, connection: &Connection) -> Self {
        let identity = Identity::of(connection);
        let partitions = device.partitions().into_iter();
        let part = |part: imgcore::nbd::attach::Partition| Part {
            number: part.number,
            device: part.path,
            start: part.start,
            size: part.size,
        };
        Self {
            device: device.path(),
            pid: identity.as_ref().map_or_else(|| connection.pid(), |identity| identity.pid),
            image: identity.map(|identity| identity.image.to_string_lossy().into_owned()),
            size: device.size(),
            read_only: device.is_read_only(),
            partitions: partitions.map(part).collect(),
        }
    }
}
