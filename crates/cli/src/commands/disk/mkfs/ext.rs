//! The options of ext2, ext3 and ext4, in mke2fs's spelling.

use imgcore::fs::ext4::{CreateOptions, Kind, Release, Timestamp};
use uuid::Uuid;

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::mkfs::ext_options;
use crate::size::Size;

/// What distinguishes a new ext file system from the one that mke2fs would make by itself.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub(super) struct ExtArgs {
    /// Whose mke2fs to follow: el7, debian-11, debian-12, debian-13
    #[arg(long, value_name = "RELEASE", hide_possible_values = true)]
    like: Option<Like>,
    /// Bytes of a block: 1024 to 65536
    #[arg(short = 'b', value_name = "BYTES")]
    block_size: Option<u32>,
    /// Bytes of an inode
    #[arg(short = 'I', value_name = "BYTES")]
    inode_size: Option<u16>,
    /// Bytes of the disk for each inode
    #[arg(short = 'i', value_name = "BYTES")]
    inode_ratio: Option<u64>,
    /// How many inodes, whatever the size of the disk
    #[arg(short = 'N', value_name = "COUNT", conflicts_with = "inode_ratio")]
    inodes: Option<u64>,
    /// Percent that only root may use; 5 otherwise
    #[arg(short = 'm', value_name = "PERCENT")]
    reserved: Option<f64>,
    /// Features to turn on, or off with a ^, as in ^has_journal,large_dir
    #[arg(short = 'O', value_name = "FEATURES")]
    features: Vec<String>,
    /// Bytes of the journal
    #[arg(short = 'J', value_name = "SIZE")]
    journal_size: Option<Size>,
    /// The most blocks that it can grow to in place
    #[arg(long, value_name = "BLOCKS")]
    most_blocks: Option<u64>,
}

/// The distributions whose mke2fs differ in what they choose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Like {
    El7,
    #[value(name = "debian-11", aliases = ["el8", "ubuntu-20.04"])]
    Debian11,
    #[value(name = "debian-12", aliases = ["el9", "ubuntu-22.04", "ubuntu-24.04"])]
    Debian12,
    #[value(name = "debian-13")]
    Debian13,
}

impl ExtArgs {
    /// Returns the options of a file system on `size` bytes.
    pub(super) fn options(&self, context: &Context, kind: Kind, size: u64, uuid: Uuid) -> Result<CreateOptions, CommandError> {
        let release = match self.like {
            Some(Like::El7) => Release::El7,
            Some(Like::Debian11) => Release::Debian11,
            Some(Like::Debian12) | None => Release::Debian12,
            Some(Like::Debian13) => Release::Debian13,
        };
        let now = Timestamp { secs: context.unix_time(), nanos: 0 };
        let mut options = ext_options(kind, release, size, uuid, now);
        options.block_size = self.block_size.unwrap_or(options.block_size);
        options.inode_size = self.inode_size.unwrap_or(options.inode_size);
        // A block for each inode at least, as in mke2fs.
        options.inode_ratio = self.inode_ratio.unwrap_or(options.inode_ratio.max(u64::from(options.block_size)));
        options.inodes = self.inodes;
        options.journal_size = self.journal_size.map(|size| size.0);
        options.most_blocks = self.most_blocks;
        if let Some(percent) = self.reserved {
            options.reserved = hundredths(percent)?;
        }
        for features in &self.features {
            options.set_features(features).map_err(|error| {
                CommandError::new(ErrorKind::Unsupported, error.to_string())
                    .hint("ext4(5) explains the features and their names")
            })?;
        }
        Ok(options)
    }
}

/// Returns hundredths of a percent, as mke2fs takes at most 50.
fn hundredths(percent: f64) -> Result<u32, CommandError> {
    let wanted = (0..=5000_u32).find(|hundredths| f64::from(*hundredths) >= percent * 100.0 - 0.001);
    wanted.filter(|_| percent >= 0.0).ok_or_else(|| CommandError::new(ErrorKind::Usage, "`-m` takes 0 to 50 percent"))
}
