//! The options of a new image, as `-o` takes them.

use imgcore::image::{Format, NewDisk};
use imgcore::qcow2::{self, Compression, DataFileName, NewBacking, Version};

use crate::error::{CommandError, ErrorKind};
use crate::size::Size;

/// What `-o` can say about a new image; what is `None` was not said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct CreateOptions {
    pub(super) size: Option<Size>,
    /// qcow2 version 2 instead of 3.
    pub(super) version_2: Option<bool>,
    pub(super) backing_file: Option<String>,
    pub(super) backing_format: Option<String>,
    pub(super) cluster_size: Option<u64>,
    pub(super) preallocation: Option<Preallocation>,
    pub(super) lazy_refcounts: Option<bool>,
    pub(super) refcount_bits: Option<u32>,
    pub(super) extended_l2: Option<bool>,
    pub(super) compression: Option<Compression>,
    pub(super) data_file: Option<String>,
    pub(super) data_file_raw: Option<bool>,
    pub(super) no_cow: Option<bool>,
}

/// How much of a new image is set aside at once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// The tables for all of the disk.
    Metadata,
    /// All of the disk, without writing it.
    Falloc,
    /// All of the disk, written with zeros.
    Full,
}

impl From<Preallocation> for qcow2::Preallocation {
    fn from(mode: Preallocation) -> Self {
        match mode {
            Preallocation::Off => Self::Off,
            Preallocation::Metadata => Self::Metadata,
            Preallocation::Falloc => Self::Falloc,
            Preallocation::Full => Self::Full,
        }
    }
}

impl CreateOptions {
    /// Reads `-o` options, each a list of `key=value` with commas between them; a comma in a value is doubled.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] names what is not understood, [`ErrorKind::Unsupported`] what is not supported.
    pub(super) fn parse(format: &str, lists: &[String]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        for list in lists {
            for pair in split(list) {
                let (key, value) = pair.split_once('=').unwrap_or((pair.as_str(), "on"));
                options.set(format, key, value)?;
            }
        }
        Ok(options)
    }

    /// Returns imgcore's words for a new image of `size` bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for options that do not fit together.
    pub(super) fn new_disk(&self, format: Format, size: u64) -> Result<NewDisk, CommandError> {
        let backing = self.backing()?;
        let preallocation = self.preallocation.unwrap_or_default().into();
        if format == Format::Raw {
            return match backing {
                None => Ok(NewDisk::Raw { size, preallocation, no_cow: self.no_cow.unwrap_or(false) }),
                Some(_) => Err(usage("the format `raw` has no backing file")),
            };
        }
        if self.data_file_raw == Some(true) && self.data_file.is_none() {
            return Err(usage("`data_file_raw` needs `data_file`"));
        }
        let raw = self.data_file_raw.unwrap_or(false);
        let defaults = qcow2::CreateOptions::new(size);
        Ok(NewDisk::Qcow2(qcow2::CreateOptions {
            version: if self.version_2 == Some(true) { Version::V2 } else { Version::V3 },
            cluster_size: self.cluster_size.unwrap_or(defaults.cluster_size),
            refcount_bits: self.refcount_bits.unwrap_or(defaults.refcount_bits),
            lazy_refcounts: self.lazy_refcounts.unwrap_or(false),
            extended_l2: self.extended_l2.unwrap_or(false),
            compression: self.compression.unwrap_or(defaults.compression),
            data_file: self.data_file.clone().map(|name| DataFileName { name: name.into_bytes(), raw }),
            preallocation,
            backing,
            no_cow: self.no_cow.unwrap_or(false),
            ..defaults
        }))
    }

    /// Returns the backing file, if there is to be one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] when nobody said its format.
    pub(super) fn backing(&self) -> Result<Option<NewBacking>, CommandError> {
        let Some(name) = &self.backing_file else {
            return match &self.backing_format {
                Some(_) => Err(usage("the format of a backing file is of no use without that file")),
                None => Ok(None),
            };
        };
        let format = self.backing_format.clone().ok_or_else(|| {
            usage("the backing file's format is missing")
                .hint("`-F raw` or `-F qcow2` declares it, so that nobody has to guess")
        })?;
        Ok(Some(NewBacking { name: name.clone().into_bytes(), format }))
    }

    fn set(&mut self, format: &str, key: &str, value: &str) -> Result<(), CommandError> {
        let raw = ["size", "preallocation", "nocow"];
        if format == "raw" && !raw.contains(&key) {
            return Err(usage(format!("the format `raw` has no option `{key}`")));
        }
        match key {
            "size" => self.size = Some(value.parse().map_err(|error| usage("wrong option `size`").with_source(error))?),
            "compat" => self.version_2 = Some(version_2(value)?),
            "backing_file" => self.backing_file = Some(value.to_owned()),
            "backing_fmt" => self.backing_format = Some(value.to_owned()),
            "cluster_size" => {
                let size: Size = value.parse().map_err(|error| usage("wrong option `cluster_size`").with_source(error))?;
                self.cluster_size = Some(size.0);
            }
            "preallocation" => {
                let mode = <Preallocation as clap::ValueEnum>::from_str(value, false);
                self.preallocation = Some(mode.map_err(|_| wrong_value(key, value, "off, metadata, falloc or full"))?);
            }
            "lazy_refcounts" => self.lazy_refcounts = Some(switch(key, value)?),
            "refcount_bits" => {
                let bits = value.parse().ok().filter(|bits: &u32| bits.is_power_of_two() && *bits <= 64);
                self.refcount_bits = Some(bits.ok_or_else(|| wrong_value(key, value, "1, 2, 4, 8, 16, 32 or 64"))?);
            }
            "extended_l2" => self.extended_l2 = Some(switch(key, value)?),
            "compression_type" => self.compression = Some(compression(value)?),
            "data_file" => self.data_file = Some(value.to_owned()),
            "data_file_raw" => self.data_file_raw = Some(switch(key, value)?),
            "nocow" => self.no_cow = Some(switch(key, value)?),
            "encryption" if !switch(key, value)? => {}
            "encryption" => return Err(unsupported(key)),
            _ if key.starts_with("encrypt.") => return Err(unsupported(key)),
            _ => return Err(usage(format!("the format `{format}` has no option `{key}`"))),
        }
        Ok(())
    }
}

/// Returns what the options of a new image of `format` are, when one of `lists` asks for that.
pub(super) fn help(format: &str, lists: &[String]) -> Option<&'static str> {
    asks_for_help(lists).then_some(if format == "raw" { RAW_HELP } else { QCOW2_HELP })
}

/// Returns whether one of the options asks which there are.
pub(super) fn asks_for_help(lists: &[String]) -> bool {
    lists.iter().flat_map(|list| split(list)).any(|pair| pair == "help" || pair == "?")
}

/// As `qemu-img create -f qcow2 -o help` has it, without encryption and with what the file of an image can have.
const QCOW2_HELP: &str = "\
Supported qcow2 options:
  backing_file=<str>     - File name of a base image
  backing_fmt=<str>      - Image format of the base image
  cluster_size=<size>    - qcow2 cluster size
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  compression_type=<str> - Compression method used for image cluster compression
  data_file=<str>        - File name of an external data file
  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image
  extended_l2=<bool (on/off)> - Extended L2 tables
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  nocow=<bool (on/off)>  - Turn off copy-on-write (valid only on btrfs)
  preallocation=<str>    - Preallocation mode (allowed values: off, metadata, falloc, full)
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size
";

/// As [`QCOW2_HELP`].
const RAW_HELP: &str = "\
Supported raw options:
  nocow=<bool (on/off)>  - Turn off copy-on-write (valid only on btrfs)
  preallocation=<str>    - Preallocation mode (allowed values: off, falloc, full)
  size=<size>            - Virtual disk size
";

/// Splits at single commas; two of them stand for one.
pub(super) fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = list.chars().peekable();
    while let Some(c) = rest.next() {
        if c != ',' {
            parts.last_mut().into_iter().for_each(|part| part.push(c));
        } else if rest.next_if_eq(&',').is_some() {
            parts.last_mut().into_iter().for_each(|part| part.push(','));
        } else {
            parts.push(String::new());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn version_2(value: &str) -> Result<bool, CommandError> {
    match value {
        "0.10" | "v2" => Ok(true),
        "1.1" | "v3" => Ok(false),
        _ => Err(wrong_value("compat", value, "0.10 or 1.1")),
    }
}

fn compression(value: &str) -> Result<Compression, CommandError> {
    match value {
        "zlib" => Ok(Compression::Zlib),
        "zstd" => Ok(Compression::Zstd),
        _ => Err(wrong_value("compression_type", value, "zlib or zstd")),
    }
}

fn switch(key: &str, value: &str) -> Result<bool, CommandError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(wrong_value(key, value, "on or off")),
    }
}

fn wrong_value(key: &str, value: &str, allowed: &str) -> CommandError {
    usage(format!("the option `{key}` is {allowed}, not `{value}`"))
}

fn unsupported(key: &str) -> CommandError {
    CommandError::new(ErrorKind::Unsupported, format!("the option `{key}` is not supported"))
}

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::{Compression, CreateOptions, Preallocation, split};
    use crate::error::ErrorKind;
    use crate::size::Size;

    fn parse(list: &str) -> Result<CreateOptions, ErrorKind> {
        CreateOptions::parse("qcow2", &[list.to_owned()]).map_err(|error| error.kind())
    }

    #[test]
    fn a_comma_in_a_value_is_doubled() {
        assert_eq!(split("a=1,b=x,,y,c"), ["a=1", "b=x,y", "c"]);
    }

    #[test]
    fn options_are_read_as_qemu_img_reads_them() {
        let options =
            parse("cluster_size=64k,compat=1.1,lazy_refcounts=on,compression_type=zstd,preallocation=metadata,size=1G");
        let expected = CreateOptions {
            size: Some(Size(1 << 30)),
            version_2: Some(false),
            cluster_size: Some(65536),
            preallocation: Some(Preallocation::Metadata),
            lazy_refcounts: Some(true),
            compression: Some(Compression::Zstd),
            ..CreateOptions::default()
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn what_is_unknown_or_unsupported_is_an_error() {
        assert_eq!(parse("nonsense=1"), Err(ErrorKind::Usage));
        assert_eq!(parse("refcount_bits=3"), Err(ErrorKind::Usage));
        assert_eq!(parse("encrypt.format=luks"), Err(ErrorKind::Unsupported));
        let raw = CreateOptions::parse("raw", &["cluster_size=64k".to_owned()]);
        assert_eq!(raw.unwrap_err().kind(), ErrorKind::Usage);
    }
}
