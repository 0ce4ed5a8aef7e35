use proptest::prelude::{any, proptest};

use super::Lvm;
use super::crc::crc;
use crate::block::{ByteRange, MemoryDisk};

const PART: usize = 64 << 10;
const UUID: &str = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG";

/// A physical volume of 64 KiB with extents of 4 KiB from 16 KiB on, whose group has `text`, put `at` in the ring.
fn physical(text: &str, at: usize) -> Vec<u8> {
    let mut part = vec![0; PART];
    let text = format!("{text}\0").into_bytes();
    let (area, size) = (4096, 12288);
    for (n, byte) in text.iter().enumerate() {
        part[area + 512 + (at - 512 + n) % (size - 512)] = *byte;
    }
    let mut header = vec![0; 512];
    header[4..20].copy_from_slice(b"\x20LVM2\x20x[5A%r0N*>");
    header[20] = 1;
    for (at, number) in [(24, area), (32, size), (40, at), (48, text.len())] {
        header[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    header[56..60].copy_from_slice(&crc(&text).to_le_bytes());
    let sum = crc(&header[4..]);
    header[..4].copy_from_slice(&sum.to_le_bytes());
    part[area..area + 512].copy_from_slice(&header);
    let mut label = vec![0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(UUID.replace('-', "").as_bytes());
    for (at, number) in [(64, PART), (72, 16384), (104, area), (112, size)] {
        label[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let sum = crc(&label[20..]);
    label[16..20].copy_from_slice(&sum.to_le_bytes());
    part[512..1024].copy_from_slice(&label);
    part
}

/// The text of a group with these logical volumes.
fn group(volumes: &str) -> String {
    let pv = format!("pv0 {{ id = \"{UUID}\" pe_start = 32 pe_count = 12 status = [\"ALLOCATABLE\"] }}");
    let head = "contents = \"Text Format Volume Group\" version = 1";
    let vg = "id = \"x\" seqno = 7 extent_size = 8 status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]";
    format!("vg0 {{ {vg} physical_volumes {{ {pv} }} logical_volumes {{ {volumes} }} }} {head}")
}

/// A logical volume with these segments: its start, its extents, and where it is on the physical volume.
fn linear(name: &str, segments: &[(u64, u64, u64)]) -> String {
    let mut text =
        format!("{name} {{ id = \"{name}\" status = [\"READ\", \"WRITE\", \"VISIBLE\"] segment_count = {} ", segments.len());
    for (number, (start, count, at)) in segments.iter().enumerate() {
        let number = number + 1;
        text +=
            &format!("segment{number} {{ start_extent = {start} extent_count = {count} type = \"striped\" stripe_count = 1 ");
        text += &format!("stripes = [ \"pv0\", {at} ] }} ");
    }
    text + "}"
}

fn read(parts: &[Vec<u8>]) -> Lvm {
    let disk = MemoryDisk::new(parts.concat());
    let places: Vec<_> =
        (0..parts.len()).map(|n| (n as u32 + 1, ByteRange::at((n * PART) as u64, PART as u64).unwrap())).collect();
    Lvm::read(&disk, &places).unwrap()
}

/// Returns why the physical volume of a group with these volumes is not used.
fn refused(text: &str) -> String {
    read(&[physical(text, 512)]).physical[0].obstacle.clone().unwrap()
}

#[test]
fn segments_become_places_on_the_disk_wherever_the_text_is() {
    let volumes = linear("root", &[(0, 2, 5), (2, 3, 0)]) + &linear("home", &[(0, 1, 3)]);
    for at in [512, 4096, 12280] {
        let lvm = read(&[vec![0; PART], physical(&group(&volumes), at)]);
        assert_eq!((lvm.physical.len(), lvm.physical[0].partition, lvm.physical[0].group.as_deref()), (1, 2, Some("vg0")));
        let root = lvm.logical("vg0", "root").unwrap();
        let start = (PART + 16384) as u64;
        let wanted = [ByteRange::at(start + 5 * 4096, 8192).unwrap(), ByteRange::at(start, 12288).unwrap()];
        assert_eq!((root.size, root.place.as_deref()), (20480, Ok(wanted.as_slice())));
        assert!(!root.read_only && lvm.logical("vg0", "swap").is_none());
    }
}

#[test]
fn what_is_not_plain_extents_is_refused_by_name() {
    let other = |kind: &str, more: &str| {
        format!(
            "root {{ status = [\"READ\", \"WRITE\", \"VISIBLE\"] segment_count = 1 segment1 {{ start_extent = 0 extent_count = 2 \
             type = \"{kind}\" {more} }} }}"
        )
    };
    for (volumes, reason) in [
        (other("thin", "thin_pool = \"pool\""), "it is a thin volume"),
        (other("cache", ""), "it is cached"),
        (other("raid1", ""), "it is of RAID"),
        (other("mirror", ""), "it is mirrored"),
        (other("linear", ""), "it is of type `linear`"),
        (other("striped", "stripe_count = 2 stripes = [\"pv0\", 0, \"pv0\", 4]"), "it is striped"),
        (other("striped", "stripe_count = 1 stripes = [\"pvmove0\", 0]"), "it lies on `pvmove0`, which is no physical volume"),
        (other("striped", "stripe_count = 1 stripes = [\"pv0\", 11]"), "it lies behind the end of the physical volume `pv0`"),
        (other("striped", "stripe_count = 1 stripes = [\"pv0\"]"), "its stripes are not of the form"),
        (other("striped", "stripe_count = 3 stripes = [\"pv0\", 0]"), "it has not as many stripes as it says"),
        (
            linear("root", &[(0, 2, 0)])
                + "snapshot0 { segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = \"snapshot\" origin = \"root\" } }",
            "`snapshot0` is made of it",
        ),
        (linear("root", &[(0, 2, 0)]).replace("WRITE", "LOCKED"), "it has the status LOCKED"),
    ] {
        let lvm = read(&[physical(&group(&volumes), 512)]);
        assert_eq!(lvm.logical("vg0", "root").unwrap().place, Err(reason.to_owned()), "{volumes}");
    }
    let exported = group(&linear("root", &[(0, 2, 0)])).replacen("\"WRITE\"", "\"EXPORTED\"", 1);
    let lvm = read(&[physical(&exported, 512)]);
    assert_eq!(lvm.logical("vg0", "root").unwrap().place, Err("its volume group `vg0` is exported".to_owned()));
    let second =
        group(&linear("root", &[(0, 2, 0)])).replace("pv0 {", "pv1 { id = \"other\" pe_start = 32 pe_count = 9 } pv0 {");
    let lvm = read(&[physical(&second, 512)]);
    let reason = lvm.logical("vg0", "root").unwrap().place.clone().unwrap_err();
    assert_eq!(reason, "its volume group `vg0` has 2 physical volumes, of which 1 are not on this disk");
    let missing = group(&linear("root", &[(0, 2, 0)])).replace("pe_count = 12", "pe_count = 12 flags = [\"MISSING\"]");
    let lvm = read(&[physical(&missing, 512)]);
    let reason = lvm.logical("vg0", "root").unwrap().place.clone().unwrap_err();
    assert_eq!(reason, "the physical volume `pv0` of its volume group `vg0` is marked MISSING");
}

#[test]
fn areas_and_texts_are_read_up_to_a_bound() {
    let text = group(&linear("root", &[(0, 2, 0)]));
    let mut part = physical(&text, 512);
    let label = super::label::read(&MemoryDisk::new(part.clone())).unwrap().unwrap();
    let mut left = text.len() + 10;
    assert!(super::area::text(&MemoryDisk::new(part.clone()), &label, &mut left).unwrap().is_some());
    assert_eq!(left, 9);
    let error = super::area::text(&MemoryDisk::new(part.clone()), &label, &mut left).unwrap_err();
    assert!(error.full().contains("a disk with more of it than is read"), "{}", error.full());
    // The same area three times.
    for at in [120, 136] {
        part.copy_within(512 + 104..512 + 120, 512 + at);
    }
    let sum = crc(&part[532..1024]);
    part[528..532].copy_from_slice(&sum.to_le_bytes());
    let obstacle = read(&[part]).physical[0].obstacle.clone().unwrap();
    assert!(obstacle.contains("a physical volume with 3 metadata areas"), "{obstacle}");
}

#[test]
fn a_group_that_breaks_a_rule_is_refused_whole() {
    let mirror = linear("home", &[(0, 2, 1)]).replace("\"striped\" stripe_count = 1 stripes", "\"mirror\" mirrors");
    for (volumes, reason) in [
        (linear("root", &[(0, 2, 0), (3, 1, 2)]), "follow each other without gaps"),
        (linear("root", &[(0, 0, 0)]), "follow each other without gaps"),
        (linear("root", &[(0, 2, 0)]) + &linear("home", &[(0, 2, 1)]), "two volumes must not have the same extent of `pv0`"),
        (linear("root", &[(0, 2, 0)]) + &mirror, "two volumes must not have the same extent of `pv0`"),
        (linear("root", &[(0, 2, 0), (2, 2, 1)]), "two volumes must not have the same extent of `pv0`"),
        (linear("root", &[(0, 2, 0)]).replace("segment_count = 1", "segment_count = 2"), "as many segments as it says"),
        (linear("root", &[(0, 2, 0)]).replace("segment1", "segment2"), "as many segments as it says"),
        (linear("root", &[(0, 2, 0)]) + &linear("root", &[(0, 2, 2)]), "the same name twice"),
        (linear("-root", &[(0, 2, 0)]), "a name that LVM does not allow"),
    ] {
        let found = refused(&group(&volumes));
        assert!(found.contains(reason), "{found}");
    }
    let root = group(&linear("root", &[(0, 2, 0)]));
    for (text, reason) in [
        (root.replace("pe_count = 12", "pe_count = 13"), "its extents must lie inside its partition"),
        (root.replace("pe_count = 12", "pe_count = 9223372036854775807"), "its extents must lie inside its partition"),
        (root.replace("pe_start = 32", "pe_start = 24"), "its extents must begin where its header says"),
        (root.replace("extent_size = 8", "extent_size = 0"), "must have an extent size"),
        (root.replace("vg0 {", "a {} vg0 {"), "must have one volume group"),
        (root.replace("version = 1", "version = 2"), "of version 1"),
        (root.replace(UUID, "another"), "it belongs to no volume group"),
    ] {
        assert!(refused(&text).contains(reason), "{}: {reason}", refused(&text));
    }
}

#[test]
fn copies_that_differ_and_twins_are_refused() {
    let (old, new) = (group(&linear("root", &[(0, 2, 0)])), group(&linear("root", &[(0, 3, 0)])));
    let lvm = read(&[physical(&old, 512), physical(&old, 512)]);
    assert!(lvm.groups.is_empty());
    for physical in lvm.physical {
        assert_eq!(physical.obstacle.unwrap(), format!("another physical volume of the disk has the UUID {UUID} too"));
    }
    let other = "ZAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG";
    let mut second = physical(&new.replace(UUID, other), 512);
    second[512 + 32] = b'Z';
    let sum = crc(&second[532..1024]);
    second[528..532].copy_from_slice(&sum.to_le_bytes());
    let lvm = read(&[physical(&old, 512), second]);
    assert!(lvm.groups.is_empty());
    for physical in lvm.physical {
        assert_eq!(physical.obstacle.as_deref(), Some("the disk has more than one state of the volume group `vg0`"));
    }
}

#[test]
fn checksums_and_places_of_headers_are_compared() {
    let sound = physical(&group(&linear("root", &[(0, 2, 0)])), 512);
    for (at, reason) in [
        (512 + 20, "the checksum of its bytes"),
        (512 + 16, "the checksum of its bytes"),
        (4096 + 30, "the checksum of its header"),
        (4096 + 600, "the checksum that its header says"),
    ] {
        let mut broken = sound.clone();
        broken[at] ^= 1;
        let lvm = read(&[broken]);
        let found = lvm.physical[0].obstacle.clone().unwrap();
        assert!(found.contains(reason), "{found}");
    }
    assert!(read(&[sound]).physical[0].obstacle.is_none());
    assert!(matches!(super::label::read(&MemoryDisk::new(vec![0; 100])), Ok(None)));
}

proptest! {
    #[test]
    fn any_change_of_bytes_is_read_or_refused(changes in proptest::collection::vec((0_usize..PART, any::<u8>()), 0..8), fix in any::<bool>()) {
        let mut part = physical(&group(&linear("root", &[(0, 2, 5), (2, 3, 0)])), 512);
        for (at, byte) in changes {
            // Most of it is empty; the headers and the text are what is looked at.
            part[[at % 512 + 512, at % 512 + 4096, at % 900 + 4608][at % 3]] = byte;
        }
        if fix {
            let len = usize::from(part[4096 + 48]) + 256 * usize::from(part[4096 + 49]);
            let sum = crc(&part[4608..4608 + len.min(8000)]);
            part[4096 + 56..4096 + 60].copy_from_slice(&sum.to_le_bytes());
            let sum = crc(&part[4100..4608]);
            part[4096..4100].copy_from_slice(&sum.to_le_bytes());
            let sum = crc(&part[532..1024]);
            part[528..532].copy_from_slice(&sum.to_le_bytes());
        }
        for group in read(&[part]).groups {
            for range in group.logical.into_iter().filter_map(|logical| logical.place.ok()).flatten() {
                assert!(range.end() <= PART as u64 && range.start() >= 16384);
            }
        }
    }
}
