//! Python's two ways to fill in a text: `'%s' % value` and `'{}'.format(value)`.

use super::access;
use super::arguments::int;
use super::budget::{Budget, Draft};
use super::operators::number;
use super::print;
use super::value::{Kind, Value};
use crate::error::Error;

mod braces;
pub(crate) use braces::braces;

/// Widest field and most digits behind a point.
const MAX_WIDTH: usize = 1 << 20;
const MAX_DIGITS: usize = 1000;

/// How a value is laid out.
#[derive(Debug, Default)]
struct Layout {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    comma: Option<char>,
    width: usize,
    digits: Option<usize>,
    kind: Option<char>,
}

fn wrong<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::invalid(what))
}

/// The number that `letters` begin with.
fn count(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, most: usize) -> Result<Option<usize>, Error> {
    let mut value = None;
    while let Some(digit) = letters.peek().and_then(|c| c.to_digit(10)) {
        letters.next();
        let next = value.unwrap_or(0) * 10 + digit as usize;
        if next > most {
            return wrong(format!("a width of more than {most}"));
        }
        value = Some(next);
    }
    Ok(value)
}

/// `text % values`.
pub(crate) fn percent(text: &str, values: &Value, budget: &Budget) -> Result<Value, Error> {
    let single = std::slice::from_ref(values);
    let items = match values {
        Value::List(list) if list.kind == Kind::Tuple => list.items.as_slice(),
        _ => single,
    };
    let mut items = items.iter();
    let mut out = Draft::new(budget);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push_char(letter)?;
            continue;
        }
        if letters.peek() == Some(&'%') {
            letters.next();
            out.push("%")?;
            continue;
        }
        let mut named = None;
        if letters.peek() == Some(&'(') {
            letters.next();
            let name: String = letters.by_ref().take_while(|c| *c != ')').collect();
            named = Some(access::item(values, &budget.text(&name)?, budget)?);
        }
        let mut layout = Layout { align: Some('>'), ..Layout::default() };
        while let Some(flag) = letters.peek().copied().filter(|c| "-+ 0#".contains(*c)) {
            letters.next();
            match flag {
                '-' => layout.align = Some('<'),
                '0' => layout.fill = Some('0'),
                '#' => layout.alternate = true,
                sign => layout.sign = Some(sign),
            }
        }
        // A `*` takes its number from the values.
        let mut given = |letters: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            letters.next_if_eq(&'*').and_then(|_| items.next()).map(|value| int(Some(value), 0)).transpose()
        };
        layout.width = match given(&mut letters)? {
            Some(width) if width.unsigned_abs() > MAX_WIDTH as u128 => return wrong("a width that is too large"),
            Some(width) => {
                layout.align = if width < 0 { Some('<') } else { layout.align };
                width.unsigned_abs() as usize
            }
            None => count(&mut letters, MAX_WIDTH)?.unwrap_or(0),
        };
        if letters.next_if_eq(&'.').is_some() {
            layout.digits = Some(match given(&mut letters)? {
                Some(digits) => usize::try_from(digits.clamp(0, MAX_DIGITS as i128)).unwrap_or(0),
                None => count(&mut letters, MAX_DIGITS)?.unwrap_or(0),
            });
        }
        let Some(kind) = letters.next() else { return wrong("incomplete format") };
        let value = named.or_else(|| items.next().cloned());
        let Some(value) = value else { return wrong("not enough arguments for format string") };
        if layout.align == Some('<') {
            layout.fill = None;
        }
        write_percent(&value, kind, layout, &mut out)?;
    }
    // What can be asked for items is taken for a dict, whose entries need not all be used.
    let all_used = items.next().is_none()
        || match values {
            Value::List(list) => list.kind != Kind::Tuple,
            other => matches!(other, Value::Dict(_) | Value::Undefined(_)),
        };
    if !all_used {
        return wrong("not all arguments converted during string formatting");
    }
    out.value()
}

fn write_percent(value: &Value, kind: char, mut layout: Layout, out: &mut Draft<'_>) -> Result<(), Error> {
    match kind {
        's' | 'r' | 'a' => {
            layout.fill = None;
            text_field(value, kind, &layout, out)
        }
        'd' | 'i' | 'u' => {
            let whole = match value {
                Value::Float(float) if float.is_finite() => Value::Int(float.trunc() as i128),
                other => other.clone(),
            };
            if whole.as_int().is_none() {
                return wrong(format!("%d format: a real number is required, not {}", value.type_name()));
            }
            layout.kind = Some('d');
            number_field(&whole, &layout, out)
        }
        'c' => {
            let letter = match (value, value.as_int()) {
                (Value::Text(text), _) => text.chars().next().filter(|_| text.chars().nth(1).is_none()),
                (_, Some(code)) => u32::try_from(code).ok().and_then(char::from_u32),
                _ => None,
            };
            let Some(letter) = letter else { return wrong("%c requires int or char") };
            pad(&letter.to_string(), &Layout { fill: None, ..layout }, out)
        }
        'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            layout.kind = Some(kind);
            if number(value).is_none() {
                return wrong(format!("must be real number, not {}", value.type_name()));
            }
            number_field(value, &layout, out)
        }
        other => wrong(format!("unsupported format character '{other}'")),
    }
}

fn text_field(value: &Value, kind: char, layout: &Layout, out: &mut Draft<'_>) -> Result<(), Error> {
    let mut text = Draft::new(out.budget());
    match kind {
        's' => print::show(value, &mut text)?,
        _ => print::represent(value, &mut text, 0)?,
    }
    let text = text.finish();
    let end = layout.digits.and_then(|most| text.char_indices().nth(most)).map_or(text.len(), |(at, _)| at);
    pad(&text[..end], layout, out)
}

/// Writes `text`, filled up to the width of `layout`.
fn pad(text: &str, layout: &Layout, out: &mut Draft<'_>) -> Result<(), Error> {
    let missing = if layout.width == 0 { 0 } else { layout.width.saturating_sub(text.chars().count()) };
    let before = match layout.align {
        Some('>' | '=') => missing,
        Some('^') => missing / 2,
        _ => 0,
    };
    let fill = layout.fill.unwrap_or(' ').to_string();
    out.repeat(&fill, before)?;
    out.push(text)?;
    out.repeat(&fill, missing - before)
}

fn number_field(value: &Value, layout: &Layout, out: &mut Draft<'_>) -> Result<(), Error> {
    let float = number(value).unwrap_or(0.0);
    let (negative, digits) = match (value.as_int(), layout.kind) {
        (Some(whole), None | Some('d' | 'x' | 'X' | 'o' | 'b')) => {
            let size = whole.unsigned_abs();
            let digits = match (layout.kind, layout.alternate) {
                (Some('x'), false) => format!("{size:x}"),
                (Some('x'), true) => format!("{size:#x}"),
                (Some('X'), false) => format!("{size:X}"),
                (Some('X'), true) => format!("0X{size:X}"),
                (Some('o'), false) => format!("{size:o}"),
                (Some('o'), true) => format!("{size:#o}"),
                (Some('b'), false) => format!("{size:b}"),
                (Some('b'), true) => format!("{size:#b}"),
                _ => size.to_string(),
            };
            (whole < 0, digits)
        }
        (None, Some('d' | 'x' | 'X' | 'o' | 'b')) => return wrong("a whole number is required"),
        (_, kind) => (float.is_sign_negative() && !float.is_nan(), floating(float.abs(), kind, layout.digits)),
    };
    let digits = match layout.comma {
        Some(comma) => grouped(&digits, comma),
        None => digits,
    };
    let sign = match (negative, layout.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let zeros = layout.fill == Some('0') && matches!(layout.align, Some('>' | '=') | None);
    if zeros {
        let width = layout.width.saturating_sub(sign.len() + digits.len());
        out.push(sign)?;
        out.repeat("0", width)?;
        return out.push(&digits);
    }
    let align = layout.align.or(Some('>'));
    let plain = Layout { align, fill: layout.fill, width: layout.width, ..Layout::default() };
    pad(&format!("{sign}{digits}"), &plain, out)
}

fn grouped(digits: &str, comma: char) -> String {
    let whole = digits.find(['.', 'e']).unwrap_or(digits.len());
    let mut out = String::new();
    for (i, digit) in digits[..whole].chars().enumerate() {
        if i > 0 && (whole - i).is_multiple_of(3) {
            out.push(comma);
        }
        out.push(digit);
    }
    out + &digits[whole..]
}

/// The digits of `value`, which is not negative.
fn floating(value: f64, kind: Option<char>, digits: Option<usize>) -> String {
    if !value.is_finite() {
        return print::float(value);
    }
    let exponent = |digits: usize| {
        let text = format!("{value:.digits$e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let power: i32 = power.parse().unwrap_or(0);
        (digits.to_string(), power)
    };
    let with_power =
        |digits: &str, power: i32| format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs());
    let text = match (kind, digits) {
        (Some('f' | 'F'), digits) => format!("{value:.*}", digits.unwrap_or(6)),
        (Some('%'), digits) => format!("{:.*}%", digits.unwrap_or(6), value * 100.0),
        (Some('e' | 'E'), digits) => {
            let (digits, power) = exponent(digits.unwrap_or(6));
            with_power(&digits, power)
        }
        (None, None) => print::float(value),
        (kind, digits) => {
            let most = digits.unwrap_or(6).max(1);
            let (scientific, power) = exponent(most - 1);
            let without_zeros = |text: String| match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
                false => text,
            };
            if power < -4 || power >= most as i32 {
                with_power(&without_zeros(scientific), power)
            } else {
                let plain = without_zeros(format!("{value:.*}", (most as i32 - 1 - power).max(0) as usize));
                if kind.is_none() && !plain.contains('.') { plain + ".0" } else { plain }
            }
        }
    };
    if kind.is_some_and(char::is_uppercase) { text.to_uppercase() } else { text }
}
