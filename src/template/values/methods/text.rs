//! The methods of strings, which count in characters.

use super::super::arguments::{Args, int, needed, printed, size, text as text_of, used};
use super::super::budget::{Budget, Draft};
use super::super::format;
use super::super::value::{Kind, Value};
use super::letters::is_space;
use super::letters::{capitalized, is, swapped, titled};
use crate::error::Error;

/// Every method.
const NAMES: &str = "capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha \
    isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join \
    ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit \
    rstrip split splitlines startswith strip swapcase title upper zfill";

/// Whether strings have the method `name`.
pub(crate) fn exists(name: &str) -> bool {
    NAMES.split(' ').any(|known| known == name)
}

/// `text.name(args)`.
pub(crate) fn call(text: &str, name: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    budget.look(text.len())?;
    match name {
        "lower" | "upper" | "casefold" | "capitalize" | "title" | "swapcase" => {
            let [] = args.bind(name, [])?;
            // A character may become three.
            budget.take(3 * text.len())?;
            let cased = match name {
                "upper" => text.to_uppercase(),
                "capitalize" => capitalized(text),
                "title" => titled(text),
                "swapcase" => swapped(text),
                "casefold" => text.to_lowercase().replace('\u{df}', "ss"),
                _ => text.to_lowercase(),
            };
            budget.text(&cased)
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            budget.text(stripped(text, name, chars.as_ref(), budget)?)
        }
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            let most = usize::try_from(int(most.as_ref(), -1)?).unwrap_or(usize::MAX);
            split(text, separator, most, name == "rsplit", budget)
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let lines = lines(text, keep.is_some_and(|keep| keep.is_true()), budget)?;
            texts(lines, Kind::List, budget)
        }
        "startswith" | "endswith" => {
            let [part, start, end] = args.bind(name, ["prefix", "start", "end"])?;
            let part = needed(part, name, "prefix")?;
            let (window, _) = window(text, start.as_ref(), end.as_ref())?;
            let Some(window) = window else { return Ok(Value::Bool(false)) };
            let mut found = false;
            let single = std::slice::from_ref(&part);
            let parts = match &part {
                Value::List(list) if list.kind == Kind::Tuple => list.items.as_slice(),
                _ => single,
            };
            for part in parts {
                let part = text_of(Some(part), "startswith first arg")?;
                budget.look(part.len())?;
                found |= if name == "startswith" { window.starts_with(part) } else { window.ends_with(part) };
            }
            Ok(Value::Bool(found))
        }
        "removeprefix" | "removesuffix" => {
            let [part] = args.bind(name, ["prefix"])?;
            let part = text_of(part.as_ref(), "the argument")?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            budget.text(rest.unwrap_or(text))
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let count = usize::try_from(int(count.as_ref(), -1)?).unwrap_or(usize::MAX);
            let (old, new) =
                (text_of(old.as_ref(), "replace() argument 1")?, text_of(new.as_ref(), "replace() argument 2")?);
            replaced(text, old, new, count, budget)
        }
        "join" => {
            let [items] = args.bind(name, ["iterable"])?;
            let items = needed(items, name, "iterable")?.iterate(budget)?;
            let mut out = Draft::new(budget);
            for (i, item) in items.items.iter().enumerate() {
                used(item)?;
                let Value::Text(item) = item else {
                    let of = item.type_name();
                    return Err(Error::invalid(format!("sequence item {i}: expected str instance, {of} found")));
                };
                out.push(if i == 0 { "" } else { text })?;
                out.push(item)?;
            }
            out.value()
        }
        "partition" | "rpartition" => {
            let [separator] = args.bind(name, ["sep"])?;
            let separator = text_of(separator.as_ref(), "the separator")?;
            if separator.is_empty() {
                return Err(Error::invalid("empty separator"));
            }
            let parts = match name {
                "partition" => text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b]),
                _ => text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b]),
            };
            texts(parts, Kind::Tuple, budget)
        }
        "count" | "find" | "rfind" | "index" | "rindex" => search(text, name, args, budget),
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = args.bind(name, ["width", "fillchar"])?;
            padded(text, name, size(width.as_ref(), 0)?, fill, budget)
        }
        "expandtabs" => {
            let [width] = args.bind(name, ["tabsize"])?;
            expanded(text, size(width.as_ref(), 8)?, budget)
        }
        "format" => format::braces(text, &args, budget),
        "format_map" => {
            let [map] = args.bind(name, ["mapping"])?;
            let Some(Value::Dict(dict)) = map else { return Err(Error::invalid("format_map needs a dict")) };
            let named = dict.entries.iter().filter_map(|(key, value)| match key {
                Value::Text(key) => Some((key.clone(), value.clone())),
                _ => None,
            });
            format::braces(text, &Args { positional: Vec::new(), named: named.collect() }, budget)
        }
        _ => {
            let [] = args.bind(name, [])?;
            Ok(Value::Bool(is(text, name)))
        }
    }
}

/// `text` without the characters at its ends that `method` takes.
pub(crate) fn stripped<'t>(
    text: &'t str,
    method: &str,
    chars: Option<&Value>,
    budget: &Budget,
) -> Result<&'t str, Error> {
    let chars = match chars {
        None | Some(Value::None) => None,
        some => Some(text_of(some, "strip arg")?),
    };
    if let Some(chars) = chars {
        // Each character is looked up in the set: not more of them than pay for it.
        budget.step(chars.len() / 8)?;
        budget.look(text.len().saturating_mul(1 + chars.len() / 8))?;
    }
    let taken = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(match method {
        "strip" => text.trim_matches(taken),
        "lstrip" => text.trim_start_matches(taken),
        _ => text.trim_end_matches(taken),
    })
}

fn texts<'t>(parts: impl IntoIterator<Item = &'t str>, kind: Kind, budget: &Budget) -> Result<Value, Error> {
    let parts = parts.into_iter().map(|part| budget.text(part)).collect::<Result<_, _>>()?;
    budget.sequence(kind, parts)
}

fn split(text: &str, separator: Option<Value>, most: usize, back: bool, budget: &Budget) -> Result<Value, Error> {
    let most = most.saturating_add(1);
    let mut parts: Vec<&str> = Vec::new();
    match separator {
        Some(Value::Text(separator)) => {
            if separator.is_empty() {
                return Err(Error::invalid("empty separator"));
            }
            let mut take = |part| {
                budget.take(size_of::<&str>())?;
                parts.push(part);
                Ok(())
            };
            match back {
                false => text.splitn(most, &*separator).try_for_each(&mut take)?,
                true => text.rsplitn(most, &*separator).try_for_each(&mut take)?,
            }
        }
        None | Some(Value::None) => {
            let mut rest = text;
            loop {
                rest = if back { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
                if rest.is_empty() {
                    break;
                }
                budget.take(size_of::<&str>())?;
                let more = parts.len() + 1 < most;
                let end = if back { rest.rfind(is_space) } else { rest.find(is_space) };
                let (part, others) = match end.filter(|_| more) {
                    Some(at) if back => {
                        let behind = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                        (&rest[behind..], &rest[..at])
                    }
                    Some(at) => rest.split_at(at),
                    None => (rest, ""),
                };
                parts.push(part);
                rest = others;
            }
        }
        Some(other) => return Err(Error::invalid(format!("must be str or None, not {}", other.type_name()))),
    }
    if back {
        parts.reverse();
    }
    texts(parts, Kind::List, budget)
}

/// The lines of `text`, by all that Python takes for a line's end.
pub(crate) fn lines<'t>(text: &'t str, keep: bool, budget: &Budget) -> Result<Vec<&'t str>, Error> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        budget.take(size_of::<&str>())?;
        let Some(at) = rest.find(ends) else {
            lines.push(rest);
            break;
        };
        let end = match rest[at..].starts_with("\r\n") {
            true => at + 2,
            false => at + rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    Ok(lines)
}

/// The part of `text` from character `start` to `end`, and its first character's place; `None` if it begins behind the end.
fn window<'t>(text: &'t str, start: Option<&Value>, end: Option<&Value>) -> Result<(Option<&'t str>, usize), Error> {
    if start.is_none() && end.is_none() {
        return Ok((Some(text), 0));
    }
    let count = text.chars().count();
    let place = |value: Option<&Value>, default: usize| -> Result<usize, Error> {
        let value = value.filter(|value| !matches!(value, Value::None));
        let place = int(value, default as i128)?;
        let place = if place < 0 { place.saturating_add(count as i128).max(0) } else { place };
        Ok(usize::try_from(place).unwrap_or(usize::MAX))
    };
    let (start, end) = (place(start, 0)?, place(end, count)?.min(count));
    if start > end {
        return Ok((None, start));
    }
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    Ok((Some(&text[byte(start)..byte(end)]), start))
}

fn search(text: &str, name: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    let [part, start, end] = args.bind(name, ["sub", "start", "end"])?;
    let part = text_of(part.as_ref(), "the argument")?;
    budget.look(text.len() + part.len())?;
    let (window, first) = window(text, start.as_ref(), end.as_ref())?;
    if name == "count" {
        let count = window.map_or(0, |window| match part.is_empty() {
            true => window.chars().count() + 1,
            false => window.matches(part).count(),
        });
        return Ok(Value::Int(count as i128));
    }
    let found = window.and_then(|window| {
        let at = if name.starts_with('r') { window.rfind(part) } else { window.find(part) };
        at.map(|at| first + window[..at].chars().count())
    });
    match found {
        Some(place) => Ok(Value::Int(place as i128)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Error::invalid("substring not found")),
    }
}

/// `text` with `new` for the first `count` of `old`.
pub(crate) fn replaced(text: &str, old: &str, new: &str, count: usize, budget: &Budget) -> Result<Value, Error> {
    budget.look(text.len() + old.len())?;
    let mut out = Draft::new(budget);
    let mut rest = 0;
    for (at, found) in text.match_indices(old).take(count) {
        out.push(&text[rest..at])?;
        out.push(new)?;
        rest = at + found.len();
    }
    out.push(&text[rest..])?;
    out.value()
}

/// `text` filled up to `width` as `method` does.
pub(crate) fn padded(
    text: &str,
    method: &str,
    width: usize,
    fill: Option<Value>,
    budget: &Budget,
) -> Result<Value, Error> {
    let count = text.chars().count();
    let missing = width.saturating_sub(count);
    let fill = match fill {
        Some(fill) => printed(&fill, budget)?.to_string(),
        None => if method == "zfill" { "0" } else { " " }.to_string(),
    };
    if fill.chars().count() != 1 {
        return Err(Error::invalid("The fill character must be exactly one character long"));
    }
    let before = match method {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let sign = if method == "zfill" && text.starts_with(['+', '-']) { 1 } else { 0 };
    let mut out = Draft::new(budget);
    out.push(&text[..sign])?;
    out.repeat(&fill, before)?;
    out.push(&text[sign..])?;
    out.repeat(&fill, missing - before)?;
    out.value()
}

fn expanded(text: &str, width: usize, budget: &Budget) -> Result<Value, Error> {
    let mut out = Draft::new(budget);
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if width > 0 => {
                let blanks = width - column % width;
                out.repeat(" ", blanks)?;
                column += blanks;
            }
            '\t' => {}
            c => {
                out.push_char(c)?;
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    out.value()
}
