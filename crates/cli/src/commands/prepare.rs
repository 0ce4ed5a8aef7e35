//! `vmimg prepare`: from a base image to a machine that is ready to boot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use seed::guest::VolumeId;
use seed::plan::{HostKeys, MachineId, SeedFile, SeedMinion, SeedUser};

use crate::attached::Via;
use crate::context::Context;
use crate::domain::{DiskFormat, Firmware};
use crate::error::{CommandError, ErrorKind};
use crate::machine::{MachineName, RootArgs};
use crate::output::{ReportArgs, print_json, print_line};
use crate::prepare::{Datasource, Ephemeral, Fleet, Link, Nic, Report, Request, Settings, describe, read_manifest};
use crate::progress::Progress;
use crate::size::Size;

/// The arguments of `vmimg prepare`.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  vmimg prepare demo --image builtin:demo
  vmimg prepare web1 --image debian-12 --size 20G \\
      --ssh-key ~/.ssh/id_ed25519.pub --user ops --hostname web1.example.org
  vmimg prepare web1 --image debian-12 --minion-master salt.example.org \\
      --master-keys /etc/salt/pki/master/minions
  vmimg prepare web1 --image debian-12 --file app.conf:/etc/app.conf:0640
  vmimg prepare web1 --image debian-12 --target nbd://storage.example/web1
  vmimg prepare web1 --image debian-12 --ephemeral 100G --swap 4G
  vmimg prepare web1 --image debian-12 --dry-run
  vmimg prepare -f machines.yaml web1 web2"
)]
pub struct Args {
    /// The machine; with --manifest any number, and all without one
    #[arg(value_name = "NAME", required_unless_present = "manifest")]
    names: Vec<MachineName>,
    /// Read machines from a YAML file
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "image", group = "written")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    minion: MinionArgs,
    #[command(flatten)]
    seed: SeedArgs,
    #[command(flatten)]
    hardware: HardwareArgs,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Derive everything random from TEXT and the names: the same inputs give
    /// the same bytes. Keys made so are as secret as TEXT is
    #[arg(long, value_name = "TEXT")]
    seed_value: Option<String>,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Disk")]
struct BaseArgs {
    /// The base image: a path, a name in the store, or builtin:demo
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Its format, when the first bytes must not decide
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    format: Option<DiskFormat>,
    /// Its SHA-256, which is checked
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// The size of the disk, as in 20G; partition and file system grow with it
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Write the disk to this NBD export, which must be empty; it has its size
    #[arg(long, value_name = "URI", conflicts_with = "size", group = "written")]
    target: Option<String>,
    /// Overwrite what the export holds
    #[arg(long, requires = "written")]
    force: bool,
    /// A further disk with an empty file system: ext4, or vfat, ext3 or ext2;
    /// its label is ephemeral0, that of the next one ephemeral1
    #[arg(long, value_name = "SIZE[,FORMAT]")]
    ephemeral: Vec<Ephemeral>,
    /// A further disk with swap space
    #[arg(long, value_name = "SIZE")]
    swap: Option<Size>,
    /// The root's partition, or GROUP/NAME on LVM, where it cannot be told
    #[arg(long, value_name = "N")]
    partition: Option<VolumeId>,
    /// Who reads and writes the guest's file systems
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    via: Via,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Guest")]
struct GuestArgs {
    /// The host name, short or full; the machine's name otherwise
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// An account to log in to; made, with sudo, when the image has none
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// Public keys that may log in: as every --user, or as root without one;
    /// as USER alone when it is named
    #[arg(long, value_name = "[USER:]FILE")]
    ssh_key: Vec<String>,
    /// A file to put into the guest; it stays as it is, host keys included
    #[arg(long, value_name = "SRC:DEST[:MODE[:OWNER]]")]
    file: Vec<String>,
    /// SSH host keys: mint (fresh ones, known to `vmimg ssh`), remove or keep
    #[arg(long, value_name = "WHAT", default_value = "mint", value_parser = host_keys)]
    host_keys: HostKeys,
    /// The machine id: empty or keep
    #[arg(long, value_name = "WHAT", default_value = "empty", value_parser = machine_id)]
    machine_id: MachineId,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Salt minion")]
struct MinionArgs {
    /// Preseed a Salt minion of this master
    #[arg(long, value_name = "HOST")]
    minion_master: Vec<String>,
    /// Its id; the full host name otherwise
    #[arg(long, value_name = "ID", requires = "minion_master")]
    minion_id: Option<String>,
    /// The fingerprint of the master's key
    #[arg(long, value_name = "FINGER", requires = "minion_master")]
    minion_finger: Option<String>,
    /// A grain
    #[arg(long, value_name = "KEY=VALUE", requires = "minion_master")]
    minion_grain: Vec<String>,
    /// The minion's private key (PEM); a pair is made otherwise
    #[arg(long, value_name = "FILE", requires = "minion_master")]
    minion_key: Option<PathBuf>,
    /// The master's folder of accepted keys, where the public half is written
    #[arg(long, value_name = "DIR", requires = "minion_master")]
    master_keys: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "cloud-init")]
struct SeedArgs {
    /// Add an OpenStack config drive (the default where cloud-init is found)
    #[arg(long, group = "datasource")]
    config_drive: bool,
    /// Add a NoCloud seed
    #[arg(long, group = "datasource")]
    nocloud: bool,
    /// Add no seed
    #[arg(long, group = "datasource")]
    no_seed: bool,
    /// User data for cloud-init
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Vendor data for cloud-init; a JSON object for a config drive
    #[arg(long, value_name = "FILE")]
    vendor_data: Option<PathBuf>,
    /// Metadata of the config drive, which it needs
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Machine")]
struct HardwareArgs {
    /// Memory [default: 1G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Virtual processors [default: 1]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// A network interface: user, bridge:NAME or network:NAME [default: user]
    #[arg(long, value_name = "LINK", value_parser = link)]
    network: Vec<Link>,
    /// Firmware: bios or efi [default: bios]
    #[arg(long, value_name = "KIND", value_parser = firmware)]
    firmware: Option<Firmware>,
}

/// Runs `vmimg prepare`.
///
/// # Errors
///
/// The failure of the first machine that could not be made; others of the same run may have been made.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    let requests = match &args.manifest {
        Some(manifest) => from_manifest(&context.absolute(manifest), &args.names, args.base.force)?,
        None => from_arguments(args)?,
    };
    let fleet = Fleet::new(context, &root, args.seed_value.as_deref());
    if args.dry_run {
        return dry_run(&fleet, &requests, args.report.json, context);
    }
    let mut progress = Progress::items(context, "preparing", u64::try_from(requests.len()).unwrap_or(u64::MAX));
    let outcomes = fleet.prepare(&requests, &mut |done| progress.set(done))?;
    drop(progress);
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for (request, outcome) in requests.iter().zip(outcomes) {
        match outcome {
            Ok(outcome) => reports.push(Report::new(outcome, &root)),
            Err(error) if requests.len() == 1 => failed.push(error),
            Err(error) => failed.push(error.context(format!("cannot prepare `{}`", request.name))),
        }
    }
    for report in &reports {
        report.notes.iter().for_each(|note| context.write_error(&format!("{note}\n")));
    }
    if args.report.json {
        print_json(context, &reports)?;
    } else {
        reports.iter().try_for_each(|report| context.write_out(report.text().as_bytes()))?;
    }
    let mut failed = failed.into_iter();
    let first = failed.next();
    // The caller reports the first failure; the others are told before it.
    failed.for_each(|error| error.report(context));
    first.map_or(Ok(()), Err)
}

fn dry_run(fleet: &Fleet<'_>, requests: &[Request], json: bool, context: &Context) -> Result<(), CommandError> {
    let mut descriptions = Vec::new();
    for request in requests {
        let description = describe(&fleet.plan(request)?);
        if json {
            descriptions.push(description);
        } else {
            description.notes.iter().for_each(|note| context.write_error(&format!("{note}\n")));
            print_line(context, description.text().trim_end())?;
        }
    }
    if json { print_json(context, &descriptions) } else { Ok(()) }
}

/// Reads a manifest and returns the machines that are named, or all.
fn from_manifest(path: &Path, names: &[MachineName], overwrite: bool) -> Result<Vec<Request>, CommandError> {
    let text =
        fs::read_to_string(path).map_err(|error| CommandError::io(format!("cannot read `{}`", path.display()), error))?;
    let mut requests = read_manifest(&text).map_err(|error| error.context(format!("`{}` cannot be used", path.display())))?;
    for name in names {
        if !requests.iter().any(|request| request.name == *name) {
            let message = format!("`{}` has no machine `{name}`", path.display());
            return Err(CommandError::new(ErrorKind::NotFound, message));
        }
    }
    requests.retain(|request| names.is_empty() || names.contains(&request.name));
    requests.iter_mut().for_each(|request| request.settings.overwrite = overwrite);
    Ok(requests)
}

fn from_arguments(args: &Args) -> Result<Vec<Request>, CommandError> {
    let [name] = args.names.as_slice() else {
        return Err(CommandError::new(ErrorKind::Usage, "several machines need a manifest")
            .hint("write them into a file and use `--manifest FILE`"));
    };
    let mut settings = Settings {
        image: args.base.image.clone(),
        format: args.base.format,
        sha256: args.base.sha256.clone(),
        size: args.base.size,
        target: args.base.target.clone(),
        overwrite: args.base.force,
        ephemeral: args.base.ephemeral.clone(),
        swap: args.base.swap,
        partition: args.base.partition.clone(),
        via: args.base.via,
        memory: args.hardware.memory,
        vcpus: args.hardware.vcpus,
        firmware: args.hardware.firmware,
        datasource: args.seed.datasource(),
        user_data: args.seed.user_data.clone(),
        vendor_data: args.seed.vendor_data.clone(),
        meta: pairs(&args.seed.meta)?,
        minion_key: args.minion.minion_key.clone(),
        master_keys: args.minion.master_keys.clone(),
        ..Settings::default()
    };
    if !args.hardware.network.is_empty() {
        let nics = args.hardware.network.iter();
        settings.networks = Some(nics.map(|link| Nic { link: link.clone(), ..Nic::default() }).collect());
    }
    args.guest.fill(&mut settings)?;
    settings.seed.minion = args.minion.seed()?;
    Ok(vec![Request { name: name.clone(), settings }])
}

impl GuestArgs {
    fn fill(&self, settings: &mut Settings) -> Result<(), CommandError> {
        let seed = &mut settings.seed;
        seed.hostname.clone_from(&self.hostname);
        seed.host_keys = self.host_keys;
        seed.machine_id = self.machine_id;
        for name in &self.user {
            seed.users.push(SeedUser { name: name.clone(), create: true, sudo: true, ..SeedUser::default() });
        }
        for argument in &self.ssh_key {
            let (user, file) = match argument.split_once(':') {
                Some((user, file)) if !user.contains('/') => (Some(user), file),
                _ => (None, argument.as_str()),
            };
            let keys = read_keys(Path::new(file))?;
            match user {
                Some("root") => seed.root_keys.extend(keys),
                Some(user) => match seed.users.iter_mut().find(|known| known.name == user) {
                    Some(known) => known.ssh_keys.extend(keys),
                    None => seed.users.push(SeedUser { name: user.to_owned(), ssh_keys: keys, ..SeedUser::default() }),
                },
                None if self.user.is_empty() => seed.root_keys.extend(keys),
                None => {
                    let named = seed.users.iter_mut().filter(|user| self.user.contains(&user.name));
                    named.for_each(|user| user.ssh_keys.extend(keys.iter().cloned()));
                }
            }
        }
        seed.files = self.file.iter().map(|argument| file(argument)).collect::<Result<_, _>>()?;
        Ok(())
    }
}

impl MinionArgs {
    fn seed(&self) -> Result<Option<SeedMinion>, CommandError> {
        if self.minion_master.is_empty() {
            return Ok(None);
        }
        let grains = pairs(&self.minion_grain)?;
        Ok(Some(SeedMinion {
            id: self.minion_id.clone(),
            master: self.minion_master.clone(),
            master_finger: self.minion_finger.clone(),
            grains: grains.into_iter().map(|(key, value)| (key, value.into())).collect(),
            ..SeedMinion::default()
        }))
    }
}

impl SeedArgs {
    fn datasource(&self) -> Datasource {
        match (self.config_drive, self.nocloud, self.no_seed) {
            (true, _, _) => Datasource::ConfigDrive,
            (_, true, _) => Datasource::Nocloud,
            (_, _, true) => Datasource::None,
            _ => Datasource::Auto,
        }
    }
}

/// Reads the lines of a file with public keys.
fn read_keys(path: &Path) -> Result<Vec<String>, CommandError> {
    let cannot = |error| CommandError::io(format!("cannot read the public keys in `{}`", path.display()), error);
    let text = fs::read_to_string(path).map_err(cannot)?;
    let keys = seed::keys::ssh::parse_authorized_keys(&text)
        .map_err(|error| CommandError::from(error).context(format!("`{}` has no public keys", path.display())))?;
    Ok(keys.iter().map(seed::keys::ssh::AuthorizedKey::line).collect())
}

/// Reads `SRC:DEST[:MODE[:OWNER]]`.
fn file(argument: &str) -> Result<SeedFile, CommandError> {
    let wrong = || {
        CommandError::new(ErrorKind::Usage, format!("`{argument}` is not SRC:DEST[:MODE[:OWNER]]"))
            .hint("the path in the guest is absolute, as in app.conf:/etc/app.conf:0640:root")
    };
    let (source, rest) = argument.split_once(":/").ok_or_else(wrong)?;
    let mut parts = rest.splitn(3, ':');
    let path = parts.next().map(|path| format!("/{path}")).ok_or_else(wrong)?;
    let mode = parts.next().map(str::to_owned);
    let owner = parts.next().map(str::to_owned);
    Ok(SeedFile { path, source: Some(source.to_owned()), mode, owner, ..SeedFile::default() })
}

fn pairs(arguments: &[String]) -> Result<BTreeMap<String, String>, CommandError> {
    let pair = |argument: &String| {
        let pair = argument.split_once('=').filter(|(key, _)| !key.is_empty());
        let pair = pair.map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| CommandError::new(ErrorKind::Usage, format!("`{argument}` is not KEY=VALUE")))
    };
    arguments.iter().map(pair).collect()
}

fn format(text: &str) -> Result<DiskFormat, String> {
    match text {
        "raw" => Ok(DiskFormat::Raw),
        "qcow2" => Ok(DiskFormat::Qcow2),
        _ => Err("raw or qcow2".to_owned()),
    }
}

fn firmware(text: &str) -> Result<Firmware, String> {
    match text {
        "bios" => Ok(Firmware::Bios),
        "efi" => Ok(Firmware::Efi),
        _ => Err("bios or efi".to_owned()),
    }
}

fn host_keys(text: &str) -> Result<HostKeys, String> {
    match text {
        "mint" => Ok(HostKeys::Mint),
        "remove" => Ok(HostKeys::Remove),
        "keep" => Ok(HostKeys::Keep),
        _ => Err("mint, remove or keep".to_owned()),
    }
}

fn machine_id(text: &str) -> Result<MachineId, String> {
    match text {
        "empty" => Ok(MachineId::Empty),
        "keep" => Ok(MachineId::Keep),
        _ => Err("empty or keep".to_owned()),
    }
}

fn link(text: &str) -> Result<Link, String> {
    Link::try_from(text.to_owned())
}
