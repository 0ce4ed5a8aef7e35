//! The disk in memory, and the files of a machine in its hidden folder.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use imgcore::block::{BlockRead, ByteRange, Change, Joined, Resize, Staged};
use imgcore::fs::EditPlan;
use imgcore::fs::ext4::{self, Editor, Timestamp};
use imgcore::image::Disk;
use imgcore::partition;
use imgcore::qcow2::{self, Content, CreateOptions, NewBacking};
use imgcore::storage::{Access, FileDisk};
use seed::guest::VolumeId;
use seed::iso::{self, VolumeLabel};
use sha2::{Digest, Sha256};

use super::{Base, Plan};
use crate::attached::Target;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::files::hex;
use crate::layout::not_grown;
use crate::machine::{BaseRecord, DiskRecord, GuestRecord, Machine, SeedRecord, Staging, State};

/// A machine's disk before it is written: the base with every change in memory.
#[derive(Debug)]
pub(super) struct StagedDisk {
    /// The base below its changes.
    pub(super) disk: Staged<Arc<Disk>>,
    /// Where the volumes are that have been edited, with what was done to them.
    pub(super) edited: Vec<(Vec<ByteRange>, EditPlan)>,
    /// The file systems that the kernel is to change once they are in the overlay, whether they grow, and their edits.
    pub(super) left: Vec<(Target, bool, EditPlan)>,
}

/// Grows and edits the disk in memory. It is verified once it has been written, by reading it back.
pub(super) fn disk(plan: &Plan, base: &Base, context: &Context) -> Result<StagedDisk, CommandError> {
    let now = Timestamp { secs: plan.now, nanos: 0 };
    let root = &base.guest.root_partition;
    let mut disk = Staged::new(Arc::clone(&base.disk));
    if plan.grows {
        disk.resize(plan.size)?;
    }
    let (mut edited, mut left) = (Vec::new(), Vec::new());
    let mut edits = plan.planned.edits.clone();
    // The root is there even without an edit: it may grow.
    edits.entry(root.clone()).or_default();
    for (id, edits) in edits {
        context.interrupt().check()?;
        base.layout.refuse_read_only(&id)?;
        let grows = plan.grows && id == *root;
        let place = if grows { grow_partition(&mut disk, base, &id)? } else { base.layout.place(&id)? };
        if let Some(target) = base.mounted.iter().find(|target| target.id == id) {
            left.push((target.clone(), grows, edits));
            continue;
        }
        let mut window = Joined::open(&mut disk, &place)?;
        if grows {
            ext4::grow(&mut window)?;
        }
        if !edits.edits.is_empty() {
            let mut editor = Editor::open(window, now)?;
            editor.apply(&edits)?;
            editor.finish()?;
        }
        edited.push((place, edits));
    }
    Ok(StagedDisk { disk, edited, left })
}

/// Grows the partition `id` on the enlarged disk and returns where it is.
fn grow_partition(disk: &mut Staged<Arc<Disk>>, base: &Base, id: &VolumeId) -> Result<Vec<ByteRange>, CommandError> {
    match id {
        VolumeId::Partition(_) if base.layout.table.is_none() => Ok(vec![ByteRange::new(0, disk.size()).unwrap_or_default()]),
        VolumeId::Partition(number) => Ok(vec![partition::grow(disk, *number)?.new]),
        VolumeId::Logical { .. } => Err(not_grown(id).hint("without `--size`, the disk keeps its size")),
    }
}

/// Writes the files of the machine into its hidden folder and returns its record.
pub(super) fn files(
    plan: &Plan,
    base: &Base,
    disk: &StagedDisk,
    staging: &Staging,
    context: &Context,
) -> Result<Machine, CommandError> {
    match &plan.target {
        Some(target) => target.write(&disk.disk, context)?,
        None => write_overlay(&staging.path().join(DISK_FILE), base, disk)?,
    }
    plan.data.iter().try_for_each(|disk| disk.write(staging.path()))?;
    context.interrupt().check()?;
    let seed = match &plan.seed {
        None => None,
        Some(seed) => {
            let bytes = iso::create(&seed.tree, &VolumeLabel::new(seed.label)?, plan.now)?;
            write_file(&staging.path().join(SEED_FILE), &bytes)?;
            let sha256 = hex(&Sha256::digest(&bytes));
            Some(SeedRecord { file: SEED_FILE.to_owned(), label: seed.label.to_owned(), sha256 })
        }
    };
    write_file(&staging.path().join(DOMAIN_FILE), plan.domain.to_xml()?.as_bytes())?;
    base.check_unchanged()?;
    Ok(Machine {
        format: 1,
        name: plan.name.clone(),
        state: State::Ready,
        created: u64::try_from(plan.now).unwrap_or_default(),
        uuid: plan.identity.uuid,
        base: BaseRecord {
            reference: base.image.reference.clone(),
            path: base.image.path.clone(),
            format: base.image.format.name().to_owned(),
            identity: base.image.identity,
            sha256: base.image.sha256.clone(),
        },
        disk: match &plan.target {
            Some(target) => target.record(plan.size)?,
            None => DiskRecord { file: Some(DISK_FILE.to_owned()), export: None, format: "qcow2".to_owned(), size: plan.size },
        },
        data: plan.data.iter().map(|disk| disk.record().clone()).collect(),
        seed,
        domain: plan.domain.clone(),
        guest: GuestRecord {
            os: base.guest.os.pretty_name.clone().unwrap_or_else(|| base.guest.os.id.clone()),
            hostname: plan.hostname.clone(),
            login: plan.login.clone(),
            known_hosts: plan.planned.known_hosts.clone(),
            minion: plan.planned.minion.as_ref().map(|minion| minion.id.clone()),
        },
    })
}

/// Writes the overlay in one pass: it is private until it is published, so nothing in it needs an order.
fn write_overlay(path: &Path, base: &Base, disk: &StagedDisk) -> Result<(), CommandError> {
    let mut options = CreateOptions::new(disk.disk.size());
    options.cluster_size = base.disk.cluster_size().unwrap_or(options.cluster_size);
    let name = base.image.path.as_os_str().as_bytes().to_vec();
    options.backing = Some(NewBacking { name, format: base.image.format.name().to_owned() });
    let changed: Vec<ByteRange> = disk.disk.changes().iter().map(Change::range).collect();
    write_qcow2(path, &options, &Content::new(&disk.disk, &changed).over(&*base.disk))
}

/// Writes an image in one pass.
pub(super) fn write_qcow2(path: &Path, options: &CreateOptions, content: &Content<'_>) -> Result<(), CommandError> {
    write_file(path, &[])?;
    let mut file = FileDisk::open(path, Access::ReadWrite)?;
    Ok(qcow2::write_image(&mut file, options, content)?)
}

/// Writes the record.
pub(super) fn write_record(path: &Path, machine: &Machine) -> Result<(), CommandError> {
    let mut json = serde_json::to_vec_pretty(machine)
        .map_err(|error| CommandError::new(ErrorKind::Unexpected, "cannot write the record").with_source(error))?;
    json.push(b'\n');
    write_file(path, &json)
}

/// Writes a file for its owner's eyes alone: disk and seed hold private keys, and libvirt's root gives them to its own user.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(|error| CommandError::io(format!("cannot write `{}`", path.display()), error))
}

/// The system disk's file in a machine's folder.
pub(super) const DISK_FILE: &str = "disk.qcow2";
/// The seed's.
pub(super) const SEED_FILE: &str = "seed.iso";
/// The domain's.
pub(super) const DOMAIN_FILE: &str = "domain.xml";
