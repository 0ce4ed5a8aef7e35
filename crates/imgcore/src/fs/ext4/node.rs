//! How the inode of a device node keeps the number of its device.
//!
//! ```text
//! | minor, 1 | major, 1 | 0, 2 | 0, 4                          |   both below 256
//! | 0, 4                       | minor, 1 | major, 12 bits | minor's upper 12 bits |
//! ```

use super::inode::Inode;
use crate::fs::{Device, Error, FileKind, Node};

/// Returns the first 8 bytes where other files list their blocks, or `None` when the number is too large.
pub(super) fn encode_device(device: Device) -> Option<[u8; 8]> {
    let Device { major, minor } = device;
    if major >= 1 << 12 || minor >= 1 << 20 {
        return None;
    }
    let (old, new) = if major < 256 && minor < 256 {
        (major << 8 | minor, 0)
    } else {
        (0, minor & 0xFF | major << 8 | (minor & !0xFF) << 12)
    };
    let ([a, b, c, d], [e, f, g, h]) = (old.to_le_bytes(), new.to_le_bytes());
    Some([a, b, c, d, e, f, g, h])
}

/// Returns what an inode that is no file, folder or link is.
pub(super) fn node_of(inode: &Inode) -> Result<Option<Node>, Error> {
    let word = |at: usize| {
        let bytes = inode.raw.i_block.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let device = match (word(0), word(4)) {
        (0, new) => Device { major: new >> 8 & 0xFFF, minor: new & 0xFF | new >> 12 & 0xF_FF00 },
        (old, _) => Device { major: old >> 8 & 0xFF, minor: old & 0xFF },
    };
    Ok(match inode.kind()? {
        FileKind::CharDevice => Some(Node::CharDevice(device)),
        FileKind::BlockDevice => Some(Node::BlockDevice(device)),
        FileKind::Fifo => Some(Node::Fifo),
        FileKind::Socket => Some(Node::Socket),
        FileKind::File | FileKind::Directory | FileKind::Symlink => None,
    })
}
