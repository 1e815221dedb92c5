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

/// `seconds` since 1970-01-01 00:00 UTC, laid out as `format` asks: `%Y %y %m %d %e %H %I %M %S %p %j %B %b %A %a %F %T %%`; other
/// letters stay as they are.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[((days + 4) % 7) as usize];
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        let code = if letter == '%' { letters.next() } else { None };
        out += &match code {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('j') => format!("{:03}", days - days_before(year, 1) + 1),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_string(),
            Some(other) => format!("%{other}"),
            None => letter.to_string(),
        };
    }
    out
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
