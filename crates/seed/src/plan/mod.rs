//! What will be done to a guest's files so that it is what its seed says: an edit plan for each partition.

mod accounts;
mod builder;
mod cloud_init;
mod describe;
mod error;
mod files;
mod host_keys;
mod hostname;
mod identity;
mod labels;
mod lines;
mod material;
mod minion;
mod minion_config;
mod minion_merge;
mod minion_service;
mod planned;
mod relabel;
mod seed;
mod skeleton;
mod ssh_keys;
mod sshd_config;

#[cfg(test)]
mod tests;

pub use describe::Step;
pub use error::Error;
pub use material::{HostKey, KeyPair, Material, RandomSeed};
pub use planned::{MinionKey, Note, Planned};
pub use relabel::label_new_files;
pub use seed::{HostKeys, Leftovers, MachineId, Secret, Seed, SeedFile, SeedMinion, SeedUser};

use builder::Builder;
use imgcore::fs::Attributes;
use labels::Labels;

use crate::guest::{Guest, Tree};

/// Plans what has to be done to the guest whose files are `tree` so that it is as `seed` says. Nothing is written.
///
/// `check` is asked again and again whether to go on.
///
/// # Errors
///
/// [`Error`] says which value of the seed cannot be used, or which file of the guest cannot be reached; and what `check` returns.
pub fn plan<E: From<Error>>(
    guest: &Guest,
    tree: &Tree,
    seed: &Seed,
    material: &Material,
    check: impl Fn() -> Result<(), E>,
) -> Result<Planned, E> {
    check()?;
    let mut builder = Builder::new(tree, Labels::read(tree, guest.selinux.as_ref())?);
    let accounts = accounts::plan(&mut builder, guest, seed, material)?;
    skeleton::plan(&mut builder, &accounts, &check)?;
    files::plan(&mut builder, seed, material, &accounts.users, &accounts.groups)?;
    check()?;
    hostname::plan(&mut builder, guest, seed)?;
    identity::machine_id(&mut builder, guest, seed)?;
    identity::timezone(&mut builder, seed)?;
    identity::random_seed(&mut builder, guest, material)?;
    check()?;
    ssh_keys::plan(&mut builder, guest, seed, &accounts.users)?;
    let known_hosts = host_keys::plan(&mut builder, guest, seed, material)?;
    cloud_init::plan(&mut builder, guest, seed)?;
    let minion = minion::plan(&mut builder, guest, seed, material)?;
    if builder.needs_relabel() {
        builder.write("/.autorelabel", Vec::new().into(), Attributes::root(0o644))?;
        builder.info("some new files have no SELinux label by the guest's policy; it labels all files at its first boot");
    }
    Ok(Planned { known_hosts, minion, ..builder.finish() })
}
