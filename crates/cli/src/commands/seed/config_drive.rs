//! `vmimg seed config-drive`: an OpenStack config drive for cloud-init.

use std::path::PathBuf;

use imgcore::fs::GuestPath;
use seed::document::{CONFIG_DRIVE_LABEL, ConfigDrive, DATED_VERSIONS, InjectedFile, Tree};
use seed::identity::Identity;
use uuid::Uuid;

use super::RandomArgs;
use super::sources::{OutArgs, file, ssh_keys, user_data};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// The arguments of `vmimg seed config-drive`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg seed config-drive --hostname web1 --ssh-key id_ed25519.pub drive.iso
  vmimg seed config-drive --hostname web1 --user-data user.yaml \\
    --file /etc/motd=motd.txt --meta role=web drive.iso")]
pub(super) struct Args {
    /// The host name
    #[arg(long, value_name = "NAME")]
    hostname: String,
    /// The machine's UUID, which is cloud-init's instance id; a new one otherwise
    #[arg(long, value_name = "UUID")]
    uuid: Option<Uuid>,
    /// A file with SSH public keys for the image's default user
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// The user data: cloud-config, a script or a MIME archive
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// The network, as OpenStack's network_data.json
    #[arg(long, value_name = "FILE")]
    network_data: Option<PathBuf>,
    /// A file that cloud-init writes: GUEST is its path, HOST its contents
    #[arg(long, value_name = "GUEST=HOST")]
    file: Vec<String>,
    /// A key and value of the meta data
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    #[command(flatten)]
    random: RandomArgs,
    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    args.out.check(context)?;
    let randomness = args.random.randomness(context, &args.hostname);
    let uuid = args.uuid.unwrap_or_else(|| Identity::generate(&randomness, 0).uuid);
    let mut drive = ConfigDrive::new(uuid, args.hostname.clone());
    for (number, key) in ssh_keys(context, &args.ssh_key)?.into_iter().enumerate() {
        drive.public_keys.insert(format!("key-{number}"), key);
    }
    drive.user_data = user_data(context, args.user_data.as_ref())?;
    for pair in &args.meta {
        let (key, value) = split(pair, "--meta")?;
        drive.meta.insert(key.to_owned(), value.to_owned());
    }
    for pair in &args.file {
        let (guest, host) = split(pair, "--file")?;
        let path = GuestPath::new(guest).map_err(|error| {
            CommandError::new(ErrorKind::Usage, format!("`{guest}` is no path in a guest")).with_source(error)
        })?;
        drive.files.push(InjectedFile { path, contents: file(context, host.as_ref())?.into() });
    }
    let mut tree = drive.tree()?;
    if let Some(network) = &args.network_data {
        add_network(&mut tree, &file(context, network)?)?;
    }
    args.out.write(context, &tree, CONFIG_DRIVE_LABEL)
}

/// Adds `network_data.json` to the versions that have it.
fn add_network(tree: &mut Tree, bytes: &[u8]) -> Result<(), CommandError> {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes)
        .map_err(|error| CommandError::new(ErrorKind::Usage, "the network data is no JSON object").with_source(error))?;
    let versions = DATED_VERSIONS.iter().copied().filter(|version| *version >= FIRST_WITH_NETWORK);
    for version in versions.chain(["latest"]) {
        tree.insert(&format!("openstack/{version}/network_data.json"), bytes.to_vec())?;
    }
    Ok(())
}

fn split<'a>(pair: &'a str, option: &str) -> Result<(&'a str, &'a str), CommandError> {
    let error = || CommandError::new(ErrorKind::Usage, format!("`{option} {pair}` has no `=`"));
    pair.split_once('=').ok_or_else(error)
}

const FIRST_WITH_NETWORK: &str = "2015-10-15";
