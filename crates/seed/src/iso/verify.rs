use imgcore::block::BlockRead;

use super::read::{Names, read_names};
use super::{Error, VolumeLabel};
use crate::document::Tree;

/// Reads an image back and compares it with what it was made of: its name, and every file by its Rock Ridge and its Joliet name.
///
/// # Errors
///
/// [`Error::Different`] says what is not as written; otherwise as [`super::read()`].
pub fn verify(disk: &dyn BlockRead, label: &VolumeLabel, tree: &Tree) -> Result<(), Error> {
    let rock_ridge = read_names(disk, Names::RockRidge)?;
    if rock_ridge.label != label.as_str() {
        return Err(Error::Different { what: format!("it is named {:?}, not {label:?}", rock_ridge.label) });
    }
    same_files(tree, &rock_ridge.tree)?;
    let joliet = read_names(disk, Names::Joliet)?.tree;
    if joliet.len() != tree.len() {
        return Err(Error::Different { what: format!("Joliet has {} files, not {}", joliet.len(), tree.len()) });
    }
    // Names that Joliet cannot have were changed: their contents are checked under Rock Ridge's above.
    for (path, contents) in joliet.iter() {
        if let Some(written) = tree.get(path)
            && **contents != *written
        {
            return Err(Error::Different { what: format!("the contents of {path:?} by its Joliet name") });
        }
    }
    Ok(())
}

fn same_files(written: &Tree, read: &Tree) -> Result<(), Error> {
    for (path, contents) in written.iter() {
        match read.get(path) {
            Some(found) if *found == **contents => {}
            Some(_) => return Err(Error::Different { what: format!("the contents of {path:?}") }),
            None => return Err(Error::Different { what: format!("{path:?} is missing") }),
        }
    }
    match read.iter().find(|(path, _)| written.get(path).is_none()) {
        Some((path, _)) => Err(Error::Different { what: format!("{path:?} is there besides") }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use imgcore::block::MemoryDisk;
    use proptest::prelude::{any, proptest};

    use crate::document::Tree;
    use crate::iso::{Error, Names, VolumeLabel, create, read, read_names, verify};

    fn label() -> VolumeLabel {
        VolumeLabel::new("cidata").unwrap()
    }

    fn tree(files: &[(&str, &[u8])]) -> Tree {
        let mut tree = Tree::new();
        for (path, contents) in files {
            tree.insert(path, *contents).unwrap();
        }
        tree
    }

    fn seed() -> Tree {
        tree(&[
            ("meta-data", b"instance-id: a\n"),
            ("user-data", b""),
            ("a/b/c/d/e/f/g/h/i/leaf", &[7; 2049]),
            ("a/b/twin", &[7; 2049]),
            ("Grüße 文 😀.txt", b"x"),
            (&"n".repeat(255), b"long"),
            (&("n".repeat(254) + "m"), b"longer"),
            ("w*i:n?", b"w"),
        ])
    }

    #[test]
    fn what_is_written_is_read_back() {
        let disk = MemoryDisk::new(create(&seed(), &label(), 1_767_225_600).unwrap());
        verify(&disk, &label(), &seed()).unwrap();
        let volume = read(&disk).unwrap();
        assert_eq!((volume.names, volume.label.as_str()), (Names::RockRidge, "cidata"));
        assert_eq!(volume.tree, seed());
        let primary = read_names(&disk, Names::Primary).unwrap().tree;
        assert_eq!(primary.get("META_DATA"), Some(&b"instance-id: a\n"[..]));
        assert_eq!(primary.len(), seed().len());
    }

    #[test]
    fn the_same_input_gives_the_same_bytes_and_equal_contents_are_stored_once() {
        let first = create(&seed(), &label(), 0).unwrap();
        assert_eq!(first, create(&seed(), &label(), 0).unwrap());
        assert_ne!(first, create(&seed(), &label(), 1).unwrap());
        let one = create(&tree(&[("a", &[1; 100_000])]), &label(), 0).unwrap().len();
        let two = create(&tree(&[("a", &[1; 100_000]), ("b", &[1; 100_000])]), &label(), 0).unwrap().len();
        assert_eq!(one, two);
    }

    #[test]
    fn an_empty_tree_is_an_image_too() {
        let disk = MemoryDisk::new(create(&Tree::new(), &label(), 0).unwrap());
        verify(&disk, &label(), &Tree::new()).unwrap();
    }

    #[test]
    fn a_difference_is_named() {
        let disk = MemoryDisk::new(create(&tree(&[("a", b"1"), ("b", b"2")]), &label(), 0).unwrap());
        let what = |label: &str, tree: &Tree| verify(&disk, &VolumeLabel::new(label).unwrap(), tree).unwrap_err().to_string();
        assert!(what("CIDATA", &tree(&[("a", b"1"), ("b", b"2")])).contains("named"));
        assert!(what("cidata", &tree(&[("a", b"1"), ("b", b"3")])).contains("contents of \"b\""));
        assert!(what("cidata", &tree(&[("a", b"1"), ("c", b"2")])).contains("\"c\" is missing"));
        assert!(what("cidata", &tree(&[("a", b"1")])).contains("\"b\" is there besides"));
    }

    #[test]
    fn what_is_no_image_is_said_to_be_none() {
        for bytes in [vec![], vec![0; 100], vec![0; 1 << 20]] {
            assert!(matches!(read(&MemoryDisk::new(bytes)), Err(Error::NotIso)));
        }
    }

    #[test]
    fn a_folder_in_itself_is_found() {
        let mut bytes = create(&tree(&[("d/f", b"x")]), &label(), 0).unwrap();
        // The record of `d` in the root is made to point to the root.
        let root = usize::try_from(u32::from_le_bytes(bytes[16 * 2048 + 158..][..4].try_into().unwrap())).unwrap();
        let start = root * 2048;
        let own: [u8; 8] = bytes[start + 2..][..8].try_into().unwrap();
        let mut at = start;
        for _ in 0..2 {
            at += usize::from(bytes[at]);
        }
        bytes[at + 2..at + 10].copy_from_slice(&own);
        assert!(matches!(read(&MemoryDisk::new(bytes)), Err(Error::Corrupt { .. })));
    }

    proptest! {
        #[test]
        fn any_damage_is_read_or_refused(damage in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..20), cut in any::<u32>()) {
            let mut bytes = create(&seed(), &label(), 0).unwrap();
            let len = u32::try_from(bytes.len() - 16 * 2048).unwrap();
            for (at, value) in damage {
                bytes[16 * 2048 + usize::try_from(at % len).unwrap()] = value;
            }
            if cut % 4 == 0 {
                bytes.truncate(16 * 2048 + usize::try_from(cut % len).unwrap());
            }
            let disk = MemoryDisk::new(bytes);
            for names in [Names::RockRidge, Names::Joliet, Names::Primary] {
                drop(read_names(&disk, names));
            }
        }
    }
}
