use imgcore::fs::Attributes;

use super::builder::Builder;
use super::{Error, Seed, lines};
use crate::guest::{Family, Guest, Init};

/// Plans the host name and what `/etc/hosts` says of it.
pub(super) fn plan(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed) -> Result<(), Error> {
    let Some(hostname) = &seed.hostname else { return Ok(()) };
    check("the host name", hostname)?;
    let full = seed.full_name();
    if let Some(full) = &full {
        check("the full host name", full)?;
    }
    if builder.is_written("/etc/hostname")?
        && builder.read("/etc/hostname")?.is_none_or(|text| text.trim_ascii() != hostname.as_bytes())
    {
        return Err(Error::Twice("/etc/hostname".to_owned()));
    }
    builder.write("/etc/hostname", format!("{hostname}\n").as_str().into(), Attributes::default())?;
    match guest.os.family {
        Family::Suse if builder.exists("/etc/HOSTNAME")? && !builder.is_written("/etc/HOSTNAME")? => {
            builder.write("/etc/HOSTNAME", format!("{hostname}\n").as_str().into(), Attributes::default())?;
        }
        Family::RedHat if guest.init != Init::Systemd => {
            assignment(builder, "/etc/sysconfig/network", "HOSTNAME=", &format!("HOSTNAME={hostname}"))?;
        }
        Family::Gentoo if builder.exists("/etc/conf.d/hostname")? => {
            assignment(builder, "/etc/conf.d/hostname", "hostname=", &format!("hostname=\"{hostname}\""))?;
        }
        _ => {}
    }
    let pretty = builder.read("/etc/machine-info")?.is_some_and(|text| text.split(|byte| *byte == b'\n').any(is_pretty));
    if pretty {
        assignment(builder, "/etc/machine-info", "PRETTY_HOSTNAME=", &format!("PRETTY_HOSTNAME={hostname}"))?;
    }
    hosts(builder, guest, hostname, full.as_deref())
}

/// Gives `127.0.1.1` the machine's names, as Debian does, where the guest has that line, is a Debian, or has a full name to resolve.
fn hosts(builder: &mut Builder<'_>, guest: &Guest, hostname: &str, full: Option<&str>) -> Result<(), Error> {
    let before = builder.read("/etc/hosts")?;
    let mut after = before.clone().unwrap_or_else(|| b"127.0.0.1\tlocalhost\n".to_vec());
    let short = hostname.split('.').next().unwrap_or(hostname);
    let names = match full {
        Some(full) if full != short => format!("{full} {short}"),
        _ => hostname.to_owned(),
    };
    let line = format!("127.0.1.1\t{names}");
    let is_own = |line: &[u8]| line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()) == Some(b"127.0.1.1");
    let replaced = lines::replace(&mut after, is_own, &line);
    if !replaced && (guest.os.family == Family::Debian || full.is_some()) {
        lines::append(&mut after, &line);
    }
    let unchanged = before.as_ref().map_or(!replaced && after == b"127.0.0.1\tlocalhost\n", |before| *before == after);
    if !unchanged {
        builder.write("/etc/hosts", after.into(), Attributes::default())?;
    }
    Ok(())
}

fn assignment(builder: &mut Builder<'_>, path: &str, name: &str, line: &str) -> Result<(), Error> {
    let mut text = builder.read(path)?.unwrap_or_default();
    if !lines::replace(&mut text, |line| line.trim_ascii_start().starts_with(name.as_bytes()), line) {
        lines::append(&mut text, line);
    }
    builder.write(path, text.into(), Attributes::default())
}

fn is_pretty(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"PRETTY_HOSTNAME=")
}

fn check(what: &'static str, name: &str) -> Result<(), Error> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
    };
    // Spec: RFC 1123, 2.1, and hostname(7): "Each element of the hostname must be from 1 to 63 characters long".
    let most = if what == "the host name" { HOST_NAME_MAX } else { 253 };
    if name.len() <= most && name.split('.').all(label) {
        return Ok(());
    }
    Err(Error::Invalid {
        what,
        value: name.to_owned(),
        rule: format!("it has at most {most} characters: letters, digits and `-` in labels of 1 to 63 between dots"),
    })
}

/// Linux: `HOST_NAME_MAX`.
const HOST_NAME_MAX: usize = 64;
