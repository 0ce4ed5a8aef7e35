//! Times as people read them.

/// Returns `seconds` since 1970 as date and time of day in UTC, as in `2026-01-31 23:59:58`.
#[must_use]
pub fn utc(seconds: i64) -> String {
    let days = seconds.div_euclid(DAY);
    let second = seconds.rem_euclid(DAY);
    let (year, month, day) = date(days);
    let (hour, minute) = (second.div_euclid(3600), second.rem_euclid(3600).div_euclid(60));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}", second.rem_euclid(60))
}

/// Returns year, month and day of the `days`th day after 1970-01-01 in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of its year; 400 years always have the same number of days.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(MARCH_0_TO_1970);
    let era = days.div_euclid(ERA);
    let day_of_era = days.rem_euclid(ERA);
    // The days without those that leap years have more; the last day of four years, a century and an era is a leap day.
    let leaps = day_of_era.div_euclid(1460).saturating_sub(day_of_era.div_euclid(36_524));
    let leaps = leaps.saturating_add(day_of_era.div_euclid(146_096));
    let year_of_era = day_of_era.saturating_sub(leaps).div_euclid(365);
    let before = year_of_era.saturating_mul(365).saturating_add(year_of_era.div_euclid(4));
    let day_of_year = day_of_era.saturating_sub(before.saturating_sub(year_of_era.div_euclid(100)));
    // Five months from March have 153 days, and so have the next five.
    let month = day_of_year.saturating_mul(5).saturating_add(2).div_euclid(153);
    let days_before_month = month.saturating_mul(153).saturating_add(2).div_euclid(5);
    let day = day_of_year.saturating_sub(days_before_month).saturating_add(1);
    let (month, next) = if month < 10 { (month.saturating_add(3), 0) } else { (month.saturating_sub(9), 1) };
    (era.saturating_mul(400).saturating_add(year_of_era).saturating_add(next), month, day)
}

/// Seconds.
const DAY: i64 = 86_400;
/// Days of 400 years.
const ERA: i64 = 146_097;
/// Days from the first of March of the year 0.
const MARCH_0_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_767_225_600, "2026-01-01 00:00:00"),
            (1_709_164_800, "2024-02-29 00:00:00"),
            (4_107_542_399, "2100-02-28 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
        ] {
            assert_eq!(utc(seconds), text, "{seconds}");
        }
    }
}
