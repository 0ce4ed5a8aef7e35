use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::iter;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::context::Context;
use crate::domain::{Accelerator, Domain, Forward, Link};
use crate::error::{CommandError, ErrorKind};
use crate::hypervisor::{Booted, Libvirt, Runner};
use crate::machine::Machine;
use crate::output::warn;

/// What this start has of its own.
pub(super) struct Wishes {
    /// What executes the guest.
    pub(super) accelerator: Accelerator,
    /// The port that leads to the guest's SSH server.
    pub(super) ssh_port: Option<u16>,
    /// Whether the guest gets a display.
    pub(super) vnc: bool,
}

/// Returns what runs the machine: what the user named, else libvirt where it answers, else QEMU.
pub(super) fn runner(context: &Context, connect: Option<&str>, direct: bool, domain: &Domain) -> Result<Runner, CommandError> {
    if direct {
        return Ok(Runner::Qemu);
    }
    let uri = connect.unwrap_or_else(|| Libvirt::default_uri(context));
    match Libvirt::new(context, uri, &domain.name).answers() {
        Ok(()) => Ok(Runner::Libvirt { uri: uri.to_owned() }),
        Err(error) if connect.is_some() || error.kind() == ErrorKind::Interrupted => Err(error),
        Err(_) => Ok(Runner::Qemu),
    }
}

/// Returns the domain as it is started now, and the record of that.
pub(super) fn domain(
    context: &Context,
    folder: &Path,
    machine: &Machine,
    hypervisor: Runner,
    wishes: &Wishes,
) -> Result<(Domain, Booted), CommandError> {
    check_place(folder, machine)?;
    let mut domain = machine.domain.clone();
    domain.accelerator = wishes.accelerator;
    domain.vnc |= wishes.vnc;
    let console = domain.serial_log.get_or_insert_with(|| folder.join("console.log")).clone();
    let ssh_port = forward_ssh(context, folder, &mut domain, wishes.ssh_port)?;
    let booted = Booted { hypervisor, accelerator: wishes.accelerator, ssh_port, console, started: context.unix_time() };
    Ok((domain, booted))
}

/// Makes the console's log empty and for its owner alone to read, since guests say things there that are nobody else's business.
pub(super) fn make_log(path: &Path) -> Result<(), CommandError> {
    let log = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    match log.and_then(|log| log.set_permissions(Permissions::from_mode(0o600))) {
        // That of a libvirt of the system may be root's; it is emptied at the start.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        made => made.map_err(|error| CommandError::io(format!("cannot make `{}`", path.display()), error)),
    }
}

/// Checks that the domain's disks are those in the machine's folder, which may have been moved or copied.
fn check_place(folder: &Path, machine: &Machine) -> Result<(), CommandError> {
    let files = iter::once(machine.disk.file.as_ref()).chain(machine.data.iter().map(|disk| Some(&disk.file)));
    for (index, file) in files.enumerate() {
        let Some(file) = file else { continue };
        let own = folder.join(file);
        let cannot = |error| CommandError::io(format!("cannot find the disk `{}`", own.display()), error);
        let own = fs::canonicalize(&own).map_err(cannot)?;
        let described = machine.domain.disks.get(index).and_then(|disk| fs::canonicalize(disk.source.file()?).ok());
        if described.as_ref() != Some(&own) {
            let message = format!("the machine `{}` was prepared in another folder", machine.name);
            let error = CommandError::new(ErrorKind::Refused, message);
            return Err(error.hint("move it back, or remove it and prepare it again"));
        }
    }
    Ok(())
}

/// Makes a port of this host lead to the guest's SSH server, when the guest is in QEMU's own network; returns the port.
///
/// A port that the machine was prepared with gives way to a free one when somebody else listens there.
fn forward_ssh(context: &Context, folder: &Path, domain: &mut Domain, wish: Option<u16>) -> Result<Option<u16>, CommandError> {
    let mut networks = domain.nics.iter_mut().filter_map(|nic| match &mut nic.link {
        Link::User { forwards } => Some(forwards),
        _ => None,
    });
    let Some(forwards) = networks.next() else {
        return match wish {
            Some(_) => Err(CommandError::new(ErrorKind::Usage, "no port can lead into a guest on a bridge or network")
                .hint("reach it by its own address")),
            None => Ok(None),
        };
    };
    let prepared = forwards.iter().find(|forward| forward.guest == SSH).map(|forward| forward.host);
    forwards.retain(|forward| forward.guest != SSH);
    let before = prepared.or_else(|| Booted::load(folder).ok().flatten()?.ssh_port);
    let host = match wish {
        Some(port) => port,
        None => free_port(before)?,
    };
    if let (Some(port), None) = (prepared.filter(|port| *port != host), wish) {
        warn(context, format!("port {port} of 127.0.0.1 is taken; port {host} leads to the guest's SSH server"));
    }
    forwards.push(Forward { host, guest: SSH });
    Ok(Some(host))
}

/// Returns a port of 127.0.0.1 that nobody listens on now: the one `before` when it is free.
fn free_port(before: Option<u16>) -> Result<u16, CommandError> {
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = before.map_or_else(|| listen(0), |port| listen(port).or_else(|_| listen(0)));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(|error| CommandError::io("there is no free port on 127.0.0.1", error))
}

/// The guest's port.
const SSH: u16 = 22;

#[cfg(test)]
mod tests {
    use super::{forward_ssh, free_port};
    use crate::context::Context;
    use crate::domain::{Domain, Forward, Link, Nic};

    #[test]
    fn a_guest_in_qemus_own_network_gets_one_port_for_ssh() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context::detached(folder.path().to_owned(), Box::new(std::io::sink()), Box::new(std::io::sink()));
        let mut domain = Domain::new("web1");
        let forward = |domain: &mut Domain, wish| forward_ssh(&context, folder.path(), domain, wish);
        assert_eq!(forward(&mut domain, None).unwrap(), None);
        assert!(forward(&mut domain, Some(2222)).is_err());
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        domain.nics.push(Nic { mac: None, link: Link::User { forwards: vec![Forward { host: port, guest: 22 }] } });
        assert_ne!(forward(&mut domain.clone(), None).unwrap(), Some(port));
        drop(listener);
        assert_eq!(forward(&mut domain, None).unwrap(), Some(port));
        assert_eq!(forward(&mut domain, Some(2222)).unwrap(), Some(2222));
        assert_eq!(domain.nics[0].link, Link::User { forwards: vec![Forward { host: 2222, guest: 22 }] });
    }

    #[test]
    fn a_machine_keeps_its_port_while_that_is_free() {
        let port = free_port(None).unwrap();
        assert_eq!(free_port(Some(port)).unwrap(), port);
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert_ne!(free_port(Some(port)).unwrap(), port);
    }
}
