//! The handshake: greeting, options, and what both sides have agreed on at its end.

use std::io::{self, Read, Write};

use super::{Export, MAX_PAYLOAD, discard};
use crate::nbd::wire::flag::{self, allocation, depth};
use crate::nbd::wire::{
    BlockSizes, ExportEntry, ExportRequest, ExportSummary, Greeting, HeaderStyle, Info, InfoKind, Malformed, MetaContext,
    MetaRequest, OPTION_HEADER_LEN, OptionCode, OptionHeader, OptionReplyCode, OptionReplyHeader, decode_client_flags,
};

/// A metadata context that block status can report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Context {
    /// `base:allocation`.
    Allocation,
    /// `qemu:allocation-depth`.
    Depth,
}

impl Context {
    const ALL: [Self; 2] = [Self::Allocation, Self::Depth];

    fn name(self) -> &'static str {
        match self {
            Self::Allocation => allocation::CONTEXT,
            Self::Depth => depth::CONTEXT,
        }
    }

    /// The number by which block status names it.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
            Self::Depth => 2,
        }
    }
}

/// What both sides have agreed on.
#[derive(Debug)]
pub(super) struct Agreed<'a> {
    pub(super) export: &'a Export,
    pub(super) style: HeaderStyle,
    /// The contexts that block status reports.
    pub(super) contexts: Vec<Context>,
}

/// How a handshake ends.
pub(super) enum Outcome<'a> {
    /// With transmission.
    Transmit(Agreed<'a>),
    /// With encryption, after which the options begin anew.
    StartTls {
        /// Whether the client wants no zeros after `NBD_OPT_EXPORT_NAME`.
        no_zeroes: bool,
    },
    /// With nothing.
    End,
}

/// What an option leads to.
enum Next<'a> {
    Option,
    Outcome(Outcome<'a>),
}

/// One client's handshake.
pub(super) struct Handshake<'a, F> {
    exports: &'a [Export],
    /// Whether everything but `NBD_OPT_STARTTLS` is refused.
    tls_first: bool,
    /// Whether the connection is encrypted.
    is_encrypted: bool,
    /// Takes a place among the clients that transmit; false when there is none.
    enter: F,
    no_zeroes: bool,
    style: HeaderStyle,
    /// The export for which contexts were chosen, and these.
    chosen: Option<(String, Vec<Context>)>,
}

impl<'a, F: Fn() -> bool> Handshake<'a, F> {
    pub(super) fn new(exports: &'a [Export], tls_first: bool, enter: F) -> Self {
        let style = HeaderStyle::Simple;
        Self { exports, tls_first, is_encrypted: false, enter, no_zeroes: false, style, chosen: None }
    }

    /// Greets the client and answers its options.
    pub(super) fn run(mut self, io: &mut (impl Read + Write)) -> io::Result<Outcome<'a>> {
        io.write_all(&Greeting { flags: flag::handshake::FIXED_NEWSTYLE | flag::handshake::NO_ZEROES }.encode())?;
        let flags = decode_client_flags(read_array(io)?).map_err(broken)?;
        self.no_zeroes = flags & flag::client::NO_ZEROES != 0;
        // Spec: "The server MUST operate in NOTLS mode unless ... the client replied with `NBD_FLAG_C_FIXED_NEWSTYLE`"
        if self.tls_first && flags & flag::client::FIXED_NEWSTYLE == 0 {
            return Ok(Outcome::End);
        }
        self.options(io)
    }

    /// Goes on with a client that has begun to encrypt.
    ///
    /// Spec: "the server MUST NOT preserve any negotiation state".
    pub(super) fn run_encrypted(mut self, io: &mut (impl Read + Write), no_zeroes: bool) -> io::Result<Outcome<'a>> {
        self.tls_first = false;
        self.is_encrypted = true;
        self.no_zeroes = no_zeroes;
        self.options(io)
    }

    fn options(&mut self, io: &mut (impl Read + Write)) -> io::Result<Outcome<'a>> {
        loop {
            let header = OptionHeader::decode(&read_array::<OPTION_HEADER_LEN>(io)?).map_err(broken)?;
            // Spec: "if a server believes a client's behaviour constitutes a denial of service, it MAY initiate a hard disconnect"
            if header.len > LONGEST_SKIPPED {
                return Err(broken(Malformed::new("option", "it is too long")));
            }
            let data = if header.len > LONGEST_OPTION {
                discard(io, u64::from(header.len))?;
                None
            } else {
                let mut data = vec![0; usize::try_from(header.len).unwrap_or(0)];
                io.read_exact(&mut data)?;
                Some(data)
            };
            match self.option(io, header.option, data.as_deref())? {
                Next::Option => {}
                Next::Outcome(outcome) => return Ok(outcome),
            }
        }
    }

    /// Answers an option; without `data` there was too much of it to be kept.
    fn option(&mut self, io: &mut impl Write, number: u32, data: Option<&[u8]>) -> io::Result<Next<'a>> {
        let refuse = |io: &mut _, code, why| answer(io, number, code, why).map(|()| Next::Option);
        match OptionCode::from_number(number) {
            // Spec: "a server SHOULD ignore any data sent by the client rather than rejecting the request as invalid"
            Some(OptionCode::Abort) => {
                // The client may be gone already.
                let _gone = answer(io, number, OptionReplyCode::Ack, "");
                Ok(Next::Outcome(Outcome::End))
            }
            // Spec: "`NBD_REP_ERR_INVALID` if the client included data"
            Some(OptionCode::StartTls) if data != Some(&[]) => refuse(io, OptionReplyCode::Invalid, "it has no data"),
            Some(OptionCode::StartTls) if self.tls_first => {
                answer(io, number, OptionReplyCode::Ack, "")?;
                Ok(Next::Outcome(Outcome::StartTls { no_zeroes: self.no_zeroes }))
            }
            // Spec: "`NBD_OPT_STARTTLS` when TLS has already been negotiated, it MUST reply with `NBD_REP_ERR_INVALID`"
            Some(OptionCode::StartTls) if self.is_encrypted => refuse(io, OptionReplyCode::Invalid, "TLS has begun already"),
            Some(OptionCode::StartTls) => refuse(io, OptionReplyCode::Policy, "the server was started without TLS"),
            // Spec: "as this request cannot error, it MUST terminate the session"
            Some(OptionCode::ExportName) if self.tls_first || data.is_none() => Ok(Next::Outcome(Outcome::End)),
            _ if self.tls_first => refuse(io, OptionReplyCode::TlsRequired, "TLS must begin first"),
            // Spec: "Servers that receive messages which they do not implement MUST reply to them with `NBD_REP_ERR_UNSUP`"
            None => refuse(io, OptionReplyCode::Unsupported, "the option is not known"),
            Some(code) => match data {
                Some(data) => self.negotiate(io, code, data),
                None => refuse(io, OptionReplyCode::TooBig, "the option is too long"),
            },
        }
    }

    /// Answers an option about exports and how they are used.
    fn negotiate(&mut self, io: &mut impl Write, code: OptionCode, data: &[u8]) -> io::Result<Next<'a>> {
        let number = code.number();
        match code {
            OptionCode::ExportName => self.export_name(io, data).map(Next::Outcome),
            OptionCode::List => self.list(io, number, data).map(|()| Next::Option),
            OptionCode::Info | OptionCode::Go => self.info(io, number, data),
            OptionCode::StructuredReply if self.style == HeaderStyle::Extended => {
                let why = "extended headers are agreed on";
                answer(io, number, OptionReplyCode::ExtendedHeadersRequired, why).map(|()| Next::Option)
            }
            OptionCode::StructuredReply => self.agree(io, number, data, HeaderStyle::Structured),
            OptionCode::ExtendedHeaders => self.agree(io, number, data, HeaderStyle::Extended),
            OptionCode::ListMetaContext => self.contexts(io, number, data, false),
            OptionCode::SetMetaContext => self.contexts(io, number, data, true),
            OptionCode::Abort | OptionCode::StartTls => Ok(Next::Option),
        }
    }

    fn find(&self, name: &str) -> Option<&'a Export> {
        self.exports.iter().find(|export| export.name() == name)
    }

    fn agreed(&self, export: &'a Export) -> Agreed<'a> {
        // Spec: "it referred to the same export name that was ultimately selected for transmission phase"
        let chosen = self.chosen.as_ref().filter(|(name, _)| name == export.name());
        Agreed { export, style: self.style, contexts: chosen.map(|(_, contexts)| contexts.clone()).unwrap_or_default() }
    }

    fn export_name(&self, io: &mut impl Write, data: &[u8]) -> io::Result<Outcome<'a>> {
        // Spec: "a client that has used `NBD_OPT_EXTENDED_HEADERS` to negotiate extended headers MUST NOT use this option"
        let export = std::str::from_utf8(data).ok().and_then(|name| self.find(name));
        let Some(export) = export.filter(|_| self.style != HeaderStyle::Extended && (self.enter)()) else {
            // Spec: "If the server is unwilling to allow the export, it MUST terminate the session."
            return Ok(Outcome::End);
        };
        let mut reply = export.summary(self.style).encode();
        if !self.no_zeroes {
            reply.extend([0; ExportSummary::ZEROES]);
        }
        io.write_all(&reply)?;
        Ok(Outcome::Transmit(self.agreed(export)))
    }

    fn list(&self, io: &mut impl Write, number: u32, data: &[u8]) -> io::Result<()> {
        // Spec: "the server SHOULD reject a request that includes data with `NBD_REP_ERR_INVALID`"
        if !data.is_empty() {
            return answer(io, number, OptionReplyCode::Invalid, "the list takes no data");
        }
        for export in self.exports {
            let entry = ExportEntry { name: export.name().to_owned(), description: export.description().to_owned() };
            io.write_all(&OptionReplyHeader::message(number, OptionReplyCode::Server, &entry.encode()))?;
        }
        answer(io, number, OptionReplyCode::Ack, "")
    }

    fn info(&self, io: &mut impl Write, number: u32, data: &[u8]) -> io::Result<Next<'a>> {
        let refuse = |io: &mut _, code, why: &str| answer(io, number, code, why).map(|()| Next::Option);
        let request = match ExportRequest::decode(data) {
            Ok(request) => request,
            Err(error) => return refuse(io, OptionReplyCode::Invalid, &error.to_string()),
        };
        let Some(export) = self.find(&request.name) else {
            return refuse(io, OptionReplyCode::Unknown, "there is no export of this name");
        };
        let go = number == OptionCode::Go.number();
        if go && !(self.enter)() {
            return refuse(io, OptionReplyCode::Policy, "too many clients use this server already");
        }
        let asked = |kind: InfoKind| request.infos.contains(&kind.number());
        let mut infos = vec![Info::Export(export.summary(self.style))];
        if asked(InfoKind::Name) {
            infos.push(Info::Name(export.name().to_owned()));
        }
        if asked(InfoKind::Description) && !export.description().is_empty() {
            infos.push(Info::Description(export.description().to_owned()));
        }
        // Spec: "The server MUST send this info if it is requested and it intends to enforce block size constraints"
        if asked(InfoKind::BlockSize) {
            infos.push(Info::BlockSize(BlockSizes { maximum: MAX_PAYLOAD, ..BlockSizes::DEFAULT }));
        }
        let mut reply = Vec::new();
        for info in infos {
            reply.extend(OptionReplyHeader::message(number, OptionReplyCode::Info, &info.encode()));
        }
        reply.extend(OptionReplyHeader::message(number, OptionReplyCode::Ack, b""));
        io.write_all(&reply)?;
        Ok(if go { Next::Outcome(Outcome::Transmit(self.agreed(export))) } else { Next::Option })
    }

    fn agree(&mut self, io: &mut impl Write, number: u32, data: &[u8], style: HeaderStyle) -> io::Result<Next<'a>> {
        // Spec: "the server SHOULD reject a request that includes data with `NBD_REP_ERR_INVALID`"
        if data.is_empty() {
            self.style = style;
            answer(io, number, OptionReplyCode::Ack, "")?;
        } else {
            answer(io, number, OptionReplyCode::Invalid, "the option takes no data")?;
        }
        Ok(Next::Option)
    }

    fn contexts(&mut self, io: &mut impl Write, number: u32, data: &[u8], set: bool) -> io::Result<Next<'a>> {
        let refuse = |io: &mut _, code, why: &str| answer(io, number, code, why).map(|()| Next::Option);
        if set {
            // Spec: "replaces all previously-set metadata contexts (including when this command fails)"
            self.chosen = None;
        }
        // Spec: "MUST NOT be requested unless structured replies or extended headers have been negotiated first"
        if self.style == HeaderStyle::Simple {
            return refuse(io, OptionReplyCode::Invalid, "structured replies or extended headers come first");
        }
        let request = match MetaRequest::decode(data) {
            Ok(request) => request,
            Err(error) => return refuse(io, OptionReplyCode::Invalid, &error.to_string()),
        };
        if self.find(&request.name).is_none() {
            return refuse(io, OptionReplyCode::Unknown, "there is no export of this name");
        }
        let found: Vec<Context> = Context::ALL.into_iter().filter(|context| selects(&request.queries, *context, set)).collect();
        let mut reply = Vec::new();
        for context in &found {
            // Spec: "The metadata context ID in these replies is reserved and SHOULD be set to zero" in a list
            let context = MetaContext { id: if set { context.id() } else { 0 }, name: context.name().to_owned() };
            reply.extend(OptionReplyHeader::message(number, OptionReplyCode::MetaContext, &context.encode()));
        }
        reply.extend(OptionReplyHeader::message(number, OptionReplyCode::Ack, b""));
        io.write_all(&reply)?;
        if set {
            self.chosen = Some((request.name, found));
        }
        Ok(Next::Option)
    }
}

/// Returns whether a client that sends `queries`, to choose or to list, gets `context`.
fn selects(queries: &[String], context: Context, set: bool) -> bool {
    let namespace = context.name().split_inclusive(':').next().unwrap_or_default();
    // Spec: "If zero queries are sent, then the server MUST return all the metadata contexts" of a list;
    // "the server MUST select no metadata contexts" otherwise.
    (queries.is_empty() && !set)
        || queries.iter().any(|query| {
            // Spec: "`base:` - the server MUST ignore this form during `NBD_OPT_SET_META_CONTEXT`"
            query == context.name() || (!set && query == namespace)
        })
}

/// Sends the last reply to an option; with words for people, if it is an error.
fn answer(io: &mut impl Write, option: u32, reply: OptionReplyCode, why: &str) -> io::Result<()> {
    io.write_all(&OptionReplyHeader::message(option, reply, why.as_bytes()))
}

fn read_array<const N: usize>(io: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What ends a connection because of the client.
pub(super) fn broken(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Bytes of an option's data that are taken.
const LONGEST_OPTION: u32 = 64 << 10;

/// Bytes of an option's data that are passed over, to say that they are too many.
const LONGEST_SKIPPED: u32 = 1 << 20;
