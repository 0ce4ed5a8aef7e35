use sha2::{Digest, Sha256};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::add::Entry;
use super::{StoredImage, shelf};
use crate::context::Context;
use crate::domain::DiskFormat;
use crate::error::{CommandError, ErrorKind};
use crate::files::hex;
use crate::machine::Root;

/// Returns the image that is part of the program, which is put into the store of `root` when it is first asked for.
///
/// Its name in the store has the beginning of its digest, so that another version of the program does not change the base of
/// machines that are there.
pub(super) fn demo(context: &Context, root: &Root) -> Result<StoredImage, CommandError> {
    let sha256 = hex(&Sha256::digest(DEMO));
    let short: String = sha256.chars().take(8).collect();
    let name = format!("demo-{short}")
        .parse()
        .map_err(|error| CommandError::new(ErrorKind::Unexpected, "no name").with_source(error))?;
    match shelf::load(root, &name) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found,
    }
    let file = "image.qcow2".to_owned();
    let image = StoredImage {
        version: 1,
        name,
        format: DiskFormat::Qcow2,
        size: u64::try_from(DEMO.len()).unwrap_or_default(),
        virtual_size: DEMO.get(24..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes)),
        file,
        sha256,
        origin: ORIGIN.to_owned(),
        added: context.unix_time(),
    };
    let published = Entry::create(root, &image.name).and_then(|entry| {
        let path = entry.path().join(&image.file);
        let cannot = |error| CommandError::io(format!("cannot write `{}`", path.display()), error);
        fs::write(&path, DEMO).map_err(cannot)?;
        fs::set_permissions(&path, Permissions::from_mode(0o444)).map_err(cannot)?;
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(cannot)?;
        entry.publish(&image)
    });
    match published {
        // Another process has been faster.
        Err(error) if error.kind() == ErrorKind::Refused => shelf::load(root, &image.name),
        published => published.map(|()| image),
    }
}

/// What the image is called on the command line.
pub(super) const ORIGIN: &str = "builtin:demo";

/// A Debian-shaped disk: a GPT, ext4, an account; no kernel.
const DEMO: &[u8] = include_bytes!("../../../../images/demo/demo.qcow2");
