use std::collections::HashSet;

use imgcore::fs::Attributes;

use super::builder::Builder;
use super::{Error, Material, Secret, Seed, SeedUser, lines};
use crate::guest::{ACCOUNTS_MAX, Family, Group, Guest, User, decode_groups, decode_passwd};

/// The guest's accounts as they will be.
pub(super) struct Accounts {
    pub(super) users: Vec<User>,
    pub(super) groups: Vec<Group>,
    /// Those that are made, and the mode of their homes.
    pub(super) made: Vec<User>,
    pub(super) home_mode: u32,
}

/// The files that hold accounts, as they will be.
struct Files {
    passwd: Vec<u8>,
    group: Vec<u8>,
    /// `None` where the guest keeps hashes in passwd, or has no group passwords.
    shadow: Option<Vec<u8>>,
    gshadow: Option<Vec<u8>>,
}

/// The limits of `/etc/login.defs` that matter.
struct Limits {
    uid: (u32, u32),
    home_mode: u32,
}

/// Plans new accounts, passwords and sudo, and returns all accounts.
pub(super) fn plan(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed, material: &Material) -> Result<Accounts, Error> {
    let before = Files {
        passwd: builder.read("/etc/passwd")?.unwrap_or_default(),
        group: builder.read("/etc/group")?.unwrap_or_default(),
        shadow: builder.read("/etc/shadow")?,
        gshadow: builder.read("/etc/gshadow")?,
    };
    let mut after = Files {
        passwd: before.passwd.clone(),
        group: before.group.clone(),
        shadow: before.shadow.clone(),
        gshadow: before.gshadow.clone(),
    };
    let limits = limits(builder)?;
    // Spec: shadow(5): "The value 0 has a special meaning, which is that the user should change her password the next time".
    let days = material.now.checked_div(86400).unwrap_or_default().max(1);
    let mut accounts = Accounts {
        users: decode_passwd(&before.passwd),
        groups: decode_groups(&before.group),
        made: Vec::new(),
        home_mode: limits.home_mode,
    };
    for (index, wanted) in seed.users.iter().enumerate() {
        if seed.users.iter().take(index).any(|other| other.name == wanted.name) {
            return Err(Error::Twice(format!("the user {}", wanted.name)));
        }
        if !accounts.users.iter().any(|user| user.name == wanted.name) {
            if !wanted.create {
                find(&accounts.users, &wanted.name)?;
            }
            let user = add(builder, &mut accounts, wanted, &limits)?;
            after.add(&user, &accounts.groups, days);
            accounts.made.push(user);
        }
        if let Some(hash) = &wanted.password_hash {
            after.set_password(&wanted.name, hash, days)?;
        }
    }
    if let Some(hash) = &seed.root_password_hash {
        find(&accounts.users, "root")?;
        after.set_password("root", hash, days)?;
    }
    if guest.os.family == Family::Alpine {
        unlock(builder, seed, &mut after);
    }
    write(builder, &before, after)?;
    for wanted in seed.users.iter().filter(|wanted| wanted.sudo) {
        sudo(builder, wanted)?;
    }
    Ok(accounts)
}

/// Turns the locked accounts that are given keys into ones without a password: an SSH server without PAM refuses the former.
fn unlock(builder: &mut Builder<'_>, seed: &Seed, files: &mut Files) {
    let with_keys = seed.users.iter().filter(|user| !user.ssh_keys.is_empty()).map(|user| user.name.as_str());
    let Some(shadow) = &mut files.shadow else { return };
    for name in with_keys.chain((!seed.root_keys.is_empty()).then_some("root")) {
        let locked = lines::field(shadow, name, 1).and_then(|field| field.strip_prefix(b"!"));
        match locked {
            Some(b"" | b"!") => {
                lines::set_field(shadow, name, 1, "*");
                builder.info(format!("`{name}` was locked; it can now log in with a key, and still not with a password"));
            }
            // Its password would be lost, or let people in again.
            Some(_) => builder.warn(format!(
                "`{name}` is locked with its password kept; the guest's SSH server, without PAM, lets it not log in with a key either"
            )),
            None => {}
        }
    }
}

/// Returns the account called `name`.
pub(super) fn find<'a>(users: &'a [User], name: &str) -> Result<&'a User, Error> {
    users.iter().find(|user| user.name == name).ok_or_else(|| {
        let close =
            users.iter().map(|user| (strsim::osa_distance(&user.name, name), user)).filter(|(distance, _)| *distance <= 2);
        let nearest = close.min_by_key(|(distance, _)| *distance).map(|(_, user)| user.name.clone());
        Error::UnknownUser { name: name.to_owned(), nearest }
    })
}

fn add(builder: &Builder<'_>, accounts: &mut Accounts, wanted: &SeedUser, limits: &Limits) -> Result<User, Error> {
    let name = &wanted.name;
    // Spec: useradd(8): "Usernames may contain only lower and upper case letters, digits, underscores, or dashes."
    let letters = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || "_-.".contains(character);
    let starts = name.starts_with(|character: char| character.is_ascii_lowercase() || character == '_');
    if !starts || name.len() > 32 || !name.chars().all(letters) {
        return Err(Error::Invalid {
            what: "the user name",
            value: name.clone(),
            rule: "it begins with a small letter or `_`, and has at most 32 of a-z, 0-9, `_`, `-` and `.`".to_owned(),
        });
    }
    let uids: HashSet<u32> = accounts.users.iter().map(|user| user.uid).collect();
    let gids: HashSet<u32> = accounts.groups.iter().map(|group| group.gid).collect();
    let (free, free_group) = (|id: &u32| !uids.contains(id), |id: &u32| !gids.contains(id));
    let (first, last) = limits.uid;
    let full = || Error::Invalid {
        what: "the user name",
        value: name.clone(),
        rule: "the guest has no free number for it".to_owned(),
    };
    let own = accounts.groups.iter().find(|group| group.name == *name).map(|group| group.gid);
    let both = (first..=last).find(|id| free(id) && (own.is_some() || free_group(id)));
    let uid = both.or_else(|| (first..=last).find(free)).ok_or_else(full)?;
    let gid = match own {
        Some(gid) => gid,
        None => std::iter::once(uid).chain(first..=last).find(free_group).ok_or_else(full)?,
    };
    let shell = match &wanted.shell {
        Some(shell) => shell.clone(),
        None => shell(builder)?,
    };
    let shell_fits = shell.starts_with('/') && !shell.contains(|character: char| character == ':' || character.is_control());
    if !shell_fits {
        return Err(Error::Invalid { what: "the shell", value: shell, rule: "it is an absolute path".to_owned() });
    }
    let user = User { name: name.clone(), uid, gid, home: format!("/home/{name}"), shell };
    accounts.users.push(user.clone());
    if own.is_none() {
        accounts.groups.push(Group { name: name.clone(), gid });
    }
    Ok(user)
}

fn shell(builder: &Builder<'_>) -> Result<String, Error> {
    for shell in ["/bin/bash", "/bin/ash"] {
        if builder.exists(shell)? {
            return Ok(shell.to_owned());
        }
    }
    Ok("/bin/sh".to_owned())
}

impl Files {
    fn add(&mut self, user: &User, groups: &[Group], days: u64) {
        let User { name, uid, gid, home, shell } = user;
        let marker = if self.shadow.is_some() { "x" } else { "*" };
        lines::append(&mut self.passwd, &format!("{name}:{marker}:{uid}:{gid}::{home}:{shell}"));
        if let Some(shadow) = &mut self.shadow {
            // Not `!`: an SSH server without PAM takes that for a locked account.
            lines::append(shadow, &format!("{name}:*:{days}:0:99999:7:::"));
        }
        let known = decode_groups(&self.group).iter().any(|group| group.name == *name);
        if !known && groups.iter().any(|group| group.name == *name) {
            lines::append(&mut self.group, &format!("{name}:x:{gid}:"));
            if let Some(gshadow) = &mut self.gshadow {
                lines::append(gshadow, &format!("{name}:!::"));
            }
        }
    }

    fn set_password(&mut self, name: &str, hash: &Secret, days: u64) -> Result<(), Error> {
        let hash = hash.expose();
        if hash.is_empty()
            || hash.contains(|character: char| character == ':' || character.is_whitespace() || character.is_control())
        {
            return Err(Error::Invalid {
                what: "the password hash of",
                value: name.to_owned(),
                rule: "it is one word without colons, as crypt(5) describes".to_owned(),
            });
        }
        match &mut self.shadow {
            Some(shadow) => {
                if !lines::set_field(shadow, name, 1, hash) {
                    lines::append(shadow, &format!("{name}:{hash}:{days}:0:99999:7:::"));
                }
                lines::set_field(shadow, name, 2, &days.to_string());
                // Spec: passwd(5): "If the password field is a lower-case "x", then the encrypted password is actually stored in the shadow(5) file".
                lines::set_field(&mut self.passwd, name, 1, "x");
            }
            None => {
                lines::set_field(&mut self.passwd, name, 1, hash);
            }
        }
        Ok(())
    }
}

fn write(builder: &mut Builder<'_>, before: &Files, after: Files) -> Result<(), Error> {
    let pairs = [
        ("/etc/passwd", Some(&before.passwd), Some(after.passwd), 0o644),
        ("/etc/group", Some(&before.group), Some(after.group), 0o644),
        ("/etc/shadow", before.shadow.as_ref(), after.shadow, 0o640),
        ("/etc/gshadow", before.gshadow.as_ref(), after.gshadow, 0o640),
    ];
    for (path, old, new, mode) in pairs {
        let Some(new) = new.filter(|new| Some(new) != old) else { continue };
        // The file keeps its own mode and group; only a new one needs them.
        let attributes = if builder.exists(path)? { Attributes::default() } else { Attributes::root(mode) };
        builder.write(path, new.into(), attributes)?;
    }
    Ok(())
}

fn sudo(builder: &mut Builder<'_>, user: &SeedUser) -> Result<(), Error> {
    let name = &user.name;
    let tag = if user.password_hash.is_some() { "" } else { "NOPASSWD:" };
    let path = format!("/etc/sudoers.d/90-vmimg-{}", sudoers_name(name));
    builder.create_dir("/etc/sudoers.d", Attributes::default())?;
    builder.write(&path, format!("{name} ALL=(ALL:ALL) {tag}ALL\n").as_str().into(), Attributes::root(0o440))?;
    if !builder.exists("/usr/bin/sudo")? {
        builder.warn(format!("`{name}` is to use sudo, but sudo is not installed in the guest"));
    } else if !String::from_utf8_lossy(&builder.read("/etc/sudoers")?.unwrap_or_default()).contains("includedir /etc/sudoers.d")
    {
        builder.warn("the guest's /etc/sudoers does not include /etc/sudoers.d");
    }
    Ok(())
}

/// Returns a file name of an account's own.
fn sudoers_name(name: &str) -> String {
    // Spec: sudoers(5): "sudo will … skip file names that end in '~' or contain a '.' character".
    let plain = |character: char| character.is_alphanumeric() || "_-".contains(character);
    let escaped =
        |character: char| if plain(character) { character.to_string() } else { format!("={:02x}", u32::from(character)) };
    name.chars().map(escaped).collect()
}

fn limits(builder: &Builder<'_>) -> Result<Limits, Error> {
    let bytes = builder.tree.read("/etc/login.defs", ACCOUNTS_MAX)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some(name)).then(|| words.next()).flatten()
        })
    };
    let number = |name: &str, otherwise: u32| value(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise);
    let first = number("UID_MIN", 1000).max(1000);
    let last = number("UID_MAX", 60000).clamp(first, 65533.max(first));
    let home_mode = value("HOME_MODE").and_then(|mode| u32::from_str_radix(mode, 8).ok()).filter(|mode| *mode <= 0o755);
    Ok(Limits { uid: (first, last), home_mode: home_mode.unwrap_or(0o700) })
}
