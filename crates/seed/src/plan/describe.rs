use std::fmt;

use imgcore::fs::{Attributes, Content, Edit};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Planned;
use crate::guest::VolumeId;

/// One step of a plan, for reading; contents appear as their digest only.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Step {
    /// What is done: `write`, `append`, `append_line`, `create_dir`, `symlink`, `hard_link`, `make_node`, `rename`, `remove` or
    /// `set_attributes`.
    pub op: &'static str,
    /// The number of the partition, 0 for a disk without a partition table, or `GROUP/NAME` of the logical volume.
    pub partition: VolumeId,
    /// The path inside its file system.
    pub path: String,
    /// Bytes that are written or appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The permission bits in octal, when they are set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The owner's number, when it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group's number, when it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The text of a symbolic link, a name that the file has, or the name until now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The SHA-256 of what is written or appended, in hexadecimal; missing when it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The SELinux label, when it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Planned {
    /// Returns the steps in order, partition by partition.
    #[must_use]
    pub fn describe(&self) -> Vec<Step> {
        self.edits.iter().flat_map(|(partition, plan)| plan.edits.iter().map(|edit| Step::of(partition, edit))).collect()
    }
}

impl Step {
    /// Returns the step that `edit` is.
    #[must_use]
    pub fn of(partition: &VolumeId, edit: &Edit) -> Self {
        let mut step = Self {
            op: "unknown",
            partition: partition.clone(),
            path: edit.path().to_string(),
            size: None,
            mode: None,
            uid: None,
            gid: None,
            target: None,
            sha256: None,
            label: None,
        };
        match edit {
            Edit::Write { content, attributes, .. } => {
                step.op = "write";
                step.size = Some(content.len());
                step.sha256 = digest(content);
                step.set(attributes);
            }
            Edit::CreateFile { content, attributes, .. } => {
                step.op = "create_file";
                step.size = Some(content.len());
                step.sha256 = digest(content);
                step.set(attributes);
            }
            Edit::Append { content, attributes, .. } => {
                step.op = "append";
                step.size = Some(content.len());
                step.sha256 = digest(content);
                step.set(attributes);
            }
            Edit::HardLink { target, .. } => {
                step.op = "hard_link";
                step.target = Some(target.to_string());
            }
            Edit::Rename { from, .. } => {
                step.op = "rename";
                step.target = Some(from.to_string());
            }
            Edit::MakeNode { attributes, .. } => {
                step.op = "make_node";
                step.set(attributes);
            }
            Edit::CreateDir { attributes, .. } => {
                step.op = "create_dir";
                step.set(attributes);
            }
            Edit::Symlink { target, attributes, .. } => {
                step.op = "symlink";
                step.target = Some(target.clone());
                step.set(attributes);
                step.mode = None;
            }
            Edit::Remove { .. } => step.op = "remove",
            Edit::SetAttributes { attributes, .. } => {
                step.op = "set_attributes";
                step.set(attributes);
            }
            Edit::AppendLine { line, attributes, .. } => {
                step.op = "append_line";
                let content = Content::from(format!("{line}\n").as_str());
                step.size = Some(content.len());
                step.sha256 = digest(&content);
                step.set(attributes);
            }
            _ => {}
        }
        step
    }

    fn set(&mut self, attributes: &Attributes) {
        self.mode = attributes.mode.map(|mode| format!("{mode:04o}"));
        self.uid = attributes.uid;
        self.gid = attributes.gid;
        let label = attributes.xattrs.get("security.selinux");
        self.label = label.map(|label| String::from_utf8_lossy(label).trim_end_matches('\0').to_owned());
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14} {}:{}", self.op, self.partition, printable(&self.path))?;
        if let Some(target) = &self.target {
            write!(f, " -> {}", printable(target))?;
        }
        if let Some(mode) = &self.mode {
            write!(f, " {mode}")?;
        }
        match (self.uid, self.gid) {
            (Some(uid), Some(gid)) => write!(f, " {uid}:{gid}")?,
            (Some(uid), None) => write!(f, " {uid}")?,
            (None, Some(gid)) => write!(f, " :{gid}")?,
            (None, None) => {}
        }
        if let Some(size) = self.size {
            write!(f, " {size} bytes")?;
        }
        if let Some(digest) = &self.sha256 {
            write!(f, " sha256:{}", digest.get(..16).unwrap_or(digest))?;
        }
        if let Some(label) = &self.label {
            write!(f, " {}", printable(label))?;
        }
        Ok(())
    }
}

/// Returns a text of a guest without what a terminal would take for commands.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn digest(content: &Content) -> Option<String> {
    let mut digest = Sha256::new();
    match content {
        Content::Bytes(bytes) => digest.update(bytes),
        Content::Disk(disk) => {
            let mut buf = vec![0; CHUNK];
            let mut offset = 0_u64;
            while offset < disk.size() {
                let left = usize::try_from(disk.size().saturating_sub(offset)).unwrap_or(CHUNK).min(CHUNK);
                let part = buf.get_mut(..left)?;
                disk.read_exact_at(part, offset).ok()?;
                digest.update(&*part);
                offset = offset.checked_add(u64::try_from(left).ok()?)?;
            }
        }
    }
    Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

const CHUNK: usize = 1 << 20;
