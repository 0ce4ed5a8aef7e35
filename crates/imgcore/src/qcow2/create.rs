use super::error::Error;
use super::new_image::NewImage;
use super::options::{CreateOptions, Preallocation};
use crate::block::Resize;

/// Makes `target` an image that holds nothing yet.
///
/// What was in `target` is gone. Nothing is flushed. The external data file, if there is one, is the caller's to make.
///
/// # Errors
///
/// [`Error::InvalidOptions`] before the first change, [`Error::Storage`].
pub fn create<T: Resize + ?Sized>(target: &mut T, options: &CreateOptions) -> Result<(), Error> {
    let header = options.header()?;
    let clusters = header.geometry.clusters(header.size);
    let raw = options.data_file.as_ref().map(|file| file.raw);
    let mut image = NewImage::begin(target, options)?;
    // A raw data file has every cluster in its place from the beginning.
    if options.preallocation != Preallocation::Off || raw == Some(true) {
        match raw {
            Some(_) => image.put_external(0, clusters)?,
            None => image.put_preallocated(0, clusters, options.preallocation)?,
        }
    }
    image.finish()
}
