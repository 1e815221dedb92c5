//! The template function `strftime_now`: today's date in the model's prompt. UTC, English names.

use strftime::Time;
use time::OffsetDateTime;

/// The codes of the C library, which the crate lays out as it does.
const CODES: &str = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%";
/// Widest field.
const MAX_WIDTH: usize = 1024;

/// `seconds` since 1970-01-01 00:00 UTC, laid out as `format` asks, as Python does it with the C library in its own language: every
/// code, the flags `- _ 0 ^ #` and widths. A time zone has no name and no offset, as where Python is not told one; codes that there
/// are none of stay as they are.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let moment = Moment(time.unwrap_or(OffsetDateTime::UNIX_EPOCH));
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out += &rest[..at];
        rest = &rest[at..];
        let (directive, code, end) = read(rest);
        match code {
            // Python's own: the C library has none for a second's parts, and would name the zone of this machine.
            Some('f') => out += "000000",
            Some('z' | 'Z') => {}
            Some(code) if CODES.contains(code) => {
                out += &strftime::string::strftime(&moment, &directive).unwrap_or(directive)
            }
            _ => out += &rest[..end],
        }
        rest = &rest[end..];
    }
    out + rest
}

/// The directive that `text`, which begins with a `%`, has first, as the crate understands it; its code, and where that is over.
fn read(text: &str) -> (String, Option<char>, usize) {
    let after = |from: usize, of: fn(char) -> bool| text[from..].find(|c| !of(c)).map_or(text.len(), |at| from + at);
    let flags_end = after(1, |c| "-_0^#".contains(c));
    let width_end = after(flags_end, |c| c.is_ascii_digit());
    // Other calendars and digits, of which there are none here.
    let modifier_end = after(width_end, |c| "EO".contains(c)).min(width_end + 1);
    let Some(code) = text[modifier_end..].chars().next() else { return (String::new(), None, text.len()) };
    // To the crate `-` undoes a width and `P` has another case.
    let width = match &text[flags_end..width_end] {
        "" => String::new(),
        digits => digits.parse().unwrap_or(MAX_WIDTH).min(MAX_WIDTH).to_string(),
    };
    let flag = |flag: char| match flag {
        '-' if !width.is_empty() => Some('_'),
        '^' | '#' if code == 'P' => None,
        flag => Some(flag),
    };
    let flags: String = text[1..flags_end].chars().filter_map(flag).collect();
    (format!("%{flags}{width}{code}"), Some(code), modifier_end + code.len_utf8())
}

/// A moment in UTC, to the second.
struct Moment(OffsetDateTime);

impl Time for Moment {
    fn year(&self) -> i32 {
        self.0.year()
    }

    fn month(&self) -> u8 {
        self.0.month().into()
    }

    fn day(&self) -> u8 {
        self.0.day()
    }

    fn hour(&self) -> u8 {
        self.0.hour()
    }

    fn minute(&self) -> u8 {
        self.0.minute()
    }

    fn second(&self) -> u8 {
        self.0.second()
    }

    fn nanoseconds(&self) -> u32 {
        0
    }

    fn day_of_week(&self) -> u8 {
        self.0.weekday().number_days_from_sunday()
    }

    fn day_of_year(&self) -> u16 {
        self.0.ordinal()
    }

    fn to_int(&self) -> i64 {
        self.0.unix_timestamp()
    }

    fn is_utc(&self) -> bool {
        true
    }

    fn utc_offset(&self) -> i32 {
        0
    }

    fn time_zone(&self) -> &str {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_ones_of_the_calendar() {
        let all = "%Y %y %m %d %e %H %I %M %S %p %j %B %b %A %a %F %T %% %q %";
        // date -u -d @1709210096 and so on.
        assert_eq!(
            strftime(all, 1_709_210_096),
            "2024 24 02 29 29 12 12 34 56 PM 060 February Feb Thursday Thu 2024-02-29 12:34:56 % %q %"
        );
        assert_eq!(strftime("%d %b %Y, %a %I %p", 0), "01 Jan 1970, Thu 12 AM");
        assert_eq!(strftime("%F %j", 4_102_444_799), "2099-12-31 365");
        assert_eq!(strftime("%F %a", 951_782_400), "2000-02-29 Tue");
        assert_eq!(strftime("%e %F", 4_107_542_400 + 86_400), " 2 2100-03-02");
    }

    #[test]
    fn codes_flags_and_widths_are_the_c_library_s() {
        for (format, want) in [
            ("%-d %-m %-H %_m %_j %-j", "29 2 12  2  60 60"),
            ("%03d|%5d|%-5d|%6Y|%_6Y", "029|00029|   29|002024|  2024"),
            ("%^a %^B %#p %p %#a %P", "THU FEBRUARY pm PM THU pm"),
            ("%10B|%-10B|%010B", "  February|  February|00February"),
            ("%C %D %g %G %h %k %l %R %r", "20 02/29/24 24 2024 Feb 12 12 12:34 12:34:56 PM"),
            ("%u %U %V %w %W %x %X %s", "4 08 09 4 09 02/29/24 12:34:56 1709210096"),
            ("%c|%#c|%^25c", "Thu Feb 29 12:34:56 2024|Thu Feb 29 12:34:56 2024| THU FEB 29 12:34:56 2024"),
            ("%j %-j %f %^P %-I%P %B %-d, %Y", "060 60 000000 pm 12pm February 29, 2024"),
            // Codes of other languages' that Python has not.
            ("%L %N %v %+ %q", "%L %N %v %+ %q"),
            ("[%Z%z%n%t]", "[\n\t]"),
            ("%Ey %Od %E %- %:z %\u{e9} 100%", "24 29 %E %- %:z %\u{e9} 100%"),
        ] {
            assert_eq!(strftime(format, 1_709_210_096), want, "{format}");
        }
        // Weeks at both ends of a year: 2021-01-01, 2024-12-30, 2020-12-31.
        assert_eq!(strftime("%G-%V %U %W", 1_609_459_200), "2020-53 00 00");
        assert_eq!(strftime("%G-%V %U %W", 1_735_516_800), "2025-01 52 53");
        assert_eq!(strftime("%G-%V", 1_609_372_800), "2020-53");
        assert_eq!(strftime("%99999999999d", 0).len(), MAX_WIDTH);
        assert_eq!(strftime("%-d %-m %-H:%M %j", 1_767_513_840), "4 1 8:04 004");
        // Further than the calendar goes.
        assert_eq!(strftime("%Y", u64::MAX), "1970");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let day = |days: u64| {
            let text = strftime("%Y %m %d", days * 86_400);
            let mut parts = text.split(' ').map(|part| part.parse::<u64>().unwrap());
            [(); 3].map(|()| parts.next().unwrap())
        };
        let mut before = day(0);
        for days in 1..200_000 {
            let today = day(days);
            let [year, month, date] = before;
            let next_day = today == [year, month, date + 1];
            let next_month = today == [year, month + 1, 1] && date >= 28;
            let next_year = today == [year + 1, 1, 1] && (month, date) == (12, 31);
            assert!(next_day || next_month || next_year, "{before:?} {today:?}");
            before = today;
        }
    }
}
