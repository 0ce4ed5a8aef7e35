//! Netlink messages: a header, a generic header and attributes, all in the processor's own byte order.
//!
//! Specification: the Linux headers `netlink.h`, `genetlink.h` and `nbd-netlink.h`, and netlink(7).

/// A message that is being written.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

/// What a message from the kernel says.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Answer<'a> {
    /// The end of the answer: 0, or an error number.
    Done(i32),
    /// Attributes.
    Attributes(Attributes<'a>),
    /// Something else.
    Other,
}

/// Attributes, one behind the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl Message {
    /// Begins the request `command` to `family`, whose end the kernel is to acknowledge.
    pub(super) fn new(family: u16, command: u8) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(family.to_ne_bytes());
        bytes.extend((REQUEST | ACKNOWLEDGE).to_ne_bytes());
        // The sequence number, and the sender, whom the kernel fills in.
        bytes.extend([0; 8]);
        bytes.extend([command, VERSION, 0, 0]);
        Self(bytes)
    }

    /// Adds an attribute of 32 bits.
    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute of 64 bits.
    pub(super) fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds text, with the zero byte that ends it.
    pub(super) fn text(self, kind: u16, text: &[u8]) -> Self {
        self.bytes(kind, &[text, &[0]].concat())
    }

    /// Adds an attribute that holds other attributes.
    pub(super) fn nest(self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let inner = inner(Self(Vec::new())).0;
        self.bytes(kind | NESTED, &inner)
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let len = value.len().saturating_add(ATTRIBUTE_HEADER);
        self.0.extend(u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// Returns the whole message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.0.get_mut(..4) {
            field.copy_from_slice(&len.to_ne_bytes());
        }
        self.0
    }
}

/// Returns the first message of what was received, and what follows it; nothing at the end, or when it is cut off.
pub(super) fn next(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
    let kind = u16::from_ne_bytes(array(bytes, 4)?);
    let payload = bytes.get(HEADER..len)?;
    let rest = bytes.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    let answer = match kind {
        ERROR => Answer::Done(i32::from_ne_bytes(array(payload, 0)?)),
        _ if kind < FIRST_FAMILY => Answer::Other,
        _ => Answer::Attributes(Attributes(payload.get(GENERIC_HEADER..).unwrap_or_default())),
    };
    Some((answer, rest))
}

impl<'a> Attributes<'a> {
    /// Returns the value of the first attribute of `kind`.
    pub(super) fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        loop {
            let len = usize::from(u16::from_ne_bytes(array(rest, 0)?));
            let found = u16::from_ne_bytes(array(rest, 2)?) & !NESTED;
            let value = rest.get(ATTRIBUTE_HEADER..len)?;
            if found == kind {
                return Some(value);
            }
            rest = rest.get(len.next_multiple_of(ALIGNMENT)..)?;
        }
    }

    /// Returns an attribute of 16 bits.
    pub(super) fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(array(self.find(kind)?, 0)?))
    }
}

/// Returns `N` bytes from `at` on.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bytes of `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;

/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;

/// `NLMSG_ALIGNTO` and `NLA_ALIGNTO`.
const ALIGNMENT: usize = 4;

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;

/// `NLM_F_ACK`.
const ACKNOWLEDGE: u16 = 4;

/// `NLMSG_ERROR`.
const ERROR: u16 = 2;

/// `NLMSG_MIN_TYPE`.
const FIRST_FAMILY: u16 = 16;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// `NBD_GENL_VERSION`, and that of the controller.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Answer, Attributes, Message, next};

    #[test]
    fn what_is_written_is_read() {
        let bytes = Message::new(28, 1).u32(1, 7).nest(7, |m| m.nest(1, |m| m.u32(1, 5))).text(10, b"abc").finish();
        let (answer, rest) = next(&bytes).unwrap();
        assert!(rest.is_empty());
        let Answer::Attributes(attributes) = answer else { panic!("{answer:?}") };
        assert_eq!(attributes.find(1), Some(&7_u32.to_ne_bytes()[..]));
        assert_eq!(attributes.find(10), Some(&b"abc\0"[..]));
        let socket = Attributes(Attributes(attributes.find(7).unwrap()).find(1).unwrap()).find(1);
        assert_eq!(socket, Some(&5_u32.to_ne_bytes()[..]));
        assert_eq!(attributes.find(11), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_question_for_the_family_is_laid_out_as_the_headers_say() {
        // `struct nlmsghdr` (len, type, flags, seq, pid), `struct genlmsghdr`, `struct nlattr`.
        let expected =
            [&[28, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0][..], &[8, 0, 2, 0, b'n', b'b', b'd', 0][..]];
        assert_eq!(Message::new(16, 3).text(2, b"nbd").finish(), expected.concat());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut rest = &bytes[..];
            while let Some((answer, next)) = next(rest) {
                if let Answer::Attributes(attributes) = answer {
                    let _found = attributes.find(9);
                }
                prop_assert!(next.len() < rest.len());
                rest = next;
            }
        }
    }
}
