//! File systems: guest paths, a guest's files as seen by a reader, and edits as data.

pub mod ext4;
pub mod swap;
pub mod vfat;

mod edit;
mod error;
mod expect;
mod path;
mod view;

pub use edit::{Attributes, Content, Device, Edit, EditPlan, Node};
pub use error::{Error, Refusal};
pub use expect::{Expected, SameFiles, Wanted, expectations, same_files};
pub use path::{GuestPath, PathError};
pub use view::{DirEntry, FileKind, FileSystem, Metadata};
