//! `vmimg image amend`: other properties for an image that exists.

use std::ffi::OsString;

use imgcore::image::{Format, OpenOptions, Storage};
use imgcore::qcow2::{AmendOptions, Image, Version};

use super::options::{CreateOptions, asks_for_help, split};
use super::reference::{SourceArgs, parse_format};
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::open_writable;

/// The arguments of `vmimg image amend`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What an image holds stays the same. Of the options of a new image these can be
changed: compat, refcount_bits, lazy_refcounts, data_file, data_file_raw=off
and size; `vmimg image rebase` changes the backing file.

Examples:
  vmimg image amend -f qcow2 -o compat=1.1,lazy_refcounts=on old.qcow2
  vmimg image amend -o refcount_bits=64 web1.qcow2
  vmimg image amend -f qcow2 -o help")]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Options as KEY=VALUE,…; `help` lists them
    #[arg(short = 'o', value_name = "OPTIONS", required = true)]
    options: Vec<String>,
    /// Accepted for scripts: nothing here takes long
    #[arg(short = 'p', long, hide = true)]
    progress: bool,
    /// Accepted for scripts: there is nothing to be silent about
    #[arg(short = 'q', long, hide = true)]
    quiet: bool,
    /// Accepted for scripts: the cache mode
    #[arg(short = 't', long, value_name = "CACHE", hide = true, value_parser = CACHE_MODES)]
    cache: Option<String>,
    /// Accepted for scripts: nothing here is unsafe
    #[arg(long, hide = true)]
    force: bool,
    /// The image
    #[arg(value_name = "IMG", required_unless_present = "format")]
    image: Option<OsString>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let declared = args.source.format.as_deref().map(parse_format).transpose()?;
    if declared == Some(Format::Raw) {
        return Err(not_for_raw());
    }
    let pairs: Vec<String> = args.options.iter().flat_map(|list| split(list)).collect();
    if pairs.is_empty() {
        return Err(CommandError::new(ErrorKind::Usage, "the list of options is empty"));
    }
    if asks_for_help(&args.options) {
        return context.write_out(HELP.as_bytes());
    }
    let name = args.image.as_ref().ok_or_else(|| CommandError::new(ErrorKind::Usage, "the image is missing"))?;
    for pair in &pairs {
        refuse_fixed(pair.split_once('=').map_or(pair.as_str(), |(key, _)| key))?;
    }
    let new = CreateOptions::parse("qcow2", &args.options)?;
    let options = AmendOptions {
        version: new.version_2.map(|old| if old { Version::V2 } else { Version::V3 }),
        lazy_refcounts: new.lazy_refcounts,
        refcount_bits: new.refcount_bits,
        data_file: new.data_file.clone().map(String::into_bytes),
        data_file_raw: new.data_file_raw,
        // QEMU takes 0 for what was not said.
        size: new.size.map(|size| size.0).filter(|size| *size > 0),
    };
    let reference = args.source.reference(name)?;
    // Only a new size concerns what lies below.
    let how = OpenOptions { follow: options.size.is_some(), ..reference.options_to_write(args.source.trust)? };
    let mut disk = open_writable(context, &reference.path, &how)?;
    let image = disk.qcow2_mut().ok_or_else(not_for_raw)?;
    refuse_other_backing(image, &new)?;
    Ok(image.amend(&options)?)
}

/// Fails for an option that only a new image can have.
fn refuse_fixed(key: &str) -> Result<(), CommandError> {
    match key {
        "backing_file" | "backing_fmt" | "compat" | "data_file" | "data_file_raw" | "lazy_refcounts" | "refcount_bits"
        | "size" => Ok(()),
        _ if key.starts_with("encrypt.") => Err(CommandError::new(ErrorKind::Unsupported, "the image is not encrypted")),
        _ => {
            let error = CommandError::new(ErrorKind::Usage, format!("the option `{key}` of an image cannot be changed"));
            Err(error.hint("`-f qcow2 -o help` lists those that can"))
        }
    }
}

/// Fails when the backing file is to be another than it is.
fn refuse_other_backing(image: &Image<Storage>, new: &CreateOptions) -> Result<(), CommandError> {
    if new.backing_file.is_none() && new.backing_format.is_none() {
        return Ok(());
    }
    let named = image.backing_file().map(|file| (file.name, file.format));
    let same = (new.backing_file.clone().unwrap_or_default().into_bytes(), new.backing_format.clone());
    if named == Some(same) {
        return Ok(());
    }
    let error = CommandError::new(ErrorKind::Unsupported, "the backing file is another one");
    Err(error.hint("`vmimg image rebase` changes it"))
}

fn not_for_raw() -> CommandError {
    CommandError::new(ErrorKind::Unsupported, "the format `raw` has nothing to amend")
}

const CACHE_MODES: [&str; 5] = ["none", "writeback", "writethrough", "directsync", "unsafe"];

/// As `qemu-img amend -o help` has it, without encryption.
const HELP: &str = "\
Amend options for 'qcow2':
  backing_file=<str>     - File name of a base image
  backing_fmt=<str>      - Image format of the base image
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  data_file=<str>        - File name of an external data file
  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size
";
