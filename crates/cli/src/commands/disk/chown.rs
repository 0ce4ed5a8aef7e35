//! `vmimg disk chown`: the owner of files of a guest.

use std::str::FromStr;

use imgcore::fs::{Attributes, Edit, EditPlan, GuestPath};

use super::carry_out::carry_out;
use super::change::ChangeArgs;
use super::volume::Volume;
use super::walk::walk;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::ReportArgs;

/// The arguments of `vmimg disk chown`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Owners are numbers, as the names are the guest's. A link itself is changed, not
what it leads to.

Examples:
  vmimg disk chown web1.qcow2 1000:1000 /home/ada/.profile
  vmimg disk chown -R web1.qcow2 33:33 /srv/www")]
pub(super) struct Args {
    #[command(flatten)]
    change: ChangeArgs,
    /// Go down into folders
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The owner's and the group's number; one of them may be left out
    #[arg(value_name = "UID:GID")]
    owner: Owner,
    /// The files in the guest
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<GuestPath>,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut edits = Vec::new();
    let mut attributes = Attributes::default();
    args.owner.set(&mut attributes);
    let volume = Volume::open(context, &args.change.volume)?;
    for path in &args.paths {
        walk(context, volume.file_system(), path, args.recursive, |path, _| {
            edits.push(Edit::SetAttributes { path, attributes: attributes.clone() });
            Ok(())
        })?
        .check()?;
    }
    drop(volume);
    carry_out(context, &args.change, args.report, EditPlan { edits })
}

/// An owner, a group, or both, by number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Owner {
    /// Sets what is named.
    pub(super) fn set(self, attributes: &mut Attributes) {
        attributes.uid = self.uid.or(attributes.uid);
        attributes.gid = self.gid.or(attributes.gid);
    }
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
        match (number(uid), number(gid)) {
            (Ok(uid), Ok(gid)) if uid.is_some() || gid.is_some() => Ok(Self { uid, gid }),
            _ => Err("an owner is two numbers as in 1000:1000, or one of them as in 1000 or :1000".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Owner;

    #[test]
    fn an_owner_is_one_number_or_two() {
        let owner = |uid, gid| Ok(Owner { uid, gid });
        assert_eq!("7:8".parse(), owner(Some(7), Some(8)));
        assert_eq!("7".parse(), owner(Some(7), None));
        assert_eq!(":8".parse(), owner(None, Some(8)));
        for text in ["", ":", "root", "1:2:3", "-1", "4294967296"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}
