//! Braces to fill in: `'{}'.format(value)`.

use super::super::access;
use super::super::arguments::{Args, used};
use super::super::budget::{Budget, Draft};
use super::super::operators::number;
use super::super::print;
use super::super::value::Value;
use super::{Layout, MAX_DIGITS, MAX_WIDTH, count, number_field, pad, text_field, wrong};
use crate::error::Error;

/// `text.format(…)`.
pub(crate) fn braces(text: &str, args: &Args, budget: &Budget) -> Result<Value, Error> {
    let mut out = Draft::new(budget);
    let mut next = 0;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        let mark = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(mark) {
            out.push(mark)?;
            rest = after;
            continue;
        }
        let end = field_end(rest).filter(|_| mark == "{");
        let Some(end) = end else { return wrong("a single brace in a format") };
        let field = &rest[..end];
        rest = &rest[end + 1..];
        let (name, layout) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = name.split_once('!').map_or((name, None), |(name, kind)| (name, kind.chars().next()));
        let value = named(name, args, &mut next, budget)?;
        let layout = filled_in(layout, args, &mut next, budget)?;
        write_braces(&value, conversion, &layout, &mut out)?;
    }
    out.push(rest)?;
    out.value()
}

/// Where a field is over; its layout may have fields of its own.
fn field_end(text: &str) -> Option<usize> {
    let mut open = 0u32;
    text.bytes().position(|byte| {
        let ends = byte == b'}' && open == 0;
        match byte {
            b'{' => open += 1,
            b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        ends
    })
}

/// `layout` with the values of its own fields in their places.
fn filled_in(layout: &str, args: &Args, next: &mut usize, budget: &Budget) -> Result<String, Error> {
    let mut out = Draft::new(budget);
    let mut rest = layout;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else { return wrong("a single brace in a format") };
        if name.contains(['{', ':', '!']) {
            return wrong("a format nests its fields too deep");
        }
        out.push(before)?;
        print::show(&named(name, args, next, budget)?, &mut out)?;
        rest = behind;
    }
    out.push(rest)?;
    Ok(out.finish())
}

/// The argument that `name` asks for: a number, a name or nothing, and what is asked of it behind.
fn named(name: &str, args: &Args, next: &mut usize, budget: &Budget) -> Result<Value, Error> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(end);
    let missing = || Error::invalid(format!("the format asks for '{first}', which is not given"));
    let place = if first.is_empty() { Some(*next) } else { first.parse().ok() };
    *next += usize::from(first.is_empty());
    let mut value = match place {
        Some(place) => args.positional.get(place).cloned().ok_or_else(missing)?,
        None => {
            let found = args.named.iter().find(|(known, _)| **known == *first);
            found.map(|(_, value)| value.clone()).ok_or_else(missing)?
        }
    };
    while !rest.is_empty() {
        budget.step(1)?;
        let inner = if let Some(after) = rest.strip_prefix('[') {
            let Some((inner, after)) = after.split_once(']') else { return wrong("a bracket is missing in a format") };
            rest = after;
            inner
        } else {
            let Some(after) = rest.strip_prefix('.') else {
                return wrong("only a dot or a bracket may follow a bracket in a format");
            };
            let (inner, after) = after.split_at(after.find(['.', '[']).unwrap_or(after.len()));
            rest = after;
            inner
        };
        value = access::path(&value, &budget.text(inner)?, budget)?;
        used(&value)?;
    }
    Ok(value)
}

fn write_braces(value: &Value, conversion: Option<char>, layout: &str, out: &mut Draft<'_>) -> Result<(), Error> {
    let mut read = Layout::default();
    let mut letters = layout.chars().peekable();
    let mut ahead = layout.chars();
    let (first, second) = (ahead.next(), ahead.next());
    let is_align = |c: Option<char>| c.filter(|c| "<>^=".contains(*c));
    if let Some(align) = is_align(second) {
        (read.fill, read.align) = (first, Some(align));
        letters.next();
        letters.next();
    } else if let Some(align) = is_align(first) {
        read.align = Some(align);
        letters.next();
    }
    read.sign = letters.next_if(|c| "+- ".contains(*c));
    read.alternate = letters.next_if_eq(&'#').is_some();
    let is_text = conversion.is_some() || number(value).is_none();
    if letters.next_if_eq(&'0').is_some() && read.fill.is_none() {
        read.fill = Some('0');
        read.align = read.align.or(Some(if is_text { '<' } else { '=' }));
    }
    read.width = count(&mut letters, MAX_WIDTH)?.unwrap_or(0);
    read.comma = letters.next_if(|c| ",_".contains(*c));
    if letters.next_if_eq(&'.').is_some() {
        read.digits = count(&mut letters, MAX_DIGITS)?;
    }
    read.kind = letters.next();
    if letters.next().is_some() {
        return wrong("invalid format specifier");
    }
    if !(is_text || matches!(value, Value::Bool(_)) && layout.is_empty()) {
        return braced_number(value, read, out);
    }
    if !matches!(read.kind, None | Some('s')) || read.align == Some('=') || read.comma.or(read.sign).is_some() {
        return wrong("a number is expected by a format");
    }
    if !layout.is_empty() && conversion.is_none() && !matches!(value, Value::Text(_)) {
        return wrong(format!("unsupported format string passed to {}.__format__", value.type_name()));
    }
    text_field(value, conversion.unwrap_or('s'), &read, out)
}

fn braced_number(value: &Value, mut layout: Layout, out: &mut Draft<'_>) -> Result<(), Error> {
    let whole = value.as_int();
    layout.kind = match (layout.kind, whole) {
        (Some('n'), whole) => whole.map_or(Some('g'), |_| Some('d')),
        (Some('c'), Some(code)) => {
            let letter = u32::try_from(code).ok().and_then(char::from_u32);
            let Some(letter) = letter else { return wrong("c is given no number of a character") };
            return pad(&letter.to_string(), &layout, out);
        }
        (kind @ (None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')), _) => kind,
        (kind @ Some('b' | 'd' | 'o' | 'x' | 'X'), Some(_)) => kind,
        (Some(kind), _) => {
            return wrong(format!("unknown format code '{kind}' for object of type '{}'", value.type_name()));
        }
    };
    if whole.is_some() && layout.digits.is_some() && matches!(layout.kind, None | Some('b' | 'd' | 'o' | 'x' | 'X')) {
        return wrong("precision not allowed in integer format specifier");
    }
    number_field(value, &layout, out)
}
