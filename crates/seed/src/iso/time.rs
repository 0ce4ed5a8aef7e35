use super::Error;

/// A moment in the two forms of ECMA-119, in UTC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Time {
    /// Of directory records: years since 1900, month, day, hour, minute, second, offset from UTC in quarters of an hour.
    pub(super) record: [u8; 7],
    /// Of descriptors: 16 digits from the year to hundredths of a second, and the offset.
    pub(super) descriptor: [u8; 17],
}

impl Time {
    /// Returns the moment `seconds` after the beginning of 1970.
    pub(super) fn new(seconds: i64) -> Result<Self, Error> {
        let failed = || Error::Time(seconds);
        let (year, month, day) = civil(seconds.div_euclid(DAY)).ok_or_else(failed)?;
        let rest = seconds.rem_euclid(DAY);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        let mut record = [0; 7];
        let fields = [year.checked_sub(1900).ok_or_else(failed)?, month, day, hour, minute, second];
        for (byte, field) in record.iter_mut().zip(fields) {
            *byte = u8::try_from(field).map_err(|_| failed())?;
        }
        let mut descriptor = [0; 17];
        let digits = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}00");
        for (byte, digit) in descriptor.iter_mut().zip(digits.bytes()) {
            *byte = digit;
        }
        Ok(Self { record, descriptor })
    }
}

/// Returns year, month and day of a number of days since the beginning of 1970, in the years that a record can state.
fn civil(days: i64) -> Option<(i64, i64, i64)> {
    let mut left = days;
    let mut year = 1970_i64;
    while left < 0 {
        year = year.checked_sub(1).filter(|year| *year >= 1900)?;
        left = left.checked_add(year_length(year))?;
    }
    while left >= year_length(year) {
        left = left.checked_sub(year_length(year))?;
        year = year.checked_add(1).filter(|year| *year <= 2155)?;
    }
    let february = year_length(year).checked_sub(337)?;
    for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if left < length {
            return Some((year, month, left.checked_add(1)?));
        }
        left = left.checked_sub(length)?;
    }
    None
}

fn year_length(year: i64) -> i64 {
    let leap = year.rem_euclid(4) == 0 && year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0;
    if leap { 366 } else { 365 }
}

const DAY: i64 = 86_400;

#[cfg(test)]
mod tests {
    use super::Time;

    #[test]
    fn moments_are_stated_in_utc() {
        for (seconds, digits) in [
            (0, "1970010100000000"),
            (951_782_400, "2000022900000000"),
            (1_767_225_599, "2025123123595900"),
            (-1, "1969123123595900"),
            (4_107_542_400, "2100030100000000"),
        ] {
            let time = Time::new(seconds).unwrap();
            assert_eq!(&time.descriptor[..16], digits.as_bytes());
            assert_eq!(time.record[0], u8::try_from(digits[..4].parse::<u32>().unwrap() - 1900).unwrap());
        }
        for seconds in [i64::MIN, i64::MAX, -3_000_000_000, 6_000_000_000] {
            assert!(Time::new(seconds).is_err());
        }
    }
}
