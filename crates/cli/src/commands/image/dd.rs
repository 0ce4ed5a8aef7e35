//! `vmimg image dd`: a part of a disk, copied to a new image.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use imgcore::block::{BlockRead, ByteRange, Slice};
use imgcore::image::{self, ConvertOptions};

use super::options::CreateOptions;
use super::reference::{SourceArgs, parse_format, plain_path};
use super::watch::{Watch, threads};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::warn;
use crate::size::Size;

/// The arguments of `vmimg image dd`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The copy is a new image, which appears whole and durable, or not at all. As in
qemu-img, count=BLOCKS says where the copy ends, also with skip=BLOCKS.

Examples:
  vmimg image dd if=web1.qcow2 of=head.raw bs=1M count=64
  vmimg image dd -f raw -O qcow2 if=disk.raw of=tail.qcow2 bs=1M skip=1024")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The format of the copy: raw or qcow2
    #[arg(short = 'O', long = "output-format", value_name = "FORMAT", default_value = "raw")]
    output_format: String,
    /// Copy even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// if=IMG of=COPY, and bs=SIZE, count=BLOCKS, skip=BLOCKS
    #[arg(value_name = "KEY=VALUE", required = true)]
    operands: Vec<OsString>,
}

/// What the operands say.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Operands {
    image: OsString,
    copy: OsString,
    block_size: u64,
    count: Option<u64>,
    skip: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let operands = Operands::parse(&args.operands)?;
    let format = parse_format(&args.output_format)?;
    let reference = args.source.reference(&operands.image)?.shared(args.force_share);
    let disk = reference.open(context, args.source.trust)?;
    let path = context.absolute(&plain_path(&operands.copy)?);
    if disk.chain().any(|disk| same_file(disk.path(), &path)) {
        return Err(CommandError::new(ErrorKind::Refused, "the copy cannot take the place of an image that is read"));
    }
    let range = operands.range(disk.size());
    if range.is_empty() && operands.skip > 0 {
        warn(context, format_args!("`{}` ends before what is to be copied", reference.path.display()));
    }
    let part = Slice::open(disk, range)?;
    let new = CreateOptions::default().new_disk(format, range.len())?;
    let watch = Watch::new(context, "copying", range.len(), false);
    let how = ConvertOptions { threads: threads(), ..ConvertOptions::default() };
    let unique = context.entropy(None).next_u64();
    let copied = image::convert(&part, &path, &new, &how, unique, &|offset| watch.tell(offset));
    // What stopped the copy is the signal, not the read that noticed it.
    context.interrupt().check()?;
    Ok(copied?)
}

impl Operands {
    fn parse(words: &[OsString]) -> Result<Self, CommandError> {
        let (mut image, mut copy, mut block_size, mut count, mut skip) = (None, None, 512, None, 0);
        for word in words {
            let bytes = word.as_bytes();
            let at = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
            let (key, value) = bytes.split_at(at);
            let value = OsStr::from_bytes(value.strip_prefix(b"=").unwrap_or_default());
            let text = value.to_str().unwrap_or_default();
            match key {
                b"if" => image = Some(value.to_owned()),
                b"of" => copy = Some(value.to_owned()),
                b"bs" => {
                    let size = text.parse::<Size>().ok().map(|size| size.0).filter(|size| (1..=MAX_BLOCK).contains(size));
                    block_size = size.ok_or_else(|| usage(format!("`bs` is 1 to {MAX_BLOCK} bytes, not `{text}`")))?;
                }
                b"count" => count = Some(blocks("count", text)?),
                b"skip" => skip = blocks("skip", text)?,
                _ => return Err(usage(format!("there is no operand `{}`", word.to_string_lossy().escape_debug()))),
            }
        }
        let (Some(image), Some(copy)) = (image, copy) else {
            return Err(usage("both `if=IMG` and `of=COPY` are needed"));
        };
        Ok(Self { image, copy, block_size, count, skip })
    }

    /// Returns the part of a disk of `size` bytes that is copied.
    fn range(&self, size: u64) -> ByteRange {
        let end = self.count.map_or(size, |count| count.saturating_mul(self.block_size).min(size));
        let start = self.skip.saturating_mul(self.block_size).min(end);
        ByteRange::new(start, end).unwrap_or_default()
    }
}

fn blocks(key: &str, text: &str) -> Result<u64, CommandError> {
    let number = text.parse().ok().filter(|number| i64::try_from(*number).is_ok());
    number.ok_or_else(|| usage(format!("`{key}` is a number of blocks, not `{text}`")))
}

fn same_file(image: &Path, copy: &Path) -> bool {
    matches!((image.canonicalize(), copy.canonicalize()), (Ok(image), Ok(copy)) if image == copy)
}

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}

/// Bytes of the largest block, as in qemu-img.
const MAX_BLOCK: u64 = (1 << 31) - 1;

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::Operands;

    fn range(line: &str, size: u64) -> Option<(u64, u64)> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let range = Operands::parse(&words).ok()?.range(size);
        Some((range.start(), range.end()))
    }

    #[test]
    fn the_count_says_where_the_copy_ends() {
        assert_eq!(range("if=a of=b", 1000), Some((0, 1000)));
        assert_eq!(range("if=a of=b bs=100 count=3 skip=1", 1000), Some((100, 300)));
        assert_eq!(range("if=a of=b bs=100 count=3 skip=4", 1000), Some((300, 300)));
        assert_eq!(range("if=a of=b skip=1", 1000), Some((512, 1000)));
        assert_eq!(range("of=b if=a bs=1k count=9223372036854775807", 1000), Some((0, 1000)));
        for wrong in ["if=a", "if=a of=b bs=0", "if=a of=b bs=2G", "if=a of=b count=1k", "if=a of=b x", "if=a of=b skip=-1"] {
            assert_eq!(range(wrong, 1000), None, "{wrong}");
        }
    }
}
