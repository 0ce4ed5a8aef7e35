//! The calls without a safe form: that the kernel makes a mounted file system larger, as resize2fs, xfs_growfs and btrfs have it do.

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::{Kind, Probe};
use crate::mounted::Mounted;

/// `struct xfs_growfs_data` of `xfs/xfs_fs.h`.
#[repr(C)]
struct XfsGrow {
    new_blocks: u64,
    inode_percent: u32,
    padding: u32,
}

/// `struct btrfs_ioctl_vol_args` of `linux/btrfs.h`.
#[repr(C)]
struct BtrfsResize {
    fd: i64,
    name: [u8; 4088],
}

/// Makes the file system as large as `to` bytes, which its volume has. One that is as large already stays as it is.
#[expect(unsafe_code, reason = "rustix knows no safe form of these calls")]
pub(super) fn grow(files: &Mounted, probe: &Probe, to: u64) -> Result<(), Errno> {
    let root = files.open_root()?;
    let blocks = to.checked_div(probe.block_size).ok_or(Errno::INVAL)?;
    match probe.kind {
        Kind::Btrfs => {
            let mut request = BtrfsResize { fd: 0, name: [0; 4088] };
            for (place, byte) in request.name.iter_mut().zip(to.to_string().as_bytes()) {
                *place = *byte;
            }
            // SAFETY: the kernel reads a structure of this form and size, and writes nothing.
            unsafe { ioctl(root, Setter::<BTRFS_IOC_RESIZE, _>::new(request)) }
        }
        _ if blocks.saturating_mul(probe.block_size) <= probe.size => Ok(()),
        Kind::Xfs => {
            let request = XfsGrow { new_blocks: blocks, inode_percent: u32::from(probe.inode_percent), padding: 0 };
            // SAFETY: the kernel reads a structure of this form and size, and writes nothing.
            unsafe { ioctl(root, Setter::<XFS_IOC_FSGROWFSDATA, _>::new(request)) }
        }
        Kind::Ext => {
            // SAFETY: the kernel reads a number of 64 bits, and writes nothing.
            unsafe { ioctl(root, Setter::<EXT4_IOC_RESIZE_FS, _>::new(blocks)) }
        }
    }
}

/// `BTRFS_IOC_RESIZE` of `linux/btrfs.h`.
const BTRFS_IOC_RESIZE: Opcode = opcode::write::<BtrfsResize>(0x94, 3);
/// `XFS_IOC_FSGROWFSDATA` of `xfs/xfs_fs.h`.
const XFS_IOC_FSGROWFSDATA: Opcode = opcode::write::<XfsGrow>(b'X', 110);
/// `EXT4_IOC_RESIZE_FS` of `linux/ext4.h`.
const EXT4_IOC_RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);
