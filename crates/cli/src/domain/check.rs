use std::collections::HashSet;
use std::path::Path;

use super::{Accelerator, Bus, DiskFormat, Domain, Error, Export, Link, MachineType, Server, Source};

/// Checks that `name` can be a domain's, in libvirt, as a file name and on a command line.
///
/// # Errors
///
/// [`Error::Name`] for an empty or overlong name, for control characters and `/`, and for a first `-` or `.`.
pub fn check_name(name: &str) -> Result<(), Error> {
    let refused = |rule| Err(Error::Name { name: name.to_owned(), rule });
    if name.trim().is_empty() {
        return refused("it is empty");
    }
    if name.len() > NAME_LIMIT {
        return refused("it is longer than 200 bytes");
    }
    if name.chars().any(is_not_xml) {
        return refused("it has a control character");
    }
    if name.contains('/') {
        return refused("it has a slash");
    }
    if name.starts_with('-') {
        return refused("it begins with a hyphen, as an option does");
    }
    if name.starts_with('.') {
        return refused("it begins with a dot, as a hidden file does");
    }
    if name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace) {
        return refused("it begins or ends with a space");
    }
    Ok(())
}

impl Domain {
    /// Checks what libvirt or QEMU would refuse, or would silently take for something else.
    ///
    /// # Errors
    ///
    /// The first rule that the domain breaks, as [`Error::Name`], [`Error::Path`] or [`Error::Value`].
    pub fn check(&self) -> Result<(), Error> {
        check_name(&self.name)?;
        self.check_sizes()?;
        self.check_disks()?;
        self.check_nics()?;
        if let Some(serial) = &self.smbios_serial {
            check_text("the SMBIOS serial number", serial)?;
        }
        if let Some(log) = &self.serial_log {
            check_path(log)?;
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), Error> {
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return value("the memory in MiB", self.memory_mib.to_string(), "it is 16 MiB to 16 TiB");
        }
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return value("the number of processors", self.vcpus.to_string(), "it is 1 to 255");
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        for path in self.disks.iter().filter_map(|disk| disk.source.file()).chain(self.seed.as_deref()) {
            check_path(path)?;
            if !seen.insert(path) {
                return Err(Error::Path { path: path.to_owned(), rule: "another disk of the domain has it" });
            }
        }
        let mut exports = HashSet::new();
        for disk in &self.disks {
            let Source::Export(export) = &disk.source else { continue };
            check_export(export)?;
            if !exports.insert(export) {
                return value("the export", &export.export, "another disk of the domain has it");
            }
            if disk.format != DiskFormat::Raw {
                return value("the format of an export", disk.format.name(), "it is raw");
            }
        }
        let devices = self.disks.len().saturating_add(self.nics.len());
        if devices > MAX_DEVICES {
            return value("the number of disks and interfaces", devices, "it is at most 24");
        }
        let sata = self.disks.iter().filter(|disk| disk.bus == Bus::Sata).count();
        if sata > 0 && self.machine == MachineType::Pc {
            return value("the bus", "sata", "the pc machine has no SATA controller");
        }
        if sata > MAX_SATA_DISKS {
            return value("the number of SATA disks", sata, "the controller has six ports, and the seed takes one");
        }
        Ok(())
    }

    fn check_nics(&self) -> Result<(), Error> {
        let mut addresses = HashSet::new();
        let mut ports = HashSet::new();
        for nic in &self.nics {
            if let Some(mac) = nic.mac
                && !addresses.insert(mac)
            {
                return value("the MAC address", mac, "another interface of the domain has it");
            }
            match &nic.link {
                Link::User { forwards } => {
                    for forward in forwards {
                        if forward.host == 0 || forward.guest == 0 {
                            return value("the forwarded port", 0, "ports begin at 1");
                        }
                        if !ports.insert(forward.host) {
                            return value("the forwarded port", forward.host, "it is forwarded twice");
                        }
                    }
                }
                Link::Bridge { bridge } => check_interface_name(bridge)?,
                Link::Network { network } => {
                    check_text("the network", network)?;
                    if network.contains('/') {
                        return value("the network", network, "it has a slash");
                    }
                }
            }
        }
        Ok(())
    }
}

impl Accelerator {
    /// Returns the accelerator that libvirt's domain type `name` stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for anything but `kvm` and `qemu`.
    pub fn from_domain_type(name: &str) -> Result<Self, Error> {
        match name {
            "kvm" => Ok(Self::Kvm),
            "qemu" | "tcg" => Ok(Self::Qemu),
            _ => value("the accelerator", name, "it is kvm or qemu"),
        }
    }
}

fn check_path(path: &Path) -> Result<(), Error> {
    let refused = |rule| Err(Error::Path { path: path.to_owned(), rule });
    let Some(text) = path.to_str() else { return refused("it is not UTF-8") };
    if !path.is_absolute() {
        return refused("it is not absolute");
    }
    if text.chars().any(is_not_xml) {
        return refused("it has a control character");
    }
    Ok(())
}

fn check_export(export: &Export) -> Result<(), Error> {
    if !export.export.is_empty() {
        check_text("the export", &export.export)?;
    }
    match &export.server {
        Server::Unix(socket) => check_path(socket),
        Server::Tcp { port: 0, .. } => value("the port of a server", 0, "ports begin at 1"),
        Server::Tcp { host, .. } => check_text("the host of a server", host),
    }
}

fn check_text(what: &'static str, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return value(what, text, "it is empty");
    }
    if text.chars().any(is_not_xml) {
        return value(what, text, "it has a control character");
    }
    Ok(())
}

/// Checks what the kernel asks of an interface's name.
fn check_interface_name(name: &str) -> Result<(), Error> {
    check_text("the bridge", name)?;
    if name.len() > 15 || name == "." || name == ".." || name.contains(['/', ':', ',']) || name.contains(char::is_whitespace) {
        return value("the bridge", name, "it is at most 15 bytes without slash, colon, comma or space");
    }
    Ok(())
}

/// Returns whether XML 1.0 cannot hold `c` as itself, or a terminal would act on it.
fn is_not_xml(c: char) -> bool {
    // Spec: "any Unicode character, excluding the surrogate blocks, FFFE, and FFFF"
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

fn value<T>(what: &'static str, value: impl ToString, rule: &'static str) -> Result<T, Error> {
    Err(Error::Value { what, value: value.to_string(), rule })
}

/// What a file system allows in one name, with room for the suffixes that libvirt adds.
const NAME_LIMIT: usize = 200;
const MIN_MEMORY_MIB: u64 = 16;
const MAX_MEMORY_MIB: u64 = 16 << 20;
/// More need an emulated IOMMU with extended interrupts.
const MAX_VCPUS: u32 = 255;
/// What fits on the root bus beside the chipset's own devices.
const MAX_DEVICES: usize = 24;
const MAX_SATA_DISKS: usize = 5;

#[cfg(test)]
mod tests {
    use super::super::{Bus, Disk, DiskFormat, Domain, Forward, Link, MachineType, Nic, Source};
    use super::check_name;

    #[test]
    fn names_that_a_shell_an_xml_reader_or_a_folder_would_take_for_something_else_are_refused() {
        let overlong = "x".repeat(201);
        for name in [
            "",
            " ",
            "a/b",
            "../../etc/passwd",
            "new\nline",
            "\u{1b}[2J",
            "-rf",
            ".hidden",
            "..",
            " a",
            "a ",
            "a\0",
            "\u{9b}",
            "\u{ffff}",
            &overlong,
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["web01", "a", "name.with-dots_1", "a&b", "a<b>", "q'uote\"s", "grüß", "sp ace"] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn each_value_that_libvirt_would_refuse_is_refused_before() {
        let broken: [fn(&mut Domain); 12] = [
            |domain| domain.memory_mib = 0,
            |domain| domain.vcpus = 0,
            |domain| domain.vcpus = 256,
            |domain| domain.disks[0].source = Source::File("relative".into()),
            |domain| domain.disks[0].source = Source::File("/a\nb".into()),
            |domain| domain.seed = Some("/disk".into()),
            |domain| domain.disks = vec![domain.disks[0].clone(); 25],
            |domain| (domain.machine, domain.disks[0].bus) = (MachineType::Pc, Bus::Sata),
            |domain| domain.nics.push(domain.nics[0].clone()),
            |domain| domain.nics[0].link = Link::User { forwards: vec![Forward { host: 0, guest: 22 }] },
            |domain| domain.nics[0].link = Link::Bridge { bridge: "br0,id=x".to_owned() },
            |domain| domain.smbios_serial = Some("a\u{1}".to_owned()),
        ];
        sound().check().unwrap();
        for (index, breaks) in broken.iter().enumerate() {
            let mut domain = sound();
            breaks(&mut domain);
            assert!(domain.check().is_err(), "the domain with defect {index} is accepted");
        }
    }

    fn sound() -> Domain {
        let mut domain = Domain::new("web1");
        let source = Source::File("/disk".into());
        domain.disks.push(Disk { source, format: DiskFormat::Qcow2, bus: Bus::Virtio, read_only: false });
        domain.nics.push(Nic { mac: Some("52:54:00:00:00:01".parse().unwrap()), link: Link::User { forwards: Vec::new() } });
        domain
    }
}
