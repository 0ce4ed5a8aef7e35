//! `vmimg image map`: which image stores which bytes of a disk, and where.

use std::ffi::OsString;
use std::path::PathBuf;

use imgcore::block::ByteRange;
use imgcore::image::{self, MapEntry, MapKind};

use super::output::Output;
use super::reference::SourceArgs;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::size::Size;

/// The arguments of `vmimg image map`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg image map web1.qcow2
  vmimg image map --output=json --start-offset=1G --max-length=64M web1.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON for programs or text for people
    #[arg(long, value_name = "FORM", default_value = "human")]
    output: Output,
    /// Where the map begins
    #[arg(short = 's', long, value_name = "OFFSET")]
    start_offset: Option<Size>,
    /// How much of the disk the map shows; all up to its end otherwise
    #[arg(short = 'l', long, value_name = "LENGTH")]
    max_length: Option<Size>,
    /// Look even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let reference = args.source.reference(&args.image)?.shared(args.force_share);
    let disk = reference.open(context, args.source.trust)?;
    let start = args.start_offset.unwrap_or_default().0;
    let end = args.max_length.map_or(u64::MAX, |len| start.saturating_add(len.0));
    let range = ByteRange::new(start, end).unwrap_or_default();
    let files = image::map_files(&disk, &reference.path);
    let mut page = Page { text: Vec::with_capacity(PAGE), context };
    match args.output {
        Output::Human => {
            page.text.extend_from_slice(b"Offset          Length          Mapped to       File\n");
            let mapped = image::map(&disk, range, |entry| page.row(entry, &files));
            page.finish()?;
            mapped
        }
        Output::Json => {
            let mut any = false;
            image::map(&disk, range, |entry| {
                page.text.extend_from_slice(if any { b",\n" } else { b"[" });
                any = true;
                page.object(entry)
            })?;
            if !any {
                page.text.extend_from_slice(b"[");
                page.nothing(start);
            }
            page.text.extend_from_slice(b"]\n");
            page.finish()
        }
    }
}

/// Text on its way to standard output.
struct Page<'a> {
    text: Vec<u8>,
    context: &'a Context,
}

impl Page<'_> {
    /// Writes a line of the table, for what is stored and can be read from there.
    fn row(&mut self, entry: &MapEntry, files: &[PathBuf]) -> Result<(), CommandError> {
        if !entry.kind.is_data() || entry.kind.is_zero() {
            return Ok(());
        }
        let Some(offset) = entry.offset else {
            let message =
                format!("the bytes at offset {} are compressed and cannot be read from the file", entry.range.start());
            return Err(CommandError::new(ErrorKind::Unsupported, message).hint("`--output=json` shows them as well"));
        };
        let file = files.get(entry.depth).map(|file| file.display().to_string()).unwrap_or_default();
        let number = |number: u64| if number == 0 { "0".to_owned() } else { format!("{number:#x}") };
        let (start, len) = (number(entry.range.start()), number(entry.range.len()));
        let line = format!("{start:<16}{len:<16}{:<16}{file}\n", number(offset));
        self.text.extend_from_slice(line.as_bytes());
        self.turn()
    }

    /// Writes an object.
    fn object(&mut self, entry: &MapEntry) -> Result<(), CommandError> {
        self.text.extend_from_slice(b"{ \"start\": ");
        self.number(entry.range.start());
        self.text.extend_from_slice(b", \"length\": ");
        self.number(entry.range.len());
        self.text.extend_from_slice(b", \"depth\": ");
        self.number(u64::try_from(entry.depth).unwrap_or(u64::MAX));
        self.text.extend_from_slice(match entry.kind {
            MapKind::Data => b", \"present\": true, \"zero\": false, \"data\": true, \"compressed\": false".as_slice(),
            MapKind::DataHole => b", \"present\": true, \"zero\": true, \"data\": true, \"compressed\": false",
            MapKind::Compressed => b", \"present\": true, \"zero\": false, \"data\": true, \"compressed\": true",
            MapKind::Zero => b", \"present\": true, \"zero\": true, \"data\": false, \"compressed\": false",
            MapKind::Unallocated => b", \"present\": false, \"zero\": true, \"data\": false, \"compressed\": false",
        });
        if let Some(offset) = entry.offset {
            self.text.extend_from_slice(b", \"offset\": ");
            self.number(offset);
        }
        self.text.push(b'}');
        self.turn()
    }

    /// Writes the object for an empty map, which begins at `start`.
    fn nothing(&mut self, start: u64) {
        self.text.extend_from_slice(b"{ \"start\": ");
        self.number(start);
        self.text.extend_from_slice(b", \"length\": 0, \"depth\": 0, \"present\": false, ");
        self.text.extend_from_slice(b"\"zero\": false, \"data\": false, \"compressed\": false}");
    }

    /// Writes a number: there are millions of them, and the general way takes three times as long.
    fn number(&mut self, number: u64) {
        let mut digits = [0; 20];
        let mut rest = number;
        let mut first = digits.len();
        for (at, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b"0123456789".get(usize::try_from(rest.rem_euclid(10)).unwrap_or(0)).copied().unwrap_or(b'0');
            rest = rest.div_euclid(10);
            first = at;
            if rest == 0 {
                break;
            }
        }
        self.text.extend_from_slice(digits.get(first..).unwrap_or_default());
    }

    /// Prints what is written once it is much.
    fn turn(&mut self) -> Result<(), CommandError> {
        if self.text.len() < PAGE {
            return Ok(());
        }
        self.context.interrupt().check()?;
        self.finish()
    }

    fn finish(&mut self) -> Result<(), CommandError> {
        self.context.write_out(&self.text)?;
        self.text.clear();
        Ok(())
    }
}

/// Bytes that are printed at a time.
const PAGE: usize = 256 << 10;
