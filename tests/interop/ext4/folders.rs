//! Folders of many names: what Linux finds in the indexes that we build.

use std::fs;

use imgcore::fs::ext4::Ext4;
use imgcore::fs::{Attributes, Content, Edit, FileSystem as _};

use super::{Image, path};

fn write(name: &str) -> Edit {
    Edit::Write { path: path(name), content: Content::from(""), attributes: Attributes::default() }
}

/// Names of 255 bytes that the hash `legacy` takes for one: four times six, and three of them fill a block.
fn colliding() -> Vec<String> {
    const NUMBERS: &[u32] = &[
        2_252_716,
        31_193_402,
        38_910_902,
        53_374_036,
        111_431_030,
        239_224_839,
        41_750_056,
        121_675_516,
        124_102_843,
        179_364_409,
        257_992_936,
        264_448_787,
        96_779_976,
        153_861_493,
        157_612_188,
        219_851_796,
        227_303_537,
        266_045_144,
        12_348_993,
        27_939_742,
        81_904_241,
        123_549_587,
        138_487_135,
        228_365_622,
    ];
    let tail = |number: u32| (0..10).map(move |digit| char::from(b'a' + (number >> (3 * digit) & 7) as u8));
    NUMBERS.iter().map(|number| "n".repeat(245).chars().chain(tail(*number)).collect()).collect()
}

#[test]
fn linux_finds_every_name_in_an_index_of_every_hash() {
    for (hash, flags) in [("legacy", 1), ("half_md4", 1), ("tea", 1), ("legacy", 2), ("half_md4", 2), ("tea", 2)] {
        let image = Image::with(20 << 20, "-b 1024 -N 4000", None);
        image.debugfs_write(&format!("ssv def_hash_version {hash}"));
        image.debugfs_write(&format!("ssv flags {flags}"));
        let mut names: Vec<String> = (0..900).map(|at| format!("{}-{at}-\u{fc}\u{6587}", "x".repeat(at % 60))).collect();
        names.extend(colliding());
        names.extend((0..60).map(|at| format!("{at:0>200}")));
        image.apply(names.iter().map(|name| write(&format!("/big/{name}"))).collect()).unwrap();
        image.assert_clean();
        let dump = image.debugfs("htree_dump /big");
        assert!(
            dump.contains(&format!(
                "Hash Version: {}",
                ["legacy", "half_md4", "tea"].iter().position(|name| *name == hash).unwrap()
            )),
            "{dump}"
        );
        image.mounted(|root| {
            let missing = names.iter().find(|name| !root.join("big").join(name).exists());
            assert_eq!(missing, None, "{hash}, {flags}");
            fs::write(root.join("big/by-linux"), "").unwrap();
        });
        image
            .apply(names.iter().step_by(2).map(|name| Edit::Remove { path: path(&format!("/big/{name}")) }).collect())
            .unwrap();
        image.assert_clean();
        image.mounted(|root| {
            let found = |name: &&String| root.join("big").join(name.as_str()).exists();
            assert_eq!(names.iter().filter(found).count(), names.len() / 2);
        });
    }
}

/// How many names the largest folder gets: from 40,000 on it has three levels.
#[expect(clippy::disallowed_methods, reason = "who runs the tests says how long they may take")]
fn most_names() -> usize {
    std::env::var("VMIMG_FOLDER_NAMES").map_or(1500, |text| text.parse().unwrap())
}

#[test]
fn linux_finds_as_many_long_names_in_one_folder_as_are_wanted() {
    let most = most_names();
    let size = (most as u64 * 1400).next_multiple_of(1 << 20) + (20 << 20);
    let image = Image::with(size, &format!("-b 1024 -I 128 -N {} -O large_dir,^has_journal", most + 100), None);
    let names: Vec<String> = (0..most).map(|at| format!("{at:l>255}")).collect();
    image.apply(names.iter().map(|name| write(&format!("/big/{name}"))).collect()).unwrap();
    image.assert_clean();
    image.mounted(|root| {
        let missing = names.iter().find(|name| !root.join("big").join(name).exists());
        assert_eq!(missing, None);
        assert_eq!(fs::read_dir(root.join("big")).unwrap().count(), most);
    });
}

#[test]
fn a_name_that_is_replaced_stays_one_and_its_place_is_used_again() {
    let image = Image::with(20 << 20, "-b 1024", None);
    let name = |at: usize| format!("/many/{at}-{}", "r".repeat(at % 100));
    for _ in 0..3 {
        let link = |at| Edit::Symlink { path: path(&name(at)), target: "t".to_owned(), attributes: Attributes::default() };
        image.apply((0..300).map(|at| write(&name(at))).collect()).unwrap();
        image.apply((0..300).map(|at| Edit::Remove { path: path(&name(at)) }).collect()).unwrap();
        image.apply((0..300).map(link).chain((0..300).map(link)).collect()).unwrap();
        image.assert_clean();
        assert_eq!(Ext4::open(image.disk()).unwrap().read_dir(&path("/many")).unwrap().len(), 300);
        image.apply((0..300).map(|at| Edit::Remove { path: path(&name(at)) }).collect()).unwrap();
    }
    image.assert_clean();
}
