use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rand_core::RngCore;
use seed::document::{CONFIG_DRIVE_LABEL, ConfigDrive, NOCLOUD_LABEL, NoCloud, Tree, UserData};
use seed::guest::Guest;
use seed::identity::{Identity, Randomness};
use seed::keys::minion::MinionKey;
use seed::keys::ssh;
use seed::network::{Network, ResolvedNetwork};
use seed::plan::{HostKey, HostKeys, KeyPair, Material, Note, Planned, RandomSeed, Secret, Seed};

use super::base::Opened;
use super::data;
use super::{Base, DataDisk, Datasource, Link, Nic, Request, Settings, Target};
use crate::context::Context;
use crate::domain::{self, Disk, Domain, Forward};
use crate::error::{CommandError, ErrorKind};
use crate::machine::{MachineName, Root};
use crate::size::Size;

/// Everything that will be done to make a machine, as data.
#[derive(Debug)]
pub struct Plan {
    /// The machine's name.
    pub name: MachineName,
    /// When it is made, in seconds since 1970.
    pub now: i64,
    /// Bytes of the system disk.
    pub size: u64,
    /// The export that becomes the system disk, in place of an overlay.
    pub(super) target: Option<Target>,
    /// The data disks, in the order in which the guest sees them.
    pub data: Vec<DataDisk>,
    /// Whether the root's partition and file system grow.
    pub grows: bool,
    /// Who the machine is.
    pub identity: Identity,
    /// The edits of the guest, and what else came of them.
    pub planned: Planned,
    /// The seed on a disk of its own.
    pub seed: Option<SeedDisk>,
    /// The virtual machine, with the paths that it will have.
    pub domain: Domain,
    /// The host name that the guest will have.
    pub hostname: String,
    /// The account that people log in to.
    pub login: String,
    /// The folder of a Salt master's accepted keys.
    pub master_keys: Option<PathBuf>,
}

/// What a seed is made from.
struct Making<'a> {
    settings: &'a Settings,
    seed: &'a Seed,
    identity: &'a Identity,
    randomness: &'a Randomness,
    data: &'a [DataDisk],
    context: &'a Context,
}

/// A seed for cloud-init on a disk of its own.
#[derive(Debug)]
pub struct SeedDisk {
    /// The volume label.
    pub label: &'static str,
    /// The files.
    pub tree: Tree,
}

impl Plan {
    /// Plans the machine `request` on `base`. Nothing is written.
    pub(super) fn make(
        request: &Request,
        opened: &Opened,
        root: &Root,
        seed_value: Option<&str>,
        context: &Context,
    ) -> Result<Self, CommandError> {
        let settings = &request.settings;
        let base = &*opened.base;
        let name = &request.name;
        let randomness = match seed_value {
            Some(value) => Randomness::from_seed_value(value, name.as_str()),
            None => Randomness::from_entropy(&mut *context.entropy(None)),
        };
        let nics = settings.networks.clone().unwrap_or_else(|| vec![Nic::default()]);
        let mut identity = Identity::generate(&randomness, nics.len());
        for (made, nic) in identity.macs.iter_mut().zip(&nics) {
            *made = nic.mac.or_else(|| nic.config.as_ref().and_then(|config| config.mac)).unwrap_or(*made);
        }
        let mut seed = settings.seed.clone();
        let hostname = seed.hostname.get_or_insert_with(|| name.to_string()).clone();
        let mut material = material(settings, &seed, &randomness, context)?;
        material.datasource = settings.datasource.for_guest(base.guest.cloud_init) != Datasource::None;
        let check = || context.interrupt().check();
        let mut planned = seed::plan::plan(&base.guest, &opened.tree, &seed, &material, check)?;
        let network = network(&nics, &identity)?;
        planned.notes.extend(unreached(&network, &base.guest));
        let folder = root.folder(name);
        let data = data::disks(settings, &randomness, context.unix_time())?;
        let making = Making { settings, seed: &seed, identity: &identity, randomness: &randomness, data: &data, context };
        let seed_disk = making.seed_disk(base.guest.cloud_init, network)?;
        let mut domain = machine(settings, &nics, name, &folder, &identity, seed_disk.as_ref(), &randomness);
        domain.disks.extend(data.iter().map(|disk| disk.attached(&folder)));
        domain.check()?;
        let target = settings.target.as_ref().map(|address| Target::look(context, address, settings.overwrite)).transpose()?;
        if let (Some(target), Some(disk)) = (&target, domain.disks.first_mut()) {
            (disk.source, disk.format) = (domain::Source::Export(target.export()?), domain::DiskFormat::Raw);
        }
        let size = match &target {
            Some(target) => target.size_for(&*base.disk)?,
            None => size(settings, base)?,
        };
        let login =
            seed.users.iter().find(|user| !user.ssh_keys.is_empty()).map_or("root", |user| user.name.as_str()).to_owned();
        let grows = size > imgcore::block::BlockRead::size(&*base.disk);
        let (name, now, master_keys) = (name.clone(), context.unix_time(), settings.master_keys.clone());
        let master_keys = master_keys.map(|folder| context.absolute(&folder));
        Ok(Self {
            name,
            now,
            size,
            target,
            data,
            grows,
            identity,
            planned,
            seed: seed_disk,
            domain,
            hostname,
            login,
            master_keys,
        })
    }

    /// Returns what the reader should know before the plan is carried out.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.planned.notes
    }
}

/// Returns the size of the system disk in bytes, whole sectors of 512.
fn size(settings: &Settings, base: &Base) -> Result<u64, CommandError> {
    let smallest = imgcore::block::BlockRead::size(&*base.disk);
    let Some(Size(wanted)) = settings.size else { return Ok(smallest) };
    let too_large = || CommandError::new(ErrorKind::Usage, format!("a disk of {wanted} bytes is too large"));
    let size = wanted.checked_next_multiple_of(512).ok_or_else(too_large)?;
    if size < smallest {
        let message = format!("the base image holds a disk of {}, more than {}", Size(smallest), Size(wanted));
        return Err(CommandError::new(ErrorKind::Refused, message)
            .hint("disks are only made larger; leave `--size` away to keep the size"));
    }
    Ok(size)
}

/// Gathers what the plan of the guest needs from outside: keys, contents and random bytes.
fn material(settings: &Settings, seed: &Seed, randomness: &Randomness, context: &Context) -> Result<Material, CommandError> {
    let mut material = Material {
        now: u64::try_from(context.unix_time()).unwrap_or_default(),
        random_seed: Some(RandomSeed(randomness.bytes::<512>("guest random seed").to_vec())),
        ..Material::default()
    };
    if seed.host_keys == HostKeys::Mint {
        let hostname = seed.hostname.clone().unwrap_or_default();
        for key in ssh::generate_host_keys(randomness, &hostname)? {
            let (file_name, public) = (key.file_name(), key.public_line().to_owned());
            material.host_keys.push(HostKey { file_name, private: Secret::new(key.private_pem()), public });
        }
    }
    if seed.minion.is_some() {
        let key = match &settings.minion_key {
            Some(path) => MinionKey::load(&read_host_file(&context.absolute(path))?, None)?,
            None => MinionKey::generate(randomness)?,
        };
        let (private, public) = (Secret::new(key.private_pem()), key.public_pem().to_owned());
        material.minion_key = Some(KeyPair { private, public });
    }
    for source in seed.files.iter().filter_map(|file| file.source.clone()) {
        let content = read_host_file(&context.absolute(Path::new(&source)))?;
        material.sources.insert(source, content.into());
    }
    Ok(material)
}

/// Returns the network as the guest is told of it: the interfaces and addresses of the domain, DHCP where nothing else is said.
fn network(nics: &[Nic], identity: &Identity) -> Result<ResolvedNetwork, CommandError> {
    let mut network = Network::dhcp(nics.len());
    for ((interface, nic), mac) in network.interfaces.iter_mut().zip(nics).zip(&identity.macs) {
        if let Some(config) = &nic.config {
            *interface = config.clone();
        }
        interface.mac = Some(*mac);
    }
    Ok(network.resolve(&identity.macs)?)
}

/// Returns a warning when the guest may not reach a router: cloud-init writes `on-link` for netplan, and with luck for others.
fn unreached(network: &ResolvedNetwork, guest: &Guest) -> Option<Note> {
    let (interface, router) = network.off_network_router()?;
    let text =
        format!("the router {router} is in no network of {interface}: without netplan the guest may have no route to it");
    (guest.network.first() != Some(&seed::guest::Network::Netplan)).then_some(Note::Warning(text))
}

impl Making<'_> {
    /// Returns the seed for cloud-init, if there is to be one.
    ///
    /// It has no public keys: each is in its own account already, and cloud-init would give them all to its default user.
    fn seed_disk(&self, has_cloud_init: bool, network: ResolvedNetwork) -> Result<Option<SeedDisk>, CommandError> {
        let kind = self.settings.datasource.for_guest(has_cloud_init);
        if kind != Datasource::ConfigDrive && !self.settings.meta.is_empty() {
            return Err(CommandError::new(ErrorKind::Usage, "metadata needs a config drive to carry it")
                .hint("add `--config-drive`, or write the metadata into the user data"));
        }
        match kind {
            Datasource::ConfigDrive => self.config_drive(network).map(Some),
            Datasource::Nocloud => self.nocloud(network).map(Some),
            Datasource::Auto | Datasource::None => self.without_seed(),
        }
    }

    /// Refuses what only a seed could carry to the guest.
    fn without_seed(&self) -> Result<Option<SeedDisk>, CommandError> {
        let configured = self.settings.networks.iter().flatten().any(|nic| nic.config.is_some());
        if self.settings.user_data.is_none() && self.settings.vendor_data.is_none() && !configured {
            return Ok(None);
        }
        Err(CommandError::new(ErrorKind::Usage, "user data and network settings need a seed to carry them")
            .hint("add `--config-drive` or `--nocloud`"))
    }

    fn config_drive(&self, network: ResolvedNetwork) -> Result<SeedDisk, CommandError> {
        let mut drive = ConfigDrive::new(self.identity.uuid, self.full_name());
        drive.meta = self.settings.meta.clone();
        drive.random_seed = Some(Box::new(self.randomness.bytes("config drive random seed")));
        drive.user_data = self.read(self.settings.user_data.as_deref())?.map(UserData::raw);
        if let Some(bytes) = self.read(self.settings.vendor_data.as_deref())? {
            drive.vendor_data = serde_json::from_slice(&bytes).map_err(|error| {
                CommandError::new(ErrorKind::Usage, "the vendor data of a config drive is a JSON object").with_source(error)
            })?;
        }
        drive.network = Some(network);
        drive.block_devices = data::devices(self.data);
        Ok(SeedDisk { label: CONFIG_DRIVE_LABEL, tree: drive.tree()? })
    }

    fn nocloud(&self, network: ResolvedNetwork) -> Result<SeedDisk, CommandError> {
        let mut nocloud = NoCloud::new(self.identity.instance_id());
        nocloud.local_hostname = Some(self.full_name());
        nocloud.user_data = self.read(self.settings.user_data.as_deref())?.map(UserData::raw);
        nocloud.vendor_data = self.read(self.settings.vendor_data.as_deref())?.map(UserData::raw);
        nocloud.network = Some(network);
        Ok(SeedDisk { label: NOCLOUD_LABEL, tree: nocloud.tree()? })
    }

    fn full_name(&self) -> String {
        self.seed.full_name().or_else(|| self.seed.hostname.clone()).unwrap_or_default()
    }

    fn read(&self, path: Option<&Path>) -> Result<Option<Vec<u8>>, CommandError> {
        path.map(|path| read_host_file(&self.context.absolute(path))).transpose()
    }
}

/// Returns the virtual machine, its files at the places that they will have.
fn machine(
    settings: &Settings,
    nics: &[Nic],
    name: &MachineName,
    folder: &Path,
    identity: &Identity,
    seed: Option<&SeedDisk>,
    randomness: &Randomness,
) -> Domain {
    let port = randomness.stream("ssh port").next_u32().checked_rem(PORTS).and_then(|port| u16::try_from(port).ok());
    let forward = Forward { host: FIRST_PORT.saturating_add(port.unwrap_or_default()), guest: 22 };
    let link = |(index, nic): (usize, &Nic)| match &nic.link {
        Link::User => domain::Link::User { forwards: if index == 0 { vec![forward] } else { Vec::new() } },
        Link::Bridge(bridge) => domain::Link::Bridge { bridge: bridge.clone() },
        Link::Network(network) => domain::Link::Network { network: network.clone() },
    };
    let nics = nics.iter().enumerate().zip(&identity.macs);
    let system = Disk {
        source: domain::Source::File(folder.join(super::stage::DISK_FILE)),
        format: domain::DiskFormat::Qcow2,
        bus: domain::Bus::default(),
        read_only: false,
    };
    Domain {
        uuid: Some(identity.uuid),
        memory_mib: settings.memory.map_or(1024, |memory| memory.0.div_ceil(1 << 20)),
        vcpus: settings.vcpus.unwrap_or(1),
        disks: vec![system],
        seed: seed.map(|_| folder.join(super::stage::SEED_FILE)),
        nics: nics.map(|(nic, mac)| domain::Nic { mac: Some(*mac), link: link(nic) }).collect(),
        smbios_serial: seed.filter(|seed| seed.label == NOCLOUD_LABEL).map(|_| "ds=nocloud".to_owned()),
        firmware: settings.firmware.unwrap_or_default(),
        serial_log: Some(folder.join("console.log")),
        ..Domain::new(name.to_string())
    }
}

/// Reads a file of the host that the user named.
fn read_host_file(path: &Path) -> Result<Vec<u8>, CommandError> {
    let cannot = |error| CommandError::io(format!("cannot read `{}`", path.display()), error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(FILE_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(cannot)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_MAX {
        let message = format!("`{}` has more than {}", path.display(), Size(FILE_MAX));
        return Err(CommandError::new(ErrorKind::Unsupported, message));
    }
    Ok(bytes)
}

/// The most bytes of a file that is put into a guest: contents are staged in memory.
const FILE_MAX: u64 = 256 << 20;
/// The ports of 127.0.0.1 that lead to a guest's SSH: below those that Linux gives out by itself.
const FIRST_PORT: u16 = 20_000;
const PORTS: u32 = 12_000;
