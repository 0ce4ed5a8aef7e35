//! `vmimg seed iso`: an ISO image of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use seed::document::Tree;

use super::sources::{OutArgs, file};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// The arguments of `vmimg seed iso`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The image is ISO 9660 with Joliet and Rock Ridge. The same files give the same
bytes when SOURCE_DATE_EPOCH is set, whose time the image then bears.

Examples:
  vmimg seed iso --label cidata --from seed/ seed.iso
  vmimg seed iso --force --label config-2 --from drive/ config-drive.iso")]
pub(super) struct Args {
    /// The volume label: cidata for NoCloud, config-2 for a config drive
    #[arg(long, value_name = "LABEL")]
    label: String,
    /// The folder whose files go into the image
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    args.out.check(context)?;
    let tree = read(context, &context.absolute(&args.from))?;
    args.out.write(context, &tree, &args.label)
}

/// Returns the regular files below `folder`; links, devices and names that are not UTF-8 are refused.
fn read(context: &Context, folder: &Path) -> Result<Tree, CommandError> {
    let refused = |path: &Path, why| CommandError::new(ErrorKind::Refused, format!("`{}` {why}", path.display()));
    let mut tree = Tree::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, inside)) = folders.pop() {
        context.interrupt().check()?;
        let cannot = |error| CommandError::io(format!("cannot read the folder `{}`", folder.display()), error);
        for entry in fs::read_dir(&folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| refused(&path, "has a name that is not UTF-8"))?;
            let kind = entry.file_type().map_err(cannot)?;
            if kind.is_dir() {
                folders.push((path, format!("{inside}{name}/")));
            } else if kind.is_file() {
                tree.insert(&format!("{inside}{name}"), file(context, &path)?)?;
            } else {
                return Err(refused(&path, "is neither a file nor a folder"));
            }
        }
    }
    Ok(tree)
}
