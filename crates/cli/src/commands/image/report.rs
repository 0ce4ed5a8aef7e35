//! What `vmimg image info` prints, in qemu-img's JSON and in its text.

use serde::Serialize;

use crate::time::utc;

/// An image, with the fields of QEMU's `ImageInfo`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ImageReport {
    pub(super) children: Vec<Child>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backing_filename_format: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) snapshots: Vec<SnapshotReport>,
    pub(super) virtual_size: u64,
    pub(super) filename: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster_size: Option<u64>,
    pub(super) format: String,
    pub(super) actual_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) format_specific: Option<Specific>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) encrypted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) full_backing_filename: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backing_filename: Option<String>,
    pub(super) dirty_flag: bool,
}

/// The storage below an image.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Child {
    pub(super) name: &'static str,
    pub(super) info: ChildInfo,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ChildInfo {
    pub(super) children: [(); 0],
    pub(super) virtual_size: u64,
    pub(super) filename: String,
    pub(super) format: &'static str,
    pub(super) actual_size: u64,
    pub(super) format_specific: FileSpecific,
    pub(super) dirty_flag: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct FileSpecific {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) data: Empty,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Empty {}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SnapshotReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) icount: Option<u64>,
    pub(super) vm_clock_nsec: u64,
    pub(super) name: String,
    pub(super) date_sec: u32,
    pub(super) date_nsec: u32,
    pub(super) vm_clock_sec: u64,
    pub(super) id: String,
    pub(super) vm_state_size: u64,
}

/// What only one format has.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub(super) enum Specific {
    Qcow2(Qcow2Report),
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Qcow2Report {
    pub(super) compat: &'static str,
    pub(super) compression_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lazy_refcounts: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bitmaps: Vec<BitmapReport>,
    pub(super) refcount_bits: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_file_raw: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) corrupt: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extended_l2: Option<bool>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct BitmapReport {
    pub(super) flags: Vec<&'static str>,
    pub(super) name: String,
    pub(super) granularity: u64,
}

impl ImageReport {
    /// Returns the report as qemu-img writes it for people, line by line.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            format!("image: {}", self.filename),
            format!("file format: {}", self.format),
            format!("virtual size: {} ({} bytes)", size_text(self.virtual_size), self.virtual_size),
            format!("disk size: {}", size_text(self.actual_size)),
        ];
        if self.encrypted == Some(true) {
            lines.push("encrypted: yes".to_owned());
        }
        lines.extend(self.cluster_size.map(|size| format!("cluster_size: {size}")));
        if self.dirty_flag {
            lines.push("cleanly shut down: no".to_owned());
        }
        if let Some(name) = &self.backing_filename {
            let full = self.full_backing_filename.as_ref();
            let actual = match full {
                Some(full) if full != name => format!(" (actual path: {full})"),
                Some(_) => String::new(),
                None => " (cannot determine actual path)".to_owned(),
            };
            lines.push(format!("backing file: {name}{actual}"));
            lines.extend(self.backing_filename_format.iter().map(|format| format!("backing file format: {format}")));
        }
        if !self.snapshots.is_empty() {
            lines.push("Snapshot list:".to_owned());
            lines.push(SNAPSHOT_HEADING.to_owned());
            lines.extend(self.snapshots.iter().map(SnapshotReport::line));
        }
        if let Some(Specific::Qcow2(qcow2)) = &self.format_specific {
            lines.push("Format specific information:".to_owned());
            lines.extend(qcow2.lines().into_iter().map(|line| format!("    {line}")));
        }
        for Child { name, info } in &self.children {
            lines.push(format!("Child node '/{name}':"));
            lines.push(format!("    filename: {}", info.filename));
            lines.push(format!("    protocol type: {}", info.format));
            lines.push(format!("    file length: {} ({} bytes)", size_text(info.virtual_size), info.virtual_size));
            lines.push(format!("    disk size: {}", size_text(info.actual_size)));
        }
        lines.join("\n") + "\n"
    }
}

impl SnapshotReport {
    fn line(&self) -> String {
        let seconds = self.vm_clock_sec;
        let (hours, minutes) = (seconds.div_euclid(3600), seconds.rem_euclid(3600).div_euclid(60));
        let clock =
            format!("{hours:04}:{minutes:02}:{:02}.{:03}", seconds.rem_euclid(60), self.vm_clock_nsec.div_euclid(1_000_000));
        let icount = self.icount.map_or("--".to_owned(), |icount| icount.to_string());
        let (size, date) = (size_text(self.vm_state_size), utc(self.date_sec.into()));
        format!("{:<7} {:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}", self.id, self.name)
    }
}

impl Qcow2Report {
    fn lines(&self) -> Vec<String> {
        let switch = |name: &str, value: Option<bool>| value.map(|value| format!("{name}: {value}"));
        let mut lines = vec![format!("compat: {}", self.compat), format!("compression type: {}", self.compression_type)];
        lines.extend(switch("lazy refcounts", self.lazy_refcounts));
        if !self.bitmaps.is_empty() {
            lines.push("bitmaps:".to_owned());
        }
        for (index, bitmap) in self.bitmaps.iter().enumerate() {
            lines.push(format!("    [{index}]:"));
            lines.push("        flags:".to_owned());
            let flags = bitmap.flags.iter().enumerate();
            lines.extend(flags.map(|(index, flag)| format!("            [{index}]: {flag}")));
            lines.push(format!("        name: {}", bitmap.name));
            lines.push(format!("        granularity: {}", bitmap.granularity));
        }
        lines.push(format!("refcount bits: {}", self.refcount_bits));
        lines.extend(self.data_file.iter().map(|name| format!("data file: {name}")));
        lines.extend(switch("data file raw", self.data_file_raw));
        lines.extend(switch("corrupt", self.corrupt));
        lines.extend(switch("extended l2", self.extended_l2));
        lines
    }
}

/// Returns `bytes` with three significant digits at most, as qemu-img rounds them: `1.95 GiB`, `196 KiB`, `0.977 MiB`.
pub(super) fn size_text(bytes: u64) -> String {
    let mut shift = 0_u32;
    let mut unit = 0_usize;
    // Four digits before the point are never shown.
    while u128::from(bytes) >= 1000_u128 << shift {
        shift = shift.saturating_add(10);
        unit = unit.saturating_add(1);
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].get(unit).copied().unwrap_or("EiB");
    let whole = u128::from(bytes) >> shift;
    let decimals: u32 = match whole {
        0 if bytes == 0 || shift == 0 => 0,
        0 => 3,
        1..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    let number = u128::from(bytes).saturating_mul(10_u128.saturating_pow(decimals));
    let (low, half) = (number & (1_u128 << shift).saturating_sub(1), (1_u128 << shift) >> 1);
    let mut digits = number >> shift;
    // The nearest, and of two equally near the even one.
    if shift > 0 && (low > half || (low == half && digits & 1 == 1)) {
        digits = digits.saturating_add(1);
    }
    let scale = 10_u128.saturating_pow(decimals);
    let (whole, fraction) = (digits.div_euclid(scale), digits.rem_euclid(scale));
    let width = usize::try_from(decimals).unwrap_or_default();
    let fraction = format!("{fraction:0width$}");
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{whole} {name}") } else { format!("{whole}.{fraction} {name}") }
}

const SNAPSHOT_HEADING: &str = "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT";

#[cfg(test)]
mod tests {
    use super::{SNAPSHOT_HEADING, SnapshotReport, size_text};

    #[test]
    fn sizes_have_three_significant_digits_as_in_qemu_img() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (197_120, "192 KiB"),
            (10 << 20, "10 MiB"),
            (3 << 29, "1.5 GiB"),
            (2_093_796_556, "1.95 GiB"),
            ((100 << 10) + 512, "100 KiB"),
            ((101 << 10) + 512, "102 KiB"),
            (1 << 62, "4 EiB"),
        ] {
            assert_eq!(size_text(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_snapshot_lines_up_with_the_heading() {
        let snapshot = SnapshotReport {
            icount: Some(0),
            vm_clock_nsec: 0,
            name: "s1".to_owned(),
            date_sec: 1_795_228_204,
            date_nsec: 0,
            vm_clock_sec: 0,
            id: "1".to_owned(),
            vm_state_size: 0,
        };
        let line = "1       s1                    0 B 2026-11-21 02:30:04  0000:00:00.000          0";
        assert_eq!(snapshot.line(), line);
        assert_eq!(line.len(), SNAPSHOT_HEADING.len());
    }
}
