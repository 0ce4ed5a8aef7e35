//! What will be done to a guest's files so that it is what its seed says: an edit plan for each partition.

mod accounts;
mod builder;
mod error;
mod files;
mod labels;
mod lines;
mod material;
mod planned;
mod seed;
mod skeleton;

pub use error::Error;
pub use material::{HostKey, KeyPair, Material, RandomSeed};
pub use planned::{MinionKey, Note, Planned};
pub use seed::{HostKeys, Leftovers, MachineId, Secret, Seed, SeedFile, SeedMinion, SeedUser};

use builder::Builder;
use labels::Labels;

use crate::guest::{Guest, Tree};

/// Plans what has to be done to the guest whose files are `tree` so that it is as `seed` says. Nothing is written.
///
/// # Errors
///
/// [`Error`] says which value of the seed cannot be used, or which file of the guest cannot be reached.
pub fn plan(guest: &Guest, tree: &Tree, seed: &Seed, material: &Material) -> Result<Planned, Error> {
    let mut builder = Builder::new(tree, Labels::read(tree, guest.selinux.as_ref())?);
    let accounts = accounts::plan(&mut builder, seed, material)?;
    files::plan(&mut builder, seed, material, &accounts.users, &accounts.groups)?;
    Ok(builder.finish())
}
