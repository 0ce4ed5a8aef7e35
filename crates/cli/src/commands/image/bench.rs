//! `vmimg image bench`: how fast images are read and written here.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use imgcore::block::{self, BlockRead, BlockWrite};

use super::reference::SourceArgs;
use super::watch::threads;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::output::print_line;
use crate::size::Size;

/// The arguments of `vmimg image bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Requests follow each other; behind the end of the disk they begin again.
A write test overwrites what the disk holds.

Examples:
  vmimg image bench -c 10000 -s 64k web1.qcow2
  vmimg image bench -w -c 1000 --pattern 1 --flush-interval 100 scratch.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// How many requests are made
    #[arg(short = 'c', long, value_name = "COUNT", default_value = "75000", value_parser = number)]
    count: u64,
    /// How many requests are on their way at the same time
    #[arg(short = 'd', long, value_name = "DEPTH", default_value = "64", value_parser = number)]
    depth: u64,
    /// Where the first request begins
    #[arg(short = 'o', long, value_name = "OFFSET", default_value = "0")]
    offset: Size,
    /// Bytes of a request
    #[arg(short = 's', long, value_name = "SIZE", default_value = "4k")]
    buffer_size: Size,
    /// Bytes from one request to the next; the size of a request otherwise
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "0")]
    step_size: Size,
    /// Write instead of reading
    #[arg(short = 'w', long)]
    write: bool,
    /// The byte that is written
    #[arg(long, value_name = "BYTE", default_value = "0", value_parser = pattern)]
    pattern: u8,
    /// Make what was written durable after so many requests
    #[arg(long, value_name = "COUNT", value_parser = number)]
    flush_interval: Option<u64>,
    /// Do not wait for other requests before that
    #[arg(long)]
    no_drain: bool,
    /// The cache mode: writeback, unsafe, or writethrough: each write is durable
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback", hide_possible_values = true)]
    cache: Cache,
    /// Accepted for scripts: how the host is asked to work
    #[arg(short = 'i', long, value_name = "AIO", hide = true)]
    aio: Option<Aio>,
    /// Accepted for scripts, as `-i native`
    #[arg(short = 'n', long, hide = true)]
    native: bool,
    /// Accepted for scripts: it changes nothing in qemu-img
    #[arg(short = 'q', long, hide = true)]
    quiet: bool,
    /// Read even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "IMG")]
    image: OsString,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Cache {
    Writeback,
    Writethrough,
    Unsafe,
    #[value(alias = "off")]
    None,
    Directsync,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Aio {
    Threads,
    Native,
    #[value(name = "io_uring")]
    IoUring,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    check(args)?;
    let reference = args.source.reference(&args.image)?.shared(args.force_share);
    let requests = |size| Requests::new(args, size);
    let begin = || {
        let kind = if args.write { "write" } else { "read" };
        print_line(
            context,
            format_args!(
                "Sending {} {kind} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})",
                args.count,
                args.buffer_size.0,
                args.depth,
                args.offset.0,
                step(args)
            ),
        )?;
        match args.flush_interval {
            Some(interval) => print_line(context, format_args!("Sending flush every {interval} requests")),
            None => Ok(()),
        }
    };
    let seconds = if args.write {
        let mut disk = reference.open_writable(context, args.source.trust)?;
        begin()?;
        let begun = Instant::now();
        let requests = requests(disk.size());
        write(&mut disk, requests, args, context)?;
        disk.close()?;
        begun.elapsed()
    } else {
        let disk = reference.open(context, args.source.trust)?;
        begin()?;
        let begun = Instant::now();
        read(&disk, requests(disk.size()), args, context)?;
        begun.elapsed()
    };
    print_line(context, format_args!("Run completed in {:.3} seconds.", seconds.as_secs_f64()))
}

fn check(args: &Args) -> Result<(), CommandError> {
    if !(1..=LIMIT).contains(&args.buffer_size.0) || args.step_size.0 > LIMIT {
        return Err(usage("requests have 1 to 2147483647 bytes, and the steps between them no more"));
    }
    if args.flush_interval.is_some() && !args.write {
        return Err(usage("`--flush-interval` is about tests that write, with `-w`"));
    }
    if args.flush_interval.is_some_and(|interval| interval < args.depth) {
        return Err(usage("the flush interval cannot be less than the depth"));
    }
    if matches!(args.cache, Cache::None | Cache::Directsync) {
        let message = "reading and writing past the host's cache is not supported";
        return Err(CommandError::new(ErrorKind::Unsupported, message).hint("`-t writethrough` makes each write durable"));
    }
    Ok(())
}

fn step(args: &Args) -> u64 {
    if args.step_size.0 == 0 { args.buffer_size.0 } else { args.step_size.0 }
}

/// The offsets of the requests, first to last.
#[derive(Debug)]
struct Requests {
    left: u64,
    next: u64,
    step: u64,
    /// Bytes of the disk.
    size: u64,
}

impl Requests {
    fn new(args: &Args, size: u64) -> Self {
        Self { left: args.count, next: args.offset.0, step: step(args), size }
    }
}

impl Iterator for Requests {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let offset = self.next;
        let next = offset.saturating_add(self.step);
        self.next = if next < self.size { next } else { next.checked_rem(self.size).unwrap_or(next) };
        Some(offset)
    }
}

/// Reads with as many threads as there are processors, or as requests may be on their way.
fn read(disk: &dyn BlockRead, requests: Requests, args: &Args, context: &Context) -> Result<(), CommandError> {
    let requests = Mutex::new(requests);
    let failed: Mutex<Option<block::Error>> = Mutex::new(None);
    let each = || {
        let mut buf = vec![0; piece_len(args)];
        loop {
            let next = requests.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(offset) = next.filter(|_| !context.interrupt().is_set()) else { return };
            let done = pieces(offset, args.buffer_size.0)
                .try_for_each(|(offset, len)| disk.read_exact_at(buf.get_mut(..len).unwrap_or_default(), offset));
            if let Err(error) = done {
                requests.lock().unwrap_or_else(PoisonError::into_inner).left = 0;
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..usize::try_from(args.depth).unwrap_or(usize::MAX).min(threads()) {
            scope.spawn(each);
        }
        each();
    });
    context.interrupt().check()?;
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), |error| Err(CommandError::from(error).context("a request has failed")))
}

/// Writes, one request after the other: an image has one writer.
fn write(disk: &mut dyn BlockWrite, requests: Requests, args: &Args, context: &Context) -> Result<(), CommandError> {
    let buf = vec![args.pattern; piece_len(args)];
    let count = args.count;
    for (offset, done) in requests.zip(1_u64..) {
        context.interrupt().check()?;
        let written = pieces(offset, args.buffer_size.0)
            .try_for_each(|(offset, len)| disk.write_all_at(buf.get(..len).unwrap_or_default(), offset));
        let left = count.saturating_sub(done);
        let due = args.flush_interval.is_some_and(|interval| left.checked_rem(interval) == Some(0));
        let flush = due || args.cache == Cache::Writethrough;
        written
            .and_then(|()| if flush { disk.flush() } else { Ok(()) })
            .map_err(|error| CommandError::from(error).context("a request has failed"))?;
    }
    Ok(())
}

/// Returns the parts of a request that are read or written at once: memory is bounded however long it is.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset.saturating_add(len);
    let starts = std::iter::successors(Some(offset), |at| at.checked_add(PIECE)).take_while(move |at| *at < end);
    starts.map(move |at| (at, usize::try_from(end.saturating_sub(at).min(PIECE)).unwrap_or(usize::MAX)))
}

fn piece_len(args: &Args) -> usize {
    usize::try_from(args.buffer_size.0.min(PIECE)).unwrap_or(usize::MAX)
}

/// Reads a count, from 1 on.
fn number(text: &str) -> Result<u64, String> {
    integer(text)
        .filter(|number| (1..=LIMIT).contains(number))
        .ok_or_else(|| "a number from 1 to 2147483647 is needed".to_owned())
}

/// Reads a byte.
fn pattern(text: &str) -> Result<u8, String> {
    let byte = integer(text).and_then(|number| u8::try_from(number).ok());
    byte.ok_or_else(|| "a number from 0 to 255 is needed".to_owned())
}

/// Reads a number, decimal or, after 0x, hexadecimal.
fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn usage(message: &str) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}

/// The largest count or length, as in qemu-img.
const LIMIT: u64 = (1 << 31) - 1;
/// Bytes that are read or written at once.
const PIECE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::{PIECE, Requests, number, pattern, pieces};

    #[test]
    fn requests_begin_again_behind_the_end_of_the_disk() {
        let offsets = |next, step, size| Requests { left: 4, next, step, size }.collect::<Vec<u64>>();
        assert_eq!(offsets(0, 4, 100), [0, 4, 8, 12]);
        assert_eq!(offsets(92, 4, 100), [92, 96, 0, 4]);
        assert_eq!(offsets(60, 70, 64), [60, 2, 8, 14]);
        assert_eq!(offsets(0, 4, 0), [0, 4, 8, 12]);
    }

    #[test]
    fn long_requests_are_made_in_parts() {
        let parts: Vec<(u64, usize)> = pieces(10, 2 * PIECE + 5).collect();
        assert_eq!(parts, [(10, 1 << 20), (10 + PIECE, 1 << 20), (10 + 2 * PIECE, 5)]);
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!((number("1"), number("2147483647")), (Ok(1), Ok(2_147_483_647)));
        assert!(number("0").is_err() && number("2147483648").is_err() && number("1k").is_err());
        assert_eq!((pattern("0x20"), pattern("255")), (Ok(32), Ok(255)));
        assert!(pattern("256").is_err());
    }
}
