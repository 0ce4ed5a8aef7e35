//! `vmimg disk diff`: which files differ between two disks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use imgcore::block::BlockRead;
use imgcore::fs::{FileKind, GuestPath};
use serde::Serialize;

use super::stat::Facts;
use super::volume::{Volume, VolumeArgs};
use super::walk::{PassedOver, walk};
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{ReportArgs, printable};

/// The arguments of `vmimg disk diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line is a file: `+` is new in OTHER, `-` is gone, `~` is there in both and
names what differs: type, mode, owner, contents, target, device, attributes,
links, and the time of files. Contents are compared byte by byte.

Examples:
  vmimg disk diff base.qcow2 web1.qcow2
  vmimg disk diff --path /etc --json base.qcow2 web1.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    volume: VolumeArgs,
    /// The image to compare with
    #[arg(value_name = "OTHER")]
    other: PathBuf,
    /// Compare what is at and below this path
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: GuestPath,
    #[command(flatten)]
    report: ReportArgs,
}

/// A file that differs.
#[derive(Serialize)]
struct Difference {
    path: String,
    /// `added`, `removed` or `changed`.
    change: &'static str,
    /// What differs, in a file that is in both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    what: Vec<&'static str>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let volume = &args.volume;
    let other = VolumeArgs { image: args.other.clone(), partition: volume.partition.clone(), ..*volume };
    let (old, new) = (Volume::open(context, volume)?, Volume::open(context, &other)?);
    let (all, passed_over) = compare(context, (&old, &new), &args.path)?;
    args.report.print(context, &all, |all| all.iter().map(Difference::text).collect())?;
    passed_over.into_iter().try_for_each(PassedOver::check)
}

fn compare(
    context: &Context,
    (old, new): (&Volume, &Volume),
    path: &GuestPath,
) -> Result<(Vec<Difference>, [PassedOver; 2]), CommandError> {
    let ((mut before, in_old), (after, in_new)) = (kinds(context, old, path)?, kinds(context, new, path)?);
    let mut all: BTreeMap<GuestPath, Difference> = BTreeMap::new();
    let mut add = |path: GuestPath, change, what| {
        let shown = path.to_string();
        all.insert(path, Difference { path: shown, change, what });
    };
    for (path, kind) in after {
        context.interrupt().check()?;
        let Some(old_kind) = before.remove(&path) else {
            add(path, "added", Vec::new());
            continue;
        };
        let what = if kind == old_kind { differences(context, (old, new), &path, kind)? } else { vec!["type"] };
        if !what.is_empty() {
            add(path, "changed", what);
        }
    }
    before.into_keys().for_each(|path| add(path, "removed", Vec::new()));
    Ok((all.into_values().collect(), [in_old, in_new]))
}

type Kinds = (BTreeMap<GuestPath, FileKind>, PassedOver);

fn kinds(context: &Context, volume: &Volume, path: &GuestPath) -> Result<Kinds, CommandError> {
    let mut all = BTreeMap::new();
    let passed_over = walk(context, volume.file_system(), path, true, |path, found| {
        all.insert(path, found.kind);
        Ok(())
    })?;
    Ok((all, passed_over))
}

/// Returns what differs in a file of the same type.
fn differences(
    context: &Context,
    (old, new): (&Volume, &Volume),
    path: &GuestPath,
    kind: FileKind,
) -> Result<Vec<&'static str>, CommandError> {
    let (a, b) = (Facts::of(old, path)?, Facts::of(new, path)?);
    let is_file = kind == FileKind::File;
    let link = |volume: &Volume| volume.file_system().read_link(path);
    // The links of a folder are its folders, and its time and size follow its names: those are shown for themselves.
    let checks = [
        ("mode", a.mode != b.mode),
        ("owner", (a.uid, a.gid) != (b.uid, b.gid)),
        ("target", kind == FileKind::Symlink && link(old)? != link(new)?),
        ("device", a.device != b.device),
        ("attributes", a.xattrs != b.xattrs),
        ("links", kind != FileKind::Directory && a.links != b.links),
        ("time", is_file && a.mtime != b.mtime),
        ("contents", is_file && (a.size != b.size || !same_contents(context, (old, new), path)?)),
    ];
    Ok(checks.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect())
}

fn same_contents(context: &Context, (old, new): (&Volume, &Volume), path: &GuestPath) -> Result<bool, CommandError> {
    let (a, b) = (old.open_file(path)?, new.open_file(path)?);
    let mut offset = 0;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    while offset < a.size() {
        context.interrupt().check()?;
        let len = usize::try_from(a.size().saturating_sub(offset).min(PIECE)).unwrap_or(usize::MAX);
        left.resize(len, 0);
        right.resize(len, 0);
        a.read_exact_at(&mut left, offset)?;
        b.read_exact_at(&mut right, offset)?;
        if left != right {
            return Ok(false);
        }
        offset = offset.saturating_add(PIECE);
    }
    Ok(true)
}

impl Difference {
    fn text(&self) -> String {
        let path = printable(&self.path);
        match self.change {
            "added" => format!("+ {path}\n"),
            "removed" => format!("- {path}\n"),
            _ => format!("~ {path}: {}\n", self.what.join(", ")),
        }
    }
}

/// Bytes that are compared at a time.
const PIECE: u64 = 1 << 20;
