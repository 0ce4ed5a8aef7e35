use serde::Serialize;

/// An account of a guest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The number of its first group.
    pub gid: u32,
    /// The home folder as the guest says, perhaps no valid path.
    pub home: String,
    /// The login shell; empty means `/bin/sh`.
    pub shell: String,
}

/// A group of a guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
}

/// Reads the accounts of a passwd file; a line that is none is passed over, of two with one name the first counts, as in libc.
pub(crate) fn decode_passwd(bytes: &[u8]) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for line in String::from_utf8_lossy(bytes).lines().take(LINES_MAX) {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(uid), Some(gid)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else { continue };
        // `+` and `-` lines are compat entries for a directory service.
        if name.is_empty() || name.starts_with(['+', '-', '#']) || !names.insert(name.to_owned()) {
            continue;
        }
        let home = fields.nth(1).unwrap_or_default().to_owned();
        let shell = fields.next().unwrap_or_default().to_owned();
        users.push(User { name: name.to_owned(), uid, gid, home, shell });
    }
    users
}

/// Reads the groups of a group file, as [`decode_passwd`] does.
pub(crate) fn decode_groups(bytes: &[u8]) -> Vec<Group> {
    let text = String::from_utf8_lossy(bytes);
    text.lines()
        .take(LINES_MAX)
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['+', '-', '#']))?;
            Some(Group { name: name.to_owned(), gid: fields.nth(1)?.parse().ok()? })
        })
        .collect()
}

/// The most lines that are looked at.
const LINES_MAX: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{decode_groups, decode_passwd};

    #[test]
    fn accounts_are_read_and_broken_lines_passed_over() {
        let users = decode_passwd(
            b"root:x:0:0:root:/root:/bin/bash\n# comment\nbroken:x:one:1\n+::::::\nroot:x:5:5::/evil:\nana:x:1000:1001:Ana,,,:/home/ana:\n\xff:x:7:7",
        );
        assert_eq!(
            users.iter().map(|user| (user.name.as_str(), user.uid)).collect::<Vec<_>>(),
            [("root", 0), ("ana", 1000), ("\u{fffd}", 7)]
        );
        assert_eq!((users[1].home.as_str(), users[1].gid, users[1].shell.as_str()), ("/home/ana", 1001, ""));
        let groups = decode_groups(b"root:x:0:\nsudo:x:27:ana\nbad\n");
        assert_eq!(
            groups.iter().map(|group| (group.name.as_str(), group.gid)).collect::<Vec<_>>(),
            [("root", 0), ("sudo", 27)]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_accounts(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            decode_passwd(&bytes);
            decode_groups(&bytes);
        }

        #[test]
        fn any_fields_are_accounts(text in "([a-z+#-]{0,3}:[x!]?:[0-9]{0,11}:-?[0-9]{0,2}(:[/a-z]{0,4}){0,4}\n){0,6}") {
            decode_passwd(text.as_bytes());
            decode_groups(text.as_bytes());
        }
    }
}
