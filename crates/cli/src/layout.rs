//! What a disk is divided into: the partitions of its table, and the logical volumes of LVM in them.

use imgcore::block::{BlockRead, ByteRange, Joined};
use imgcore::lvm::{Logical, Lvm};
use imgcore::partition::{Partition, Table};
use seed::guest::VolumeId;

use crate::error::{CommandError, ErrorKind};

/// The partitions and logical volumes of a disk.
#[derive(Debug)]
pub struct Layout {
    /// The partition table, or `None` for a disk without one.
    pub table: Option<Table>,
    /// The physical volumes and volume groups.
    pub lvm: Lvm,
    size: u64,
}

impl Layout {
    /// Reads the partition table of `disk`, and what its physical volumes say.
    ///
    /// # Errors
    ///
    /// A table that cannot be understood, and the failure of the disk.
    pub fn read(disk: &(impl BlockRead + ?Sized)) -> Result<Self, CommandError> {
        let table = Table::read(disk)?;
        let mut layout = Self { table, lvm: Lvm::default(), size: disk.size() };
        layout.lvm = Lvm::read(disk, &layout.parts())?;
        Ok(layout)
    }

    /// Returns the partitions that are not for logical partitions alone, with their places; 0 for a disk without a table.
    fn parts(&self) -> Vec<(u32, ByteRange)> {
        let Some(table) = &self.table else { return vec![(0, ByteRange::new(0, self.size).unwrap_or_default())] };
        let data = table.partitions.iter().filter(|partition| !partition.is_extended());
        data.map(|partition| (partition.number, partition.range)).collect()
    }

    /// Returns what can hold a file system, with where that is: partitions that are no physical volumes, and logical volumes.
    #[must_use]
    pub fn volumes(&self) -> Vec<(VolumeId, Vec<ByteRange>)> {
        let parts = self.parts().into_iter().filter(|(number, _)| !self.is_physical(*number));
        let mut all: Vec<_> = parts.map(|(number, range)| (VolumeId::Partition(number), vec![range])).collect();
        all.extend(self.logical().filter_map(|(id, logical)| Some((id, logical.place.clone().ok()?))));
        all
    }

    /// Returns the logical volumes, those that are not used among them.
    pub fn logical(&self) -> impl Iterator<Item = (VolumeId, &Logical)> {
        self.lvm.groups.iter().flat_map(|group| {
            let id = |name: &str| VolumeId::Logical { group: group.name.clone(), name: name.to_owned() };
            group.logical.iter().map(move |logical| (id(&logical.name), logical))
        })
    }

    fn is_physical(&self, number: u32) -> bool {
        self.lvm.physical.iter().any(|physical| physical.partition == number)
    }

    /// Returns the partition `number`.
    #[must_use]
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.table.as_ref()?.partition(number)
    }

    /// Returns where a volume is; that of partition 0 is the whole disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is none, [`ErrorKind::Unsupported`] for a logical volume that is not plain extents.
    pub fn place(&self, id: &VolumeId) -> Result<Vec<ByteRange>, CommandError> {
        match id {
            VolumeId::Partition(0) => Ok(vec![ByteRange::new(0, self.size).unwrap_or_default()]),
            VolumeId::Partition(number) => match self.partition(*number) {
                Some(partition) => Ok(vec![partition.range]),
                None if self.table.is_none() => {
                    let message = format!("there is no partition {number}: the disk has no partition table");
                    Err(CommandError::new(ErrorKind::NotFound, message).hint("leave `--partition` out"))
                }
                None => Err(self.missing(id)),
            },
            VolumeId::Logical { group, name } => {
                let logical = self.lvm.logical(group, name).ok_or_else(|| self.missing(id))?;
                logical.place.clone().map_err(|reason| {
                    CommandError::new(ErrorKind::Unsupported, format!("the logical volume `{id}` is not used: {reason}"))
                        .hint("a logical volume is used when all of it is plain extents on this disk")
                })
            }
        }
    }

    /// Returns `disk` as far as a volume goes, to be read.
    ///
    /// # Errors
    ///
    /// As [`Layout::place`].
    pub fn open<D: BlockRead>(&self, disk: D, id: &VolumeId) -> Result<Joined<D>, CommandError> {
        Ok(Joined::open(disk, &self.place(id)?)?)
    }

    /// Refuses to change a logical volume that its group says is not written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`].
    pub fn refuse_read_only(&self, id: &VolumeId) -> Result<(), CommandError> {
        let VolumeId::Logical { group, name } = id else { return Ok(()) };
        if !self.lvm.logical(group, name).is_some_and(|logical| logical.read_only) {
            return Ok(());
        }
        Err(CommandError::new(ErrorKind::Refused, format!("the logical volume `{id}` is for reading only"))
            .hint(format!("in the guest, `lvchange -p rw {id}` makes it writable")))
    }

    fn missing(&self, id: &VolumeId) -> CommandError {
        CommandError::new(ErrorKind::NotFound, format!("there is no {}", id.described())).hint(self.names())
    }

    /// Returns what there is, as a hint says it.
    #[must_use]
    pub fn names(&self) -> String {
        let parts: Vec<String> =
            self.table.iter().flat_map(|table| &table.partitions).map(|partition| partition.number.to_string()).collect();
        let logical: Vec<String> = self.logical().map(|(id, _)| id.to_string()).collect();
        let mut all = Vec::new();
        if !parts.is_empty() {
            all.push(format!("partitions {}", parts.join(", ")));
        }
        if !logical.is_empty() {
            all.push(format!("logical volumes {}", logical.join(", ")));
        }
        if all.is_empty() { "the partition table is empty".to_owned() } else { format!("the image has {}", all.join(" and ")) }
    }
}

/// Returns the error of what would make a logical volume larger.
#[must_use]
pub fn not_grown(id: &VolumeId) -> CommandError {
    CommandError::new(ErrorKind::Unsupported, format!("the {} is not made larger", id.described()))
        .hint(format!("in the guest, `growpart`, `pvresize` and `lvextend -r -l +100%FREE {id}` do it"))
}
