//! Instants as records carry them: RFC 3339 with an offset, exact to the nanosecond.
//!
//! Texts of RFC 3339 do not sort (`…43.500Z` is before `…43Z` as text), so stamps are compared as numbers.

use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::Offset;

/// Nanoseconds since the Unix epoch of an RFC 3339 `date-time`; `None` where it is none. Digits beyond the ninth are
/// dropped, and second 60 is the one after 59.
#[must_use]
pub fn nanoseconds(text: &str) -> Option<i128> {
    if !text.is_ascii() {
        return None;
    }
    let (date, rest) = text.split_at_checked(10)?;
    let date = date_of(date)?;
    let rest = rest.strip_prefix(['T', 't'])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let c = clock.as_bytes();
    if c[2] != b':' || c[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (digits(&clock[..2])?, digits(&clock[3..5])?, digits(&clock[6..])?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let n = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (digit, zone) = rest.split_at(n);
            if n == 0 {
                return None;
            }
            (format!("{digit:0<9}")[..9].parse::<i128>().ok()?, zone)
        }
    };
    let offset = offset_minutes(zone)?;
    let seconds = date.duration_since(EPOCH).as_secs() + hour * 3600 + minute * 60 + second - offset * 60;
    Some(i128::from(seconds) * 1_000_000_000 + fraction)
}

/// The date of a `date-time` as it is written, in its own offset.
#[must_use]
pub fn date_as_written(text: &str) -> Option<&str> {
    nanoseconds(text)?;
    text.get(..10)
}

/// The date in UTC of an instant; that of the last or first one that there is a date of where a clock stands beyond.
#[must_use]
pub fn date_of_ms(ms: i64) -> String {
    let last = if ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let at = Timestamp::from_millisecond(ms).unwrap_or(last);
    Offset::UTC.to_datetime(at).date().to_string()
}

const EPOCH: Date = date(1970, 1, 1);

/// Zone `Z` or `±hh:mm`, in minutes.
fn offset_minutes(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

fn date_of(date: &str) -> Option<Date> {
    let b = date.as_bytes();
    if b[4] != b'-' || b[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(date.get(..4)?)?, digits(date.get(5..7)?)?, digits(date.get(8..)?)?);
    Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

fn digits(s: &str) -> Option<i64> {
    s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.5z", -500_000_000),
            ("2026-11-30T14:17:04.941127157Z", 1_796_048_224_941_127_157),
            ("2026-06-01T00:30:00+09:00", 1_780_241_400_000_000_000),
            ("2026-05-31t15:30:00.000000000999Z", 1_780_241_400_000_000_000),
            ("2000-02-29T23:59:60-00:30", 951_870_600_000_000_000),
        ] {
            assert_eq!(nanoseconds(text), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "yesterday",
            "2026-06-22",
            "2026-06-22T10:43:11",
            "2026-06-22 10:43:11Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-06-31T00:00:00Z",
            "2026-06-22T24:00:00Z",
            "2026-06-22T10:43:11.Z",
            "2026-06-22T10:43:11+0900",
            "2026-06-22T10:43:11+24:00",
            "２０２６-06-22T10:43:11Z",
            "2026-06-22T1é:43:11Z",
        ] {
            assert_eq!(nanoseconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dates_are_as_written_and_round_trip() {
        assert_eq!(date_as_written("2026-06-01T00:30:00+09:00"), Some("2026-06-01"));
        assert_eq!(date_as_written("2026-06-01"), None);
        for day in (-719_528..2_932_896).step_by(37) {
            let at = format!("{}T00:00:00Z", date_of_ms(day * 86_400_000));
            assert_eq!(nanoseconds(&at), Some(i128::from(day) * 86_400_000_000_000), "{at}");
        }
        assert_eq!(date_of_ms(1_796_048_224_941), "2026-11-30");
        assert_eq!(date_of_ms(-1), "1969-12-31");
    }
}
