//! What is encoded is decoded; the bytes are those of the specification; any bytes decode or fail.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn style() -> impl Strategy<Value = HeaderStyle> {
    prop_oneof![Just(HeaderStyle::Simple), Just(HeaderStyle::Structured), Just(HeaderStyle::Extended)]
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,40}"
}

proptest! {
    #[test]
    fn requests_survive(flags: u16, command: u16, cookie: u64, offset: u64, len: u64, style in style()) {
        let len = if style == HeaderStyle::Extended { len } else { len & 0xffff_ffff };
        let request = Request { flags, command, cookie, offset, len };
        let bytes = request.encode(style);
        prop_assert_eq!(bytes.len(), Request::header_len(style));
        prop_assert_eq!(Request::decode(&bytes, style), Ok(request));
    }

    #[test]
    fn replies_survive(flags: u16, kind in 1..=u16::MAX, cookie: u64, offset: u64, len: u32, error: u32, style in style()) {
        let simple = SimpleReply { error, cookie };
        if style != HeaderStyle::Extended {
            prop_assert_eq!(ReplyHeader::decode(&simple.encode(), style), Ok(ReplyHeader::Simple(simple)));
        }
        if style != HeaderStyle::Simple {
            let offset = if style == HeaderStyle::Extended { offset } else { 0 };
            let chunk = ChunkHeader { flags, kind, cookie, offset, len: u64::from(len) };
            prop_assert_eq!(ReplyHeader::decode(&chunk.encode(style), style), Ok(ReplyHeader::Chunk(chunk)));
        }
    }

    #[test]
    fn option_data_survive(name in name(), queries in vec(name(), 0..5), infos in vec(any::<u16>(), 0..9), id: u32) {
        let export = ExportRequest { name: name.clone(), infos };
        prop_assert_eq!(ExportRequest::decode(&export.encode()), Ok(export.clone()));
        let meta = MetaRequest { name: name.clone(), queries };
        prop_assert_eq!(MetaRequest::decode(&meta.encode()), Ok(meta.clone()));
        let context = MetaContext { id, name: name.clone() };
        prop_assert_eq!(MetaContext::decode(&context.encode()), Ok(context.clone()));
        let entry = ExportEntry { name: name.clone(), description: name.clone() };
        prop_assert_eq!(ExportEntry::decode(&entry.encode()), Ok(entry.clone()));
        let info = Info::Name(name);
        prop_assert_eq!(Info::decode(&info.encode()), Ok(info.clone()));
    }

    #[test]
    fn status_survives(context: u32, extents in vec((1..=u32::MAX, any::<u32>()), 1..20)) {
        let extents = extents.iter().map(|(len, flags)| StatusExtent { len: u64::from(*len), flags: u64::from(*flags) });
        let status = Status { context, extents: extents.collect() };
        for kind in [ChunkKind::BlockStatus, ChunkKind::BlockStatusExt] {
            prop_assert_eq!(Status::decode(kind, &status.encode(kind)), Ok(status.clone()));
        }
    }

    #[test]
    fn failures_survive(error in 1..=u32::MAX, message in name(), offset: Option<u64>) {
        let failure = Failure { error, message, offset };
        prop_assert_eq!(Failure::decode(failure.kind().number(), &failure.encode()), Ok(failure.clone()));
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in vec(any::<u8>(), 0..300), kind: u16, style in style()) {
        let _ = Request::decode(&bytes, style);
        let _ = ReplyHeader::decode(&bytes, style);
        let _ = ExportRequest::decode(&bytes);
        let _ = MetaRequest::decode(&bytes);
        let _ = MetaContext::decode(&bytes);
        let _ = ExportEntry::decode(&bytes);
        let _ = Info::decode(&bytes);
        let _ = Failure::decode(kind, &bytes);
        let _ = HoleChunk::decode(&bytes);
        for kind in [ChunkKind::BlockStatus, ChunkKind::BlockStatusExt, ChunkKind::None] {
            let _ = Status::decode(kind, &bytes);
        }
    }
}

#[test]
fn messages_have_the_bytes_of_the_specification() {
    assert_eq!(Greeting { flags: 3 }.encode(), *b"NBDMAGICIHAVEOPT\0\x03");
    let go = ExportRequest { name: "a".to_owned(), infos: vec![3] };
    let message = OptionHeader::message(OptionCode::Go, &go.encode());
    assert_eq!(message, *b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x01a\0\x01\0\x03");
    let reply = OptionReplyHeader::message(7, OptionReplyCode::Unknown, b"");
    assert_eq!(reply, *b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\x80\0\0\x06\0\0\0\0");
    let request = Request { flags: 1, command: 1, cookie: 2, offset: 3, len: 4 };
    let compact = b"\x25\x60\x95\x13\0\x01\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04";
    assert_eq!(request.encode(HeaderStyle::Simple), *compact);
    assert_eq!(request.encode(HeaderStyle::Extended).first_chunk(), Some(b"\x21\xe4\x1c\x71"));
    assert_eq!(SimpleReply { error: 5, cookie: 1 }.encode(), *b"\x67\x44\x66\x98\0\0\0\x05\0\0\0\0\0\0\0\x01");
    let chunk = ChunkHeader { flags: 1, kind: 0, cookie: 2, offset: 3, len: 0 };
    assert_eq!(chunk.encode(HeaderStyle::Structured), *b"\x66\x8e\x33\xef\0\x01\0\0\0\0\0\0\0\0\0\x02\0\0\0\0");
    assert_eq!(chunk.encode(HeaderStyle::Extended).first_chunk(), Some(b"\x6e\x8a\x27\x8c"));
}

#[test]
fn lengths_that_lie_are_refused() {
    let long_name = [&100_u32.to_be_bytes()[..], b"x\0\0"].concat();
    assert!(ExportRequest::decode(&long_name).is_err());
    assert!(ExportRequest::decode(&[0, 0, 0, 0, 1, 0]).is_err());
    assert!(ExportRequest::decode(&[0, 0, 0, 0, 0, 0, 9]).is_err());
    let many = [&[0; 4][..], &u32::MAX.to_be_bytes()].concat();
    assert!(MetaRequest::decode(&many).is_err());
    let huge = ExportRequest { name: String::new(), infos: Vec::new() }.encode();
    assert!(ExportRequest::decode(&[&5000_u32.to_be_bytes()[..], &[b'n'; 5000], &huge[4..]].concat()).is_err());
    assert!(HoleChunk::decode(&HoleChunk { offset: 1, len: 0 }.encode()).is_err());
    assert!(Status::decode(ChunkKind::BlockStatus, &[0; 4]).is_err());
    assert!(Status::decode(ChunkKind::BlockStatus, &[0; 12]).is_err());
    let sizes = BlockSizes { minimum: 3, preferred: 4096, maximum: 1 << 25 };
    assert!(Info::decode(&Info::BlockSize(sizes).encode()).is_err());
    assert!(Info::decode(&Info::Export(ExportSummary { size: 1, flags: 0 }).encode()).is_err());
    let none = ChunkHeader { flags: 0, kind: 0, cookie: 0, offset: 0, len: 0 };
    assert!(ReplyHeader::decode(&none.encode(HeaderStyle::Structured), HeaderStyle::Structured).is_err());
}

#[test]
fn a_long_run_is_cut_where_32_bits_end() {
    let extents = vec![StatusExtent { len: 5 << 30, flags: 3 }, StatusExtent { len: 512, flags: 0 }];
    let status = Status { context: 7, extents };
    let compact = Status::decode(ChunkKind::BlockStatus, &status.encode(ChunkKind::BlockStatus)).unwrap();
    assert_eq!(compact.extents, [StatusExtent { len: 0xffff_f000, flags: 3 }]);
    assert_eq!(Status::decode(ChunkKind::BlockStatusExt, &status.encode(ChunkKind::BlockStatusExt)).unwrap(), status);
}
