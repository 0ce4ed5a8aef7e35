//! Access lists in their stored form: a version, then entries of tag and permissions, and a number for named users and groups.
//!
//! ```text
//! | version, 4 | tag, 2 | permissions, 2 | tag, 2 | permissions, 2 | number, 4 | ...
//! ```
//!
//! Spec: "POSIX ACLs".

/// Returns a stored access list after its file's mode was set to `mode`.
pub(super) fn with_mode(list: &[u8], mode: u16) -> Option<Vec<u8>> {
    rewrite(list, |tag, permissions, has_mask| match tag {
        USER_OBJ => mode >> 6 & 7,
        MASK => mode >> 3 & 7,
        GROUP_OBJ if !has_mask => mode >> 3 & 7,
        OTHER => mode & 7,
        _ => permissions,
    })
}

/// Returns the access list that a new file gets from its folder's default list, and its mode, when it is made with `mode`.
pub(super) fn inherited(list: &[u8], mode: u16) -> Option<(Vec<u8>, u16)> {
    let list = rewrite(list, |tag, permissions, has_mask| match tag {
        USER_OBJ => permissions & (mode >> 6 & 7),
        MASK => permissions & (mode >> 3 & 7),
        GROUP_OBJ if !has_mask => permissions & (mode >> 3 & 7),
        OTHER => permissions & (mode & 7),
        _ => permissions,
    })?;
    let entries = entries(&list)?;
    let of = |tag: u16| entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions);
    let group = of(MASK).or(of(GROUP_OBJ))?;
    let bits = of(USER_OBJ)? << 6 | group << 3 | of(OTHER)?;
    Some((list, mode & !0o777 | bits))
}

/// Returns whether a list says no more than a mode does.
pub(super) fn is_plain(list: &[u8]) -> bool {
    entries(list).is_some_and(|entries| entries.len() == 3)
}

/// Returns the stored form of an access list that programs set, with the mode that it stands for; `None` when it breaks a rule.
///
/// Programs see a version of 2, and a number with every entry.
pub(super) fn from_programs(list: &[u8]) -> Option<(Vec<u8>, u16)> {
    let (version, rest) = list.split_first_chunk::<4>()?;
    let (entries, rest) = rest.as_chunks::<8>();
    if u32::from_le_bytes(*version) != 2 || !rest.is_empty() {
        return None;
    }
    let mut stored = 1_u32.to_le_bytes().to_vec();
    let mut mode = [None; 4];
    let mut last = (0, 0);
    let mut named = false;
    for [a, b, c, d, number @ ..] in entries {
        let (tag, permissions) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
        let is_named = tag == USER || tag == GROUP;
        let order = (tag, if is_named { u64::from(u32::from_le_bytes(*number)) } else { 0 });
        let place = [USER_OBJ, GROUP_OBJ, OTHER, MASK].iter().position(|known| *known == tag);
        if order <= last || permissions > 7 || (place.is_none() && !is_named) {
            return None;
        }
        last = order;
        named |= is_named;
        if let Some(bits) = place.and_then(|place| mode.get_mut(place)) {
            *bits = Some(permissions);
        }
        stored.extend([*a, *b, *c, *d]);
        stored.extend(number.iter().filter(|_| is_named));
    }
    let [Some(user), Some(group), Some(other), mask] = mode else { return None };
    if named && mask.is_none() {
        return None;
    }
    Some((stored, user << 6 | mask.unwrap_or(group) << 3 | other))
}

/// Returns a stored access list as programs see it.
pub(super) fn for_programs(list: &[u8]) -> Option<Vec<u8>> {
    let mut seen = 2_u32.to_le_bytes().to_vec();
    for entry in entries(list)? {
        seen.extend(entry.tag.to_le_bytes());
        seen.extend(entry.permissions.to_le_bytes());
        let named = entry.tag == USER || entry.tag == GROUP;
        let number = list.get(entry.at.saturating_add(2)..).and_then(|rest| rest.first_chunk::<4>()).filter(|_| named);
        seen.extend(number.copied().unwrap_or([0xFF; 4]));
    }
    Some(seen)
}

struct Entry {
    /// Where its permissions are stored.
    at: usize,
    tag: u16,
    permissions: u16,
}

fn entries(list: &[u8]) -> Option<Vec<Entry>> {
    let (version, mut rest) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 1 {
        return None;
    }
    let mut entries = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let tag = u16::from_le_bytes([a, b]);
        let at = list.len().saturating_sub(behind.len()).saturating_sub(2);
        entries.push(Entry { at, tag, permissions: u16::from_le_bytes([c, d]) & 7 });
        rest = if tag == USER || tag == GROUP { behind.get(4..)? } else { behind };
    }
    rest.is_empty().then_some(entries)
}

fn rewrite(list: &[u8], new: impl Fn(u16, u16, bool) -> u16) -> Option<Vec<u8>> {
    let entries = entries(list)?;
    let has_mask = entries.iter().any(|entry| entry.tag == MASK);
    let mut list = list.to_vec();
    for entry in entries {
        let permissions = new(entry.tag, entry.permissions, has_mask);
        list.get_mut(entry.at..)?.get_mut(..2)?.copy_from_slice(&permissions.to_le_bytes());
    }
    Some(list)
}

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

#[cfg(test)]
mod tests {
    use super::{for_programs, from_programs, inherited, is_plain, with_mode};

    /// `user::rwx, user:7:rw-, group::r-x, mask::rwx, other::r--`
    const LIST: &[u8] = &[1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 6, 0, 7, 0, 0, 0, 4, 0, 5, 0, 16, 0, 7, 0, 32, 0, 4, 0];

    #[test]
    fn the_group_bits_of_a_mode_are_the_mask() {
        let list = with_mode(LIST, 0o640).unwrap();
        assert_eq!(list, [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 6, 0, 7, 0, 0, 0, 4, 0, 5, 0, 16, 0, 4, 0, 32, 0, 0, 0]);
    }

    #[test]
    fn programs_see_a_number_with_every_entry() {
        let seen = for_programs(LIST).unwrap();
        assert_eq!(
            (seen.len(), &seen[..12], &seen[12..20]),
            (44, &[2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255][..], &[2, 0, 6, 0, 7, 0, 0, 0][..])
        );
        assert_eq!(from_programs(&seen), Some((LIST.to_vec(), 0o774)));
        for (at, byte) in [(0, 1), (4, 3), (6, 8), (28, 2), (36, 16)] {
            let mut broken = seen.clone();
            broken[at] = byte;
            assert_eq!(from_programs(&broken), None, "byte {at}");
        }
        let without_mask = [&seen[..28], &seen[36..]].concat();
        assert_eq!((from_programs(&without_mask), from_programs(&seen[..43])), (None, None));
    }

    #[test]
    fn a_new_file_gets_no_more_than_its_mode_and_the_default_list_allow() {
        let (list, mode) = inherited(LIST, 0o4666).unwrap();
        assert_eq!((mode, is_plain(&list)), (0o4664, false));
        assert_eq!(list[18], 5, "the owning group keeps its bits below a mask");
        let plain = [1, 0, 0, 0, 1, 0, 7, 0, 4, 0, 5, 0, 32, 0, 5, 0];
        let (list, mode) = inherited(&plain, 0o644).unwrap();
        assert_eq!((mode, is_plain(&list)), (0o644, true));
        assert_eq!(inherited(&[2, 0, 0, 0], 0o644), None);
        assert_eq!(with_mode(&LIST[..10], 0o644), None);
    }
}
