//! Images that somebody made to do harm, by class.

use super::image::{
    BITMAP, COMPRESSED, Crafted, DATA, DIRECTORY, EXTENSIONS, Image, L1, L2, REFCOUNT_BLOCK, REFCOUNT_TABLE, SNAPSHOT_L1,
    SNAPSHOTS,
};

/// Every field of the header, with the values at which programs stumble.
pub(crate) fn headers() -> Vec<Crafted> {
    let words: &[(&str, u64)] = &[
        ("version", 4),
        ("backing name's length", 16),
        ("cluster bits", 20),
        ("encryption", 32),
        ("L1 size", 36),
        ("refcount table's clusters", 56),
        ("number of snapshots", 60),
        ("refcount order", 96),
        ("header length", 100),
        ("first extension's type", EXTENSIONS),
        ("first extension's length", EXTENSIONS + 4),
        ("number of bitmaps", EXTENSIONS + 8),
    ];
    let longs: &[(&str, u64)] = &[
        ("backing name's offset", 8),
        ("size", 24),
        ("L1 offset", 40),
        ("refcount table's offset", 48),
        ("snapshots' offset", 64),
        ("incompatible features", 72),
        ("compatible features", 80),
        ("autoclear features", 88),
        ("bitmap directory's size", EXTENSIONS + 16),
        ("bitmap directory's offset", EXTENSIONS + 24),
    ];
    let mut crafted = Vec::new();
    for bits in [9, 16] {
        for (name, at) in words {
            for value in [0, 1, 2, 7, 8, 22, 63, 105, 0xFFFF, 0x10_0000, 0x7FFF_FFFF, u32::MAX] {
                let mut image = Image::sound(bits);
                image.put_u32(*at, value);
                crafted.push(Crafted::new(format!("{bits}: {name} {value}"), image.bytes));
            }
        }
        for (name, at) in longs {
            for value in
                [0, 1, 3, 511, 512, 0x30000, 1 << 40, 1 << 55, (1 << 56) - 512, 1 << 62, 1 << 63, u64::MAX - 511, u64::MAX]
            {
                let mut image = Image::sound(bits);
                image.put_u64(*at, value);
                crafted.push(Crafted::new(format!("{bits}: {name} {value:#x}"), image.bytes));
            }
        }
        for length in [0, 3, 4, 71, 72, 103, 104, 111, 112, 1000, 70_000] {
            let mut bytes = Image::sound(bits).bytes;
            bytes.truncate(length);
            crafted.push(Crafted::new(format!("{bits}: cut off after {length} bytes"), bytes));
        }
    }
    crafted
}

/// Entries of every table that lead to places where they must not.
pub(crate) fn tables() -> Vec<Crafted> {
    let mut crafted = Vec::new();
    for bits in [9, 16] {
        let sound = Image::sound(bits);
        let entries = [
            ("refcount table entry", sound.at(REFCOUNT_TABLE)),
            ("L1 entry", sound.at(L1)),
            ("L2 entry", sound.at(L2)),
            ("snapshot's L1 entry", sound.at(SNAPSHOT_L1)),
            ("snapshot's L1 offset", sound.at(SNAPSHOTS)),
            ("snapshot's names and extra", sound.at(SNAPSHOTS) + 8),
            ("snapshot's extra size", sound.at(SNAPSHOTS) + 32),
            ("snapshot's disk size", sound.at(SNAPSHOTS) + 48),
            ("bitmap table's offset", sound.at(DIRECTORY)),
            ("bitmap's size and flags", sound.at(DIRECTORY) + 8),
            ("bitmap's type and name", sound.at(DIRECTORY) + 16),
            ("bitmap table entry", sound.at(BITMAP)),
        ];
        let places = (0..13).map(|cluster| sound.at(cluster));
        let values =
            places.chain([1, 2, 512, 1 << 40, 1 << 55, 1 << 61, 1 << 62, (1 << 62) | 0x1FF, 1 << 63, u64::MAX, u64::MAX - 511]);
        for value in values {
            for (name, at) in entries {
                for flag in [0, 1 << 63] {
                    let mut image = sound.clone();
                    image.put_u64(at, value | flag);
                    crafted.push(Crafted::new(format!("{bits}: {name} {:#x}", value | flag), image.bytes));
                }
            }
        }
    }
    crafted
}

/// Few bytes that ask for much work or memory.
pub(crate) fn bombs() -> Vec<Crafted> {
    let mut crafted = Vec::new();
    // As many L1 entries as there may be, which name one table: 2 PiB of disk. Fewer for a build without optimization.
    let mut image = Image::sound(16);
    let entries = if cfg!(debug_assertions) { 1 << 18 } else { (32 << 20) / 8_u32 };
    let start = image.bytes.len() as u64;
    image.put_u32(36, entries);
    image.put_u64(40, start);
    image.put_u64(24, u64::from(entries) << 29);
    let entry = (L2 << 16).to_be_bytes();
    image.bytes.extend(std::iter::repeat_n(entry, entries as usize).flatten());
    let table = image.at(L2);
    image.put(table, &[0; 64]);
    crafted.push(Crafted::new("one empty table everywhere", image.bytes.clone()));
    image.put_u64(table, (1 << 62) | (COMPRESSED << 16));
    image.put_u32(36, 1000);
    image.put_u64(24, 1000 << 29);
    crafted.push(Crafted::new("one compressed cluster a thousand times", image.bytes));
    // Tables in the holes of a file that claims to be very long.
    let mut image = Image::sound(16);
    let start = image.bytes.len() as u64;
    image.put_u32(36, 1 << 20);
    image.put_u64(40, start);
    image.put_u64(24, 1 << 49);
    for index in 0..1_u64 << 20 {
        image.bytes.extend_from_slice(&((1 << 63) | ((1 << 30) + (index << 16))).to_be_bytes());
    }
    let mut far = Crafted::new("a million tables in holes", image.bytes);
    far.length = Some((1 << 30) + (1 << 36));
    crafted.push(far);
    // Clusters of 2 MiB of zeros from one sector, over a whole table.
    let mut image = Image::sound(16);
    image.put(image.at(COMPRESSED), &[0xED, 0xC1, 0x01, 0x01, 0x00, 0x00, 0x00, 0x80, 0x90, 0xFE, 0xAF, 0xEE, 0x08, 0x0A]);
    for entry in 0..16 {
        image.put_u64(image.at(L2) + entry * 8, (1 << 62) | (COMPRESSED << 16));
    }
    crafted.push(Crafted::new("a table of compressed zeros", image.bytes));
    // Zstandard frames that ask for large windows.
    for window in [0x58_u8, 0xA8, 0xF8] {
        let mut image = Image::sound(16);
        image.put_u64(72, 8);
        image.put(104, &[1]);
        image.put(image.at(COMPRESSED), &[0x28, 0xB5, 0x2F, 0xFD, 0x00, window, 0x03, 0x00, 0x00, 0x00]);
        crafted.push(Crafted::new(format!("a zstd window of {window:#x}"), image.bytes));
    }
    // Refcount blocks that are each other, and a table full of one block.
    let mut image = Image::sound(9);
    for index in 0..64 {
        image.put_u64(image.at(REFCOUNT_TABLE) + index * 8, REFCOUNT_BLOCK << 9);
    }
    crafted.push(Crafted::new("a refcount table full of one block", image.bytes));
    let mut image = Image::sound(16);
    let table = image.bytes.len() as u64;
    image.put_u64(48, table);
    image.put_u32(56, 128);
    image.bytes.extend(std::iter::repeat_n((REFCOUNT_BLOCK << 16).to_be_bytes(), 1 << 20).flatten());
    let block = image.at(REFCOUNT_BLOCK);
    image.put(block, &[0, 1].repeat(32768));
    crafted.push(Crafted::new("a million full refcount blocks", image.bytes));
    // Bitmaps that are larger than memory.
    for (granularity, size) in [(0, u32::MAX), (63, u32::MAX), (9, 1 << 28)] {
        let mut image = Image::sound(16);
        image.put_u32(image.at(DIRECTORY) + 8, size);
        image.put(image.at(DIRECTORY) + 17, &[granularity]);
        crafted.push(Crafted::new(format!("a bitmap table of {size} entries, granularity 2^{granularity}"), image.bytes));
    }
    crafted
}

/// Names that must not be opened, and chains without an end.
pub(crate) fn references(port: u16) -> Vec<Crafted> {
    let mut crafted = Vec::new();
    let address = format!("nbd://127.0.0.1:{port}/x");
    let old_address = format!("nbd:127.0.0.1:{port}");
    let json = format!("json:{{\"driver\":\"nbd\",\"host\":\"127.0.0.1\",\"port\":\"{port}\"}}");
    let http = format!("http://127.0.0.1:{port}/disk.img");
    let names: &[&[u8]] = &[
        address.as_bytes(),
        old_address.as_bytes(),
        json.as_bytes(),
        http.as_bytes(),
        b"json:{\"driver\":\"file\",\"filename\":\"secret\"}",
        b"file:secret",
        b"fat:rw:.",
        b"fifo",
        b"img",
        b".",
        b"/dev/zero",
        b"/dev/stdin",
        b"/proc/self/mem",
        b"",
        b"a\0b",
        b"missing",
        b"other",
        b"\xff\xfe",
        b"../../../../../../../../etc/shadow-",
    ];
    for name in names {
        for format in ["", "raw", "qcow2", "vmdk", "nbd", "json:{}"] {
            let mut image = Crafted::new(
                format!("backing file {} as {format:?}", String::from_utf8_lossy(name)),
                Image::sound(16).backing(name, format).bytes,
            );
            // The two name each other.
            image.beside.push(("other", Image::sound(16).backing(b"img", "qcow2").bytes));
            crafted.push(image);
        }
        let image = Image::sound(16).data_file(&name[..name.len().min(64)]);
        crafted.push(Crafted::new(format!("data file {}", String::from_utf8_lossy(name)), image.bytes));
    }
    crafted
}

/// Files that are two things at once.
pub(crate) fn polyglots() -> Vec<Crafted> {
    let mut crafted = Vec::new();
    let mut with = |name: &str, at: u64, bytes: &[u8]| {
        let mut image = Image::sound(16);
        image.bytes.resize(1 << 20, 0);
        image.put(at, bytes);
        crafted.push(Crafted::new(name, image.bytes));
    };
    with("qcow2 and MBR", 510, &[0x55, 0xAA]);
    with("qcow2 and GPT", 512, b"EFI PART");
    with("qcow2 and ISO 9660", 0x8001, b"CD001");
    with("qcow2 and ext4", 1080, &[0x53, 0xEF]);
    let end = (1 << 20) - 512;
    with("qcow2 and VHD", end, b"conectix");
    let foreign: &[(&str, &[u8])] = &[
        ("VMDK", b"KDMV\x01\0\0\0"),
        ("VMDK's text", b"# Disk DescriptorFile\nversion=1\nRW 2048 FLAT \"/etc/passwd\" 0\n"),
        ("LUKS", b"LUKS\xba\xbe\0\x01"),
        ("VHDX", b"vhdxfile"),
        ("VHD", b"conectix"),
        ("QED", b"QED\0"),
        ("parallels", b"WithouFreSpacExt"),
        ("qcow", b"QFI\xfb\0\0\0\x01"),
    ];
    for (name, magic) in foreign {
        let mut bytes = vec![0; 1 << 20];
        bytes[..magic.len()].copy_from_slice(magic);
        crafted.push(Crafted::new(*name, bytes));
    }
    let mut vdi = vec![0; 1 << 20];
    vdi[64..68].copy_from_slice(&[0x7F, 0x10, 0xDA, 0xBE]);
    crafted.push(Crafted::new("VDI", vdi));
    crafted
}

/// Sound images with bytes changed at random where the tables are.
pub(crate) fn mutations(seed: u64, count: usize) -> Vec<Crafted> {
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..count)
        .map(|number| {
            let bits = [9, 12, 16][random(3) as usize];
            let mut image = Image::sound(bits);
            for _ in 0..=random(6) {
                let cluster = random(12);
                let at = if cluster == DATA { random(200) } else { image.at(cluster) + random(80) };
                let value = [0, 1, 0x7F, 0x80, 0xFF, random(256) as u8][random(6) as usize];
                image.put(at, &[value]);
            }
            Crafted::new(format!("{bits}: mutation {number} of {seed}"), image.bytes)
        })
        .collect()
}
