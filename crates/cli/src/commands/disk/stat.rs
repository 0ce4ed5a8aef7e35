//! `vmimg disk stat`: everything about files of a guest.

use std::collections::BTreeMap;

use imgcore::fs::{FileKind, GuestPath, Node};
use serde::Serialize;

use super::ls::{name_of, text};
use super::volume::{Volume, VolumeArgs};
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{ReportArgs, printable};
use crate::time::utc;

/// The arguments of `vmimg disk stat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A link is shown, not what it leads to. In JSON the values of extended attributes
are hexadecimal, as in the manifest of `vmimg disk inject`.

Examples:
  vmimg disk stat web1.qcow2 /etc/hostname
  vmimg disk stat --json web1.qcow2 /bin /dev/null")]
pub(super) struct Args {
    #[command(flatten)]
    volume: VolumeArgs,
    /// The files in the guest
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<GuestPath>,
    #[command(flatten)]
    report: ReportArgs,
}

/// All that is known of a file.
#[derive(Serialize)]
pub(super) struct Facts {
    pub(super) path: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// Octal.
    pub(super) mode: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) inode: u64,
    /// Seconds since 1970.
    pub(super) mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    /// Major and minor number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<(u32, u32)>,
    /// Values in hexadecimal.
    pub(super) xattrs: BTreeMap<String, String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let volume = Volume::open(context, &args.volume)?;
    let all = args.paths.iter().map(|path| Facts::of(&volume, path)).collect::<Result<Vec<_>, _>>()?;
    args.report.print(context, &all, |all| all.iter().map(Facts::text).collect::<Vec<_>>().join("\n"))
}

impl Facts {
    /// Returns what is known of `path`, a link not followed.
    pub(super) fn of(volume: &Volume, path: &GuestPath) -> Result<Self, CommandError> {
        let files = volume.file_system();
        let found = files.symlink_metadata(path)?;
        let target = if found.kind == FileKind::Symlink { Some(text(&files.read_link(path)?)) } else { None };
        let device = match volume.node(path)? {
            Some(Node::CharDevice(device) | Node::BlockDevice(device)) => Some((device.major, device.minor)),
            _ => None,
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let xattrs = volume.xattrs(path)?.into_iter().map(|(name, value)| (text(name.as_ref()), hex(&value))).collect();
        Ok(Self {
            path: path.to_string(),
            kind: name_of(found.kind),
            mode: format!("{:04o}", found.mode),
            uid: found.uid,
            gid: found.gid,
            size: found.size,
            links: found.links,
            inode: found.inode,
            mtime: found.mtime,
            target,
            device,
            xattrs,
        })
    }

    fn text(&self) -> String {
        let target = self.target.as_ref().map(|target| format!(" -> {}", printable(target))).unwrap_or_default();
        let device = self.device.map(|(major, minor)| format!(" {major}, {minor}")).unwrap_or_default();
        let mut text = format!("{}{target}\n", printable(&self.path));
        text.push_str(&format!("  {}{device}, {} bytes, inode {}, links {}\n", self.kind, self.size, self.inode, self.links));
        text.push_str(&format!("  mode {}, owner {}:{}, changed {}\n", self.mode, self.uid, self.gid, utc(self.mtime)));
        for (name, value) in &self.xattrs {
            text.push_str(&format!("  {} {value}\n", printable(name)));
        }
        text
    }
}
