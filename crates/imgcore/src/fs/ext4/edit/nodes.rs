use super::Editor;
use super::steps::Make;
use crate::block::BlockWrite;
use crate::fs::ext4::inode::Inode;
use crate::fs::ext4::node::encode_device;
use crate::fs::ext4::resolve::resolve;
use crate::fs::{Attributes, Error, Node};

impl<D: BlockWrite> Editor<D> {
    /// Makes a device node, a FIFO or a socket.
    pub(super) fn make_node(&mut self, node: Node, attributes: &Attributes) -> Result<(), Error> {
        let place = resolve(&self.volume, &self.path, false)?;
        self.clear(&place)?;
        self.make(place, &Make::Node(node), attributes)
    }

    /// Stores the number of a device in its inode. The inode is not saved.
    pub(super) fn store_node(&self, inode: &mut Inode, node: Node) -> Result<(), Error> {
        let (Node::CharDevice(device) | Node::BlockDevice(device)) = node else { return Ok(()) };
        let words = encode_device(device);
        let words =
            words.ok_or_else(|| self.unrepresentable("a device has a major number below 4096 and a minor one below 2^20"))?;
        for (place, byte) in inode.raw.i_block.iter_mut().zip(words) {
            *place = byte;
        }
        Ok(())
    }
}
