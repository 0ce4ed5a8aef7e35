//! `vmimg seed nocloud`: a NoCloud seed for cloud-init.

use std::path::{Path, PathBuf};

use seed::document::{NOCLOUD_LABEL, NoCloud, Tree, UserData};
use seed::identity::Identity;

use super::RandomArgs;
use super::sources::{OutArgs, file, ssh_keys, user_data};
use crate::context::Context;
use crate::error::CommandError;

/// The arguments of `vmimg seed nocloud`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
cloud-init runs again when the instance id is another one than at the last boot.

Examples:
  vmimg seed nocloud --hostname web1 --ssh-key ~/.ssh/id_ed25519.pub seed.iso
  vmimg seed nocloud --user-data user.yaml --network-config net.yaml seed.iso
  vmimg seed nocloud --meta-data meta.yaml --user-data user.yaml seed.iso")]
pub(super) struct Args {
    /// The host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// The instance id; a new UUID otherwise
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,
    /// A file with SSH public keys for the image's default user
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// The user data: cloud-config, a script or a MIME archive
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// The vendor data
    #[arg(long, value_name = "FILE")]
    vendor_data: Option<PathBuf>,
    /// The network configuration, in cloud-init's version 1 or 2
    #[arg(long, value_name = "FILE")]
    network_config: Option<PathBuf>,
    /// All of the meta data
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hostname", "instance_id", "ssh_key"])]
    meta_data: Option<PathBuf>,
    #[command(flatten)]
    random: RandomArgs,
    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    args.out.check(context)?;
    let mut tree = match &args.meta_data {
        Some(meta_data) => given(args, context, meta_data)?,
        None => documents(args, context)?.tree()?,
    };
    if let Some(config) = &args.network_config {
        tree.insert("network-config", file(context, config)?)?;
    }
    args.out.write(context, &tree, NOCLOUD_LABEL)
}

fn documents(args: &Args, context: &Context) -> Result<NoCloud, CommandError> {
    let instance_id = match &args.instance_id {
        Some(id) => id.clone(),
        None => Identity::generate(&args.random.randomness(context, "nocloud"), 0).instance_id(),
    };
    let mut seed = NoCloud::new(instance_id);
    seed.local_hostname.clone_from(&args.hostname);
    seed.public_keys = ssh_keys(context, &args.ssh_key)?;
    seed.user_data = user_data(context, args.user_data.as_ref())?;
    seed.vendor_data = user_data(context, args.vendor_data.as_ref())?;
    Ok(seed)
}

/// Returns a seed with meta data as it was given.
fn given(args: &Args, context: &Context, meta_data: &Path) -> Result<Tree, CommandError> {
    let mut tree = Tree::new();
    tree.insert("meta-data", file(context, meta_data)?)?;
    let encoded = |data: Option<UserData>| data.map(|data| data.encode()).transpose();
    let user = encoded(user_data(context, args.user_data.as_ref())?)?;
    // cloud-init passes a seed without user data by.
    tree.insert("user-data", user.unwrap_or_default())?;
    if let Some(vendor) = encoded(user_data(context, args.vendor_data.as_ref())?)? {
        tree.insert("vendor-data", vendor)?;
    }
    Ok(tree)
}
