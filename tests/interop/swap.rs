use imgcore::block::{MemoryDisk, Staged};
use imgcore::fs::{Error, swap};
use vmimg_tests::tool::Tool;

const UUID: &str = "0a0b0c0d-1111-4222-8333-444455556666";

#[test]
fn swap_space_is_byte_for_byte_that_of_mkswap() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    let uuid = *b"\x0a\x0b\x0c\x0d\x11\x11\x42\x22\x83\x33\x44\x44\x55\x55\x66\x66";
    for (size, label) in [(40 << 10, ""), (1 << 20, "swap0"), ((3 << 20) + 1234, "fifteen letters")] {
        let old = vec![0x5A; size];
        let mut disk = MemoryDisk::new(old.clone());
        let usable = swap::create(&mut disk, label, uuid).unwrap();
        assert_eq!(usable, (size as u64 / 4096 - 1) * 4096);
        std::fs::write(&ours, disk.into_bytes()).unwrap();
        std::fs::write(&theirs, old).unwrap();
        let tool = Tool::new("mkswap").args(["--pagesize", "4096", "-U", UUID]);
        let tool = if label.is_empty() { tool } else { tool.args(["-L", label]) };
        tool.arg(&theirs).run();
        assert!(std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap(), "{size}");
        let said = Tool::new("swaplabel").arg(&ours).run();
        assert!(said.contains(UUID) && said.contains(label), "{said}");
        let said = Tool::new("blkid").args(["-p", "-o", "export"]).arg(&ours).run();
        assert!(said.contains("TYPE=swap"), "{said}");
    }
}

#[test]
fn too_little_space_and_long_labels_are_refused() {
    for (size, label) in [(36 << 10, "swap"), (1 << 20, "sixteen letters!")] {
        let mut disk = Staged::new(MemoryDisk::new(vec![0; size]));
        assert!(matches!(swap::create(&mut disk, label, [1; 16]), Err(Error::Refused(_))));
        assert!(disk.changes().is_empty());
    }
}
