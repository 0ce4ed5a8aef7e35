//! `vmimg domain`: descriptions of virtual machines.

use std::path::PathBuf;

use clap::Subcommand;
use uuid::Uuid;

use crate::context::Context;
use crate::domain::{
    Accelerator, Bus, Disk, DiskFormat, Domain, Export, Firmware, Link, MacAddress, MachineType, Nic, SeedKind, Source,
    probe_format, probe_seed,
};
use crate::error::CommandError;
use crate::hypervisor::{AcceleratorChoice, accelerator};
use crate::place::Place;

/// The arguments of `vmimg domain`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the description of a virtual machine as libvirt's XML
    #[command(after_help = "\
Examples:
  vmimg domain xml --name web1 --disk web1.qcow2 --seed seed.iso
  vmimg domain xml --name web1 --disk web1.qcow2 --memory 2048 > web1.xml
  vmimg domain xml --name web1 --disk nbd://storage.example/web1

Nothing is given to libvirt: `virsh define web1.xml` does that.")]
    Xml(XmlArgs),
}

/// The arguments of `vmimg domain xml`.
#[derive(Debug, clap::Args)]
struct XmlArgs {
    /// The name of the domain
    #[arg(long)]
    name: String,
    /// A disk, in a file or an NBD export; the first one boots
    #[arg(long = "disk", value_name = "FILE", required = true)]
    disks: Vec<PathBuf>,
    /// The format of the disks: qcow2 or raw [default: what each announces]
    #[arg(long, short = 'f', value_name = "FORMAT")]
    format: Option<DiskFormat>,
    /// The ISO image that seeds the guest
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// The memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
    /// The number of processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u32,
    /// The MAC address of a network interface; one interface for each
    #[arg(long = "mac", value_name = "MAC")]
    macs: Vec<MacAddress>,
    /// What the interfaces are connected to: user, bridge:NAME or
    /// network:NAME
    #[arg(long, value_name = "LINK", default_value = "user")]
    network: Link,
    /// The UUID, also in the SMBIOS table [default: libvirt's choice]
    #[arg(long)]
    uuid: Option<Uuid>,
    /// The serial number in the SMBIOS table [default: ds=nocloud with a
    /// NoCloud seed]
    #[arg(long, value_name = "TEXT")]
    smbios_serial: Option<String>,
    /// The chipset: q35 or pc
    #[arg(long, default_value = "q35")]
    machine: MachineType,
    /// The firmware: bios or efi
    #[arg(long, default_value = "bios")]
    firmware: Firmware,
    /// What executes the guest: auto, kvm or qemu (without KVM)
    #[arg(long, value_name = "NAME", default_value = "auto")]
    accel: AcceleratorChoice,
    /// Give the guest a display, by VNC on 127.0.0.1
    #[arg(long)]
    vnc: bool,
    /// The file that collects what the guest writes to its serial port
    #[arg(long, value_name = "FILE")]
    serial_log: Option<PathBuf>,
}

/// Runs `vmimg domain`.
///
/// # Errors
///
/// When the description is not possible or a disk cannot be looked at.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    match args.what {
        What::Xml(args) => {
            // What cannot be described is said before anything is tried out.
            let mut domain = describe(&args, context)?;
            domain.check()?;
            domain.accelerator = accelerator(context, args.accel)?.accelerator;
            context.write_out(domain.to_xml()?.as_bytes())
        }
    }
}

fn describe(args: &XmlArgs, context: &Context) -> Result<Domain, CommandError> {
    crate::domain::check_name(&args.name)?;
    let mut domain = Domain::new(&args.name);
    for name in &args.disks {
        let (source, format) = match Place::of(context, name)? {
            // An export has the bytes of the disk, whatever the server made them from.
            Place::Export(uri) => (Source::Export(Export::of(&uri)?), args.format.unwrap_or(DiskFormat::Raw)),
            Place::File(path) => {
                let format = args.format.map_or_else(|| probe_format(&path), Ok)?;
                (Source::File(path), format)
            }
        };
        domain.disks.push(Disk { source, format, bus: Bus::Virtio, read_only: false });
    }
    domain.seed = args.seed.as_ref().map(|path| context.absolute(path));
    domain.smbios_serial.clone_from(&args.smbios_serial);
    if let (Some(seed), None) = (&domain.seed, &domain.smbios_serial)
        && probe_seed(seed)? == Some(SeedKind::NoCloud)
    {
        domain.smbios_serial = Some("ds=nocloud".to_owned());
    }
    domain.nics = args.macs.iter().map(|mac| Nic { mac: Some(*mac), link: args.network.clone() }).collect();
    domain.memory_mib = args.memory;
    domain.vcpus = args.vcpus;
    domain.uuid = args.uuid;
    domain.machine = args.machine;
    domain.firmware = args.firmware;
    domain.accelerator = Accelerator::Qemu;
    domain.vnc = args.vnc;
    domain.serial_log = args.serial_log.as_ref().map(|path| context.absolute(path));
    Ok(domain)
}
