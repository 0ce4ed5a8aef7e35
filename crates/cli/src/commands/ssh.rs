//! `vmimg ssh`: logs in to a guest.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::running::Running;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::hypervisor::{Booted, Libvirt, Runner};
use crate::machine::{Machine, MachineName, RootArgs};
use crate::tool::Tool;

/// The arguments of `vmimg ssh`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg ssh web1
  vmimg ssh web1 -- systemctl is-system-running
  vmimg ssh web1 --user root --identity ~/.ssh/id_ed25519

The guest's host keys are known when `vmimg prepare` minted them; others are
remembered in the machine's folder when they are seen first. The exit status
is that of ssh.")]
pub struct Args {
    /// The machine
    #[arg(value_name = "NAME")]
    name: MachineName,
    /// The account in the guest [default: the first that `prepare` gave keys
    /// to, or root]
    #[arg(long, short = 'l', value_name = "USER")]
    user: Option<String>,
    /// The private key [default: what ssh finds]
    #[arg(long, short = 'i', value_name = "FILE")]
    identity: Option<PathBuf>,
    /// What to run in the guest instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    root: RootArgs,
}

/// Runs `vmimg ssh`; the program becomes ssh.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when the machine does not run, and when its address is not known.
pub fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let root = args.root.open(context)?;
    let machine = root.load(&args.name)?;
    let running = Running::find(context, &root, &args.name)?;
    let (booted, _) = running.active()?;
    let (host, port) = address(context, booted, &machine)?;
    let known_hosts = known_hosts(&running.folder, &machine)?;
    let user = args.user.as_deref().filter(|user| !user.is_empty());
    let login = Some(machine.guest.login.as_str()).filter(|login| !login.is_empty());
    let mut tool = Tool::new(context, "ssh").arg("-p").arg(port.to_string());
    for option in options(&machine, &known_hosts) {
        tool = tool.arg("-o").arg(option);
    }
    if let Some(identity) = &args.identity {
        tool = tool.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(context.absolute(identity));
    }
    tool = tool.arg("-l").arg(user.or(login).unwrap_or("root")).arg("--").arg(host);
    context.flush()?;
    Err(tool.args(&args.command).exec())
}

/// Returns where the guest's SSH server is.
fn address(context: &Context, booted: &Booted, machine: &Machine) -> Result<(String, u16), CommandError> {
    if let Some(port) = booted.ssh_port {
        return Ok(("127.0.0.1".to_owned(), port));
    }
    if let Runner::Libvirt { uri } = &booted.hypervisor
        && let Some(address) = Libvirt::new(context, uri, machine.name.as_str()).address()?
    {
        return Ok((address, 22));
    }
    Err(CommandError::new(ErrorKind::Refused, format!("the address of the guest of `{}` is not known", machine.name))
        .hint("libvirt knows that of a guest on one of its networks, once it has a lease"))
}

fn options(machine: &Machine, known_hosts: &Path) -> [String; 3] {
    let strict = if machine.guest.known_hosts.is_empty() { "accept-new" } else { "yes" };
    [
        format!("HostKeyAlias={}", machine.name),
        // Quoted: ssh splits the value at spaces, and expands what begins with a percent sign.
        format!("UserKnownHostsFile=\"{}\"", known_hosts.to_string_lossy().replace('%', "%%")),
        format!("StrictHostKeyChecking={strict}"),
    ]
}

/// Returns the machine's own file of host keys, written anew when they are known.
fn known_hosts(folder: &Path, machine: &Machine) -> Result<PathBuf, CommandError> {
    let path = folder.join("known_hosts");
    let keys: Vec<String> =
        machine.guest.known_hosts.iter().filter_map(|line| under_name(line, machine.name.as_str())).collect();
    if !keys.is_empty() {
        fs::write(&path, keys.concat())
            .map_err(|error| CommandError::io(format!("cannot write `{}`", path.display()), error))?;
    }
    Ok(path)
}

/// Returns a known_hosts line with `name` in place of its host names.
fn under_name(line: &str, name: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| !is_key_type(word));
    Some(format!("{name} {} {}\n", words.next()?, words.next()?))
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| word.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::under_name;

    #[test]
    fn a_host_key_is_known_under_the_machines_name() {
        let line = "web1,10.0.0.1 ssh-ed25519 AAAAC3Nza root@web1";
        assert_eq!(under_name(line, "m").unwrap(), "m ssh-ed25519 AAAAC3Nza\n");
        assert_eq!(under_name("ssh-ed25519 AAAAC3Nza", "m").unwrap(), "m ssh-ed25519 AAAAC3Nza\n");
        assert_eq!(under_name("# nothing", "m"), None);
    }
}
