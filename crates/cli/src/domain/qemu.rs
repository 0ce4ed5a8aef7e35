use std::ffi::OsString;
use std::ops::RangeFrom;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Accelerator, Bus, Disk, Domain, Error, Export, Firmware, Link, Nic, Server, Source};

/// The sockets and files of one running QEMU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QemuFiles {
    /// The socket of the QMP monitor; a path of less than 108 bytes.
    pub monitor: PathBuf,
    /// The socket of the guest's first serial port; a path of less than 108 bytes.
    pub serial: PathBuf,
    /// The file that QEMU writes its process id to and holds a lock on.
    pub pid: PathBuf,
    /// Whether QEMU gives up the system calls that it does not need.
    pub sandbox: bool,
    /// The code and the domain's own variables of UEFI firmware.
    pub firmware: Option<(PathBuf, PathBuf)>,
}

/// The arguments that make QEMU run a domain: without a window, its monitor and serial port on sockets.
///
/// Every file is named with its driver, so QEMU probes nothing; values that QEMU would split at commas are escaped or JSON.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QemuCommand {
    arguments: Vec<OsString>,
}

impl QemuCommand {
    /// Returns the arguments for `domain` with the sockets and files of `files`, checked before.
    ///
    /// # Errors
    ///
    /// Those of [`Domain::check`]; [`Error::NeedsLibvirt`] for a network that libvirt keeps; [`Error::NoFirmware`] for UEFI without
    /// firmware in `files`.
    pub fn new(domain: &Domain, files: &QemuFiles) -> Result<Self, Error> {
        domain.check()?;
        let mut command = Self { arguments: Vec::new() };
        command.flag("-nodefaults");
        command.flag("-no-user-config");
        command.option("-name", format!("guest={}", comma_free(&domain.name)));
        command.machine(domain, files)?;
        command.identity(domain);
        let mut ports = 0..;
        for (index, disk) in domain.disks.iter().enumerate() {
            command.disk(index, disk, &mut ports);
        }
        if let Some(seed) = &domain.seed {
            command.seed(domain.seed_bus(), seed);
        }
        for (index, nic) in domain.nics.iter().enumerate() {
            command.nic(index, nic)?;
        }
        command.option("-object", "rng-random,id=rng0,filename=/dev/urandom");
        command.option("-device", "virtio-rng-pci,rng=rng0");
        command.sockets(domain, files);
        command.display(domain.vnc);
        command.option("-pidfile", &files.pid);
        if files.sandbox {
            command.sandbox(domain);
        }
        Ok(command)
    }

    /// Returns the arguments in order, without the program's name.
    #[must_use]
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    fn machine(&mut self, domain: &Domain, files: &QemuFiles) -> Result<(), Error> {
        let mut machine = domain.machine.name().to_owned();
        if domain.firmware == Firmware::Efi {
            let (code, variables) = files.firmware.as_ref().ok_or(Error::NoFirmware)?;
            self.blockdev("efi-code", "raw", code, true);
            self.blockdev("efi-vars", "raw", variables, false);
            machine.push_str(",pflash0=efi-code,pflash1=efi-vars");
        }
        self.option("-machine", machine);
        match domain.accelerator {
            Accelerator::Kvm => {
                self.option("-accel", "kvm");
                self.option("-cpu", "host");
            }
            Accelerator::Qemu => {
                self.option("-accel", "tcg,thread=multi");
                self.option("-cpu", "max");
            }
        }
        self.option("-m", format!("{}M", domain.memory_mib));
        self.option("-smp", domain.vcpus.to_string());
        self.option("-rtc", "base=utc");
        Ok(())
    }

    fn identity(&mut self, domain: &Domain) {
        let mut table = "type=1".to_owned();
        if let Some(uuid) = domain.uuid {
            self.option("-uuid", uuid.to_string());
            table.push_str(&format!(",uuid={uuid}"));
        }
        if let Some(serial) = &domain.smbios_serial {
            table.push_str(&format!(",serial={}", comma_free(serial)));
        }
        if table != "type=1" {
            self.option("-smbios", table);
        }
    }

    /// Adds a disk, which takes the next one of `ports` when it is a SATA disk.
    fn disk(&mut self, index: usize, disk: &Disk, ports: &mut RangeFrom<usize>) {
        let node = format!("disk{index}");
        match &disk.source {
            Source::File(path) => self.blockdev(&node, disk.format.name(), path, disk.read_only),
            Source::Export(export) => self.export(&node, export, disk.read_only),
        }
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            // Ports 0 to 4; the last one of the six is the seed's.
            Bus::Sata => format!("ide-hd,bus=ide.{}", ports.next().unwrap_or_default()),
        };
        self.option("-device", format!("{device},drive={node},bootindex={}", index.saturating_add(1)));
    }

    fn seed(&mut self, bus: Bus, seed: &Path) {
        self.blockdev("seed", "raw", seed, true);
        let device = match bus {
            Bus::Virtio => "virtio-blk-pci",
            Bus::Sata => "ide-cd,bus=ide.5",
        };
        self.option("-device", format!("{device},drive=seed"));
    }

    fn blockdev(&mut self, node: &str, driver: &str, path: &Path, read_only: bool) {
        let discard = if read_only { "ignore" } else { "unmap" };
        // OK to print lossily: `Domain::check` refuses paths that are not UTF-8.
        let filename = Value::from(path.to_string_lossy());
        let file = json!({"driver": "file", "filename": filename, "read-only": read_only, "discard": discard});
        let node = json!({"driver": driver, "node-name": node, "read-only": read_only, "discard": discard, "file": file});
        self.option("-blockdev", node.to_string());
    }

    fn export(&mut self, node: &str, export: &Export, read_only: bool) {
        let server = match &export.server {
            Server::Unix(socket) => json!({"type": "unix", "path": socket.to_string_lossy()}),
            Server::Tcp { host, port } => json!({"type": "inet", "host": host, "port": port.to_string()}),
        };
        let discard = if read_only { "ignore" } else { "unmap" };
        let file =
            json!({"driver": "nbd", "server": server, "export": export.export, "read-only": read_only, "discard": discard});
        let node = json!({"driver": "raw", "node-name": node, "read-only": read_only, "discard": discard, "file": file});
        self.option("-blockdev", node.to_string());
    }

    fn nic(&mut self, index: usize, nic: &Nic) -> Result<(), Error> {
        let mut netdev = match &nic.link {
            Link::User { .. } => format!("user,id=net{index}"),
            Link::Bridge { bridge } => format!("bridge,id=net{index},br={bridge}"),
            Link::Network { network } => return Err(Error::NeedsLibvirt(format!("the network {network:?}"))),
        };
        if let Link::User { forwards } = &nic.link {
            for forward in forwards {
                netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest));
            }
        }
        self.option("-netdev", netdev);
        let mac = nic.mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
        // Without a boot ROM, since no guest here boots from the network.
        self.option("-device", format!("virtio-net-pci,netdev=net{index}{mac},romfile="));
        Ok(())
    }

    fn sockets(&mut self, domain: &Domain, files: &QemuFiles) {
        let monitor = comma_free(&files.monitor.to_string_lossy());
        self.option("-chardev", format!("socket,id=monitor,path={monitor},server=on,wait=off"));
        self.option("-mon", "chardev=monitor,mode=control");
        let mut serial = format!("socket,id=serial0,path={},server=on,wait=off", comma_free(&files.serial.to_string_lossy()));
        if let Some(log) = &domain.serial_log {
            serial.push_str(&format!(",logfile={},logappend=off", comma_free(&log.to_string_lossy())));
        }
        self.option("-chardev", serial);
        self.option("-serial", "chardev:serial0");
    }

    /// Takes from QEMU what a guest that broke out of it would want.
    fn sandbox(&mut self, domain: &Domain) {
        // A bridge is opened by a program that runs as root and that QEMU starts.
        let bridged = domain.nics.iter().any(|nic| matches!(nic.link, Link::Bridge { .. }));
        let programs = if bridged { "allow" } else { "deny" };
        let programs = format!("elevateprivileges={programs},spawn={programs}");
        self.option("-sandbox", format!("on,obsolete=deny,{programs},resourcecontrol=deny"));
    }

    fn display(&mut self, vnc: bool) {
        if vnc {
            self.option("-device", "VGA");
            self.option("-vnc", "127.0.0.1:0,to=99");
        } else {
            self.option("-display", "none");
        }
    }

    fn flag(&mut self, name: &str) {
        self.arguments.push(name.into());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.flag(name);
        self.arguments.push(value.into());
    }
}

/// Returns `text` with its commas doubled, as QEMU's option parser takes them.
fn comma_free(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::{QemuCommand, QemuFiles};
    use crate::domain::{Bus, Disk, DiskFormat, Domain, Error, Firmware, Forward, Link, Nic, Source};

    #[test]
    fn every_file_is_named_with_its_driver_and_commas_cannot_add_options() {
        let mut domain = Domain::new("a,b");
        domain.smbios_serial = Some("ds=nocloud,x".to_owned());
        domain.disks.push(Disk {
            source: Source::File("/d,file.driver=nbd".into()),
            format: DiskFormat::Qcow2,
            bus: Bus::Virtio,
            read_only: false,
        });
        domain.seed = Some("/seed.iso".into());
        domain.serial_log = Some("/c,id=x".into());
        let text = command_line(&domain).unwrap();
        for part in [
            "-name guest=a,,b ",
            "-smbios type=1,serial=ds=nocloud,,x ",
            r#"{"discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"/d,file.driver=nbd","read-only":false},"node-name":"disk0","read-only":false}"#,
            r#""node-name":"seed","read-only":true}"#,
            ",logfile=/c,,id=x,logappend=off ",
            "-display none ",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("vnc"), "{text}");
    }

    #[test]
    fn ports_are_forwarded_from_the_loopback_address_alone() {
        let mut domain = Domain::new("web1");
        let forwards = vec![Forward { host: 2222, guest: 22 }];
        domain.nics.push(Nic { mac: Some("52:54:00:00:00:01".parse().unwrap()), link: Link::User { forwards } });
        let text = command_line(&domain).unwrap();
        assert!(text.contains("-netdev user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22 "), "{text}");
        assert!(text.contains("-device virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,romfile= "), "{text}");
    }

    #[test]
    fn what_only_libvirt_has_is_refused() {
        let mut domain = Domain::new("web1");
        domain.nics.push(Nic { mac: None, link: Link::Network { network: "default".to_owned() } });
        assert!(matches!(command_line(&domain), Err(Error::NeedsLibvirt(_))));
        let mut domain = Domain::new("web1");
        domain.firmware = Firmware::Efi;
        assert!(matches!(command_line(&domain), Err(Error::NoFirmware)));
    }

    fn command_line(domain: &Domain) -> Result<String, Error> {
        let files = QemuFiles {
            monitor: "/run/m".into(),
            serial: "/run/s".into(),
            pid: "/run/pid".into(),
            sandbox: true,
            firmware: None,
        };
        let command = QemuCommand::new(domain, &files)?;
        Ok(command.arguments().iter().map(|argument| argument.to_string_lossy().into_owned() + " ").collect())
    }
}
