//! What a guest's virtual machine is made of, and the two forms it is handed over in.
//!
//! A [`Domain`] is data: `prepare` makes it from a machine's plan, [`Domain::to_xml`] renders it for libvirt, and
//! [`QemuCommand`] for QEMU itself. Both forms describe the same machine: the same bus for every disk, the same MAC
//! addresses, the same UUID in the SMBIOS table, so a guest moved from one to the other notices nothing.
//!
//! Nothing here starts a program; that is what `hypervisor` does.

mod check;
mod disk;
mod element;
mod error;
mod probe;
mod qemu;
mod words;
mod xml;

use std::path::PathBuf;

pub use seed::identity::MacAddress;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::check::check_name;
pub use self::disk::{Bus, Disk, DiskFormat, Export, Server, Source};
pub use self::error::Error;
pub use self::probe::{SeedKind, probe_format, probe_seed};
pub use self::qemu::{QemuCommand, QemuFiles};

/// A virtual machine as libvirt and QEMU are told of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// The name, which [`check_name`] accepts.
    pub name: String,
    /// The UUID of the domain and of its SMBIOS system table; libvirt chooses one when there is none.
    pub uuid: Option<Uuid>,
    /// The guest's memory in MiB.
    pub memory_mib: u64,
    /// The number of virtual processors.
    pub vcpus: u32,
    /// The disks in the order in which the guest sees them; the first one boots.
    pub disks: Vec<Disk>,
    /// The ISO image that seeds the guest, given read-only on the bus of the first disk: whoever finds its root finds its seed.
    ///
    /// Kernels of cloud images may lack a driver for SATA (Debian's does), so beside virtio disks it is a virtio disk, too; beside
    /// SATA disks it is a CD-ROM.
    pub seed: Option<PathBuf>,
    /// The network interfaces in the order in which the guest sees them.
    pub nics: Vec<Nic>,
    /// The serial number of the SMBIOS system table, such as `ds=nocloud`.
    pub smbios_serial: Option<String>,
    /// The chipset.
    pub machine: MachineType,
    /// The firmware.
    pub firmware: Firmware,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// Whether the guest has a display, served by VNC on 127.0.0.1.
    pub vnc: bool,
    /// The file that collects what the guest writes to its first serial port.
    pub serial_log: Option<PathBuf>,
}

/// One network interface of a domain.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The address; libvirt or QEMU chooses one when there is none.
    pub mac: Option<MacAddress>,
    /// What the interface is connected to.
    pub link: Link,
}

/// What a network interface is connected to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "kind")]
pub enum Link {
    /// A network inside the QEMU process, which needs no privilege and lets nobody in but through `forwards`.
    User {
        /// TCP ports of 127.0.0.1 that lead into the guest.
        #[serde(default)]
        forwards: Vec<Forward>,
    },
    /// A bridge of the host.
    Bridge {
        /// The name of the bridge.
        bridge: String,
    },
    /// A network that libvirt keeps.
    Network {
        /// The name of the network.
        network: String,
    },
}

/// A TCP port of 127.0.0.1 that leads into the guest.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The port on 127.0.0.1.
    pub host: u16,
    /// The port in the guest.
    pub guest: u16,
}

/// The chipset of a domain.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineType {
    /// Intel's Q35: PCI Express and SATA.
    #[default]
    Q35,
    /// Intel's 440FX: PCI and IDE.
    Pc,
}

/// The firmware of a domain.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A PC BIOS.
    #[default]
    Bios,
    /// UEFI without Secure Boot.
    Efi,
}

/// What executes the instructions of a guest.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's translator (TCG), which libvirt calls `qemu`.
    Qemu,
}

impl Domain {
    /// Returns a domain named `name` with 1024 MiB, one processor, a serial port and nothing else, run by QEMU's translator.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            uuid: None,
            memory_mib: 1024,
            vcpus: 1,
            disks: Vec::new(),
            seed: None,
            nics: Vec::new(),
            smbios_serial: None,
            machine: MachineType::default(),
            firmware: Firmware::default(),
            accelerator: Accelerator::Qemu,
            vnc: false,
            serial_log: None,
        }
    }
}

impl Domain {
    /// Returns the bus that the seed is attached to.
    fn seed_bus(&self) -> Bus {
        self.disks.first().map(|disk| disk.bus).unwrap_or_default()
    }
}

impl MachineType {
    /// Returns the name that QEMU and libvirt give to the chipset.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
        }
    }
}

impl Accelerator {
    /// Returns the domain type that libvirt gives to the accelerator.
    #[must_use]
    pub fn domain_type(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}
