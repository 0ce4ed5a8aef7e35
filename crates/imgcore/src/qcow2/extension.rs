use zerocopy::{FromBytes as _, IntoBytes as _};

use super::error::Corrupt;
use super::offset::to_usize;
use super::raw::RawExtension;

/// A header extension: what follows the header, up to the backing file's name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Extension {
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
}

impl Extension {
    /// The name of the backing file's format.
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// The names of feature bits.
    pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Where the bitmap directory is.
    pub(super) const BITMAPS: u32 = 0x2385_2875;
    /// The name of the external data file.
    pub(super) const DATA_FILE: u32 = 0x4441_5441;

    /// Reads the extensions in `area`, which begins at byte `offset` of the image. Unknown ones are kept.
    ///
    /// Spec: "Header extensions"
    pub(super) fn decode_all(area: &[u8], offset: u64) -> Result<Vec<Self>, Corrupt> {
        let corrupt = |rule| Corrupt::new("header extensions", offset, rule);
        let mut extensions: Vec<Self> = Vec::new();
        let mut rest = area;
        while let Ok((head, behind)) = RawExtension::ref_from_prefix(rest) {
            if head.kind.get() == END {
                break;
            }
            let length = to_usize(u64::from(head.length.get()));
            let data = behind.get(..length).ok_or_else(|| corrupt("an extension leaves the area"))?;
            // Spec: "Unless stated otherwise, each header extension type shall appear at most once in the same image."
            if extensions.iter().any(|other| other.kind == head.kind.get()) && head.kind.get() != Self::FEATURE_NAMES {
                return Err(corrupt("an extension appears twice"));
            }
            extensions.push(Self { kind: head.kind.get(), data: data.to_vec() });
            // Spec: "Padding to round up the header extension size to the next multiple of 8."
            rest = behind.get(length.next_multiple_of(8)..).unwrap_or_default();
        }
        Ok(extensions)
    }

    /// Appends the stored form to `bytes`.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let length = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(RawExtension { kind: self.kind.into(), length: length.into() }.as_bytes());
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }

    /// Appends the end of the extension area to `bytes`.
    pub(super) fn encode_end(bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(RawExtension { kind: END.into(), length: 0.into() }.as_bytes());
    }
}

const END: u32 = 0;
