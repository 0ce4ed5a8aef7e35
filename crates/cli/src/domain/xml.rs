use std::path::Path;

use super::element::Element;
use super::{Accelerator, Bus, Disk, Domain, Error, Export, Firmware, Link, Nic, Server, Source};

impl Domain {
    /// Returns the domain as libvirt's XML, checked before.
    ///
    /// Every disk names its driver and format, since libvirt takes a disk without one for raw. Forwarded ports are not part of
    /// the document: libvirt has no words for them in QEMU's own user network.
    ///
    /// # Errors
    ///
    /// Those of [`Domain::check`].
    ///
    /// # Spec
    ///
    /// libvirt, docs/formatdomain.rst.
    pub fn to_xml(&self) -> Result<String, Error> {
        self.check()?;
        let domain = Element::new("domain")
            .attr("type", self.accelerator.domain_type())
            .child(Element::new("name").text(&self.name))
            .children(self.uuid.map(|uuid| Element::new("uuid").text(uuid)))
            .child(Element::new("memory").attr("unit", "MiB").text(self.memory_mib))
            .child(Element::new("vcpu").text(self.vcpus))
            .children(self.sysinfo())
            .child(self.os())
            .child(Element::new("features").child(Element::new("acpi")).child(Element::new("apic")))
            .child(self.cpu())
            .child(Element::new("clock").attr("offset", "utc"))
            .child(Element::new("on_poweroff").text("destroy"))
            .child(Element::new("on_reboot").text("restart"))
            .child(Element::new("on_crash").text("destroy"))
            .child(self.devices());
        Ok(domain.to_document())
    }

    /// Returns whether the SMBIOS system table says anything of the domain's own.
    fn has_sysinfo(&self) -> bool {
        self.uuid.is_some() || self.smbios_serial.is_some()
    }

    fn sysinfo(&self) -> Option<Element> {
        let entry = |name, value: String| Element::new("entry").attr("name", name).text(value);
        let system = Element::new("system")
            .children(self.smbios_serial.clone().map(|serial| entry("serial", serial)))
            // libvirt: the entry must be the domain's UUID.
            .children(self.uuid.map(|uuid| entry("uuid", uuid.to_string())));
        self.has_sysinfo().then(|| Element::new("sysinfo").attr("type", "smbios").child(system))
    }

    fn os(&self) -> Element {
        let mut os = Element::new("os");
        if self.firmware == Firmware::Efi {
            os = os.attr("firmware", "efi");
        }
        os = os.child(Element::new("type").attr("arch", "x86_64").attr("machine", self.machine.name()).text("hvm"));
        if self.firmware == Firmware::Efi {
            let feature = Element::new("feature").attr("enabled", "no").attr("name", "secure-boot");
            os = os.child(Element::new("firmware").child(feature));
        }
        os = os.child(Element::new("boot").attr("dev", "hd"));
        if self.has_sysinfo() {
            os = os.child(Element::new("smbios").attr("mode", "sysinfo"));
        }
        os
    }

    fn cpu(&self) -> Element {
        Element::new("cpu").attr(
            "mode",
            match self.accelerator {
                Accelerator::Kvm => "host-passthrough",
                // QEMU's default lacks what current distributions are built for.
                Accelerator::Qemu => "maximum",
            },
        )
    }

    fn devices(&self) -> Element {
        let random = Element::new("backend").attr("model", "random").text("/dev/urandom");
        Element::new("devices")
            .children(self.disks_and_seed())
            .children(self.nics.iter().map(interface))
            .children(self.serial())
            .child(Element::new("rng").attr("model", "virtio").child(random))
            .children(self.display())
            .child(Element::new("memballoon").attr("model", "none"))
    }

    fn disks_and_seed(&self) -> Vec<Element> {
        let mut virtio = TargetNames::new("vd");
        let mut sata = TargetNames::new("sd");
        let mut elements = Vec::new();
        for disk in &self.disks {
            let (target, bus) = match disk.bus {
                Bus::Virtio => (virtio.next_name(), "virtio"),
                Bus::Sata => (sata.next_name(), "sata"),
            };
            elements.push(system_disk(disk, &target, bus));
        }
        if let Some(seed) = &self.seed {
            let seed = match self.seed_bus() {
                Bus::Virtio => disk_element("disk", "raw", file_source(seed), &virtio.next_name(), "virtio"),
                Bus::Sata => disk_element("cdrom", "raw", file_source(seed), &sata.next_name(), "sata"),
            };
            elements.push(seed.child(Element::new("readonly")));
        }
        elements
    }

    /// Returns the first serial port and the console on it, which `virsh console` opens.
    fn serial(&self) -> [Element; 2] {
        let log = self.serial_log.as_ref().map(|path| Element::new("log").attr("file", path.display()).attr("append", "off"));
        let mut serial = Element::new("serial").attr("type", "pty").children(log);
        serial = serial.child(Element::new("target").attr("port", 0));
        let target = Element::new("target").attr("type", "serial").attr("port", 0);
        [serial, Element::new("console").attr("type", "pty").child(target)]
    }

    fn display(&self) -> Vec<Element> {
        if !self.vnc {
            return Vec::new();
        }
        let address = Element::new("listen").attr("type", "address").attr("address", LOOPBACK);
        let graphics = Element::new("graphics")
            .attr("type", "vnc")
            .attr("port", -1)
            .attr("autoport", "yes")
            .attr("listen", LOOPBACK)
            .child(address);
        let model = Element::new("model").attr("type", "vga");
        vec![graphics, Element::new("video").child(model)]
    }
}

fn system_disk(disk: &Disk, target: &str, bus: &str) -> Element {
    let source = match &disk.source {
        Source::File(path) => file_source(path),
        Source::Export(export) => export_source(export),
    };
    let mut element = disk_element("disk", disk.format.name(), source, target, bus);
    if disk.read_only {
        element = element.child(Element::new("readonly"));
    }
    element
}

/// Returns the kind of a disk in a file, and its source.
fn file_source(path: &Path) -> (&'static str, Element) {
    ("file", Element::new("source").attr("file", path.display()))
}

/// Returns the kind of a disk in an export, and its source.
fn export_source(export: &Export) -> (&'static str, Element) {
    let source = Element::new("source").attr("protocol", "nbd");
    let source = if export.export.is_empty() { source } else { source.attr("name", &export.export) };
    let host = match &export.server {
        Server::Unix(socket) => Element::new("host").attr("transport", "unix").attr("socket", socket.display()),
        Server::Tcp { host, port } => Element::new("host").attr("name", host).attr("port", port),
    };
    ("network", source.child(host))
}

fn disk_element(device: &str, format: &str, source: (&str, Element), target: &str, bus: &str) -> Element {
    let driver = Element::new("driver").attr("name", "qemu").attr("type", format);
    // A cleared block of the guest is given back to the host; a CD-ROM has none.
    let driver = if device == "disk" { driver.attr("discard", "unmap") } else { driver };
    Element::new("disk")
        .attr("type", source.0)
        .attr("device", device)
        .child(driver)
        .child(source.1)
        .child(Element::new("target").attr("dev", target).attr("bus", bus))
}

fn interface(nic: &Nic) -> Element {
    let (kind, source) = match &nic.link {
        Link::User { .. } => ("user", None),
        Link::Bridge { bridge } => ("bridge", Some(Element::new("source").attr("bridge", bridge))),
        Link::Network { network } => ("network", Some(Element::new("source").attr("network", network))),
    };
    Element::new("interface")
        .attr("type", kind)
        .children(nic.mac.map(|mac| Element::new("mac").attr("address", mac)))
        .children(source)
        .child(Element::new("model").attr("type", "virtio"))
}

/// The names of disks on one bus: `vda` to `vdz`. A domain has fewer.
struct TargetNames {
    prefix: &'static str,
    letters: std::ops::RangeInclusive<char>,
}

impl TargetNames {
    fn new(prefix: &'static str) -> Self {
        Self { prefix, letters: 'a'..='z' }
    }

    fn next_name(&mut self) -> String {
        // OK to default: `Domain::check` allows fewer disks than there are letters.
        let letter = self.letters.next().unwrap_or_default();
        format!("{}{letter}", self.prefix)
    }
}

/// The only address a display listens on.
const LOOPBACK: &str = "127.0.0.1";

#[cfg(test)]
mod tests {
    use crate::domain::{Accelerator, Bus, Disk, DiskFormat, Domain, Firmware, Forward, Link, Nic, Source};

    #[test]
    fn a_seeded_domain_says_everything_that_libvirt_would_otherwise_guess() {
        let mut domain = Domain::new("web1");
        domain.uuid = Some("5eed0000-0000-4000-8000-0000000000aa".parse().unwrap());
        domain.smbios_serial = Some("ds=nocloud".to_owned());
        domain.disks.push(disk("/vm/web1/disk.qcow2", Bus::Virtio));
        domain.seed = Some("/vm/web1/seed.iso".into());
        domain.serial_log = Some("/vm/web1/console.log".into());
        let forwards = vec![Forward { host: 2222, guest: 22 }];
        domain.nics.push(Nic { mac: Some("52:54:00:00:00:01".parse().unwrap()), link: Link::User { forwards } });
        assert_eq!(domain.to_xml().unwrap(), SEEDED);
    }

    #[test]
    fn a_display_is_served_on_the_loopback_address_alone_and_only_when_asked_for() {
        let mut domain = Domain::new("web1");
        assert!(!domain.to_xml().unwrap().contains("graphics"));
        domain.vnc = true;
        let xml = domain.to_xml().unwrap();
        assert!(xml.contains("<graphics type=\"vnc\" port=\"-1\" autoport=\"yes\" listen=\"127.0.0.1\">"), "{xml}");
    }

    #[test]
    fn the_seed_follows_the_disks_on_the_bus_of_the_first_one() {
        let mut domain = Domain::new("web1");
        domain.seed = Some("/seed".into());
        domain.disks = vec![disk("/a", Bus::Virtio), disk("/b", Bus::Sata), disk("/c", Bus::Virtio)];
        let xml = domain.to_xml().unwrap();
        for target in [
            "dev=\"vda\" bus=\"virtio\"",
            "dev=\"sda\" bus=\"sata\"",
            "dev=\"vdb\" bus=\"virtio\"",
            "dev=\"vdc\" bus=\"virtio\"",
        ] {
            assert!(xml.contains(target), "{target} in {xml}");
        }
        domain.disks = vec![disk("/a", Bus::Sata)];
        let xml = domain.to_xml().unwrap();
        assert!(xml.contains("device=\"cdrom\"") && xml.contains("dev=\"sdb\" bus=\"sata\""), "{xml}");
    }

    #[test]
    fn kvm_takes_the_host_processor_and_efi_is_left_to_libvirt() {
        let mut domain = Domain::new("web1");
        domain.accelerator = Accelerator::Kvm;
        domain.firmware = Firmware::Efi;
        let xml = domain.to_xml().unwrap();
        assert!(xml.contains("<domain type=\"kvm\">"), "{xml}");
        assert!(xml.contains("<os firmware=\"efi\">"), "{xml}");
        assert!(xml.contains("<cpu mode=\"host-passthrough\"/>"), "{xml}");
    }

    fn disk(path: &str, bus: Bus) -> Disk {
        Disk { source: Source::File(path.into()), format: DiskFormat::Qcow2, bus, read_only: false }
    }

    const SEEDED: &str = r#"<domain type="qemu">
  <name>web1</name>
  <uuid>5eed0000-0000-4000-8000-0000000000aa</uuid>
  <memory unit="MiB">1024</memory>
  <vcpu>1</vcpu>
  <sysinfo type="smbios">
    <system>
      <entry name="serial">ds=nocloud</entry>
      <entry name="uuid">5eed0000-0000-4000-8000-0000000000aa</entry>
    </system>
  </sysinfo>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <boot dev="hd"/>
    <smbios mode="sysinfo"/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode="maximum"/>
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"/>
      <source file="/vm/web1/disk.qcow2"/>
      <target dev="vda" bus="virtio"/>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw" discard="unmap"/>
      <source file="/vm/web1/seed.iso"/>
      <target dev="vdb" bus="virtio"/>
      <readonly/>
    </disk>
    <interface type="user">
      <mac address="52:54:00:00:00:01"/>
      <model type="virtio"/>
    </interface>
    <serial type="pty">
      <log file="/vm/web1/console.log" append="off"/>
      <target port="0"/>
    </serial>
    <console type="pty">
      <target type="serial" port="0"/>
    </console>
    <rng model="virtio">
      <backend model="random">/dev/urandom</backend>
    </rng>
    <memballoon model="none"/>
  </devices>
</domain>
"#;
}
