use std::io::Write;
use std::time::Duration;

use super::{DomainState, Hypervisor};
use crate::context::Context;
use crate::domain::{Domain, Forward, Link};
use crate::error::{CommandError, ErrorKind};
use crate::tool::Tool;

/// A machine that libvirt runs, through the `virsh` program.
#[derive(Debug)]
pub struct Libvirt<'a> {
    context: &'a Context,
    uri: String,
    name: String,
}

impl<'a> Libvirt<'a> {
    /// Returns the machine `name` of the libvirt at `uri`.
    #[must_use]
    pub fn new(context: &'a Context, uri: impl Into<String>, name: impl Into<String>) -> Self {
        Self { context, uri: uri.into(), name: name.into() }
    }

    /// Returns the URI that is this user's own: `qemu:///system` for root, `qemu:///session` for everybody else.
    #[must_use]
    pub fn default_uri(context: &Context) -> &'static str {
        if context.is_root() { "qemu:///system" } else { "qemu:///session" }
    }

    /// Asks whether somebody answers at the URI.
    ///
    /// # Errors
    ///
    /// When nobody does in time, or `virsh` is missing.
    pub fn answers(&self) -> Result<(), CommandError> {
        self.virsh("uri").timeout(ANSWER_LIMIT).run(self.context).map(drop).map_err(|error| {
            error.context(format!("libvirt does not answer at `{}`", self.uri)).hint("`--direct` runs QEMU without libvirt")
        })
    }

    /// Returns the address that a network of libvirt has leased to the guest, once it has.
    ///
    /// # Errors
    ///
    /// When libvirt cannot be asked.
    pub fn address(&self) -> Result<Option<String>, CommandError> {
        let table = self.of_domain("domifaddr", &["--source", "lease"])?;
        let cidr = table.lines().filter_map(|line| line.split_whitespace().nth(3)).find(|word| word.contains('/'));
        Ok(cidr.and_then(|cidr| cidr.split('/').next()).map(str::to_owned))
    }

    fn virsh(&self, command: &str) -> Tool {
        Tool::new(self.context, "virsh")
            .args(["-q", "-c", &self.uri, command])
            // States are read from what it prints.
            .variable("LC_ALL", "C.UTF-8")
            .timeout(VIRSH_LIMIT)
            .failing_as(ErrorKind::Hypervisor)
    }

    fn of_domain(&self, command: &str, options: &[&str]) -> Result<String, CommandError> {
        self.virsh(command).args(options).args(["--", &self.name]).run(self.context)
    }

    /// Refuses to touch a domain of the same name that is another machine.
    fn check_identity(&self, domain: &Domain) -> Result<(), CommandError> {
        let state = self.state()?;
        if state == DomainState::Undefined {
            return Ok(());
        }
        let uuid = self.of_domain("domuuid", &[])?;
        if domain.uuid.is_none_or(|own| own.to_string() != uuid.trim()) {
            let message = format!("libvirt has another machine called `{}` at `{}`", self.name, self.uri);
            return Err(CommandError::new(ErrorKind::Refused, message).hint("prepare this one under another name"));
        }
        if state.is_active() {
            return Err(CommandError::new(ErrorKind::Refused, "the machine runs already"));
        }
        Ok(())
    }

    /// Makes a port of 127.0.0.1 lead into a guest that has just been started.
    fn forward(&self, nic: usize, forward: Forward) -> Result<(), CommandError> {
        // libvirt names the network behind its first interface so, and has no words of its own for this.
        let command = format!("hostfwd_add hostnet{nic} tcp:127.0.0.1:{}-:{}", forward.host, forward.guest);
        let tool = self.virsh("qemu-monitor-command").args(["--hmp", "--", &self.name, &command]);
        let said = tool.run(self.context)?;
        if said.trim().is_empty() {
            return Ok(());
        }
        let message = format!("port {} of 127.0.0.1 cannot be led into the guest", forward.host);
        Err(CommandError::new(ErrorKind::Hypervisor, message).with_source(said.trim().to_owned()))
    }
}

impl Hypervisor for Libvirt<'_> {
    fn define(&self, domain: &Domain) -> Result<(), CommandError> {
        let xml = domain.to_xml()?;
        self.check_identity(domain)?;
        let cannot = |error| CommandError::io("cannot write the domain's description for libvirt", error);
        let mut file = tempfile::Builder::new().suffix(".xml").tempfile().map_err(cannot)?;
        file.write_all(xml.as_bytes()).map_err(cannot)?;
        self.virsh("define").arg("--validate").arg(file.path()).run(self.context).map(drop)
    }

    fn start(&self, domain: &Domain) -> Result<(), CommandError> {
        self.of_domain("start", &[])?;
        for (index, nic) in domain.nics.iter().enumerate() {
            let Link::User { forwards } = &nic.link else { continue };
            for forward in forwards {
                if let Err(error) = self.forward(index, *forward) {
                    self.destroy()?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<DomainState, CommandError> {
        let output = self.virsh("domstate").args(["--", &self.name]).output(self.context)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            if said.contains("failed to get domain") {
                return Ok(DomainState::Undefined);
            }
            let error = CommandError::new(ErrorKind::Hypervisor, format!("libvirt does not answer at `{}`", self.uri));
            return Err(error.with_source(said.trim().to_owned()));
        }
        parse_state(String::from_utf8_lossy(&output.stdout).trim())
    }

    fn shutdown(&self) -> Result<(), CommandError> {
        self.of_domain("shutdown", &["--mode", "acpi"]).map(drop)
    }

    fn destroy(&self) -> Result<(), CommandError> {
        if !self.state()?.is_active() {
            return Ok(());
        }
        // Ends QEMU softly first, so that it writes what it still has of its images' tables.
        let graceful = self.of_domain("destroy", &["--graceful"]);
        if graceful.is_ok() || !self.state()?.is_active() {
            return Ok(());
        }
        self.of_domain("destroy", &[]).map(drop)
    }

    fn undefine(&self) -> Result<(), CommandError> {
        match self.state()? {
            DomainState::Undefined => Ok(()),
            state if state.is_active() => Err(CommandError::new(ErrorKind::Refused, "the machine runs")),
            _ => self.of_domain("undefine", &["--nvram"]).map(drop),
        }
    }

    fn display(&self) -> Result<Option<String>, CommandError> {
        let text = self.of_domain("domdisplay", &["--type", "vnc"])?;
        let Some(address) = text.trim().strip_prefix("vnc://") else { return Ok(None) };
        let Some((host, display)) = address.rsplit_once(':') else { return Ok(Some(address.to_owned())) };
        // libvirt counts displays from port 5900.
        let port = display.parse::<u16>().ok().and_then(|display| display.checked_add(5900));
        Ok(port.map(|port| format!("{host}:{port}")))
    }

    fn console(&self) -> Result<(), CommandError> {
        let status = self.virsh("console").args(["--", &self.name]).interactive()?;
        if status.success() {
            return Ok(());
        }
        Err(CommandError::new(ErrorKind::Hypervisor, format!("`virsh console` failed ({status})")))
    }
}

fn parse_state(text: &str) -> Result<DomainState, CommandError> {
    Ok(match text {
        "running" | "idle" | "in shutdown" => DomainState::Running,
        "paused" | "pmsuspended" => DomainState::Paused,
        "shut off" => DomainState::ShutOff,
        "crashed" => DomainState::Crashed,
        _ => {
            let message = format!("libvirt reports the unknown state {text:?}");
            return Err(CommandError::new(ErrorKind::Hypervisor, message));
        }
    })
}

/// A session's daemon is started by the first question.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// libvirt's first look at QEMU's capabilities takes many seconds.
const VIRSH_LIMIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::parse_state;
    use crate::hypervisor::DomainState;

    #[test]
    fn the_states_of_libvirt_are_known_and_an_unknown_one_is_not_guessed() {
        assert_eq!(parse_state("in shutdown").unwrap(), DomainState::Running);
        assert_eq!(parse_state("shut off").unwrap(), DomainState::ShutOff);
        assert!(parse_state("").is_err());
    }
}
