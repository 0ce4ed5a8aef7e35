//! Block status: what the contexts say about a range.

use super::export::ServedDisk;
use super::handshake::Context;
use crate::block::{ByteRange, Error, ExtentKind};
use crate::nbd::wire::flag::allocation;
use crate::nbd::wire::{Status, StatusExtent};

/// Returns what `context` says about `range`, from its start on: everything, or the first extents of it.
pub(super) fn status(disk: &dyn ServedDisk, context: Context, range: ByteRange, one: bool) -> Result<Status, Error> {
    let most = if one { 1 } else { MOST_EXTENTS };
    let mut extents: Vec<StatusExtent> = Vec::new();
    let mut offset = range.start();
    let mut looks = 0_usize;
    while offset < range.end() && looks < MOST_LOOKS {
        looks = looks.saturating_add(1);
        let (run, flags) = state_at(disk, context, offset)?;
        // Spec: "that descriptor MUST NOT exceed the *length* of the original request", and a run that ends late here is cut too.
        let end = run.end().min(range.end());
        let len = end.saturating_sub(offset);
        if len == 0 {
            return Err(Error::new(crate::block::ErrorKind::Io, "a run of the disk is empty"));
        }
        let full = extents.len() >= most;
        match extents.last_mut() {
            // Spec: "The server SHOULD use different *status* values between consecutive descriptors"
            Some(last) if last.flags == flags => last.len = last.len.saturating_add(len),
            _ if full => break,
            _ => extents.push(StatusExtent { len, flags }),
        }
        offset = end;
    }
    Ok(Status { context: context.id(), extents })
}

fn state_at(disk: &dyn ServedDisk, context: Context, offset: u64) -> Result<(ByteRange, u64), Error> {
    match context {
        Context::Allocation => {
            let extent = disk.extent_at(offset)?;
            let flags = match extent.kind {
                ExtentKind::Data => 0,
                ExtentKind::Zero => allocation::ZERO,
                ExtentKind::Hole => allocation::ZERO | allocation::HOLE,
            };
            Ok((extent.range, u64::from(flags)))
        }
        Context::Depth => disk.depth_at(offset).map(|(range, depth)| (range, u64::from(depth))),
    }
}

/// Extents of a reply. Spec: "a server SHOULD NOT send more than 2^20 status descriptors in a single chunk".
const MOST_EXTENTS: usize = 8192;

/// Runs of the disk that are looked at for a reply: others wait meanwhile.
const MOST_LOOKS: usize = 1 << 16;
