use imgcore::fs::Attributes;

use super::Error;
use super::builder::Builder;
use crate::guest::{Guest, Init, Minion};

/// Plans that the minion starts at boot.
pub(super) fn plan(builder: &mut Builder<'_>, guest: &Guest) -> Result<(), Error> {
    let Some(Minion { unit: Some(unit), enabled, masked, .. }) = &guest.salt_minion else {
        builder.warn("the guest has no salt-minion service that could be enabled; the preseed waits for one");
        return Ok(());
    };
    if *masked {
        builder.remove("/etc/systemd/system/salt-minion.service")?;
        builder.info("the guest's salt-minion service was masked; it is not any more");
    }
    if *enabled {
        return Ok(());
    }
    let none = Attributes::default();
    match guest.init {
        Init::Systemd => builder.symlink("/etc/systemd/system/multi-user.target.wants/salt-minion.service", unit, none),
        Init::Openrc => builder.symlink("/etc/runlevels/default/salt-minion", unit, none),
        _ => sysv(builder),
    }
}

/// Plans the start and kill links of a System V init script.
fn sysv(builder: &mut Builder<'_>) -> Result<(), Error> {
    let red_hat = builder.exists("/etc/rc.d/rc3.d")?;
    let parent = if red_hat { "/etc/rc.d" } else { "/etc" };
    for level in ["2", "3", "4", "5"] {
        let folder = format!("{parent}/rc{level}.d");
        if !builder.exists(&folder)? {
            continue;
        }
        for name in builder.names(&folder)?.into_keys() {
            if name.starts_with('K') && name.ends_with("salt-minion") {
                builder.remove(&format!("{folder}/{name}"))?;
            }
        }
        builder.symlink(&format!("{folder}/S99salt-minion"), "../init.d/salt-minion", Attributes::default())?;
    }
    Ok(())
}
