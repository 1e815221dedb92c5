//! Filters of text. What they are given is printed first.

use crate::error::Error;
use crate::values::arguments::{Args, int, needed, printed, size};
use crate::values::budget::{Budget, Draft};
use crate::values::methods::letters::is_space;
use crate::values::methods::text as methods;
use crate::values::value::Value;

pub(super) fn apply(name: &str, text: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    match name {
        "capitalize" | "lower" | "upper" => methods::call(text, name, args, budget),
        "title" => {
            let [] = args.bind(name, [])?;
            budget.take(3 * text.len())?;
            budget.text(&titled(text))
        }
        "safe" | "string" => {
            let [] = args.bind(name, [])?;
            budget.text(text)
        }
        "e" | "escape" | "forceescape" => {
            let [] = args.bind(name, [])?;
            let mut out = Draft::new(budget);
            escape(text, &mut out)?;
            out.value()
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            budget.text(methods::stripped(text, "strip", chars.as_ref(), budget)?)
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            methods::padded(text, "center", size(width.as_ref(), 80)?, None, budget)
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (old, new) = (needed(old, name, "old")?, needed(new, name, "new")?);
            let count = match &count {
                None | Some(Value::None) => usize::MAX,
                some => usize::try_from(int(some.as_ref(), -1)?).unwrap_or(usize::MAX),
            };
            methods::replaced(text, &printed(&old, budget)?, &printed(&new, budget)?, count, budget)
        }
        "indent" => indented(text, args, budget),
        "wordwrap" => super::wrap::wrapped(text, args, budget),
        "truncate" => truncated(text, args, budget),
        _ => {
            let [] = args.bind(name, [])?;
            let words = text.split(|c: char| c != '_' && !c.is_alphanumeric());
            Ok(Value::Int(words.filter(|word| !word.is_empty()).count() as i128))
        }
    }
}

/// A capital behind blanks, hyphens and opening brackets.
fn titled(text: &str) -> String {
    let mut out = String::new();
    let mut begins = true;
    for c in text.chars() {
        match begins {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        begins = is_space(c) || "-({[<".contains(c);
    }
    out
}

/// Writes `text` with entities for what HTML would read as marks.
pub(super) fn escape(text: &str, out: &mut Draft<'_>) -> Result<(), Error> {
    for c in text.chars() {
        match c {
            '&' => out.push("&amp;")?,
            '<' => out.push("&lt;")?,
            '>' => out.push("&gt;")?,
            '\'' => out.push("&#39;")?,
            '"' => out.push("&#34;")?,
            c => out.push_char(c)?,
        }
    }
    Ok(())
}

fn indented(text: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (indent, times) = match &width {
        Some(Value::Text(text)) => (text.to_string(), 1),
        other => (" ".to_string(), size(other.as_ref(), 4)?),
    };
    let (first, blank) = (is_set(first), is_set(blank));
    let mut out = Draft::new(budget);
    // An end of line at the end begins one more line.
    let with_end = format!("{text}\n");
    for (i, line) in methods::lines(&with_end, false, budget)?.into_iter().enumerate() {
        out.push(if i == 0 { "" } else { "\n" })?;
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.repeat(&indent, times)?;
        }
        out.push(line)?;
    }
    out.value()
}

/// What `truncate` is given.
struct Truncation {
    length: usize,
    leeway: usize,
    kill_words: bool,
    end: std::sync::Arc<str>,
}

impl Truncation {
    fn new(args: Args, budget: &Budget) -> Result<Self, Error> {
        let [length, kill_words, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let leeway = leeway.filter(|leeway| !matches!(leeway, Value::None));
        Ok(Self {
            length: size(length.as_ref(), 255)?,
            leeway: size(leeway.as_ref(), 5)?,
            kill_words: kill_words.is_some_and(|kill| kill.is_true()),
            end: end.map_or(Ok(std::sync::Arc::from("...")), |end| printed(&end, budget))?,
        })
    }
}

/// Whether `truncate` leaves `value` as it is, whatever has a length.
pub(super) fn is_short(value: &Value, args: &Args, budget: &Budget) -> Result<bool, Error> {
    let of = Truncation::new(args.clone(), budget)?;
    if of.length < of.end.chars().count() {
        return Err(Error::invalid("truncate: the length is less than that of the end"));
    }
    Ok(value.length(budget)?.is_some_and(|length| length <= of.length + of.leeway))
}

fn truncated(text: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    let of = Truncation::new(args, budget)?;
    let kept = of.length.saturating_sub(of.end.chars().count());
    let cut = text.char_indices().nth(kept).map_or(text, |(at, _)| &text[..at]);
    let shown = match of.kill_words {
        true => cut,
        false => cut.rsplit_once(' ').map_or(cut, |(before, _)| before),
    };
    let mut out = Draft::new(budget);
    out.push(shown)?;
    out.push(&of.end)?;
    out.value()
}
