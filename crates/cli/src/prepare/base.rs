use std::sync::Arc;

use imgcore::image::{self, Disk, Format, OpenOptions, OpenPolicy};
use imgcore::storage::refuse_loop_writer;
use seed::guest::{Guest, Tree};

use super::Settings;
use crate::attached::{Access, Attached, Target, Via};
use crate::context::Context;
use crate::domain::DiskFormat;
use crate::error::{CommandError, ErrorKind};
use crate::files::digest;
use crate::layout::Layout;
use crate::machine::{FileIdentity, Root};
use crate::open::TrustArgs;
use crate::store::{self, BaseImage};
use crate::volumes::{attach, volumes};

/// A base image, open and understood. It is never written, and it stays locked for reading.
#[derive(Debug)]
pub(super) struct Base {
    /// Where it is, and what it was when it was opened.
    pub(super) image: BaseImage,
    /// Its disk.
    pub(super) disk: Arc<Disk>,
    /// Its partitions and logical volumes.
    pub(super) layout: Layout,
    /// The guest.
    pub(super) guest: Guest,
    /// The file systems that the kernel reads and writes.
    pub(super) mounted: Vec<Target>,
}

/// A base image whose files are within reach.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) base: Arc<Base>,
    /// The files of the guest.
    pub(super) tree: Tree,
    /// The devices of those that the kernel reads: they are gone before these.
    pub(super) attached: Option<Attached>,
}

impl Opened {
    /// Opens the base image of a machine, trusting nothing that it says about other files, and looks at the guest.
    pub(super) fn open(settings: &Settings, root: &Root, context: &Context) -> Result<Self, CommandError> {
        let reference = settings.image.as_deref().ok_or_else(|| {
            CommandError::new(ErrorKind::Usage, "no image to prepare the machine from")
                .hint("name one with `--image`, as in `--image debian-12`; `vmimg store list` shows what is there")
        })?;
        let mut image = store::resolve(context, root, reference, settings.format)?;
        if let Some(wanted) = &settings.sha256 {
            check_digest(context, &mut image, wanted)?;
        }
        let format = match image.format {
            DiskFormat::Qcow2 => Format::Qcow2,
            DiskFormat::Raw => Format::Raw,
        };
        let options = OpenOptions { format: Some(format), policy: OpenPolicy::Nothing, ..OpenOptions::default() };
        let disk = Arc::new(image::open(&image.path, &options)?);
        if let Some(file) = disk.storage().as_file() {
            refuse_loop_writer(file)?;
        }
        let layout = Layout::read(&*disk)?;
        let mut volumes = volumes(&disk, &layout)?;
        let (mut attached, mut mounted) = (None, Vec::new());
        if settings.via == Via::Nbd {
            let trust = TrustArgs { untrusted: true };
            let mut devices = Attached::new(context, &image.path, format, trust, Access::Private)?;
            mounted = attach(context, &mut volumes, (&disk, &layout), &mut devices)?;
            attached = Some(devices);
        }
        let tree = Tree::assemble(&volumes, settings.partition.as_ref())?;
        let guest = Guest::inspect(&tree)?;
        Ok(Self { base: Arc::new(Base { image, disk, layout, guest, mounted }), tree, attached })
    }

    /// Returns the base, with its files out of reach and no device behind it.
    pub(super) fn close(self) -> Result<Arc<Base>, CommandError> {
        drop(self.tree);
        if let Some(attached) = self.attached {
            attached.close()?;
        }
        Ok(self.base)
    }
}

impl Base {
    /// Fails when the file is not what it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), CommandError> {
        let cannot = |error| CommandError::io(format!("cannot look at `{}`", self.image.path.display()), error);
        if FileIdentity::of(&self.image.path).map_err(cannot)? == self.image.identity {
            return Ok(());
        }
        let message = format!("the base image `{}` has changed while it was used", self.image.path.display());
        Err(CommandError::new(ErrorKind::Refused, message).hint("nothing was made; run it again"))
    }
}

/// Compares the digest of an image with the declared one; reads the file unless the store knows its digest.
fn check_digest(context: &Context, image: &mut BaseImage, wanted: &str) -> Result<(), CommandError> {
    let found = match &image.sha256 {
        Some(known) => known.clone(),
        None => digest(context, &image.path)?,
    };
    if !found.eq_ignore_ascii_case(wanted) {
        let message = format!("`{}` has the SHA-256 {found}, not {wanted}", image.path.display());
        return Err(CommandError::new(ErrorKind::Refused, message));
    }
    image.sha256 = Some(found);
    Ok(())
}
