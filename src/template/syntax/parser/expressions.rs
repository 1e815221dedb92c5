//! From tokens to expressions. Jinja2's ranks, from loosest: `if else`, `or`, `and`, `not`, comparisons, `+ -`, `~`, `* / // %`,
//! `**`, signs, and what follows a value.

use super::super::lexer::{Placed, Token};
use super::Parser;
use crate::ast::{Choice, Comparison, Expression, ExpressionKind, Mention, Operator, Part, Step, StepKind};
use crate::error::Error;
use std::sync::Arc;

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
];
/// Operators that join from the left, by rank from loosest; `~` is between the first two ranks.
const RANKS: [&[(&str, Operator)]; 3] = [
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[("*", Operator::Multiply), ("/", Operator::Divide), ("//", Operator::DivideWhole), ("%", Operator::Remainder)],
    &[("**", Operator::Power)],
];

/// Reads the one expression of a tag: it, and the names that it mentions.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn alone(tokens: Vec<Placed>) -> Result<(Expression, Vec<Mention>), Error> {
    let mut parser = Parser::of(tokens, true);
    parser.at = 1;
    let expression = parser.expressions(&[])?;
    match parser.token() {
        Token::PrintEnd => Ok((expression, parser.mentions)),
        _ => parser.unexpected("the end of the expression"),
    }
}

impl Parser {
    pub(crate) fn byte(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |placed| placed.byte)
    }

    /// Several expressions with commas between them are a tuple. `ends` are names that may end it; if `no choice` is the first of
    /// them, an `if` is not a part of it.
    pub(crate) fn expressions(&mut self, ends: &[&str]) -> Result<Expression, Error> {
        let line = self.line();
        let choice = ends.first() != Some(&"no choice");
        let mut items = Vec::new();
        let mut row = false;
        loop {
            let ended = matches!(self.token(), Token::PrintEnd | Token::BlockEnd | Token::Operator(")"));
            if ended || ends.iter().any(|end| self.is_name(end)) {
                break;
            }
            items.push(if choice { self.expression()? } else { self.deeper(Self::any)? });
            if !self.eat(",") {
                break;
            }
            row = true;
        }
        match (row, items.pop()) {
            (false, Some(only)) => Ok(only),
            (false, None) => self.unexpected("an expression"),
            (true, last) => {
                Ok(Expression { line, kind: ExpressionKind::Tuple(items.into_iter().chain(last).collect()) })
            }
        }
    }

    pub(crate) fn expression(&mut self) -> Result<Expression, Error> {
        self.deeper(|parser| {
            let line = parser.line();
            let mut then = parser.any()?;
            if parser.eat_name("if") {
                parser.conditional += 1;
                let test = parser.any()?;
                let otherwise = if parser.eat_name("else") { Some(parser.expression()?) } else { None };
                parser.conditional -= 1;
                then = Expression { line, kind: ExpressionKind::Choice(Box::new(Choice { test, then, otherwise })) };
            }
            Ok(then)
        })
    }

    fn any(&mut self) -> Result<Expression, Error> {
        let line = self.line();
        let first = self.all()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.eat_name("or") {
            parts.push(self.all()?);
        }
        Ok(Expression { line, kind: ExpressionKind::Any(parts) })
    }

    fn all(&mut self) -> Result<Expression, Error> {
        let line = self.line();
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.eat_name("and") {
            parts.push(self.not()?);
        }
        Ok(Expression { line, kind: ExpressionKind::All(parts) })
    }

    fn not(&mut self) -> Result<Expression, Error> {
        let line = self.line();
        if self.eat_name("not") {
            let inner = self.deeper(Self::not)?;
            return Ok(Expression { line, kind: ExpressionKind::Not(Box::new(inner)) });
        }
        let first = self.chain(0)?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.token() {
                Token::Operator(o) => COMPARISONS.iter().find(|(text, _)| text == o).map(|(_, c)| *c),
                Token::Name(name) if **name == *"in" => Some(Comparison::In),
                Token::Name(name) if **name == *"not" => {
                    let is_in = matches!(self.token_after(), Token::Name(name) if **name == *"in");
                    self.at += usize::from(is_in);
                    is_in.then_some(Comparison::NotIn)
                }
                _ => None,
            };
            let Some(operator) = operator else { break };
            self.at += 1;
            rest.push((operator, self.chain(0)?));
        }
        match rest.is_empty() {
            true => Ok(first),
            false => Ok(Expression { line, kind: ExpressionKind::Compare(Box::new(first), rest) }),
        }
    }

    /// Operators of `rank` and of those that bind tighter.
    fn chain(&mut self, rank: usize) -> Result<Expression, Error> {
        let line = self.line();
        let first = self.below(rank)?;
        let mut rest = Vec::new();
        while let Token::Operator(operator) = self.token()
            && let Some((_, operator)) = RANKS[rank].iter().find(|(text, _)| text == operator).copied()
        {
            self.at += 1;
            rest.push((operator, self.below(rank)?));
        }
        match rest.is_empty() {
            true => Ok(first),
            false => Ok(Expression { line, kind: ExpressionKind::Chain(Box::new(first), rest) }),
        }
    }

    fn below(&mut self, rank: usize) -> Result<Expression, Error> {
        match rank {
            0 => self.concat(),
            1 => self.chain(2),
            _ => self.signed(true),
        }
    }

    fn concat(&mut self) -> Result<Expression, Error> {
        let line = self.line();
        let first = self.chain(1)?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.eat("~") {
            parts.push(self.chain(1)?);
        }
        Ok(Expression { line, kind: ExpressionKind::Concat(parts) })
    }

    fn signed(&mut self, with_filters: bool) -> Result<Expression, Error> {
        let line = self.line();
        let node = if self.eat("-") {
            let inner = self.deeper(|parser| parser.signed(false))?;
            Expression { line, kind: ExpressionKind::Minus(Box::new(inner)) }
        } else if self.eat("+") {
            let inner = self.deeper(|parser| parser.signed(false))?;
            Expression { line, kind: ExpressionKind::Plus(Box::new(inner)) }
        } else {
            self.primary()?
        };
        let mut steps = Vec::new();
        while let Some(step) = self.postfix()? {
            steps.push(step);
        }
        if !with_filters {
            return Ok(followed(node, steps));
        }
        loop {
            let line = self.line();
            if self.eat("|") {
                steps.push(self.filter()?);
            } else if self.eat_name("is") {
                steps.push(self.test(line)?);
            } else if self.is_operator("(") {
                steps.push(Step { line, kind: StepKind::Call(self.arguments()?) });
            } else {
                break;
            }
        }
        Ok(followed(node, steps))
    }

    pub(crate) fn primary(&mut self) -> Result<Expression, Error> {
        let line = self.line();
        let kind = match self.token().clone() {
            Token::Name(name) => {
                self.at += 1;
                match &*name {
                    "true" | "True" => ExpressionKind::Bool(true),
                    "false" | "False" => ExpressionKind::Bool(false),
                    "none" | "None" => ExpressionKind::None,
                    _ => {
                        for takes in &mut self.macros {
                            takes.caller |= &*name == "caller";
                            takes.named |= &*name == "kwargs";
                            takes.positional |= &*name == "varargs";
                        }
                        self.mention(&name);
                        ExpressionKind::Name(name)
                    }
                }
            }
            Token::Text(first) => {
                self.at += 1;
                let mut text = first;
                if matches!(self.token(), Token::Text(_)) {
                    let mut joined = text.to_string();
                    while let Token::Text(more) = self.token() {
                        joined.push_str(more);
                        self.at += 1;
                    }
                    text = Arc::from(joined);
                }
                ExpressionKind::Text(text)
            }
            Token::Int(value) => {
                self.at += 1;
                ExpressionKind::Int(value)
            }
            Token::Float(value) => {
                self.at += 1;
                ExpressionKind::Float(value)
            }
            Token::Operator("(") => {
                self.at += 1;
                if self.eat(")") {
                    return Ok(Expression { line, kind: ExpressionKind::Tuple(Vec::new()) });
                }
                let inner = self.expressions(&[])?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Operator("[") => {
                self.at += 1;
                ExpressionKind::List(self.row("]", Self::expression)?)
            }
            Token::Operator("{") => {
                self.at += 1;
                let pair = |parser: &mut Self| {
                    let key = parser.expression()?;
                    parser.expect(":")?;
                    Ok((key, parser.expression()?))
                };
                ExpressionKind::Dict(self.row("}", pair)?)
            }
            _ => return self.unexpected("an expression"),
        };
        Ok(Expression { line, kind })
    }

    /// Notes that `name`, which was just read, is mentioned, and what is asked of it.
    fn mention(&mut self, name: &Arc<str>) {
        let behind = |count: usize| self.tokens.get(self.at + count).map_or(&Token::End, |placed| &placed.token);
        let part = match (self.token(), behind(1), behind(2)) {
            (Token::Operator("."), Token::Name(field), _) => Part::Field(Arc::clone(field)),
            (Token::Operator("["), Token::Text(field), Token::Operator("]")) => Part::Field(Arc::clone(field)),
            (Token::Operator("."), Token::Int(place), _) => Part::Place(*place),
            (Token::Operator("["), Token::Int(place), Token::Operator("]")) => Part::Place(*place),
            (Token::Operator("["), ..) => Part::Computed,
            _ => Part::Whole,
        };
        if crate::eval::BUILT_IN.contains(&&**name) {
            return;
        }
        let byte = self.tokens.get(self.at.saturating_sub(1)).map_or(0, |placed| placed.byte);
        self.mentions.push(Mention { name: Arc::clone(name), part, byte });
    }

    /// What `one` reads, with commas between, up to `end`.
    fn row<T>(&mut self, end: &str, one: impl Fn(&mut Self) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        while !self.eat(end) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.eat(end) {
                    break;
                }
            }
            items.push(one(self)?);
        }
        Ok(items)
    }

    /// `.name`, `[item]` or a call, if one comes next.
    pub(crate) fn postfix(&mut self) -> Result<Option<Step>, Error> {
        let line = self.line();
        let kind = if self.eat(".") {
            match self.token().clone() {
                Token::Int(place) => {
                    self.at += 1;
                    StepKind::Item(Expression { line, kind: ExpressionKind::Int(place) })
                }
                _ => {
                    let name = self.name()?;
                    self.attributes.insert(Arc::clone(&name));
                    StepKind::Attribute(name)
                }
            }
        } else if self.eat("[") {
            let kind = self.subscript()?;
            self.expect("]")?;
            kind
        } else if self.is_operator("(") {
            StepKind::Call(self.arguments()?)
        } else {
            return Ok(None);
        };
        Ok(Some(Step { line, kind }))
    }

    fn subscript(&mut self) -> Result<StepKind, Error> {
        let line = self.line();
        let first = if self.is_operator(":") { None } else { Some(self.expression()?) };
        if !self.eat(":") {
            let Some(mut item) = first else { return self.unexpected("an expression") };
            if self.eat(",") {
                let rest = self.expressions(&[])?;
                item = Expression { line, kind: ExpressionKind::Tuple(vec![item, rest]) };
            }
            if let ExpressionKind::Text(name) = &item.kind {
                self.attributes.insert(Arc::clone(name));
            }
            return Ok(StepKind::Item(item));
        }
        let bound = |parser: &mut Self| match parser.token() {
            Token::Operator(":" | "]") => Ok(None),
            _ => parser.expression().map(Some),
        };
        let end = bound(self)?;
        let step = if self.eat(":") { bound(self)? } else { None };
        Ok(StepKind::Slice(Box::new([first, end, step])))
    }
}

pub(crate) fn followed(first: Expression, steps: Vec<Step>) -> Expression {
    match steps.is_empty() {
        true => first,
        false => Expression { line: first.line, kind: ExpressionKind::Steps(Box::new(first), steps) },
    }
}
