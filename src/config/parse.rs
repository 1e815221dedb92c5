//! From the text of one value to what it means. An error says what is allowed.

use stageline_base::sampling::Bounds;
use stageline_plan::Mix;
use stageline_shard::stranger::no_folder;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What a parser gives: the value, or what is allowed.
pub type Parsed<T> = Result<T, String>;

/// A whole number.
pub fn count<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Parsed<T> {
    move |text| {
        let number = text.replace('_', "").parse::<u64>().ok().filter(|n| range.contains(n));
        let number = number.and_then(|n| T::try_from(n).ok());
        number.ok_or_else(|| match (*range.start(), *range.end()) {
            (low, u64::MAX) => format!("a whole number from {low} is expected"),
            (low, high) => format!("a whole number from {low} to {high} is expected"),
        })
    }
}

/// A number, whole or not.
pub fn real(range: RangeInclusive<f32>) -> impl Fn(&str) -> Parsed<f32> {
    move |text| {
        let number = text.parse::<f32>().ok().filter(|n| range.contains(n));
        number.ok_or_else(|| format!("a number from {} to {} is expected", range.start(), range.end()))
    }
}

/// A number of how tokens are drawn.
pub fn within(bounds: Bounds) -> impl Fn(&str) -> Parsed<f32> {
    move |text| {
        let number = text.parse::<f32>().ok().filter(|n| bounds.hold(*n));
        number.ok_or_else(|| format!("a number {bounds} is expected"))
    }
}

/// One of a few words.
pub fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&str) -> Parsed<T> {
    move |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found.map(|(_, value)| *value).ok_or_else(|| format!("{} is expected", list.join(" or ")))
    }
}

/// `true` or `false`.
pub fn switch(text: &str) -> Parsed<bool> {
    word(&[("true", true), ("false", false)])(text)
}

/// Any text that is not empty.
pub fn text(text: &str) -> Parsed<String> {
    if text.is_empty() { Err("a text that is not empty is expected".into()) } else { Ok(text.into()) }
}

/// A number of bytes, at least 1: `65536`, `64KiB`, `2GB`.
pub fn bytes(text: &str) -> Parsed<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, size)| Some((text.strip_suffix(name)?, *size)))
        .unwrap_or((text.strip_suffix('B').unwrap_or(text), 1));
    let whole = number.trim().parse::<u64>().ok();
    let bytes = whole.and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    bytes.ok_or_else(|| "a number of bytes is expected, as in 65536, 64KiB or 2GB".into())
}

/// Bytes a stage: one value or more, with commas between.
pub fn bytes_list(text: &str) -> Parsed<Vec<u64>> {
    text.split(',').map(|part| bytes(part.trim())).collect()
}

/// Tokens of a usual prompt, and of its answer.
pub fn mix(text: &str) -> Parsed<Mix> {
    let expected =
        || format!("PROMPT:ANSWER is expected, each from 1 to {} tokens, as in {}", Mix::MOST, Mix::default());
    Mix::parse(text).ok_or_else(expected)
}

/// A time: whole seconds, or Go's form as OpenFaaS writes it (`1m30s`, `500ms`). At most a week.
pub fn duration(text: &str) -> Parsed<Duration> {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let allowed = || "a time of at most a week is expected: whole seconds, or as in 500ms, 30s or 1m30s".to_owned();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds)).filter(|d| *d <= WEEK).ok_or_else(allowed);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(allowed)?;
        let number: u64 = rest[..digits].parse().map_err(|_| allowed())?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("us", 0), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (unit, millis) = units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(allowed)?;
        rest = &rest[unit.len()..];
        let part = if millis == 0 {
            Duration::from_micros(number)
        } else {
            Duration::from_millis(number.checked_mul(millis).ok_or_else(allowed)?)
        };
        total = total.checked_add(part).ok_or_else(allowed)?;
    }
    Some(total).filter(|d| !text.is_empty() && *d <= WEEK).ok_or_else(allowed)
}

/// An address to listen on: host and port, or `:port` for every interface.
pub fn address(text: &str) -> Parsed<SocketAddr> {
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    let found = whole.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| "an address is expected, as in 0.0.0.0:8080, [::1]:8080 or :8080".into())
}

/// URLs of NATS servers of one cluster, with commas between; `nats://` may be left out.
pub fn nats_urls(text: &str) -> Parsed<Vec<String>> {
    let one = |part: &str| {
        let part = part.trim();
        let (scheme, rest) = part.split_once("://").unwrap_or(("nats", part));
        let host = rest.rsplit('@').next().unwrap_or(rest);
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        let good = matches!(scheme, "nats" | "tls")
            && !host.is_empty()
            && !host.starts_with(':')
            && !host.contains(|c: char| c == '/' || c.is_whitespace())
            && port.is_none_or(|port| port.parse::<u16>().is_ok());
        good.then(|| format!("{scheme}://{rest}"))
    };
    let all: Option<Vec<String>> = text.split(',').map(one).collect();
    all.ok_or_else(|| "URLs of NATS servers are expected, as in nats://host:4222 or tls://host:4222".into())
}

/// The host, with its port if there is one, of a URL that [`nats_urls`] has read.
pub fn nats_host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit('@').next().unwrap_or(rest)
}

/// Whether a host, with a port or without, means this host by the loopback.
pub fn is_loopback(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && (name.ends_with(']') || !name.contains(':')) => name,
        _ => host,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A name that OpenFaaS and Kubernetes take for a function, as a manifest's must be.
pub fn name(text: &str) -> Parsed<String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (1..=63).contains(&text.len())
        && text.chars().all(|c| legal(c) || c == '-')
        && text.starts_with(legal)
        && text.ends_with(legal);
    let allowed = "1 to 63 of a-z, 0-9 and - are expected, with no - at either end";
    if good { Ok(text.into()) } else { Err(allowed.into()) }
}

/// A folder that is there.
pub fn folder(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    let is_word = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric()) && !part.contains('/');
    if path.is_dir() {
        Ok(path)
    } else if path.is_file() {
        Err(format!("it {}", no_folder(&path)))
    } else if text.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name)) {
        let fetch = format!("`hf download {text} --local-dir FOLDER`");
        Err(format!("there is no such folder; if that is a model on a hub, fetch it first: {fetch}"))
    } else {
        Err("there is no such folder".into())
    }
}

/// A file that is there.
pub fn file(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_file() { Ok(path) } else { Err("there is no such file".into()) }
}

/// A path that need not be there yet.
pub fn path(text: &str) -> Parsed<PathBuf> {
    self::text(text).map(PathBuf::from)
}

/// What may be logged: `EnvFilter`'s rules.
pub fn log_rules(text: &str) -> Parsed<String> {
    let rules = tracing_subscriber::EnvFilter::builder().parse(text);
    match rules {
        Ok(_) if !text.is_empty() => Ok(text.into()),
        _ => Err("error, warn, info, debug, trace or rules as in info,stageline::transport=debug are expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_none_is_told_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("m.gguf");
        std::fs::write(&file, "GGUF").unwrap();
        assert!(folder(root.path().to_str().unwrap()).is_ok());
        assert!(folder(file.to_str().unwrap()).unwrap_err().starts_with("it is not a folder: it is a GGUF file"));
        assert!(folder("no-such-org/model-1B").unwrap_err().contains("hf download no-such-org/model-1B"));
        for bad in ["nowhere", "/no/such", "./no-such", "../no-such", "a/b/c"] {
            assert_eq!(folder(bad).unwrap_err(), "there is no such folder", "{bad}");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert_eq!(count::<u32>(1..=1024)("1_024"), Ok(1024));
        for bad in ["0", "1025", "-1", "1.5", "", "one", "99999999999999999999"] {
            assert_eq!(count::<u32>(1..=1024)(bad), Err("a whole number from 1 to 1024 is expected".into()), "{bad}");
        }
        assert_eq!(real(0.0..=1.0)("0.25"), Ok(0.25));
        for bad in ["NaN", "inf", "-0.1", "1.1", ""] {
            assert!(real(0.0..=1.0)(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_take_units_and_never_overflow() {
        for (text, want) in [("65536", 65536), ("64KiB", 65536), ("2GB", 2_000_000_000), ("8 GiB", 8 << 30), ("7B", 7)]
        {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for bad in ["", "0", "KiB", "-1", "1.5GiB", "20000000TiB", "12 parsecs"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes_list("1KiB, 2KiB"), Ok(vec![1024, 2048]));
        assert!(bytes_list("1KiB,").is_err());
    }

    #[test]
    fn durations_are_seconds_or_go_text() {
        for (text, millis) in
            [("0", 0), ("30", 30_000), ("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        for bad in ["", "s", "1x", "-1s", "1m30", "99999999999999999999s", "18446744073709551615h", "169h", "604801"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_and_urls() {
        assert_eq!(address(":8080"), Ok("0.0.0.0:8080".parse().unwrap()));
        assert_eq!(address("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        for bad in ["", "8080", "1.2.3.4", "1.2.3.4:99999"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        let urls = nats_urls("a:4222, tls://user:pw@b, nats://[::1]:4222").unwrap();
        assert_eq!(urls, ["nats://a:4222", "tls://user:pw@b", "nats://[::1]:4222"]);
        for bad in ["", "http://a", "nats://", "a:port", "nats://a/b", ":4222", "a,,b"] {
            assert!(nats_urls(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_loopback_is_told_from_other_hosts() {
        for here in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:4222", "[::1]:4222", "::1"] {
            assert!(is_loopback(here), "{here}");
        }
        for there in ["nats", "nats:4222", "10.0.0.1:4222", "0.0.0.0:0", "[::]:1", "localhost.example:1", ""] {
            assert!(!is_loopback(there), "{there}");
        }
        for (url, host) in [("nats://a:4222", "a:4222"), ("tls://user:p@w@[::1]:1", "[::1]:1")] {
            assert_eq!(nats_host(url), host);
        }
    }

    #[test]
    fn names_are_those_of_functions() {
        assert_eq!(name("smollm2-135m"), Ok("smollm2-135m".into()));
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn log_rules_are_checked() {
        assert!(log_rules("info,stageline::transport=debug").is_ok());
        for bad in ["", "info,=", "stageline=loud"] {
            assert!(log_rules(bad).is_err(), "{bad}");
        }
    }
}
