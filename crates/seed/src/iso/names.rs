//! Identifiers of a folder's entries in the primary tree and in Joliet.

use std::collections::{HashMap, HashSet};

use super::hierarchy::{Entry, Target};

/// Returns an identifier for each entry in the primary tree: upper-case letters, digits and `_`, at most 30, all different.
///
/// They have no extension, since Rock Ridge and Joliet have the real names: one that begins like another then sorts the same way
/// byte by byte and by the standard's rule, which fills up with spaces.
///
/// Spec: ECMA-119, 7.5.1: a file's identifier has both separators and a version, `NAME.;1`.
pub(super) fn primary(entries: &[Entry]) -> Vec<Vec<u8>> {
    let mut taken = Taken::default();
    let ids = entries.iter().map(|entry| {
        let plain: String = entry.name.chars().map(to_d_character).take(PRIMARY_LEN).collect();
        let start: String = plain.chars().take(PRIMARY_LEN.saturating_sub(6)).collect();
        let mut id = taken.take(plain, start, '_');
        if matches!(entry.target, Target::Content(_)) {
            id.push_str(".;1");
        }
        id.into_bytes()
    });
    ids.collect()
}

/// Returns an identifier for each entry in Joliet: UCS-2, at most 64 units, all different.
///
/// Names that fit are kept as they are; as in other programs' images there is no version number.
pub(super) fn joliet(entries: &[Entry]) -> Vec<Vec<u8>> {
    let mut taken = Taken::default();
    let ids = entries.iter().map(|entry| {
        let plain: String = entry.name.chars().map(to_joliet_character).collect();
        let id = taken.take(truncate(&plain, JOLIET_LEN), truncate(&plain, JOLIET_LEN.saturating_sub(6)), '~');
        id.encode_utf16().flat_map(u16::to_be_bytes).collect()
    });
    ids.collect()
}

/// The identifiers that are taken in a folder.
#[derive(Default)]
struct Taken {
    ids: HashSet<String>,
    /// The first number that may be free behind each start: names may be alike as often as there are files.
    next: HashMap<String, u32>,
}

impl Taken {
    /// Takes `id`, or else the first that is free of `start` with a number behind it.
    fn take(&mut self, mut id: String, start: String, separator: char) -> String {
        let next = self.next.entry(start.clone()).or_default();
        while !self.ids.insert(id.clone()) {
            id = format!("{start}{separator}{next:05}");
            *next = next.saturating_add(1);
        }
        id
    }
}

fn to_d_character(character: char) -> char {
    if character.is_ascii_alphanumeric() { character.to_ascii_uppercase() } else { '_' }
}

/// Spec: Joliet, "Allowed Character Set": all but control characters and `*`, `/`, `:`, `;`, `?`, `\`.
fn to_joliet_character(character: char) -> char {
    if character.is_control() || "*/:;?\\".contains(character) { '_' } else { character }
}

/// Returns the start of `text` that has at most `len` units of UTF-16.
fn truncate(text: &str, len: usize) -> String {
    let mut units = 0_usize;
    let fits = |character: &char| {
        units = units.saturating_add(character.len_utf16());
        units <= len
    };
    text.chars().take_while(fits).collect()
}

/// Spec: ECMA-119, 7.5.1: name and extension have at most 30 characters together.
const PRIMARY_LEN: usize = 30;
/// Spec: Joliet: at most 128 bytes.
const JOLIET_LEN: usize = 64;

#[cfg(test)]
mod tests {
    use super::{joliet, primary};
    use crate::iso::hierarchy::{Entry, Target};

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| Entry { name: (*name).to_owned(), target: Target::Content(0) }).collect()
    }

    #[test]
    fn primary_identifiers_are_plain_and_different() {
        let long = "x".repeat(40);
        let other = format!("{}y", "x".repeat(39));
        let ids = primary(&entries(&["user-data", "user.data", "USER_DATA", "ü", &long, &other]));
        let texts: Vec<_> = ids.iter().map(|id| std::str::from_utf8(id).unwrap()).collect();
        let x = |count| "X".repeat(count);
        let expected = [
            "USER_DATA.;1",
            "USER_DATA_00000.;1",
            "USER_DATA_00001.;1",
            "_.;1",
            &format!("{}.;1", x(30)),
            &format!("{}_00000.;1", x(24)),
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn as_many_names_alike_as_there_are_take_no_time() {
        let names: Vec<String> = (0..30_000).map(|number| format!("{}{number}", "x".repeat(70))).collect();
        let entries = entries(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let begun = std::time::Instant::now();
        let (primary, joliet) = (primary(&entries), joliet(&entries));
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
        for ids in [&primary, &joliet] {
            assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 30_000);
        }
        assert_eq!(primary.last().unwrap(), format!("{}_29998.;1", "X".repeat(24)).as_bytes());
    }

    #[test]
    fn joliet_keeps_names_that_fit() {
        let long = "😀".repeat(40);
        let text = |id: &[u8]| -> String {
            let units: Vec<u16> = id.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).unwrap()
        };
        let ids = joliet(&entries(&["user-data", "Grüße 文.txt", "a:b", "a;b", &long, &(long.clone() + "x")]));
        let texts: Vec<_> = ids.iter().map(|id| text(id)).collect();
        assert_eq!(texts[..4], ["user-data", "Grüße 文.txt", "a_b", "a_b~00000"]);
        assert_eq!(texts[4], "😀".repeat(32));
        assert_eq!(texts[5], "😀".repeat(29) + "~00000");
    }
}
