//! Access lists: as text in archives, and as programs set and get them.
//!
//! Spec: acl(5); the binary form is a version, 2, then tag, permissions and number of each entry.

/// Returns the binary form of an access list in GNU tar's or star's text form; `None` when it is none.
///
/// ```text
/// user::rwx,user:1000:r-x,group::r-x,group:adm:r--:4,mask::r-x,other::---
/// ```
pub(super) fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    entries.sort_unstable();
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, number, permissions) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(number.to_le_bytes());
    }
    Some(list)
}

/// Returns tag, number and permissions.
fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let parts: Vec<&str> = line.split(':').collect();
    let (tag, name, permissions, number) = match parts.as_slice() {
        [tag, permissions] => (*tag, "", *permissions, None),
        [tag, name, permissions] => (*tag, *name, *permissions, None),
        [tag, name, permissions, number] => (*tag, *name, *permissions, Some(*number)),
        _ => return None,
    };
    let tag = match (tag, name.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return None,
    };
    let number = if tag == USER || tag == GROUP { number.unwrap_or(name).parse().ok()? } else { u32::MAX };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((tag, number, bits))
}

/// Returns the text of an access list that programs get, with numbers; `None` when it is none.
pub(super) fn to_text(list: &[u8]) -> Option<String> {
    let (entries, rest) = list.strip_prefix(&2_u32.to_le_bytes())?.as_chunks::<8>();
    let mut lines = Vec::new();
    for [a, b, c, d, number @ ..] in entries {
        let number = u32::from_le_bytes(*number);
        let (tag, name) = match u16::from_le_bytes([*a, *b]) {
            USER_OBJ => ("user", String::new()),
            USER => ("user", number.to_string()),
            GROUP_OBJ => ("group", String::new()),
            GROUP => ("group", number.to_string()),
            MASK => ("mask", String::new()),
            OTHER => ("other", String::new()),
            _ => return None,
        };
        let bits = u16::from_le_bytes([*c, *d]);
        let letter = |bit, letter| if bits & bit == 0 { '-' } else { letter };
        lines.push(format!("{tag}:{name}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')));
    }
    rest.is_empty().then(|| lines.join("\n"))
}

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[cfg(test)]
mod tests {
    use super::{from_text, to_text};

    #[test]
    fn text_becomes_a_list_and_text_again() {
        let text = "user::rw-\nuser:1000:r--\nuser:4000000000:---\ngroup::r-x\ngroup:4:r--\nmask::r-x\nother::---";
        assert_eq!(to_text(&from_text(text.as_bytes()).unwrap()).unwrap(), text);
        let short = from_text(b"other::---,u::rw-,user:ada:r--:1000 #effective:r--\n\ng::r-x,mask::r-x").unwrap();
        assert_eq!(to_text(&short).unwrap(), "user::rw-\nuser:1000:r--\ngroup::r-x\nmask::r-x\nother::---");
        for bad in [&b"user:ada:r--"[..], b"user::rq-", b"all::r--", b"user", b"\xFF", b"user:1:r--:2:3", b"mask:5:r--"] {
            assert!(from_text(bad).is_none());
        }
    }
}
