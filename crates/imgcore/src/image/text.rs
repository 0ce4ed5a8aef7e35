//! The text of `qemu-img info`.

use std::fmt;

use super::info::{Info, SnapshotInfo, Specific};

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image: {}", self.filename)?;
        writeln!(f, "file format: {}", self.format)?;
        writeln!(f, "virtual size: {} ({} bytes)", Bytes(self.virtual_size), self.virtual_size)?;
        writeln!(f, "disk size: {}", Taken(self.actual_size))?;
        if let Some(size) = self.cluster_size {
            writeln!(f, "cluster_size: {size}")?;
        }
        if self.dirty_flag {
            writeln!(f, "cleanly shut down: no")?;
        }
        if let Some(name) = &self.backing_filename {
            write!(f, "backing file: {name}")?;
            match &self.full_backing_filename {
                Some(full) if full != name => writeln!(f, " (actual path: {full})")?,
                _ => writeln!(f)?,
            }
            if let Some(format) = &self.backing_filename_format {
                writeln!(f, "backing file format: {format}")?;
            }
        }
        SnapshotList(&self.snapshots).fmt(f)?;
        if let Some(specific) = self.format_specific.as_ref().filter(|specific| specific.data.compat.is_some()) {
            writeln!(f, "Format specific information:")?;
            specific.data.fmt(f)?;
        }
        for child in &self.children {
            writeln!(f, "Child node '/{}':", child.name)?;
            writeln!(f, "    filename: {}", child.info.filename)?;
            writeln!(f, "    protocol type: {}", child.info.format)?;
            writeln!(f, "    file length: {} ({} bytes)", Bytes(child.info.virtual_size), child.info.virtual_size)?;
            writeln!(f, "    disk size: {}", Taken(child.info.actual_size))?;
        }
        Ok(())
    }
}

/// The text of `qemu-img snapshot -l`; nothing where there are no snapshots. Dates are in UTC.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotList<'a>(pub &'a [SnapshotInfo]);

impl fmt::Display for SnapshotList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        writeln!(f, "Snapshot list:")?;
        writeln!(f, "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT")?;
        self.0.iter().try_for_each(|snapshot| snapshot.fmt(f))
    }
}

impl fmt::Display for SnapshotInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, rest) = split(self.vm_clock_sec, 3600);
        let (minutes, seconds) = split(rest, 60);
        let (milliseconds, _) = split(self.vm_clock_nsec, 1_000_000);
        let clock = format!("{hours:04}:{minutes:02}:{seconds:02}.{milliseconds:03}");
        let size = Bytes(self.vm_state_size).to_string();
        let icount = self.icount.map_or("--".to_owned(), |icount| icount.to_string());
        let date = date(self.date_sec);
        writeln!(f, "{:<7} {:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}", self.id, self.name)
    }
}

impl fmt::Display for Specific {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: Option<String>| match value {
            Some(value) if value.is_empty() => writeln!(f, "    {name}:"),
            Some(value) => writeln!(f, "    {name}: {value}"),
            None => Ok(()),
        };
        line("compat", self.compat.clone())?;
        line("compression type", self.compression_type.clone())?;
        line("lazy refcounts", self.lazy_refcounts.map(|set| set.to_string()))?;
        if !self.bitmaps.is_empty() {
            line("bitmaps", Some(String::new()))?;
        }
        for (index, bitmap) in self.bitmaps.iter().enumerate() {
            line(&format!("    [{index}]"), Some(String::new()))?;
            line("        flags", Some(String::new()))?;
            for (index, flag) in bitmap.flags.iter().enumerate() {
                line(&format!("            [{index}]"), Some(flag.clone()))?;
            }
            line("        name", Some(bitmap.name.clone()))?;
            line("        granularity", Some(bitmap.granularity.to_string()))?;
        }
        line("refcount bits", self.refcount_bits.map(|bits| bits.to_string()))?;
        line("data file", self.data_file.clone())?;
        line("data file raw", self.data_file_raw.map(|set| set.to_string()))?;
        line("corrupt", self.corrupt.map(|set| set.to_string()))?;
        line("extended l2", self.extended_l2.map(|set| set.to_string()))
    }
}

/// What an image takes, where that is known.
struct Taken(Option<u64>);

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => Bytes(bytes).fmt(f),
            None => f.write_str("unavailable"),
        }
    }
}

/// A number of bytes with three digits, as qemu-img prints it: `448 KiB`, `1.5 GiB`.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        // The next unit from 1000 of one on, so that three digits are always enough.
        let mut unit = 0_usize;
        let mut divisor = 1_u128;
        while u128::from(self.0) >= divisor.saturating_mul(1000) && unit < 6 {
            unit = unit.saturating_add(1);
            divisor = divisor.saturating_mul(1024);
        }
        let decimals = match u128::from(self.0).checked_div(divisor).unwrap_or(0) {
            100.. => 0_usize,
            10..=99 => 1,
            1..=9 => 2,
            0 => 3,
        };
        let scale = 10_u128.saturating_pow(u32::try_from(decimals).unwrap_or(0));
        let digits = round(u128::from(self.0).saturating_mul(scale), divisor);
        let whole = digits.checked_div(scale).unwrap_or(0);
        let fraction = format!("{:0decimals$}", digits.checked_rem(scale).unwrap_or(0));
        let fraction = fraction.trim_end_matches('0');
        let name = UNITS.get(unit).copied().unwrap_or_default();
        if fraction.is_empty() { write!(f, "{whole} {name}") } else { write!(f, "{whole}.{fraction} {name}") }
    }
}

/// Returns the quotient, rounded to the nearest, and to even from the middle, as printf does.
fn round(value: u128, divisor: u128) -> u128 {
    let whole = value.checked_div(divisor).unwrap_or(0);
    let twice = value.checked_rem(divisor).unwrap_or(0).saturating_mul(2);
    let up = twice > divisor || (twice == divisor && !whole.is_multiple_of(2));
    whole.saturating_add(u128::from(up))
}

/// Returns the date and time of day, in UTC, of a second since the epoch.
fn date(seconds: u32) -> String {
    let (days, rest) = split(u64::from(seconds), 86400);
    let (hours, rest) = split(rest, 3600);
    let (minutes, seconds) = split(rest, 60);
    let (mut year, mut day) = (1970_u64, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= if leap(year) { 366 } else { 365 } {
        day = day.saturating_sub(if leap(year) { 366 } else { 365 });
        year = year.saturating_add(1);
    }
    let mut month = 1_u32;
    for length in [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day = day.saturating_sub(length);
        month = month.saturating_add(1);
    }
    let day = day.saturating_add(1);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}")
}

fn split(value: u64, unit: u64) -> (u64, u64) {
    (value.checked_div(unit).unwrap_or(0), value.checked_rem(unit).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{Bytes, date};

    #[test]
    fn sizes_have_three_digits_as_in_qemu_img() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1023, "0.999 KiB"),
            (221_184, "216 KiB"),
            (459_264, "448 KiB"),
            (10 << 20, "10 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(1_795_228_324), "2026-11-21 02:32:04");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59:59");
    }
}
