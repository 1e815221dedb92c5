//! Cuts a source into tokens, as Jinja2 does with `trim_blocks` and `lstrip_blocks`: a block's tag takes the line break
//! behind it and the blanks before it on its line, unless a `+` says no; a `-` takes all white space.

use super::literals;
use crate::error::{Error, ErrorKind};
use crate::values::methods::letters::is_space;
use std::sync::Arc;

/// A token, its line and its first byte.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub line: u32,
    pub byte: usize,
    pub token: Token,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// Text outside of tags.
    Outside(Arc<str>),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(Arc<str>),
    Text(Arc<str>),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longer ones first, so that the longest counts.
const OPERATORS: [&str; 26] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// The tokens of `source`; the last one is [`Token::End`].
pub(crate) fn tokens(source: &str) -> Result<Vec<Placed>, Error> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, tokens: Vec::new() };
    lexer.outside()?;
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

/// The tokens of the tag `{{ … }}` that begins at `at` in line `line`, and the byte behind it and behind the white space that it takes.
pub(crate) fn printing(source: &str, at: usize, line: u32) -> Result<(Vec<Placed>, usize), Error> {
    let mut lexer = Lexer { source, at, line, tokens: Vec::new() };
    lexer.tag(Token::PrintBegin)?;
    Ok((lexer.tokens, lexer.at))
}

/// The tokens of an expression alone, as if it stood in a tag.
pub(crate) fn inside(source: &str) -> Result<Vec<Placed>, Error> {
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new() };
    lexer.push(Token::PrintBegin);
    let mut open = Vec::new();
    loop {
        lexer.skip_space();
        if lexer.rest().is_empty() {
            lexer.push(Token::PrintEnd);
            return Ok(lexer.tokens);
        }
        lexer.token(&mut open)?;
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    tokens: Vec<Placed>,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token) {
        self.tokens.push(Placed { line: self.line, byte: self.at, token });
    }

    fn fails<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(ErrorKind::Syntax, what).at(self.line).at_byte(self.at))
    }

    /// Moves on by `bytes`.
    fn skip(&mut self, bytes: usize) {
        self.line += self.rest()[..bytes].matches('\n').count() as u32;
        self.at += bytes;
    }

    /// Moves on over `text` if it comes next.
    fn eat(&mut self, text: &str) -> bool {
        let there = self.rest().starts_with(text);
        if there {
            self.skip(text.len());
        }
        there
    }

    fn skip_space(&mut self) {
        self.skip(self.rest().len() - self.rest().trim_start_matches(is_space).len());
    }

    fn outside(&mut self) -> Result<(), Error> {
        loop {
            let rest = self.rest();
            let tag =
                rest.match_indices('{').find(|(at, _)| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
            let Some((start, _)) = tag else {
                self.text(rest);
                self.skip(rest.len());
                return Ok(());
            };
            let kind = rest.as_bytes()[start + 1];
            self.text_before(start, kind == b'{');
            match (kind, self.raw_begins()) {
                (_, true) => self.raw()?,
                (b'#', _) => self.comment()?,
                (b'%', _) => self.tag(Token::BlockBegin)?,
                _ => self.tag(Token::PrintBegin)?,
            }
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Outside(Arc::from(text)));
        }
    }

    /// Takes the text of `bytes` before a tag that `prints` or is a block, without what the tag takes of it.
    fn text_before(&mut self, bytes: usize, prints: bool) {
        let (text, tag) = self.rest().split_at(bytes);
        let shown = match tag.as_bytes().get(2) {
            Some(b'-') => text.trim_end_matches(is_space),
            Some(b'+') => text,
            _ if prints => text,
            _ => {
                let line_start = text.rfind('\n').map_or(0, |at| at + 1);
                let begins_line = line_start > 0 || self.at == 0 || self.source[..self.at].ends_with('\n');
                match begins_line && text[line_start..].chars().all(is_space) {
                    true => &text[..line_start],
                    false => text,
                }
            }
        };
        self.text(shown);
        self.skip(bytes);
    }

    /// The bytes of the tag of one `word` that begins here, without what is behind its closing mark.
    fn tag_of(&self, word: &str) -> Option<usize> {
        let rest = self.rest().strip_prefix("{%")?;
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start_matches(is_space);
        let rest = rest.strip_prefix(word)?.trim_start_matches(is_space);
        (["%}", "-%}", "+%}"].iter().any(|end| rest.starts_with(end))).then(|| self.rest().len() - rest.len())
    }

    fn raw_begins(&self) -> bool {
        self.tag_of("raw").is_some_and(|bytes| !self.rest()[bytes..].starts_with('+'))
    }

    fn raw(&mut self) -> Result<(), Error> {
        let begin = self.tag_of("raw").unwrap_or(0);
        self.skip(begin);
        match self.eat("-%}") {
            true => self.skip_space(),
            false => self.skip(2),
        }
        if self.rest().is_empty() {
            return Ok(());
        }
        let from = self.at;
        let ends = self.rest().match_indices("{%").map(|(at, _)| from + at);
        let end = ends.into_iter().find(|at| {
            let there = Lexer { source: self.source, at: *at, line: 0, tokens: Vec::new() };
            there.tag_of("endraw").is_some()
        });
        let Some(end) = end else { return self.fails("the end of `raw` is missing") };
        self.text_before(end - from, false);
        let bytes = self.tag_of("endraw").unwrap_or(0);
        self.skip(bytes);
        self.block_end();
        Ok(())
    }

    fn comment(&mut self) -> Result<(), Error> {
        let sign = usize::from(matches!(self.rest().as_bytes().get(2), Some(b'-' | b'+')));
        let inside = &self.rest()[2 + sign..];
        let Some(end) = inside.find("#}") else { return self.fails("the end of a comment is missing") };
        let last = inside[..end].chars().last();
        self.skip(2 + sign + end + 2);
        match last {
            Some('-') => self.skip_space(),
            Some('+') => {}
            _ => drop(self.eat("\n")),
        }
        Ok(())
    }

    /// Takes the end of a block's tag, and what it takes with it.
    fn block_end(&mut self) -> bool {
        if self.eat("-%}") {
            self.skip_space();
            return true;
        }
        let plain = self.eat("%}");
        if plain {
            self.eat("\n");
        }
        plain || self.eat("+%}")
    }

    fn print_end(&mut self) -> bool {
        if self.eat("-}}") {
            self.skip_space();
            return true;
        }
        self.eat("}}")
    }

    /// A tag, from its first mark to its last.
    fn tag(&mut self, begin: Token) -> Result<(), Error> {
        let prints = begin == Token::PrintBegin;
        let began = (self.line, self.at);
        self.skip(2);
        let _ = self.eat("-") || self.eat("+");
        self.push(begin);
        // Closing marks count only where no bracket is open.
        let mut open = Vec::new();
        loop {
            self.skip_space();
            let byte = self.at;
            if open.is_empty() && if prints { self.print_end() } else { self.block_end() } {
                let token = if prints { Token::PrintEnd } else { Token::BlockEnd };
                self.tokens.push(Placed { line: self.line, byte, token });
                return Ok(());
            }
            if self.rest().is_empty() {
                (self.line, self.at) = began;
                return self.fails("the end of a tag is missing");
            }
            self.token(&mut open)?;
        }
    }

    fn token(&mut self, open: &mut Vec<&'static str>) -> Result<(), Error> {
        let rest = self.rest();
        let after_dot = self.source[..self.at].ends_with('.');
        let first = rest.chars().next().unwrap_or(' ');
        if first.is_ascii_digit() {
            let (token, bytes) = literals::number(rest, !after_dot).map_err(|e| e.at(self.line).at_byte(self.at))?;
            self.push(token);
            self.skip(bytes);
        } else if first == '_' || first.is_alphanumeric() {
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            self.push(Token::Name(Arc::from(&rest[..end])));
            self.skip(end);
        } else if first == '"' || first == '\'' {
            let (text, bytes) = literals::text(rest).map_err(|e| e.at(self.line).at_byte(self.at))?;
            self.push(Token::Text(Arc::from(text)));
            self.skip(bytes);
        } else {
            let Some(operator) = OPERATORS.into_iter().find(|o| rest.starts_with(o)) else {
                return self.fails(format!("unexpected {first:?}"));
            };
            let closes = ["(", "[", "{"].into_iter().zip([")", "]", "}"]);
            match closes.into_iter().find(|(begin, end)| operator == *begin || operator == *end) {
                Some((begin, end)) if operator == begin => open.push(end),
                Some(_) if open.pop() != Some(operator) => return self.fails(format!("unexpected `{operator}`")),
                _ => {}
            }
            self.push(Token::Operator(operator));
            self.skip(operator.len());
        }
        Ok(())
    }
}
