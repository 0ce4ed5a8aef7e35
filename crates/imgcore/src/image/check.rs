use super::disk::Layer;
use super::open::{open_alone, open_layer};
use super::{Error, Location, OpenOptions};
use crate::qcow2::{Check, Repair, Repaired};

/// Checks the image at `location`. Nothing that it names is opened, and nothing is written.
///
/// Returns `None` for a format that has nothing to check.
///
/// # Errors
///
/// As [`super::open`]; [`Error::Qcow2`] also when an image cannot be checked at all.
pub fn check<'a>(location: impl Into<Location<'a>>, options: &OpenOptions) -> Result<Option<Check>, Error> {
    let options = OpenOptions { follow: false, ..*options };
    let location = location.into();
    let path = location.name();
    let disk = open_layer(location, &options, &mut Vec::new())?;
    match &disk.layer {
        Layer::Raw(_) => Ok(None),
        Layer::Qcow2(image) => {
            let check = image.check().map_err(|source| Error::Qcow2 { path: path.to_owned(), source })?;
            Ok(Some(check))
        }
    }
}

/// Repairs the image at `location` as far as it can be. Nothing that it names is opened.
///
/// Returns `None` for a format that has nothing to repair.
///
/// # Errors
///
/// As [`super::open`]; [`Error::Qcow2`] also when an image cannot be checked or repaired at all. It is unchanged then.
pub fn repair<'a>(location: impl Into<Location<'a>>, options: &OpenOptions, what: Repair) -> Result<Option<Repaired>, Error> {
    let location = location.into();
    let path = location.name();
    let (layer, _lock) = open_alone(location, options, &mut Vec::new())?;
    match layer {
        Layer::Raw(_) => Ok(None),
        Layer::Qcow2(mut image) => {
            let repaired = image.repair(what).map_err(|source| Error::Qcow2 { path: path.to_owned(), source })?;
            Ok(Some(repaired))
        }
    }
}
