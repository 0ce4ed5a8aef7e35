//! `vmimg image create`: a new image, empty or on top of another.

use std::path::{Path, PathBuf};

use imgcore::block::{BlockRead, BlockWrite, ByteRange, Hole, Resize};
use imgcore::image::Format;
use imgcore::qcow2::{self, DataFileName, NewBacking, Version};

use super::options::{CompressionType, CreateOptions, Preallocation};
use super::target::Target;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{TrustArgs, open, options};
use crate::output::print_line;
use crate::size::Size;

/// The arguments of `vmimg image create`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmimg image create -f qcow2 disk.qcow2 20G
  vmimg image create -f qcow2 -b debian-12.qcow2 -F qcow2 web1.qcow2
  vmimg image create -f qcow2 -o cluster_size=2M,lazy_refcounts=on big.qcow2 2T")]
pub(super) struct Args {
    /// The format: raw or qcow2
    #[arg(short = 'f', value_name = "FORMAT", default_value = "raw")]
    format: Format,
    /// The backing file, as the image records it: relative to the image's folder
    #[arg(short = 'b', value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', value_name = "FORMAT")]
    backing_format: Option<String>,
    /// Do not look at the backing file
    #[arg(short = 'u')]
    unchecked: bool,
    /// Options of the format, as in cluster_size=64k,compat=1.1
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Say nothing
    #[arg(short = 'q')]
    quiet: bool,
    /// The new image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The size of the disk; that of the backing file otherwise
    #[arg(value_name = "SIZE")]
    size: Option<Size>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    let mut wanted = CreateOptions::parse(args.format.name(), &args.options)?;
    wanted.size = args.size.or(wanted.size);
    wanted.backing_file = args.backing.or(wanted.backing_file);
    wanted.backing_format = args.backing_format.or(wanted.backing_format);
    let path = context.absolute(&args.image);
    if wanted.size.is_none() || !args.unchecked {
        let below = backing_size(context, &path, &wanted, args.unchecked)?;
        wanted.size = wanted.size.or(below.map(Size));
    }
    let size = wanted.size.ok_or_else(|| usage("a new image needs a size").hint("`vmimg image create --help` shows some"))?;
    if !args.quiet {
        print_line(context, describe(args.format, &args.image, size.0, &wanted))?;
    }
    match args.format {
        Format::Raw => create_raw(context, &path, size.0, &wanted),
        Format::Qcow2 => create_qcow2(context, &path, &qcow2_options(size.0, &wanted)?),
    }
}

fn create_raw(context: &Context, path: &Path, size: u64, wanted: &CreateOptions) -> Result<(), CommandError> {
    let mut target = Target::create(context, path)?;
    let size = size.checked_next_multiple_of(512).ok_or_else(|| usage("the disk is too large"))?;
    target.file().resize(size)?;
    match wanted.preallocation.unwrap_or_default() {
        Preallocation::Off => {}
        Preallocation::Metadata => return Err(usage("the format `raw` has no metadata to preallocate")),
        Preallocation::Falloc | Preallocation::Full => {
            target.file().write_zeroes_at(ByteRange::new(0, size).unwrap_or_default(), Hole::Keep)?;
        }
    }
    target.publish()
}

fn create_qcow2(context: &Context, path: &Path, options: &qcow2::CreateOptions) -> Result<(), CommandError> {
    let mut target = Target::create(context, path)?;
    qcow2::create(target.file(), options)?;
    create_data_file(context, path, options)?;
    target.publish()
}

/// Makes the external data file of a new image at `path`, if it has one.
pub(super) fn create_data_file(context: &Context, path: &Path, options: &qcow2::CreateOptions) -> Result<(), CommandError> {
    use std::os::unix::ffi::OsStrExt;
    let Some(file) = &options.data_file else { return Ok(()) };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut data = Target::create(context, &folder.join(std::ffi::OsStr::from_bytes(&file.name)))?;
    data.file().resize(options.size.next_multiple_of(512))?;
    data.publish()
}

/// Returns imgcore's options for what was asked for.
pub(super) fn qcow2_options(size: u64, wanted: &CreateOptions) -> Result<qcow2::CreateOptions, CommandError> {
    let defaults = qcow2::CreateOptions::new(size);
    let backing = match (&wanted.backing_file, &wanted.backing_format) {
        (None, _) => None,
        (Some(name), Some(format)) => Some(NewBacking { name: name.clone().into_bytes(), format: format.clone() }),
        (Some(_), None) => return Err(without_format()),
    };
    if wanted.data_file_raw == Some(true) && wanted.data_file.is_none() {
        return Err(usage("`data_file_raw` needs `data_file`"));
    }
    let raw = wanted.data_file_raw.unwrap_or(false);
    Ok(qcow2::CreateOptions {
        version: if wanted.version_2 == Some(true) { Version::V2 } else { Version::V3 },
        cluster_size: wanted.cluster_size.unwrap_or(defaults.cluster_size),
        refcount_bits: wanted.refcount_bits.unwrap_or(defaults.refcount_bits),
        lazy_refcounts: wanted.lazy_refcounts.unwrap_or(false),
        extended_l2: wanted.extended_l2.unwrap_or(false),
        compression: match wanted.compression {
            None | Some(CompressionType::Zlib) => qcow2::Compression::Zlib,
            Some(CompressionType::Zstd) => qcow2::Compression::Zstd,
        },
        data_file: wanted.data_file.clone().map(|name| DataFileName { name: name.into_bytes(), raw }),
        preallocation: wanted.preallocation.unwrap_or_default().into(),
        backing,
        ..defaults
    })
}

/// Opens the backing file of a new image at `path`, so that it is there and can be read; returns the size of its disk.
fn backing_size(context: &Context, path: &Path, wanted: &CreateOptions, unchecked: bool) -> Result<Option<u64>, CommandError> {
    let Some(name) = &wanted.backing_file else { return Ok(None) };
    let format = backing_format(wanted)?;
    if unchecked {
        return Err(usage("with `-u` a new image needs a size"));
    }
    let below = path.parent().unwrap_or(Path::new("/")).join(name);
    if below == path {
        return Err(CommandError::new(ErrorKind::Refused, format!("`{}` cannot be its own backing file", path.display())));
    }
    let disk = open(context, &below, &options(Some(format), TrustArgs::OWN))
        .map_err(|error| error.context("cannot open the backing file"))?;
    Ok(Some(disk.size()))
}

/// Returns the line that qemu-img prints before it begins.
fn describe(format: Format, image: &Path, size: u64, wanted: &CreateOptions) -> String {
    let mut line = format!("Formatting '{}', fmt={format}", image.display());
    let switch = |on: Option<bool>| if on.unwrap_or(false) { "on" } else { "off" };
    let mut add = |key: &str, value: String| line.push_str(&format!(" {key}={value}"));
    if format == Format::Raw {
        add("size", size.to_string());
        return line;
    }
    add("cluster_size", wanted.cluster_size.unwrap_or(65536).to_string());
    add("extended_l2", switch(wanted.extended_l2).to_owned());
    if let Some(mode) = wanted.preallocation {
        let mode = clap::ValueEnum::to_possible_value(&mode);
        add("preallocation", mode.map(|mode| mode.get_name().to_owned()).unwrap_or_default());
    }
    let zstd = wanted.compression == Some(CompressionType::Zstd);
    add("compression_type", if zstd { "zstd" } else { "zlib" }.to_owned());
    add("size", size.to_string());
    if let Some(version_2) = wanted.version_2 {
        add("compat", if version_2 { "0.10" } else { "1.1" }.to_owned());
    }
    if let Some(backing) = &wanted.backing_file {
        add("backing_file", backing.clone());
        add("backing_fmt", wanted.backing_format.clone().unwrap_or_default());
    }
    if let Some(file) = &wanted.data_file {
        add("data_file", file.clone());
    }
    if wanted.data_file_raw.is_some() {
        add("data_file_raw", switch(wanted.data_file_raw).to_owned());
    }
    add("lazy_refcounts", switch(wanted.lazy_refcounts).to_owned());
    add("refcount_bits", wanted.refcount_bits.unwrap_or(16).to_string());
    line
}

/// Returns the declared format of a new image's backing file.
pub(super) fn backing_format(wanted: &CreateOptions) -> Result<Format, CommandError> {
    Ok(wanted.backing_format.as_deref().ok_or_else(without_format)?.parse()?)
}

fn without_format() -> CommandError {
    usage("the backing file's format is missing").hint("`-F raw` or `-F qcow2` declares it, so that nobody has to guess")
}

fn usage(message: &str) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}
