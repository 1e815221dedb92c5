//! From tokens to statements.

use super::lexer::{self, Placed, Token};
use crate::ast::{Body, Expression, ExpressionKind, For, Macro, Mention};
use crate::ast::{Statement, StatementKind, Takes, Target};
use crate::error::{Error, ErrorKind};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Deepest nesting of a source: blocks and expressions in each other.
const MAX_NESTING: u32 = 100;
/// Deepest nesting of an expression alone, which is read and evaluated on the stack of whatever thread it comes to.
const MAX_NESTING_ALONE: u32 = 32;

mod expressions;
mod steps;

pub(crate) use expressions::alone;

/// A source as it was read.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub body: Body,
    /// Every name that is asked of a value, as `value.name` or `value['name']`.
    pub attributes: BTreeSet<Arc<str>>,
}

/// Reads `source`.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn parse(source: &str) -> Result<Parsed, Error> {
    let mut parser = Parser::of(lexer::tokens(source)?, false);
    let body = parser.body(&[])?;
    Ok(Parsed { body, attributes: parser.attributes })
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    nesting: u32,
    /// How many conditions the place depends on: there, filters may be missing until they are needed.
    conditional: u32,
    /// What the macros around the place mention.
    macros: Vec<Takes>,
    attributes: BTreeSet<Arc<str>>,
    mentions: Vec<Mention>,
    /// It is an expression alone, in which every filter and test must be there.
    alone: bool,
}

impl Parser {
    fn of(tokens: Vec<Placed>, alone: bool) -> Self {
        Self {
            tokens,
            at: 0,
            nesting: 0,
            conditional: 0,
            macros: Vec::new(),
            attributes: BTreeSet::new(),
            mentions: Vec::new(),
            alone,
        }
    }

    fn token(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |placed| &placed.token)
    }

    fn token_after(&self) -> &Token {
        self.tokens.get(self.at + 1).map_or(&Token::End, |placed| &placed.token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |placed| placed.line)
    }

    fn fails<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(ErrorKind::Syntax, what).at(self.line()).at_byte(self.byte()))
    }

    /// What comes instead of what was expected.
    fn unexpected<T>(&self, expected: &str) -> Result<T, Error> {
        let found = match self.token() {
            Token::Name(name) => format!("`{name}`"),
            Token::Operator(operator) => format!("`{operator}`"),
            Token::Text(_) => "a string".to_string(),
            Token::Int(_) | Token::Float(_) => "a number".to_string(),
            Token::PrintEnd | Token::BlockEnd => "the end of the tag".to_string(),
            Token::End => "the end of the template".to_string(),
            _ => "a tag".to_string(),
        };
        self.fails(format!("{expected} is expected, not {found}"))
    }

    /// Runs `inner` one level deeper in the source.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let most = if self.alone { MAX_NESTING_ALONE } else { MAX_NESTING };
        if self.nesting == most {
            let what = format!("it nests more than {most} deep");
            return Err(Error::new(ErrorKind::Depth, what).at(self.line()).at_byte(self.byte()));
        }
        self.nesting += 1;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.token(), Token::Operator(o) if *o == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(n) if **n == *name)
    }

    fn eat(&mut self, operator: &str) -> bool {
        let there = self.is_operator(operator);
        self.at += usize::from(there);
        there
    }

    fn eat_name(&mut self, name: &str) -> bool {
        let there = self.is_name(name);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, operator: &str) -> Result<(), Error> {
        if self.eat(operator) { Ok(()) } else { self.unexpected(&format!("`{operator}`")) }
    }

    fn expect_name(&mut self, name: &str) -> Result<(), Error> {
        if self.eat_name(name) { Ok(()) } else { self.unexpected(&format!("`{name}`")) }
    }

    fn name(&mut self) -> Result<Arc<str>, Error> {
        let Token::Name(name) = self.token() else { return self.unexpected("a name") };
        let name = Arc::clone(name);
        self.at += 1;
        Ok(name)
    }

    fn end_tag(&mut self) -> Result<(), Error> {
        if *self.token() != Token::BlockEnd {
            return self.unexpected("the end of the tag");
        }
        self.at += 1;
        Ok(())
    }

    /// Statements up to a tag that begins with one of `ends`, whose name is left to be read; without `ends`, all.
    fn body(&mut self, ends: &[&str]) -> Result<Body, Error> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.token() {
                Token::Outside(text) => {
                    let text = Arc::clone(text);
                    self.at += 1;
                    StatementKind::Text(text)
                }
                Token::PrintBegin => {
                    self.at += 1;
                    let shown = self.expressions(&[])?;
                    if *self.token() != Token::PrintEnd {
                        return self.unexpected("the end of the tag");
                    }
                    self.at += 1;
                    StatementKind::Print(shown)
                }
                Token::BlockBegin => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let statement = self.deeper(Self::statement)?;
                    self.end_tag()?;
                    statement
                }
                Token::End if ends.is_empty() => return Ok(body),
                _ => return self.unexpected(&format!("`{}`", ends.join("` or `"))),
            };
            body.push(Statement { line, kind });
        }
    }

    /// The rest of a tag, and statements up to the tag `end`, whose name is read too.
    fn block(&mut self, end: &str) -> Result<Body, Error> {
        let _ = self.eat(":");
        self.end_tag()?;
        let body = self.body(&[end])?;
        self.expect_name(end)?;
        Ok(body)
    }

    /// A statement, whose tag has begun. The end of its last tag is left to be read.
    fn statement(&mut self) -> Result<StatementKind, Error> {
        let tag = self.name()?;
        Ok(match &*tag {
            "if" => self.choice()?,
            "for" => self.repetition()?,
            "set" => {
                let target = self.target(&[])?;
                if self.eat("=") {
                    return Ok(StatementKind::Set(target, self.expressions(&[])?));
                }
                let filters = self.filters()?;
                StatementKind::SetBlock(target, filters, self.block("endset")?)
            }
            "macro" => {
                let name = self.name()?;
                StatementKind::Macro(self.macro_of(Some(name), "endmacro")?)
            }
            "call" => self.call_block()?,
            "filter" => {
                let first = self.filter()?;
                let filters = std::iter::once(first).chain(self.filters()?).collect();
                StatementKind::FilterBlock(filters, self.block("endfilter")?)
            }
            "with" => {
                let mut values = Vec::new();
                while *self.token() != Token::BlockEnd && !self.is_operator(":") {
                    if !values.is_empty() {
                        self.expect(",")?;
                    }
                    let target = self.target(&["="])?;
                    self.expect("=")?;
                    values.push((target, self.expression()?));
                }
                StatementKind::With(values, self.block("endwith")?)
            }
            // Marks of what the assistant said, which training needs.
            "generation" => StatementKind::Scoped(self.block("endgeneration")?),
            "block" => {
                let name = self.name()?;
                let _ = self.eat_name("scoped");
                let _ = self.eat_name("required");
                let body = self.block("endblock")?;
                let _ = self.eat_name(&name);
                StatementKind::Scoped(body)
            }
            "print" => {
                let mut shown = Vec::new();
                while *self.token() != Token::BlockEnd {
                    if !shown.is_empty() {
                        self.expect(",")?;
                    }
                    shown.push(self.expression()?);
                }
                StatementKind::Print(Expression { line: self.line(), kind: ExpressionKind::Concat(shown) })
            }
            "autoescape" => {
                if !["false", "False"].iter().any(|off| self.eat_name(off)) {
                    return self.fails("`autoescape` can only be false: nothing is escaped in a prompt");
                }
                StatementKind::Scoped(self.block("endautoescape")?)
            }
            "break" => StatementKind::Break,
            "continue" => StatementKind::Continue,
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.token(), Token::BlockEnd | Token::End) {
                    self.at += 1;
                }
                StatementKind::Foreign(tag)
            }
            _ => {
                self.at -= 1;
                return self.fails(format!("there is no tag `{tag}`"));
            }
        })
    }

    fn choice(&mut self) -> Result<StatementKind, Error> {
        let mut branches = Vec::new();
        self.conditional += 1;
        loop {
            let test = self.expressions(&["no choice"])?;
            let _ = self.eat(":");
            self.end_tag()?;
            branches.push((test, self.body(&["elif", "else", "endif"])?));
            if !self.eat_name("elif") {
                break;
            }
        }
        let otherwise = if self.eat_name("else") { self.block("endif")? } else { self.ended("endif")? };
        self.conditional -= 1;
        Ok(StatementKind::If(branches, otherwise))
    }

    /// No statements, and the name `end`.
    fn ended(&mut self, end: &str) -> Result<Body, Error> {
        self.expect_name(end)?;
        Ok(Vec::new())
    }

    fn repetition(&mut self) -> Result<StatementKind, Error> {
        let target = self.target(&["in"])?;
        self.expect_name("in")?;
        let over = self.expressions(&["no choice", "recursive", "if"])?;
        let test = if self.eat_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.eat_name("recursive");
        let _ = self.eat(":");
        self.end_tag()?;
        let body = self.body(&["endfor", "else"])?;
        let otherwise = if self.eat_name("else") { self.block("endfor")? } else { self.ended("endfor")? };
        Ok(StatementKind::For(Arc::new(For { target, over, test, recursive, body, otherwise })))
    }

    /// Parameters in brackets and the body up to `end`.
    fn macro_of(&mut self, name: Option<Arc<str>>, end: &str) -> Result<Arc<Macro>, Error> {
        let (parameters, defaults) = self.parameters()?;
        self.macro_with(name, (parameters, defaults), end)
    }

    fn macro_with(
        &mut self,
        name: Option<Arc<str>>,
        (parameters, defaults): Parameters,
        end: &str,
    ) -> Result<Arc<Macro>, Error> {
        self.macros.push(Takes::default());
        let body = self.block(end)?;
        let mut takes = self.macros.pop().unwrap_or_default();
        for (taken, name) in
            [(&mut takes.caller, "caller"), (&mut takes.named, "kwargs"), (&mut takes.positional, "varargs")]
        {
            *taken &= !parameters.iter().any(|p| **p == *name);
        }
        Ok(Arc::new(Macro { name, parameters, defaults, body, takes }))
    }

    fn parameters(&mut self) -> Result<Parameters, Error> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        self.expect("(")?;
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            parameters.push(self.name()?);
            if self.eat("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fails("a parameter without a default follows one with");
            }
        }
        self.expect(")")?;
        Ok((parameters, defaults))
    }

    fn call_block(&mut self) -> Result<StatementKind, Error> {
        let parameters = if self.is_operator("(") { self.parameters()? } else { Parameters::default() };
        let Some((of, arguments)) = self.call()? else { return self.fails("a call is expected") };
        let caller = self.macro_with(None, parameters, "endcall")?;
        Ok(StatementKind::Call { of, arguments, caller })
    }

    /// Where a value goes: names, an attribute of a namespace, or several in a row. One of `ends` ends the row.
    fn target(&mut self, ends: &[&str]) -> Result<Target, Error> {
        let mut targets = Vec::new();
        let mut row = false;
        loop {
            let ended = ends.iter().any(|end| self.is_name(end) || self.is_operator(end));
            if !targets.is_empty() && (ended || matches!(self.token(), Token::BlockEnd | Token::Operator(")" | "="))) {
                break;
            }
            targets.push(self.one_target()?);
            if !self.eat(",") {
                break;
            }
            row = true;
        }
        match (row, targets.pop()) {
            (false, Some(only)) => Ok(only),
            (_, last) => Ok(Target::Tuple(targets.into_iter().chain(last).collect())),
        }
    }

    fn one_target(&mut self) -> Result<Target, Error> {
        if self.eat("(") {
            let inner = self.deeper(|parser| parser.target(&[]))?;
            self.expect(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&&*name) {
            return self.fails(format!("nothing can be put into `{name}`"));
        }
        if self.eat(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }
}

/// Names of parameters, and the defaults of the last ones.
type Parameters = (Vec<Arc<str>>, Vec<Expression>);
