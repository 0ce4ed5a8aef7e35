//! What names an image on the command line, and the one place where such a name becomes a disk.
//!
//! ```text
//! disk.qcow2                              a path; `-f` declares the format
//! file:disk.qcow2                         the same, as QEMU writes it
//! driver=qcow2,file.filename=disk.qcow2   with --image-opts: options, a comma in a value doubled
//! nbd://host/export                       an export of an NBD server; also nbds, nbd+unix and nbds+unix
//! json:…  https:…                         refused: nothing else is opened
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use imgcore::image::{self, Disk, Format, OpenOptions, WritableDisk};
use imgcore::nbd::Uri;

use super::options::split;
use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::open::{self, TrustArgs, options};
use crate::place::Place;

/// An image as the command line names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ImageReference {
    /// The path or the address as the user wrote it.
    pub(super) path: PathBuf,
    /// The declared format.
    pub(super) format: Option<Format>,
    /// What lies below it, whatever the image itself says.
    backing: Option<Box<ImageReference>>,
    /// Whether it is opened although another program writes to it.
    shared: bool,
}

/// How an image is named that is read.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// The image's format; it is guessed otherwise
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    /// IMG is options, as in driver=qcow2,file.filename=FILE
    #[arg(long)]
    pub(super) image_opts: bool,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
}

impl SourceArgs {
    /// Returns what `image` means.
    ///
    /// # Errors
    ///
    /// As [`ImageReference::parse`].
    pub(super) fn reference(&self, image: &OsStr) -> Result<ImageReference, CommandError> {
        ImageReference::parse(image, self.format.as_deref(), self.image_opts)
    }
}

impl ImageReference {
    /// Reads what the command line says: the name of an image, its format, and whether the name is a list of options.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for what makes no sense, [`ErrorKind::Unsupported`] for other formats and for addresses.
    pub(super) fn parse(name: &OsStr, format: Option<&str>, image_opts: bool) -> Result<Self, CommandError> {
        if !image_opts {
            let format = format.map(parse_format).transpose()?;
            return Ok(Self { path: path_or_address(name)?, format, backing: None, shared: false });
        }
        if format.is_some() {
            return Err(usage("`--image-opts` and `-f` cannot be used together").hint("`driver=` says the format"));
        }
        let text = name.to_str().ok_or_else(|| usage("the options of the image are not UTF-8"))?;
        let mut pairs = Vec::new();
        for option in split(text) {
            let (key, value) = option.split_once('=').ok_or_else(|| usage(format!("`{option}` is not KEY=VALUE")))?;
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Self::from_options(&pairs)
    }

    /// Reads the options of one image; those of its backing file begin with `backing.`.
    fn from_options(pairs: &[(String, String)]) -> Result<Self, CommandError> {
        let mut found = Self { path: PathBuf::new(), format: None, backing: None, shared: false };
        let (mut driver, mut path, mut below) = (None, None, Vec::new());
        for (key, value) in pairs {
            match key.as_str() {
                "driver" => driver = Some(value.as_str()),
                "file.driver" if matches!(value.as_str(), "file" | "host_device") => {}
                "file.driver" => return Err(address(value)),
                "file.filename" | "filename" => path = Some((key.as_str(), value)),
                "force-share" => found.shared = switch(key, value)?,
                // How QEMU reads and writes, and not what.
                _ if HOW.contains(&key.strip_prefix("file.").unwrap_or(key)) => {}
                _ => match key.strip_prefix("backing.") {
                    Some(key) => below.push((key.to_owned(), value.clone())),
                    None => return Err(unknown_option(key)),
                },
            }
        }
        let (key, value) = path.ok_or_else(|| usage("the options name no file").hint("`file.filename=FILE` names one"))?;
        let protocol = matches!(driver, Some("file" | "host_device"));
        if protocol != (key == "filename") {
            return Err(usage(format!("the option `{key}` does not go with this `driver`")));
        }
        // The driver `file` alone shows the bytes of the file.
        found.format = if protocol { Some(Format::Raw) } else { driver.map(parse_format).transpose()? };
        found.path = path_or_address(OsStr::new(value))?;
        if !below.is_empty() {
            found.backing = Some(Box::new(Self::from_options(&below)?));
        }
        Ok(found)
    }

    /// Returns the reference to an image that is opened although another program writes to it, if that is so.
    pub(super) fn shared(self, shared: bool) -> Self {
        Self { shared: self.shared || shared, ..self }
    }

    /// Returns how the image is opened.
    pub(super) fn options(&self, trust: TrustArgs) -> OpenOptions {
        OpenOptions { lock: !self.shared, ..options(self.format, trust) }
    }

    /// Opens the image for reading.
    ///
    /// # Errors
    ///
    /// What is wrong with the image, or with the files below it.
    pub(super) fn open(&self, context: &Context, trust: TrustArgs) -> Result<Disk, CommandError> {
        let options = self.options(trust);
        let Some(backing) = &self.backing else { return open::open(context, &self.path, &options) };
        // The user names it, and not the image.
        let backing = Self { shared: self.shared || backing.shared, ..(**backing).clone() }.open(context, trust)?;
        Ok(image::open_over(Place::of(context, &self.path)?.location(), &options, backing)?)
    }

    /// Returns how the image is opened for writing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for what only reading allows.
    pub(super) fn options_to_write(&self, trust: TrustArgs) -> Result<OpenOptions, CommandError> {
        if self.shared {
            return Err(usage("an image that is shared with other programs can only be read"));
        }
        if self.backing.is_some() {
            return Err(usage("another backing file than the recorded one can only be read from"));
        }
        Ok(self.options(trust))
    }

    /// Opens the image for writing.
    ///
    /// # Errors
    ///
    /// What is wrong with the image, or with the files below it; as [`ImageReference::options_to_write`].
    pub(super) fn open_writable(&self, context: &Context, trust: TrustArgs) -> Result<WritableDisk, CommandError> {
        open::open_writable(context, &self.path, &self.options_to_write(trust)?)
    }
}

/// Returns the address that `name` is, or the path that it means.
fn path_or_address(name: &OsStr) -> Result<PathBuf, CommandError> {
    if Uri::is_meant(name.as_bytes()) { Ok(PathBuf::from(name)) } else { plain_path(name) }
}

/// Returns the path that `name` means: `file:` in front of it is dropped, as QEMU does. Addresses are refused.
pub(super) fn plain_path(name: &OsStr) -> Result<PathBuf, CommandError> {
    let bytes = name.as_bytes();
    if let Some(path) = bytes.strip_prefix(b"file:") {
        let path = Path::new(OsStr::from_bytes(path));
        return Ok(if Uri::is_meant(path.as_os_str().as_bytes()) { Path::new(".").join(path) } else { path.to_owned() });
    }
    if bytes.is_empty() {
        return Err(usage("the name of the image is empty"));
    }
    if Uri::is_meant(bytes) {
        let message = "a new image is a file: what is behind an address is there already";
        return Err(CommandError::new(ErrorKind::Unsupported, message).hint("`vmimg image convert -n` writes into it"));
    }
    let protocol = bytes.iter().position(|byte| matches!(byte, b':' | b'/')).filter(|at| bytes.get(*at) == Some(&b':'));
    match protocol.and_then(|at| bytes.get(..at)) {
        Some(protocol) => Err(address(&String::from_utf8_lossy(protocol))),
        None => Ok(Path::new(name).to_owned()),
    }
}

/// Returns the format of this name.
pub(super) fn parse_format(name: &str) -> Result<Format, CommandError> {
    Ok(name.parse::<Format>()?)
}

fn switch(key: &str, value: &str) -> Result<bool, CommandError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(usage(format!("the option `{key}` is on or off, not `{value}`"))),
    }
}

fn address(protocol: &str) -> CommandError {
    let message = format!("`{}:` is not supported: images are files and NBD exports", protocol.escape_debug());
    CommandError::new(ErrorKind::Unsupported, message)
        .hint("a file whose own name has a colon is `./NAME` or `file:NAME`")
        .hint("an NBD export is `nbd://HOST:PORT/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`")
}

fn unknown_option(key: &str) -> CommandError {
    CommandError::new(ErrorKind::Unsupported, format!("the option `{key}` of an image is not supported"))
}

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(ErrorKind::Usage, message)
}

/// Options that say how QEMU is to work and change nothing of what is read.
const HOW: &[&str] = &[
    "aio",
    "auto-read-only",
    "cache-clean-interval",
    "cache-size",
    "cache.direct",
    "cache.no-flush",
    "cache.writeback",
    "detect-zeroes",
    "discard",
    "drop-cache",
    "l2-cache-entry-size",
    "l2-cache-size",
    "locking",
    "node-name",
    "read-only",
    "refcount-cache-size",
];

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::Path;

    use imgcore::image::Format;

    use super::ImageReference;
    use crate::error::ErrorKind;

    fn parse(name: &str, format: Option<&str>, image_opts: bool) -> Result<ImageReference, ErrorKind> {
        ImageReference::parse(OsStr::new(name), format, image_opts).map_err(|error| error.kind())
    }

    #[test]
    fn paths_are_paths_and_addresses_are_refused() {
        for (name, path) in [
            ("a.qcow2", "a.qcow2"),
            ("file:a", "a"),
            ("./nbd:x", "./nbd:x"),
            ("/x/a:b", "/x/a:b"),
            ("nbd://h/x", "nbd://h/x"),
            ("file:nbd://h/x", "./nbd://h/x"),
        ] {
            assert_eq!(parse(name, None, false).unwrap().path, Path::new(path));
        }
        for name in ["json:{}", "nbd:localhost:1", "https://h/i", "fat:rw:x"] {
            assert_eq!(parse(name, None, false), Err(ErrorKind::Unsupported), "{name}");
        }
        assert_eq!(parse("", None, false), Err(ErrorKind::Usage));
        assert_eq!(parse("a", Some("raw"), false).unwrap().format, Some(Format::Raw));
        assert_eq!(parse("a", Some("vmdk"), false), Err(ErrorKind::Unsupported));
        assert_eq!(parse("a", Some("ext4"), false), Err(ErrorKind::Usage));
    }

    #[test]
    fn options_name_a_file_and_its_format() {
        let found = parse("driver=qcow2,file.driver=file,file.filename=a,,b,file.locking=off", None, true).unwrap();
        assert_eq!((found.path.as_path(), found.format), (Path::new("a,b"), Some(Format::Qcow2)));
        assert_eq!(parse("file.filename=a", None, true).unwrap().format, None);
        assert_eq!(parse("driver=file,filename=a", None, true).unwrap().format, Some(Format::Raw));
        let found = parse("driver=qcow2,file.filename=a,backing.driver=raw,backing.file.filename=b", None, true).unwrap();
        assert_eq!(found.backing.unwrap().path, Path::new("b"));
        for wrong in ["a.qcow2", "driver=qcow2", "filename=a", "driver=qcow2,filename=a"] {
            assert_eq!(parse(wrong, None, true), Err(ErrorKind::Usage), "{wrong}");
        }
        for wrong in
            ["file.driver=nbd,file.filename=a", "file.filename=nbd:x", "file.filename=a,x=1", "backing=x,file.filename=a"]
        {
            assert_eq!(parse(wrong, None, true), Err(ErrorKind::Unsupported), "{wrong}");
        }
        assert_eq!(parse("file.filename=a", Some("raw"), true), Err(ErrorKind::Usage));
    }
}
