//! Changes to line-based files that keep every other byte.

/// Appends a line, after a missing line end is mended.
pub(super) fn append(bytes: &mut Vec<u8>, line: &str) {
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
}

/// Returns the field `index` of the first line whose first field is `name`, fields being separated by colons.
pub(super) fn field<'a>(bytes: &'a [u8], name: &str, index: usize) -> Option<&'a [u8]> {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':'));
    lines.find(|fields| fields.clone().next() == Some(name.as_bytes()))?.nth(index)
}

/// Replaces the field `index` of the first line whose first field is `name`, fields being separated by colons; returns whether
/// there was such a line.
pub(super) fn set_field(bytes: &mut Vec<u8>, name: &str, index: usize, value: &str) -> bool {
    let mut done = false;
    let lines: Vec<Vec<u8>> = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            if !done
                && fields.first() == Some(&name.as_bytes())
                && let Some(field) = fields.get_mut(index)
            {
                done = true;
                *field = value.as_bytes();
                return fields.join(&b':');
            }
            line.to_vec()
        })
        .collect();
    if done {
        *bytes = lines.join(&b'\n');
    }
    done
}

/// Replaces each line for which `change` returns `Some`, the first by the text and the rest by nothing; returns whether one was
/// replaced.
pub(super) fn replace(bytes: &mut Vec<u8>, replaced: impl Fn(&[u8]) -> bool, by: &str) -> bool {
    let mut done = false;
    let mut kept: Vec<&[u8]> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if !replaced(line) {
            kept.push(line);
        } else if !done {
            done = true;
            kept.push(by.as_bytes());
        }
    }
    if done {
        *bytes = kept.join(&b'\n');
    }
    done
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{append, replace, set_field};

    #[test]
    fn a_field_is_replaced_and_the_rest_kept() {
        let mut shadow = b"root:*:1:::\n\xffbad\nana:!:2:0:99999\nana:x:y\n".to_vec();
        assert!(set_field(&mut shadow, "ana", 1, "$6$h"));
        assert_eq!(shadow, b"root:*:1:::\n\xffbad\nana:$6$h:2:0:99999\nana:x:y\n");
        assert!(!set_field(&mut shadow, "bob", 1, "x"));
        assert!(!set_field(&mut shadow, "root", 9, "x"));
    }

    #[test]
    fn a_line_is_appended_after_a_missing_end() {
        let mut text = b"a".to_vec();
        append(&mut text, "b");
        assert_eq!(text, b"a\nb\n");
    }

    #[test]
    fn the_first_of_the_replaced_lines_keeps_its_place() {
        let mut text = b"a\nx1\nb\nx2\n".to_vec();
        assert!(replace(&mut text, |line| line.starts_with(b"x"), "y"));
        assert_eq!(text, b"a\ny\nb\n");
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_changed(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), index in 0_usize..9) {
            set_field(&mut bytes, "a", index, "v");
            append(&mut bytes, "a:b");
            assert!(set_field(&mut bytes, "a", 1, "v"));
        }
    }
}
