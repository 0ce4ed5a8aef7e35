//! File systems of every shape that mke2fs makes, to be grown.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// What a file system is made with, and what becomes of it.
#[derive(Debug)]
pub struct RandomFileSystem {
    /// Arguments of mke2fs.
    pub options: Vec<String>,
    /// Bytes that it has at first.
    pub size: u64,
    /// Bytes that it grows to.
    pub larger: u64,
}

impl RandomFileSystem {
    /// The one that belongs to a number.
    pub fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let options = options(&mut random);
        let size = (24 << 20) + u64::from(random.next_u32() % (64 << 20));
        let larger = size + u64::from(random.next_u32() % (320 << 20)) / [1, 1, 1, 100][random.next_u32() as usize % 4];
        Self { options, size, larger }
    }
}

fn options(random: &mut ChaCha8Rng) -> Vec<String> {
    let mut pick = |choices: &[&str]| choices[random.next_u32() as usize % choices.len()].to_owned();
    let block = pick(&["-b 1024", "-b 4096", "-b 4096", "-b 2048"]);
    let checksums = pick(&["metadata_csum", "metadata_csum", "metadata_csum,metadata_csum_seed", "^metadata_csum,uninit_bg"]);
    let checksums = pick(&[&checksums, &checksums, &checksums, "^metadata_csum,^uninit_bg"]);
    let others = [
        pick(&["64bit", "^64bit"]),
        pick(&["flex_bg", "flex_bg", "^flex_bg"]),
        pick(&["sparse_super", "sparse_super", "^sparse_super,^resize_inode"]),
    ];
    let others = others.join(",");
    let inodes = pick(&["-I 256", "-I 256", "-I 128", "-I 512"]);
    let ratio = pick(&["-i 16384", "-i 8192", "-i 65536", "-i 4096"]);
    let reserved = pick(&["-m 5", "-m 0", "-m 1"]);
    let flex = if others.contains("^flex") { String::new() } else { pick(&["", "-G 4", "-G 64", "-G 1"]) };
    let group = if block == "-b 1024" { pick(&["", "-g 4096", "-g 2048"]) } else { pick(&["", "-g 8192", "-g 4096"]) };
    let all = format!("{block} -O {checksums},{others} {inodes} {ratio} {reserved} {flex} {group}");
    all.split_whitespace().map(str::to_owned).collect()
}
