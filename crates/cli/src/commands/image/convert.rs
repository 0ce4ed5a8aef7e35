//! `vmimg image convert`: an image copied to another format.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imgcore::block::{self, BlockRead, ByteRange};
use imgcore::image::{self, ConvertOptions, Disk, Joined, Location, Salvaged, WritableDisk};
use imgcore::nbd::Uri;
use imgcore::qcow2::NewBitmap;

use super::convert_options::{self, Cache, Snapshot};
use super::options::{self, CreateOptions};
use super::reference::{ImageReference, SourceArgs, parse_format, plain_path};
use super::watch::{Paced, READERS, Watch, threads};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::policy;
use crate::output::warn;
use crate::place::Place;
use crate::size::Size;

/// The arguments of `vmimg image convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The copy appears whole and durable, or not at all; with -n, or on a device, it
is written in place. -t unsafe leaves out to wait for the disk.

Examples:
  vmimg image convert -O qcow2 disk.raw disk.qcow2
  vmimg image convert -p -f qcow2 -O raw web1.qcow2 web1.raw
  vmimg image convert -c -O qcow2 -o compression_type=zstd a.raw b.qcow2
  vmimg image convert -l before-upgrade -O qcow2 web1.qcow2 old.qcow2
  vmimg image convert -n -O raw web1.qcow2 nbd://storage.example/web1")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The format of the copy: raw or qcow2
    #[arg(short = 'O', value_name = "FORMAT", default_value = "raw")]
    output_format: String,
    /// Options of the copy's format, as in cluster_size=64k,compat=1.1
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Compress the copy
    #[arg(short = 'c')]
    compress: bool,
    /// The copy's backing file: only what differs from it is copied
    #[arg(short = 'B', short_alias = 'b', value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', value_name = "FORMAT")]
    backing_format: Option<String>,
    /// How long a run of zeros must be to become a hole; 0 for no holes
    #[arg(short = 'S', value_name = "SIZE")]
    sparse: Option<Size>,
    /// Copy an internal snapshot: its id or name, or snapshot.name=NAME
    #[arg(short = 'l', value_name = "SNAPSHOT", value_parser = convert_options::snapshot)]
    snapshot: Option<Snapshot>,
    /// Write into a copy that is there, instead of making it
    #[arg(short = 'n')]
    into: bool,
    /// The copy that is there reads as zeros: do not write zeros
    #[arg(long)]
    target_is_zero: bool,
    /// COPY is options, as in driver=raw,file.filename=FILE; with -n
    #[arg(long)]
    target_image_opts: bool,
    /// Copy persistent bitmaps too
    #[arg(long)]
    bitmaps: bool,
    /// Leave out bitmaps that cannot be used
    #[arg(long)]
    skip_broken_bitmaps: bool,
    /// Copy what can be read, and zeros for the rest
    #[arg(long)]
    salvage: bool,
    /// Copy at most so many bytes in a second
    #[arg(short = 'r', value_name = "RATE")]
    rate: Option<Size>,
    /// The cache mode of the copy; with unsafe it is not durable at the end
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback", hide_default_value = true)]
    cache: Cache,
    /// Show progress; it shows by itself after a second on a terminal
    #[arg(short = 'p')]
    progress: bool,
    /// Say nothing
    #[arg(short = 'q')]
    quiet: bool,
    /// Copy even while another program writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// How many threads copy, 1 to 16; of files, no more than there are processors
    #[arg(short = 'm', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    at_a_time: Option<u32>,
    /// Accepted for scripts: the order of writes is not the disk's
    #[arg(short = 'W', hide = true)]
    out_of_order: bool,
    /// Accepted for scripts: let the system copy
    #[arg(short = 'C', hide = true)]
    offload: bool,
    /// Accepted for scripts: the cache mode of the image
    #[arg(short = 'T', value_name = "CACHE", hide = true)]
    source_cache: Option<Cache>,
    /// The images, one behind the other, and the copy
    #[arg(value_name = "IMG", required_unless_present = "options")]
    images: Vec<OsString>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    if let Some(help) = options::help(&args.output_format, &args.options) {
        return context.write_out(help.as_bytes());
    }
    check(&args)?;
    let (copy, images) = args.images.split_last().unwrap_or((const { &OsString::new() }, &[]));
    let mut disks = Vec::with_capacity(images.len());
    for image in images {
        let reference = args.source.reference(image)?.shared(args.force_share);
        disks.push(reference.open(context, args.source.trust)?);
    }
    if let (Some(snapshot), [disk]) = (&args.snapshot, disks.as_mut_slice()) {
        let found = snapshot.find(disk)?;
        disk.show_snapshot(&found)?;
    }
    let bitmaps = match disks.as_slice() {
        [disk] if args.bitmaps => bitmaps(disk, &args, context)?,
        _ => Vec::new(),
    };
    let joined = Joined::new(disks.iter().map(|disk| -> &dyn BlockRead { disk }));
    let lost = |range: ByteRange, error: &block::Error| {
        if !args.quiet {
            warn(context, format_args!("error while reading offset {}: {error}", range.start()));
        }
    };
    let salvaged = Salvaged::new(&joined, &lost);
    let source: &dyn BlockRead = if args.salvage { &salvaged } else { &joined };
    let paced = args.rate.filter(|rate| rate.0 > 0).map(|rate| Paced::new(source, rate.0, context));
    let source: &dyn BlockRead = paced.as_ref().map_or(source, |paced| paced);
    let files = disks.iter().all(|disk| disk.storage().as_file().is_some());
    let wanted = args.at_a_time.and_then(|threads| usize::try_from(threads).ok());
    let how = ConvertOptions {
        threads: match wanted {
            _ if files => threads().min(wanted.unwrap_or(usize::MAX)),
            // A thread that waits for a server is no thread that works.
            Some(wanted) => wanted,
            None if args.compress => threads().max(READERS),
            // One for each connection: more answers under way cost both sides more than they gain.
            None => READERS,
        },
        compress: args.compress,
        hole: args.sparse.map_or(SPARSE, |size| size.0),
        backing: None,
        bitmaps: &bitmaps,
        sync: args.cache != Cache::Unsafe,
    };
    let watch = Watch::new(context, "converting", source.size(), args.quiet).percent(args.progress && !args.quiet)?;
    let target = Copy { name: copy, sources: &disks, args: &args };
    let copied =
        if args.into { target.fill(source, &how, &watch, context) } else { target.make(source, &how, &watch, context) };
    // What stopped the copy is the signal, not the read that noticed it.
    context.interrupt().check()?;
    copied?;
    watch.finish()
}

/// Where the copy goes.
struct Copy<'a> {
    name: &'a OsString,
    sources: &'a [Disk],
    args: &'a Args,
}

impl Copy<'_> {
    /// Makes a new image.
    fn make(
        &self,
        source: &dyn BlockRead,
        how: &ConvertOptions<'_>,
        watch: &Watch<'_>,
        context: &Context,
    ) -> Result<(), CommandError> {
        let format = parse_format(&self.args.output_format)?;
        let mut wanted = CreateOptions::parse(format.name(), &self.args.options)?;
        wanted.backing_file = self.args.backing.clone().or(wanted.backing_file);
        wanted.backing_format = self.args.backing_format.clone().or(wanted.backing_format);
        let path = context.absolute(&plain_path(self.name)?);
        self.refuse_source(&path)?;
        let new = wanted.new_disk(format, source.size())?;
        let backing = wanted.backing()?;
        if backing.is_some() && self.sources.len() > 1 {
            return Err(usage("a copy of several images cannot have a backing file"));
        }
        let below = backing.map(|backing| image::open_below(&path, &backing, policy(self.args.source.trust))).transpose()?;
        let how = ConvertOptions { backing: below.as_ref().map(|disk| -> &dyn BlockRead { disk }), ..*how };
        Ok(image::convert(source, &path, &new, &how, context.entropy(None).next_u64(), &|offset| watch.tell(offset))?)
    }

    /// Writes into the image that is there.
    fn fill(
        &self,
        source: &dyn BlockRead,
        how: &ConvertOptions<'_>,
        watch: &Watch<'_>,
        context: &Context,
    ) -> Result<(), CommandError> {
        let format = (!self.args.target_image_opts).then_some(self.args.output_format.as_str());
        let reference = ImageReference::parse(self.name, format, self.args.target_image_opts)?;
        match Place::of(context, &reference.path)? {
            Place::File(path) => self.refuse_source(&path)?,
            Place::Export(uri) => self.refuse_export(&uri)?,
        }
        let mut disk: WritableDisk = reference.open_writable(context, self.args.source.trust)?;
        Ok(image::convert_into(source, &mut disk, self.args.target_is_zero, how, &|offset| watch.tell(offset))?)
    }

    /// Refuses a copy into the export that is copied.
    fn refuse_export(&self, target: &Uri) -> Result<(), CommandError> {
        let same = |disk: &Disk| match disk.storage().location() {
            Location::Export(uri) => (uri.address(), uri.export()) == (target.address(), target.export()),
            Location::File(_) => false,
        };
        if self.sources.iter().flat_map(Disk::chain).any(same) { Err(takes_the_place()) } else { Ok(()) }
    }

    /// Refuses a copy in the place of what is copied.
    fn refuse_source(&self, path: &Path) -> Result<(), CommandError> {
        let Ok(there) = path.metadata() else { return Ok(()) };
        let same = |path: &PathBuf| path.metadata().is_ok_and(|one| (one.dev(), one.ino()) == (there.dev(), there.ino()));
        let read = self.sources.iter().flat_map(Disk::chain).map(|disk| disk.path().to_owned());
        match read.into_iter().any(|path| same(&path)) {
            true => Err(takes_the_place()),
            false => Ok(()),
        }
    }
}

/// Refuses what makes no sense together, as qemu-img does.
fn check(args: &Args) -> Result<(), CommandError> {
    let raw = args.output_format == "raw";
    let sparse = args.sparse.map_or(SPARSE, |size| size.0);
    let rules = [
        (args.images.len() < 2, "the copy is missing: name the image, and then the copy"),
        (args.target_is_zero && !args.into, "`--target-is-zero` needs `-n`: a new image is zeros anyway"),
        (args.target_image_opts && !args.into, "`--target-image-opts` needs `-n`"),
        (args.into && !args.options.is_empty(), "`-o` has no effect on an image that is there"),
        (args.skip_broken_bitmaps && !args.bitmaps, "`--skip-broken-bitmaps` needs `--bitmaps`"),
        (args.bitmaps && raw, "the format `raw` has no bitmaps"),
        (args.bitmaps && args.images.len() > 2, "bitmaps of several images cannot be joined"),
        (args.snapshot.is_some() && args.images.len() > 2, "only one image can be copied as a snapshot shows it"),
        (args.offload && args.sparse.is_some(), "`-C` and `-S` cannot be used together"),
        (args.offload && args.compress, "`-C` and `-c` cannot be used together"),
        (args.offload && args.salvage, "`-C` and `--salvage` cannot be used together"),
        (
            !sparse.is_multiple_of(512) || sparse > MAX_SPARSE,
            "`-S` takes multiples of 512 bytes up to 16 MiB, and 0 for no holes",
        ),
    ];
    rules.iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, why)| Err(usage(*why)))
}

/// Returns the bitmaps that the copy gets.
fn bitmaps(disk: &Disk, args: &Args, context: &Context) -> Result<Vec<NewBitmap>, CommandError> {
    let Some(image) = disk.qcow2() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for bitmap in image.bitmaps()? {
        match image.bitmap_bits(&bitmap.name) {
            Ok(bits) => found.push(NewBitmap { name: bitmap.name, auto: bitmap.auto, bits }),
            Err(_) if args.skip_broken_bitmaps => {
                if !args.quiet {
                    warn(context, format_args!("bitmap `{}` cannot be used and is left out", bitmap.name));
                }
            }
            Err(error) => {
                let hint = "`--skip-broken-bitmaps` leaves it out";
                return Err(CommandError::from(error).hint(hint));
            }
        }
    }
    Ok(found)
}

fn takes_the_place() -> CommandError {
    CommandError::new(ErrorKind::Refused, "the copy cannot take the place of an image that is read")
}

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}

/// Bytes of zeros that become a hole when nobody says how many.
const SPARSE: u64 = 4096;
const MAX_SPARSE: u64 = 16 << 20;
