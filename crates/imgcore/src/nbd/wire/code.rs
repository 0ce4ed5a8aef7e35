//! The numbers that name options, replies, commands, chunks and errors.

/// Defines an enum whose values are the numbers of the protocol.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident: $number:ty { $($(#[$value_meta:meta])* $value:ident = $code:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$value_meta])* $value,)*
        }

        impl $name {
            /// Returns the value with this number, or `None` for a number that is not known.
            #[must_use]
            pub fn from_number(number: $number) -> Option<Self> {
                match number {
                    $($code => Some(Self::$value),)*
                    _ => None,
                }
            }

            /// Returns its number in messages.
            #[must_use]
            pub fn number(self) -> $number {
                match self {
                    $(Self::$value => $code,)*
                }
            }
        }
    };
}

codes! {
    /// What a client asks for in the handshake.
    ///
    /// Spec: "Option types".
    OptionCode: u32 {
        /// `NBD_OPT_EXPORT_NAME`: transmission, without a way to refuse.
        ExportName = 1,
        /// `NBD_OPT_ABORT`: the end.
        Abort = 2,
        /// `NBD_OPT_LIST`: the names of the exports.
        List = 3,
        /// `NBD_OPT_STARTTLS`: encryption from here on.
        StartTls = 5,
        /// `NBD_OPT_INFO`: what an export is like.
        Info = 6,
        /// `NBD_OPT_GO`: the same, then transmission.
        Go = 7,
        /// `NBD_OPT_STRUCTURED_REPLY`: replies in chunks.
        StructuredReply = 8,
        /// `NBD_OPT_LIST_META_CONTEXT`: which contexts there are.
        ListMetaContext = 9,
        /// `NBD_OPT_SET_META_CONTEXT`: which contexts block status will report.
        SetMetaContext = 10,
        /// `NBD_OPT_EXTENDED_HEADERS`: replies in chunks, lengths in 64 bits.
        ExtendedHeaders = 11,
    }
}

codes! {
    /// How a server answers an option; the errors have bit 31 set.
    ///
    /// Spec: "Option reply types".
    OptionReplyCode: u32 {
        /// `NBD_REP_ACK`: done.
        Ack = 1,
        /// `NBD_REP_SERVER`: an export.
        Server = 2,
        /// `NBD_REP_INFO`: something about an export.
        Info = 3,
        /// `NBD_REP_META_CONTEXT`: a context.
        MetaContext = 4,
        /// `NBD_REP_ERR_UNSUP`: the option is not known.
        Unsupported = 0x8000_0001,
        /// `NBD_REP_ERR_POLICY`: it is forbidden here.
        Policy = 0x8000_0002,
        /// `NBD_REP_ERR_INVALID`: its data break a rule.
        Invalid = 0x8000_0003,
        /// `NBD_REP_ERR_PLATFORM`: not on this platform, or not in this build.
        Platform = 0x8000_0004,
        /// `NBD_REP_ERR_TLS_REQD`: encryption first.
        TlsRequired = 0x8000_0005,
        /// `NBD_REP_ERR_UNKNOWN`: there is no such export.
        Unknown = 0x8000_0006,
        /// `NBD_REP_ERR_SHUTDOWN`: the server is about to end.
        Shutdown = 0x8000_0007,
        /// `NBD_REP_ERR_BLOCK_SIZE_REQD`: the client is to ask for block sizes.
        BlockSizeRequired = 0x8000_0008,
        /// `NBD_REP_ERR_TOO_BIG`: the request or its reply is too large.
        TooBig = 0x8000_0009,
        /// `NBD_REP_ERR_EXT_HEADER_REQD`: extended headers are, or must be, agreed on.
        ExtendedHeadersRequired = 0x8000_000a,
    }
}

impl OptionReplyCode {
    /// Returns whether `number`, of a known reply or not, stands for an error.
    #[must_use]
    pub fn is_error(number: u32) -> bool {
        number & (1 << 31) != 0
    }
}

codes! {
    /// What a client asks for in transmission.
    ///
    /// Spec: "Request types".
    Command: u16 {
        /// `NBD_CMD_READ`.
        Read = 0,
        /// `NBD_CMD_WRITE`.
        Write = 1,
        /// `NBD_CMD_DISC`: the end, without a reply.
        Disconnect = 2,
        /// `NBD_CMD_FLUSH`.
        Flush = 3,
        /// `NBD_CMD_TRIM`.
        Trim = 4,
        /// `NBD_CMD_CACHE`.
        Cache = 5,
        /// `NBD_CMD_WRITE_ZEROES`.
        WriteZeroes = 6,
        /// `NBD_CMD_BLOCK_STATUS`.
        BlockStatus = 7,
    }
}

codes! {
    /// What a chunk of a reply holds; the errors have bit 15 set.
    ///
    /// Spec: "Structured reply types".
    ChunkKind: u16 {
        /// `NBD_REPLY_TYPE_NONE`: nothing.
        None = 0,
        /// `NBD_REPLY_TYPE_OFFSET_DATA`: bytes that were read.
        Data = 1,
        /// `NBD_REPLY_TYPE_OFFSET_HOLE`: zeros that were read.
        Hole = 2,
        /// `NBD_REPLY_TYPE_BLOCK_STATUS`: extents of 32 bits.
        BlockStatus = 5,
        /// `NBD_REPLY_TYPE_BLOCK_STATUS_EXT`: extents of 64 bits.
        BlockStatusExt = 6,
        /// `NBD_REPLY_TYPE_ERROR`.
        Error = 0x8001,
        /// `NBD_REPLY_TYPE_ERROR_OFFSET`: an error at an offset.
        ErrorOffset = 0x8002,
    }
}

impl ChunkKind {
    /// Returns whether `number`, of a known chunk or not, stands for an error.
    #[must_use]
    pub fn is_error(number: u16) -> bool {
        number & (1 << 15) != 0
    }
}

codes! {
    /// Why a command failed.
    ///
    /// Spec: "Error values".
    ErrorCode: u32 {
        /// `NBD_EPERM`: the export cannot be written.
        NotPermitted = 1,
        /// `NBD_EIO`.
        Io = 5,
        /// `NBD_ENOMEM`.
        NoMemory = 12,
        /// `NBD_EINVAL`: the request breaks a rule.
        Invalid = 22,
        /// `NBD_ENOSPC`: no space, or behind the end of the export.
        NoSpace = 28,
        /// `NBD_EOVERFLOW`: too long for one chunk.
        Overflow = 75,
        /// `NBD_ENOTSUP`: zeros are not faster than writing.
        NotSupported = 95,
        /// `NBD_ESHUTDOWN`: the server is about to end.
        Shutdown = 108,
    }
}
