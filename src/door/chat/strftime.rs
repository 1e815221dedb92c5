//! The template function `strftime_now`: today's date in the model's prompt. UTC, English names.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `seconds` since 1970-01-01 00:00 UTC, laid out as `format` asks, as the C library does it in its own language: every code, the
/// flags `- _ 0 ^ #` and widths. A time zone has no name and no offset, as where Python is not told one; codes that there are none
/// of stay as they are.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let moment = Moment::of(seconds);
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out += &rest[..at];
        rest = &rest[at..];
        let (field, code, end) = Field::read(rest);
        match code.and_then(|code| moment.part(code)) {
            Some(part) => out += &field.laid_out(part),
            None => out += &rest[..end],
        }
        rest = &rest[end..];
    }
    out + rest
}

/// What stands between a `%` and its code.
#[derive(Default)]
struct Field {
    /// `-`, `_` or `0`.
    fill: Option<char>,
    upper: bool,
    other_case: bool,
    width: Option<usize>,
}

impl Field {
    /// What `text`, which begins with a `%`, has before its code, the code, and where that is over.
    fn read(text: &str) -> (Self, Option<char>, usize) {
        let mut field = Self::default();
        let mut letters = text.char_indices().skip(1).peekable();
        while let Some((_, flag)) = letters.next_if(|(_, c)| "-_0^#".contains(*c)) {
            match flag {
                '^' => field.upper = true,
                '#' => field.other_case = true,
                fill => field.fill = Some(fill),
            }
        }
        while let Some((_, digit)) = letters.next_if(|(_, c)| c.is_ascii_digit()) {
            let digit = digit as usize - '0' as usize;
            field.width = Some((field.width.unwrap_or(0) * 10 + digit).min(MAX_WIDTH));
        }
        // Other calendars and digits, of which there are none here.
        let _ = letters.next_if(|(_, c)| "EO".contains(*c));
        match letters.next() {
            Some((at, code)) => (field, Some(code), at + code.len_utf8()),
            None => (field, None, text.len()),
        }
    }

    fn laid_out(&self, part: Part) -> String {
        let (text, digits, fill) = match part {
            Part::Number(value, digits, fill) => (value.to_string(), digits, fill),
            Part::Text(text) if self.upper || self.other_case => (text.to_uppercase(), 0, ' '),
            Part::Half(text) if self.other_case => (text.to_lowercase(), 0, ' '),
            Part::Text(text) | Part::Half(text) => (text, 0, ' '),
        };
        let (fill, digits) = match self.fill {
            Some('-') => (' ', 0),
            Some('0') => ('0', digits),
            Some(_) => (' ', digits),
            None => (fill, digits),
        };
        let missing = self.width.unwrap_or(digits).saturating_sub(text.chars().count());
        fill.to_string().repeat(missing) + &text
    }
}

/// Widest field.
const MAX_WIDTH: usize = 1024;

/// A part of a moment.
enum Part {
    /// A number, its digits, and what stands before it if it has fewer.
    Number(u64, usize, char),
    Text(String),
    /// Half of a day, which has a case of its own.
    Half(String),
}

/// A moment, by the calendar and the clock.
struct Moment {
    seconds: u64,
    year: u64,
    month: u64,
    day: u64,
    /// Days since the year began.
    year_day: u64,
    /// Days since Sunday.
    week_day: u64,
}

impl Moment {
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let (year, month, day) = civil(days);
        Self { seconds, year, month, day, year_day: days - days_before(year, 1), week_day: (days + 4) % 7 }
    }

    fn part(&self, code: char) -> Option<Part> {
        let second = self.seconds % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (half_hour, noon) = ((hour + 11) % 12 + 1, if hour < 12 { "AM" } else { "PM" });
        let two = |value: u64| Some(Part::Number(value, 2, '0'));
        let text = |text: String| Some(Part::Text(text));
        let all = |format: &str| text(strftime(format, self.seconds));
        let month = MONTHS[self.month as usize - 1];
        let day = DAYS[self.week_day as usize];
        match code {
            'Y' => Some(Part::Number(self.year, 4, '0')),
            'G' => Some(Part::Number(self.week().0, 4, '0')),
            'C' => two(self.year / 100),
            'y' => two(self.year % 100),
            'g' => two(self.week().0 % 100),
            'm' => two(self.month),
            'd' => two(self.day),
            'e' => Some(Part::Number(self.day, 2, ' ')),
            'H' => two(hour),
            'I' => two(half_hour),
            'k' => Some(Part::Number(hour, 2, ' ')),
            'l' => Some(Part::Number(half_hour, 2, ' ')),
            'M' => two(minute),
            'S' => two(second),
            'f' => Some(Part::Number(0, 6, '0')),
            's' => Some(Part::Number(self.seconds, 1, '0')),
            'j' => Some(Part::Number(self.year_day + 1, 3, '0')),
            'u' => Some(Part::Number((self.week_day + 6) % 7 + 1, 1, '0')),
            'w' => Some(Part::Number(self.week_day, 1, '0')),
            'U' => two((self.year_day + 7 - self.week_day) / 7),
            'W' => two((self.year_day + 7 - (self.week_day + 6) % 7) / 7),
            'V' => two(self.week().1),
            'p' => Some(Part::Half(noon.into())),
            'P' => Some(Part::Half(noon.to_lowercase())),
            'B' => text(month.into()),
            'b' | 'h' => text(month[..3].into()),
            'A' => text(day.into()),
            'a' => text(day[..3].into()),
            'c' => all("%a %b %e %H:%M:%S %Y"),
            'D' | 'x' => all("%m/%d/%y"),
            'F' => all("%Y-%m-%d"),
            'R' => all("%H:%M"),
            'r' => all("%I:%M:%S %p"),
            'T' | 'X' => all("%H:%M:%S"),
            'Z' | 'z' => text(String::new()),
            'n' => text("\n".into()),
            't' => text("\t".into()),
            '%' => text("%".into()),
            _ => None,
        }
    }

    /// The year that its week belongs to, and the week's number in it: the first has the year's first Thursday.
    fn week(&self) -> (u64, u64) {
        let since_monday = (self.week_day + 6) % 7;
        let length = |year: u64| days_before(year + 1, 1) - days_before(year, 1);
        let thursday = self.year_day + 3;
        match thursday.checked_sub(since_monday) {
            None => {
                let before = self.year - 1;
                (before, (thursday + length(before) - since_monday) / 7 + 1)
            }
            Some(thursday) if thursday >= length(self.year) => (self.year + 1, 1),
            Some(thursday) => (self.year, thursday / 7 + 1),
        }
    }
}

/// Days from 1970-01-01 to the first day of `month` of `year`, in the Gregorian calendar.
fn days_before(year: u64, month: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let leap = leaps(year) - leaps(year - 1);
    let lengths = [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_year: u64 = lengths[..month as usize - 1].iter().sum();
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + in_year
}

/// Year, month and day of the month, `days` after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // A year has at least 365 days: the first guess is never too early.
    let mut year = 1970 + days / 365;
    while days_before(year, 1) > days {
        year -= 1;
    }
    let month = (1..=12).rev().find(|month| days_before(year, *month) <= days).unwrap_or(1);
    (year, month, days - days_before(year, month) + 1)
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
            ("%c", "Thu Feb 29 12:34:56 2024"),
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
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil(0);
        for days in 1..200_000 {
            let today = civil(days);
            let next_day = today == (before.0, before.1, before.2 + 1);
            let next_month = today == (before.0, before.1 + 1, 1) && before.2 >= 28;
            let next_year = today == (before.0 + 1, 1, 1) && before.1 == 12 && before.2 == 31;
            assert!(next_day || next_month || next_year, "{before:?} {today:?}");
            before = today;
        }
    }
}
