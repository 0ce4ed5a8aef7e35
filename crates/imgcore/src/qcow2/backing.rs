//! The record of the backing file.

use super::error::{Error, Unsupported};
use super::extension::Extension;
use super::feature;
use super::header::MAX_BACKING_NAME;
use super::image::Image;
use super::options::NewBacking;
use crate::block::Resize;

impl<S: Resize> Image<S> {
    /// Replaces the record of the backing file, durably; `None` removes it. The disk below, as given, stays what it was.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`] for a name that cannot be recorded, [`Error::Unsupported`] also when the first cluster has no
    /// room for the change, [`Error::Storage`]. After a cut the record is the old one or the new one.
    pub fn set_backing_file(&mut self, backing: Option<&NewBacking>) -> Result<(), Error> {
        if backing.is_some_and(|backing| backing.name.is_empty() || backing.name.len() > MAX_BACKING_NAME) {
            return Err(Error::InvalidOptions("the name of a backing file has 1 to 1023 bytes".to_owned()));
        }
        let mut shadow = self.shadow()?;
        let header = &mut shadow.header;
        // Spec: "If this bit is set, the data file may be used as a raw image" - which has no backing file.
        if backing.is_some() && header.autoclear & feature::RAW_DATA_FILE != 0 {
            return Err(Unsupported::Writing("with a raw data file, which has no backing file").into());
        }
        header.extensions.retain(|extension| extension.kind != Extension::BACKING_FORMAT);
        header.backing_name = backing.map(|backing| backing.name.clone());
        if let Some(format) = backing.map(|backing| &backing.format).filter(|format| !format.is_empty()) {
            let extension = Extension { kind: Extension::BACKING_FORMAT, data: format.clone().into_bytes() };
            header.extensions.insert(0, extension);
        }
        shadow.commit()
    }
}
