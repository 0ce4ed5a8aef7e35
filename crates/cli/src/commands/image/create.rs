//! `vmimg image create`: a new image, empty or on top of another.

use std::path::{Path, PathBuf};

use imgcore::block::BlockRead;
use imgcore::image::{self, Format};
use imgcore::qcow2::Compression;

use super::options::{self, CreateOptions};
use super::reference::plain_path;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{TrustArgs, policy};
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
    #[command(flatten)]
    trust: TrustArgs,
    /// The new image
    #[arg(value_name = "IMG", required_unless_present = "options")]
    image: Option<PathBuf>,
    /// The size of the disk; that of the backing file otherwise
    #[arg(value_name = "SIZE")]
    size: Option<Size>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CommandError> {
    if let Some(help) = options::help(args.format.name(), &args.options) {
        return context.write_out(help.as_bytes());
    }
    let name = args.image.ok_or_else(|| CommandError::new(ErrorKind::Usage, "the image is missing"))?;
    let mut wanted = CreateOptions::parse(args.format.name(), &args.options)?;
    wanted.size = args.size.or(wanted.size);
    wanted.backing_file = args.backing.or(wanted.backing_file);
    wanted.backing_format = args.backing_format.or(wanted.backing_format);
    let path = context.absolute(&plain_path(name.as_os_str())?);
    if let Some(backing) = wanted.backing()?.filter(|_| !args.unchecked) {
        let below = image::open_below(&path, &backing, policy(args.trust))?;
        wanted.size = wanted.size.or(Some(Size(below.size())));
    }
    let size = wanted.size.ok_or_else(|| {
        let message = "a new image needs a size";
        CommandError::new(ErrorKind::Usage, message).hint("`vmimg image create --help` shows some")
    })?;
    let new = wanted.new_disk(args.format, size.0)?;
    if !args.quiet {
        print_line(context, describe(args.format, &name, size.0, &wanted))?;
    }
    Ok(image::create(&path, &new, context.entropy(None).next_u64())?)
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
    add("compression_type", wanted.compression.unwrap_or(Compression::Zlib).name().to_owned());
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
