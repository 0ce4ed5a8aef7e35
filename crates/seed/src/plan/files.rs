use imgcore::fs::{Attributes, Content};

use super::builder::Builder;
use super::{Error, Material, Seed, SeedFile};
use crate::guest::{Group, User};

/// Plans the files of the seed.
pub(super) fn plan(
    builder: &mut Builder<'_>,
    seed: &Seed,
    material: &Material,
    users: &[User],
    groups: &[Group],
) -> Result<(), Error> {
    for file in &seed.files {
        if builder.is_written(&file.path)? {
            return Err(Error::Twice(file.path.clone()));
        }
        let attributes = attributes(file, users, groups)?;
        builder.write(&file.path, content(file, material)?, attributes)?;
    }
    Ok(())
}

fn content(file: &SeedFile, material: &Material) -> Result<Content, Error> {
    match (&file.content, &file.source) {
        (Some(text), None) => Ok(Content::from(text.expose())),
        (None, Some(source)) => material.sources.get(source).cloned().ok_or_else(|| Error::MissingSource(source.clone())),
        _ => Err(Error::Invalid {
            what: "the file",
            value: file.path.clone(),
            rule: "it needs either `content` or `source`".to_owned(),
        }),
    }
}

fn attributes(file: &SeedFile, users: &[User], groups: &[Group]) -> Result<Attributes, Error> {
    let mode = file.mode.as_deref().map(mode).transpose()?;
    let mut attributes = Attributes { mode, ..Attributes::default() };
    if let Some(owner) = &file.owner {
        match owner.parse() {
            Ok(uid) => {
                attributes.uid = Some(uid);
                attributes.gid = users.iter().find(|user| user.uid == uid).map(|user| user.gid);
            }
            Err(_) => {
                let user = super::accounts::find(users, owner)?;
                attributes.uid = Some(user.uid);
                attributes.gid = Some(user.gid);
            }
        }
    }
    if let Some(group) = &file.group {
        let named = groups.iter().find(|own| own.name == *group).map(|own| own.gid);
        attributes.gid = Some(match (group.parse(), named) {
            (Ok(gid), _) | (_, Some(gid)) => gid,
            _ => return Err(Error::UnknownGroup(group.clone())),
        });
    }
    Ok(attributes)
}

/// Returns the permission bits of an octal number, with or without `0o`.
fn mode(text: &str) -> Result<u32, Error> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777 && !digits.starts_with('+')).ok_or_else(|| {
        Error::Invalid { what: "the mode", value: text.to_owned(), rule: "it is an octal number of at most 7777".to_owned() }
    })
}
