//! What is agreed on before requests are made.

use super::connection::GOODBYE;
use super::fault::Fault;
use super::stream::{Patience, Receiver, Sender, Wait, refused};
use crate::block::ErrorKind;
use crate::nbd::wire::{
    BlockSizes, ExportRequest, ExportSummary, Greeting, HeaderStyle, Info, InfoKind, MetaContext, MetaRequest, OptionCode,
    OptionHeader, OptionReplyCode, OptionReplyHeader, flag,
};

/// What an export is like, and how it is talked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Agreement {
    pub(super) size: u64,
    /// Of [`flag::transmission`].
    pub(super) flags: u16,
    pub(super) blocks: BlockSizes,
    pub(super) style: HeaderStyle,
    /// The number of `base:allocation`, where the server tells it.
    pub(super) allocation: Option<u32>,
}

impl Agreement {
    /// Refuses an export that could not be read to its end.
    pub(super) fn check_end(&self) -> Result<(), Fault> {
        let (size, minimum) = (self.size, self.blocks.minimum);
        if size.is_multiple_of(u64::from(minimum)) {
            return Ok(());
        }
        Err(refused(format!("its {size} bytes are not whole blocks of {minimum}, so its end could not be read")))
    }
}

/// A server in the handshake.
pub(super) struct Handshake<'a> {
    pub(super) sender: &'a mut Sender,
    pub(super) receiver: &'a mut Receiver,
    pub(super) patience: Patience,
    /// Whether the server knows more than `NBD_OPT_EXPORT_NAME`.
    pub(super) fixed: bool,
    /// Whether it leaves out the zeros behind an export.
    pub(super) no_zeroes: bool,
}

/// An error that the server answers an option with.
struct Refusal {
    code: u32,
    message: String,
}

/// Replies to an option, or the error at their end.
type Replies = Result<Vec<(OptionReplyCode, Vec<u8>)>, Refusal>;

impl<'a> Handshake<'a> {
    /// Reads the server's greeting and answers it.
    pub(super) fn begin(sender: &'a mut Sender, receiver: &'a mut Receiver, patience: Patience) -> Result<Self, Fault> {
        let greeting = Greeting::decode(&receiver.read_array(patience.until(0))?)?;
        let fixed = greeting.flags & flag::handshake::FIXED_NEWSTYLE != 0;
        let no_zeroes = greeting.flags & flag::handshake::NO_ZEROES != 0;
        let mut flags = 0;
        for (both, own) in [(fixed, flag::client::FIXED_NEWSTYLE), (no_zeroes, flag::client::NO_ZEROES)] {
            // Spec: "clients MUST NOT set" a flag that the server did not
            flags |= if both { own } else { 0 };
        }
        sender.send(&[&flags.to_be_bytes()], patience.until(0))?;
        Ok(Self { sender, receiver, patience, fixed, no_zeroes })
    }

    /// Asks for encryption, which begins when this returns.
    pub(super) fn start_tls(&mut self) -> Result<(), Fault> {
        // Spec: "If encryption cannot be negotiated then the connection MUST fail."
        if !self.fixed {
            return Err(refused("the server is too old for encryption"));
        }
        match self.option(OptionCode::StartTls, &[])? {
            Ok(replies) if replies.is_empty() => Ok(()),
            Ok(_) => Err(Fault::lie("there is more than an answer to the request for encryption")),
            Err(refusal) => Err(self.give_up(refused(format!("the server does not encrypt: {}", refusal.what())))),
        }
    }

    /// Agrees on everything about the export `name`; requests may follow.
    pub(super) fn finish(mut self, name: &str) -> Result<Agreement, Fault> {
        if !self.fixed {
            return self.export_name(name, HeaderStyle::Simple, None);
        }
        let style = if self.accepts(OptionCode::ExtendedHeaders)? {
            HeaderStyle::Extended
        } else if self.accepts(OptionCode::StructuredReply)? {
            HeaderStyle::Structured
        } else {
            HeaderStyle::Simple
        };
        let allocation = if style == HeaderStyle::Simple { None } else { self.allocation(name)? };
        let request = ExportRequest { name: name.to_owned(), infos: vec![InfoKind::BlockSize.number()] };
        match self.option(OptionCode::Go, &request.encode())? {
            Ok(replies) => agree(&replies, style, allocation),
            Err(refusal) if refusal.is(OptionReplyCode::Unsupported) => self.export_name(name, style, allocation),
            Err(refusal) => Err(self.give_up(refusal.of_export(name))),
        }
    }

    /// Tells the server that nothing comes of it because of `fault`, which is returned.
    ///
    /// Spec: "its only option to terminate the session is via a soft disconnect"
    fn give_up(&mut self, fault: Fault) -> Fault {
        // It may be gone already.
        let _gone = self.sender.send(&[&OptionHeader::message(OptionCode::Abort, &[])], Wait::of(GOODBYE));
        fault
    }

    fn accepts(&mut self, option: OptionCode) -> Result<bool, Fault> {
        match self.option(option, &[])? {
            Ok(replies) if replies.is_empty() => Ok(true),
            Ok(_) => Err(Fault::lie("an option has more replies than there are")),
            Err(_) => Ok(false),
        }
    }

    /// Asks for `base:allocation`, and returns its number.
    fn allocation(&mut self, name: &str) -> Result<Option<u32>, Fault> {
        let request = MetaRequest { name: name.to_owned(), queries: vec![flag::allocation::CONTEXT.to_owned()] };
        let Ok(replies) = self.option(OptionCode::SetMetaContext, &request.encode())? else { return Ok(None) };
        let mut found = None;
        for (reply, data) in &replies {
            if *reply != OptionReplyCode::MetaContext {
                return Err(Fault::lie("a request for contexts is answered by something else"));
            }
            let context = MetaContext::decode(data)?;
            // Spec: "the server MUST NOT" return what no query asked for
            if context.name != flag::allocation::CONTEXT || found.replace(context.id).is_some() {
                return Err(Fault::lie("there are contexts that nobody asked for"));
            }
        }
        Ok(found)
    }

    /// Chooses the export in the way of the oldest servers, which cannot say no but by ending the connection.
    fn export_name(&mut self, name: &str, style: HeaderStyle, allocation: Option<u32>) -> Result<Agreement, Fault> {
        let until = self.patience.until(0);
        self.sender.send(&[&OptionHeader::message(OptionCode::ExportName, name.as_bytes())], until)?;
        let bytes = self.receiver.read_array(until).map_err(|fault| match fault.text.as_str() {
            "the server closed the connection" => no_export(name, "it closed the connection"),
            _ => fault,
        })?;
        let summary = ExportSummary::decode(&bytes)?;
        if !self.no_zeroes {
            let zeros: [u8; ExportSummary::ZEROES] = self.receiver.read_array(until)?;
            if zeros.iter().any(|byte| *byte != 0) {
                return Err(Fault::lie("the reserved bytes behind an export must be zeros"));
            }
        }
        // Spec: "the client SHOULD assume a default minimum block size of 1" where the server had no way to say it
        judge(Agreement { size: summary.size, flags: summary.flags, blocks: BlockSizes::DEFAULT, style, allocation })
    }

    /// Sends an option, and returns the replies before the last.
    fn option(&mut self, option: OptionCode, data: &[u8]) -> Result<Replies, Fault> {
        let until = self.patience.until(0);
        self.sender.send(&[&OptionHeader::message(option, data)], until)?;
        let mut replies = Vec::new();
        while replies.len() < MOST_REPLIES {
            let header = OptionReplyHeader::decode(&self.receiver.read_array(until)?)?;
            if header.option != option.number() {
                return Err(Fault::lie("a reply is to another option"));
            }
            let data = self.receiver.read_vec(u64::from(header.len), MOST_DATA, until)?;
            if OptionReplyCode::is_error(header.reply) {
                let message = String::from_utf8_lossy(&data).escape_debug().to_string();
                let refusal = Refusal { code: header.reply, message };
                // Spec: "If the client receives `NBD_REP_ERR_SHUTDOWN` it MUST initiate a soft disconnect."
                if refusal.is(OptionReplyCode::Shutdown) {
                    return Err(self.give_up(refusal.of_export("")));
                }
                return Ok(Err(refusal));
            }
            match OptionReplyCode::from_number(header.reply) {
                // Spec: "`NBD_REP_ACK` ... *length* MUST be 0"
                Some(OptionReplyCode::Ack) if data.is_empty() => return Ok(Ok(replies)),
                Some(reply @ (OptionReplyCode::Info | OptionReplyCode::MetaContext)) => replies.push((reply, data)),
                _ => return Err(Fault::lie("an option has a reply of a kind that it cannot have")),
            }
        }
        Err(Fault::lie("an option has replies without end"))
    }
}

/// Returns what the replies to `NBD_OPT_GO` say.
fn agree(replies: &[(OptionReplyCode, Vec<u8>)], style: HeaderStyle, allocation: Option<u32>) -> Result<Agreement, Fault> {
    let mut summary: Option<ExportSummary> = None;
    let mut blocks: Option<BlockSizes> = None;
    for (reply, data) in replies {
        if *reply != OptionReplyCode::Info {
            return Err(Fault::lie("an export is described by something else than information"));
        }
        match Info::decode(data)? {
            Info::Export(new) if summary.replace(new).is_some_and(|old| old != new) => {
                return Err(Fault::lie("an export has two sizes"));
            }
            Info::BlockSize(new) if blocks.replace(new).is_some_and(|old| old != new) => {
                return Err(Fault::lie("an export has two kinds of block sizes"));
            }
            _ => {}
        }
    }
    // Spec: "the server MUST send at least one `NBD_REP_INFO` with `NBD_INFO_EXPORT`"
    let summary = summary.ok_or_else(|| Fault::lie("the size of the export is missing"))?;
    let blocks = blocks.unwrap_or(BlockSizes::DEFAULT);
    judge(Agreement { size: summary.size, flags: summary.flags, blocks, style, allocation })
}

/// Refuses an export that contradicts itself.
fn judge(agreement: Agreement) -> Result<Agreement, Fault> {
    let Agreement { size, flags, blocks, style, .. } = agreement;
    let has = |flag: u16| flags & flag != 0;
    if i64::try_from(size).is_err() {
        return Err(Fault::lie("an export is larger than 8 EiB"));
    }
    // Spec: "MUST be at least as large as the smaller of the preferred block size or export size"
    if u64::from(blocks.maximum) < size.min(u64::from(blocks.preferred)) {
        return Err(Fault::lie("the maximum block size is below the preferred one"));
    }
    // Spec: "MUST leave this flag clear if structured replies have not been negotiated"
    if has(flag::transmission::SEND_DF) && style == HeaderStyle::Simple {
        return Err(Fault::lie("the flag SEND_DF needs replies in chunks"));
    }
    // Spec: "MUST set this transmission flag to 0 if `NBD_FLAG_SEND_WRITE_ZEROES` is not set"
    if has(flag::transmission::SEND_FAST_ZERO) && !has(flag::transmission::SEND_WRITE_ZEROES) {
        return Err(Fault::lie("the flag SEND_FAST_ZERO needs SEND_WRITE_ZEROES"));
    }
    // Spec: "MUST NOT be set unless extended headers were negotiated"
    if has(flag::transmission::BLOCK_STATUS_PAYLOAD) && style != HeaderStyle::Extended {
        return Err(Fault::lie("the flag BLOCK_STATUS_PAYLOAD needs extended headers"));
    }
    Ok(agreement)
}

fn no_export(name: &str, why: &str) -> Fault {
    let name = name.escape_debug();
    Fault::new(ErrorKind::NotFound, format!("the server has no export `{name}`: {why}"))
}

impl Refusal {
    fn is(&self, code: OptionReplyCode) -> bool {
        self.code == code.number()
    }

    fn what(&self) -> String {
        let what = match OptionReplyCode::from_number(self.code) {
            Some(OptionReplyCode::Unsupported) => "it does not know how".to_owned(),
            Some(OptionReplyCode::Policy) => "its policy forbids it".to_owned(),
            Some(OptionReplyCode::TlsRequired) => "it wants encryption".to_owned(),
            Some(OptionReplyCode::Shutdown) => "it is about to end".to_owned(),
            _ => format!("error {:#x}", self.code),
        };
        if self.message.is_empty() { what } else { format!("{what} ({})", self.message) }
    }

    fn of_export(&self, name: &str) -> Fault {
        match OptionReplyCode::from_number(self.code) {
            Some(OptionReplyCode::Unknown) => no_export(name, &self.what()),
            Some(OptionReplyCode::TlsRequired) => {
                refused(format!("the server wants encryption: its address begins with `nbds` ({})", self.what()))
            }
            Some(OptionReplyCode::Policy) => Fault::new(ErrorKind::PermissionDenied, format!("it refuses: {}", self.what())),
            _ => Fault::new(ErrorKind::Io, format!("the server does not give the export: {}", self.what())),
        }
    }
}

/// Replies to one option.
const MOST_REPLIES: usize = 64;

/// Bytes of data in a reply to an option.
const MOST_DATA: usize = 64 << 10;
