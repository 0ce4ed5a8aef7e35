use imgcore::fs::Attributes;
use ssh_key::authorized_keys::Entry;

use super::builder::Builder;
use super::sshd_config::SshdConfig;
use super::{Error, Seed, accounts};
use crate::guest::{Guest, SshServer, User};

/// Plans the keys of root and of the seed's users; one that an account has already is not doubled.
pub(super) fn plan(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed, users: &[User]) -> Result<(), Error> {
    let wanted =
        std::iter::once(("root", &seed.root_keys)).chain(seed.users.iter().map(|user| (user.name.as_str(), &user.ssh_keys)));
    let mut any = false;
    for (name, keys) in wanted.filter(|(_, keys)| !keys.is_empty()) {
        any = true;
        let keys = keys.iter().map(|line| Key::given(line)).collect::<Result<Vec<_>, _>>()?;
        let user = accounts::find(users, name)?;
        account(builder, user, &keys)?;
        if ["nologin", "false"].iter().any(|shell| user.shell.ends_with(shell)) {
            builder.warn(format!("`{name}` has the shell {}, which allows no login", user.shell));
        }
    }
    if any {
        remarks(builder, guest, seed)?;
    }
    Ok(())
}

fn account(builder: &mut Builder<'_>, user: &User, keys: &[Key]) -> Result<(), Error> {
    let home = user.home.trim_end_matches('/');
    if !user.home.starts_with('/') {
        return Err(Error::Invalid {
            what: "the home folder",
            value: user.home.clone(),
            rule: format!("that of `{}` is no absolute path", user.name),
        });
    }
    let (folder, file) = (format!("{home}/.ssh"), format!("{home}/.ssh/authorized_keys"));
    if !home.is_empty() && !builder.exists(home)? {
        builder.create_dir(home, Attributes::owned(0o700, user.uid, user.gid))?;
    }
    builder.create_dir(&folder, Attributes::owned(0o700, user.uid, user.gid))?;
    let before = builder.read(&file)?.unwrap_or_default();
    let mut present: Vec<Key> = String::from_utf8_lossy(&before).lines().filter_map(Key::find).collect();
    for key in keys {
        match present.iter().find(|own| own.same_as(key)) {
            Some(own) if own.options != key.options => {
                let restriction = if own.options.is_empty() { "without options" } else { "with other options" };
                builder.warn(format!(
                    "`{}` already has the key `{}`, {restriction}; it was left as it is",
                    user.name,
                    key.short()
                ));
            }
            Some(_) => {}
            None => {
                builder.append_line(&file, &key.line, Attributes::owned(0o600, user.uid, user.gid))?;
                present.push(key.clone());
            }
        }
    }
    Ok(())
}

/// Says what may keep the keys from being used.
fn remarks(builder: &mut Builder<'_>, guest: &Guest, seed: &Seed) -> Result<(), Error> {
    if guest.ssh_server.is_none() {
        builder.warn("no SSH server is installed in the guest");
    }
    if guest.ssh_server != Some(SshServer::Openssh) {
        return Ok(());
    }
    let config = SshdConfig::read(builder)?;
    if let Some(line) = config.first("authorizedkeysfile")
        && !line.arguments.iter().any(|file| file.ends_with(".ssh/authorized_keys"))
    {
        builder.warn(format!("the guest's SSH server reads keys elsewhere: `AuthorizedKeysFile {}`", line.arguments.join(" ")));
    }
    let root = !seed.root_keys.is_empty() || seed.users.iter().any(|user| user.name == "root" && !user.ssh_keys.is_empty());
    if root && config.first("permitrootlogin").is_some_and(|line| line.first() == "no") {
        builder.warn("the guest's SSH server lets root not log in: `PermitRootLogin no`");
    }
    Ok(())
}

/// A line of `authorized_keys`.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Key {
    line: String,
    options: String,
    kind: String,
    blob: String,
}

impl Key {
    /// Returns the checked key of a line of the seed.
    fn given(line: &str) -> Result<Self, Error> {
        let line = line.trim();
        let bad = |rule: &str| Error::Invalid { what: "the SSH key", value: shortened(line), rule: rule.to_owned() };
        if line.contains("PRIVATE KEY") {
            return Err(Error::Invalid {
                what: "the SSH key", value: "…".to_owned(), rule: "it is a private key".to_owned()
            });
        }
        if line.contains(['\n', '\r', '\0']) {
            return Err(bad("it is one line"));
        }
        let key = Self::find(line).ok_or_else(|| bad("it has a type and a key, as in `ssh-ed25519 AAAA… name`"))?;
        line.parse::<Entry>().map_err(|error| bad(&error.to_string()))?;
        Ok(key)
    }

    /// Returns the key of any line, or `None` when there is none.
    fn find(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let words = words(line);
        let at =
            words.iter().take(2).position(|word| ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| word.starts_with(prefix)))?;
        let blob = words.get(at.checked_add(1)?)?.trim_end_matches('=').to_owned();
        let options = if at == 0 { String::new() } else { (*words.first()?).to_owned() };
        Some(Self { line: line.to_owned(), options, kind: (*words.get(at)?).to_owned(), blob })
    }

    fn same_as(&self, other: &Self) -> bool {
        self.kind == other.kind && self.blob == other.blob
    }

    fn short(&self) -> String {
        shortened(&self.line)
    }
}

/// Splits at spaces outside of double quotes.
fn words(line: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let split = line.split(move |character: char| {
        let is_quote = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        quoted ^= is_quote;
        character.is_ascii_whitespace() && !quoted
    });
    split.filter(|word| !word.is_empty()).take(4).collect()
}

fn shortened(line: &str) -> String {
    let mut text: String = line.chars().filter(|character| !character.is_control()).take(40).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::Key;

    const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_key_is_its_type_and_blob_whatever_stands_around_it() {
        let plain = Key::given(&format!("{ED} ana@laptop")).unwrap();
        let other = Key::find(&format!("no-pty,command=\"echo \\\"ssh-rsa x\\\"\" {ED}\t# else")).unwrap();
        assert!(plain.same_as(&other));
        assert_eq!((plain.options.is_empty(), other.options.is_empty()), (true, false));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for line in [
            "",
            "ana",
            "# comment",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            &format!("{ED}\nroot:x"),
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ] {
            let error = Key::given(line).unwrap_err().to_string();
            assert!(error.starts_with("the SSH key"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_line_may_be_in_the_file(line in "[ssh\\-rsa\"\\\\ =A#ñ]{0,30}") {
            let _ = (Key::find(&line), Key::given(&line));
        }
    }
}
