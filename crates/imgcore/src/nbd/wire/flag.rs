//! The flags of the protocol, by the field that holds them.

/// Handshake flags, which the server sends in its greeting.
///
/// Spec: "Handshake flags".
pub mod handshake {
    /// The server speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The server leaves out the 124 zeros after `NBD_OPT_EXPORT_NAME`, if the client wants that.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Client flags, the answer to the handshake flags.
///
/// Spec: "Client flags".
pub mod client {
    /// The client speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The client wants no 124 zeros.
    pub const NO_ZEROES: u32 = 1 << 1;
}

/// Transmission flags, which say what an export can do.
///
/// Spec: "Transmission flags".
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// The export cannot be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `NBD_CMD_FLUSH` is there.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// `NBD_CMD_FLAG_FUA` is there.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The medium turns.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// `NBD_CMD_TRIM` is there.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `NBD_CMD_WRITE_ZEROES` and `NBD_CMD_FLAG_NO_HOLE` are there.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// `NBD_CMD_FLAG_DF` is there.
    pub const SEND_DF: u16 = 1 << 7;
    /// What a flush made durable is seen over every connection.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// The experimental `NBD_CMD_RESIZE` is there.
    pub const SEND_RESIZE: u16 = 1 << 9;
    /// `NBD_CMD_CACHE` is there.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// `NBD_CMD_FLAG_FAST_ZERO` is there.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `NBD_CMD_BLOCK_STATUS` may carry a payload that selects contexts.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Command flags of a request.
///
/// Spec: "Command flags".
pub mod command {
    /// The reply comes when what the command wrote is durable.
    pub const FUA: u16 = 1 << 0;
    /// Zeros keep their space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// At most one content chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent for each context.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeros, but only if that is faster than writing them.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length field counts a payload that follows; extended headers only.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Reply flags of a chunk.
///
/// Spec: "Structured and extended header reply flags".
pub mod reply {
    /// The last chunk of the reply.
    pub const DONE: u16 = 1 << 0;
}

/// Status flags of the context `base:allocation`.
///
/// Spec: "Metadata contexts".
pub mod allocation {
    /// The context's name.
    pub const CONTEXT: &str = "base:allocation";
    /// No space is set aside.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeros.
    pub const ZERO: u32 = 1 << 1;
}

/// The context `qemu:allocation-depth`, whose status is the number of the image that holds the bytes, 1 for the top.
///
/// Spec: QEMU's `docs/interop/nbd.txt`.
pub mod depth {
    /// The context's name.
    pub const CONTEXT: &str = "qemu:allocation-depth";
}
