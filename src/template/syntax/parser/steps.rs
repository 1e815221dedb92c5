//! From tokens to what is done to a value: filters, tests, calls.

use super::super::lexer::Token;
use super::Parser;
use super::expressions::followed;
use crate::ast::{Arguments, Expression, ExpressionKind, Step, StepKind};
use crate::error::Error;
use crate::filters;
use crate::filters::checks;
use std::sync::Arc;

impl Parser {
    /// A filter, whose `|` is read.
    pub(crate) fn filter(&mut self) -> Result<Step, Error> {
        let line = self.line();
        let name = self.dotted_name()?;
        if self.alone && filters::is_random(&name) {
            self.at -= 1;
            return self.fails(format!("the filter `{name}` gives something else each time: it cannot be used here"));
        }
        if (self.alone || self.conditional == 0) && !filters::exists(&name) {
            self.at -= 1;
            return self.fails(format!("there is no filter `{name}`"));
        }
        let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(Step { line, kind: StepKind::Filter(name, arguments) })
    }

    /// All filters that come next.
    pub(crate) fn filters(&mut self) -> Result<Vec<Step>, Error> {
        let mut filters = Vec::new();
        while self.eat("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    fn dotted_name(&mut self) -> Result<Arc<str>, Error> {
        let mut name = self.name()?;
        while self.eat(".") {
            name = Arc::from(format!("{name}.{}", self.name()?));
        }
        Ok(name)
    }

    /// A test, whose `is` is read.
    pub(crate) fn test(&mut self, line: u32) -> Result<Step, Error> {
        let negated = self.eat_name("not");
        let name = self.dotted_name()?;
        if (self.alone || self.conditional == 0) && !checks::exists(&name) {
            self.at -= 1;
            return self.fails(format!("there is no test `{name}`"));
        }
        let mut arguments = Arguments::default();
        let one_follows = match self.token() {
            Token::Name(name) => !["else", "or", "and"].contains(&&**name),
            Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{") => true,
            _ => false,
        };
        if self.is_operator("(") {
            arguments = self.arguments()?;
        } else if one_follows {
            if self.is_name("is") {
                return self.fails("a test cannot follow a test");
            }
            let argument = self.primary()?;
            let mut steps = Vec::new();
            while let Some(step) = self.postfix()? {
                steps.push(step);
            }
            arguments.positional.push(followed(argument, steps));
        }
        Ok(Step { line, kind: StepKind::Test { name, arguments, negated } })
    }

    pub(crate) fn arguments(&mut self) -> Result<Arguments, Error> {
        let mut arguments = Arguments::default();
        self.expect("(")?;
        let mut begun = false;
        while !self.eat(")") {
            if begun {
                self.expect(",")?;
                if self.eat(")") {
                    break;
                }
            }
            begun = true;
            let spread = arguments.list.is_some() || arguments.dict.is_some();
            if !spread && self.eat("*") {
                arguments.list = Some(Box::new(self.expression()?));
            } else if arguments.dict.is_none() && self.eat("**") {
                arguments.dict = Some(Box::new(self.expression()?));
            } else if matches!(self.token_after(), Token::Operator("=")) && arguments.dict.is_none() {
                let name = self.name()?;
                self.expect("=")?;
                arguments.named.push((name, self.expression()?));
            } else if !spread && arguments.named.is_empty() {
                arguments.positional.push(self.expression()?);
            } else {
                return self.fails("the arguments of a call are out of order");
            }
        }
        Ok(arguments)
    }

    /// A call: what is called, and with what.
    pub(crate) fn call(&mut self) -> Result<Option<(Expression, Arguments)>, Error> {
        let Expression { line, kind } = self.expression()?;
        let ExpressionKind::Steps(of, mut steps) = kind else { return Ok(None) };
        let Some(Step { kind: StepKind::Call(arguments), .. }) = steps.pop() else { return Ok(None) };
        let of = if steps.is_empty() { *of } else { Expression { line, kind: ExpressionKind::Steps(of, steps) } };
        Ok(Some((of, arguments)))
    }
}
