use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ImageName, StoredImage, builtin, catalog, shelf};
use crate::context::Context;
use crate::domain::{DiskFormat, probe_format};
use crate::error::{CommandError, ErrorKind};
use crate::machine::{FileIdentity, Root};

/// The image that a reference stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BaseImage {
    /// The reference, as the user gave it.
    pub reference: String,
    /// The file, absolute, links resolved.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// SHA-256 of the file in hexadecimal, where it is known without reading the whole file.
    pub sha256: Option<String>,
    /// What tells later whether the file is still the same.
    pub identity: FileIdentity,
    /// Where it was found.
    pub origin: Origin,
}

/// Where an image was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A file that the user named.
    File,
    /// The store.
    Store,
    /// The program itself, by way of the store.
    Builtin,
}

/// Returns the image that `reference` stands for: a path, a name in the store of `root`, or `builtin:demo`.
///
/// A reference with a slash is a path. Any other is looked for in the store first, then in the working folder. The format of a
/// file is `format`, or else what its first bytes announce.
///
/// # Errors
///
/// [`ErrorKind::NotFound`], with the nearest name or what the catalog knows; [`ErrorKind::Refused`] for a format that is not the
/// stored image's; the failures of looking at the file.
pub fn resolve(context: &Context, root: &Root, reference: &str, format: Option<DiskFormat>) -> Result<BaseImage, CommandError> {
    if reference == builtin::ORIGIN {
        return stored(root, reference, builtin::demo(context, root)?, format, Origin::Builtin);
    }
    let path = context.absolute(Path::new(reference));
    if let Ok(name) = reference.parse::<ImageName>() {
        match shelf::load(root, &name) {
            Ok(image) => return stored(root, reference, image, format, Origin::Store),
            Err(error) if error.kind() == ErrorKind::NotFound && !path.exists() => return Err(unknown(root, reference)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // The record of a machine and its disk must mean the same file from any folder.
    let cannot = |error| CommandError::io(format!("cannot find the image `{reference}`"), error);
    let path = path.canonicalize().map_err(cannot)?;
    let format = match format {
        Some(format) => format,
        None => probe_format(&path)?,
    };
    let identity = FileIdentity::of(&path).map_err(cannot)?;
    Ok(BaseImage { reference: reference.to_owned(), path, format, sha256: None, identity, origin: Origin::File })
}

fn stored(
    root: &Root,
    reference: &str,
    image: StoredImage,
    format: Option<DiskFormat>,
    origin: Origin,
) -> Result<BaseImage, CommandError> {
    if format.is_some_and(|format| format != image.format) {
        let message = format!("the image `{reference}` of the store is {}", image.format.name());
        return Err(CommandError::new(ErrorKind::Refused, message));
    }
    let path = image.path(&root.store());
    let cannot = |error| CommandError::io(format!("cannot find the image `{reference}` of the store"), error);
    let path = path.canonicalize().map_err(cannot)?;
    let identity = FileIdentity::of(&path).map_err(cannot)?;
    if identity.size != image.size {
        let message = format!("the image `{reference}` of the store has changed since it was added");
        return Err(CommandError::new(ErrorKind::Corrupt, message).hint("`vmimg store verify` looks at all images"));
    }
    let sha256 = Some(image.sha256);
    Ok(BaseImage { reference: reference.to_owned(), path, format: image.format, sha256, identity, origin })
}

fn unknown(root: &Root, reference: &str) -> CommandError {
    let error =
        CommandError::new(ErrorKind::NotFound, format!("there is no image `{reference}`: no file, and none in the store"));
    let known = catalog().unwrap_or_default();
    if let Some(image) = known.iter().find(|image| image.name == reference && image.arch == "amd64") {
        return error
            .hint(format!("the catalog knows it: download {}", image.url))
            .hint(format!("then `vmimg store add FILE --name {reference}`"));
    }
    let names = shelf::list(root).unwrap_or_default();
    let names = names.iter().map(|image| image.name.as_str()).chain(known.iter().map(|image| image.name.as_str()));
    let nearest =
        names.map(|name| (strsim::damerau_levenshtein(name, reference), name)).filter(|(distance, _)| *distance <= 2).min();
    match nearest {
        Some((_, name)) => error.hint(format!("did you mean `{name}`?")),
        None => error.hint("`vmimg store list` shows the store, `vmimg store list --catalog` what can be downloaded"),
    }
}
