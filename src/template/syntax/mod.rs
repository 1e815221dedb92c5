//! How a template is written: its source as steps.

pub(crate) mod lexer;
pub(crate) mod literals;
pub(crate) mod parser;
