use std::collections::BTreeMap;

use serde::Serialize;

use super::{Error, SMALL, Tree};

/// A guest's operating system, as its os-release says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Os {
    /// The distribution, as in `debian`; `linux` when it does not say.
    pub id: String,
    /// The release, as in `12`.
    pub version_id: Option<String>,
    /// The name for people.
    pub pretty_name: Option<String>,
    /// The distributions that work alike.
    pub family: Family,
}

/// Distributions that keep their configuration in the same way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Family {
    /// Debian, Ubuntu and their kin.
    Debian,
    /// Fedora, RHEL and their kin.
    RedHat,
    /// SUSE and openSUSE.
    Suse,
    /// Arch Linux and its kin.
    Arch,
    /// Alpine Linux.
    Alpine,
    /// Gentoo and its kin.
    Gentoo,
    /// Something else.
    Other,
}

pub(super) fn inspect(tree: &Tree) -> Result<Os, Error> {
    let bytes = match tree.read("/etc/os-release", SMALL)? {
        Some(bytes) => bytes,
        None => tree.read("/usr/lib/os-release", SMALL)?.unwrap_or_default(),
    };
    let mut values = decode(&bytes);
    let id = values.remove("ID").filter(|id| !id.is_empty()).unwrap_or_else(|| "linux".to_owned());
    let like = values.remove("ID_LIKE").unwrap_or_default();
    let mut family =
        std::iter::once(id.as_str()).chain(like.split_ascii_whitespace()).map(family).find(|family| *family != Family::Other);
    if family.is_none() {
        for (path, found) in [
            ("/etc/debian_version", Family::Debian),
            ("/etc/redhat-release", Family::RedHat),
            ("/etc/SuSE-release", Family::Suse),
            ("/etc/alpine-release", Family::Alpine),
        ] {
            if family.is_none() && tree.exists(path)? {
                family = Some(found);
            }
        }
    }
    Ok(Os {
        id,
        version_id: values.remove("VERSION_ID"),
        pretty_name: values.remove("PRETTY_NAME"),
        family: family.unwrap_or(Family::Other),
    })
}

fn family(id: &str) -> Family {
    match id {
        "debian" | "ubuntu" | "raspbian" | "kali" | "devuan" | "linuxmint" => Family::Debian,
        "fedora" | "rhel" | "centos" | "rocky" | "almalinux" | "amzn" | "ol" | "scientific" => Family::RedHat,
        "suse" | "opensuse" | "sles" | "opensuse-leap" | "opensuse-tumbleweed" => Family::Suse,
        "arch" | "archarm" | "manjaro" => Family::Arch,
        "alpine" => Family::Alpine,
        "gentoo" => Family::Gentoo,
        _ => Family::Other,
    }
}

/// Reads the assignments of an os-release file.
///
/// # Spec
///
/// os-release(5): shell-compatible assignments without expansion.
fn decode(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let assignments = text.lines().take(LINES_MAX).filter_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        let known = matches!(name, "ID" | "ID_LIKE" | "VERSION_ID" | "PRETTY_NAME");
        known.then(|| {
            (name.to_owned(), unquoted(value).chars().filter(|character| !character.is_control()).take(VALUE_MAX).collect())
        })
    });
    assignments.collect()
}

/// Returns a shell word without its quotes and backslashes.
pub(super) fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut text = String::new();
    let mut characters = inner.unwrap_or(value).chars();
    while let Some(character) = characters.next() {
        text.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    text
}

const LINES_MAX: usize = 1000;
const VALUE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    #[test]
    fn values_lose_their_quotes() {
        let values = super::decode(b"ID=debian\nPRETTY_NAME=\"Debian \\\"12\\\"\"\nVERSION_ID='12'\nID_LIKE=\nHOME_URL=x\n");
        assert_eq!(values["ID"], "debian");
        assert_eq!(values["PRETTY_NAME"], "Debian \"12\"");
        assert_eq!(values["VERSION_ID"], "12");
        assert_eq!(values.len(), 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_os_release(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::decode(&bytes);
        }

        #[test]
        fn any_word_can_be_unquoted(word in "[\"'\\\\a ]{0,8}") {
            super::unquoted(&word);
        }
    }
}
