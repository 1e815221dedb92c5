//! A template as it was read. What is long is a list, so that nothing nests deeper than the source does.

use std::sync::Arc;

/// Statements one after the other.
pub(crate) type Body = Vec<Statement>;

/// A name that an expression mentions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The name.
    pub name: Arc<str>,
    /// What is asked of it at once.
    pub part: Part,
    /// Where the name begins in the source that was read, in bytes.
    pub byte: usize,
}

/// What of a value is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// `.field` or `['field']`.
    Field(Arc<str>),
    /// `[0]` or `.0`.
    Place(i128),
    /// `[…]`: something that only its evaluation tells, or a slice.
    Computed,
}

/// An expression and its line.
#[derive(Debug)]
pub(crate) struct Expression {
    pub line: u32,
    pub kind: ExpressionKind,
}

/// What an expression is.
#[derive(Debug)]
pub(crate) enum ExpressionKind {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    Name(Arc<str>),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    /// Operators of one rank, from left to right.
    Chain(Box<Expression>, Vec<(Operator, Expression)>),
    /// `a ~ b ~ c`.
    Concat(Vec<Expression>),
    /// `a or b or c`.
    Any(Vec<Expression>),
    /// `a and b and c`.
    All(Vec<Expression>),
    Not(Box<Expression>),
    Minus(Box<Expression>),
    Plus(Box<Expression>),
    /// `a < b <= c`.
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    /// `then if test else otherwise`.
    Choice(Box<Choice>),
    /// What follows an expression: `.name`, `[item]`, `(call)`, `|filter`, `is test`.
    Steps(Box<Expression>, Vec<Step>),
}

#[derive(Debug)]
pub(crate) struct Choice {
    pub test: Expression,
    pub then: Expression,
    pub otherwise: Option<Expression>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    DivideWhole,
    Remainder,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// One thing that is done to a value, and its line.
#[derive(Debug)]
pub(crate) struct Step {
    pub line: u32,
    pub kind: StepKind,
}

#[derive(Debug)]
pub(crate) enum StepKind {
    Attribute(Arc<str>),
    Item(Expression),
    Slice(Box<[Option<Expression>; 3]>),
    Call(Arguments),
    Filter(Arc<str>, Arguments),
    Test { name: Arc<str>, arguments: Arguments, negated: bool },
}

/// What a call is given.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub positional: Vec<Expression>,
    pub named: Vec<(Arc<str>, Expression)>,
    /// `*list`.
    pub list: Option<Box<Expression>>,
    /// `**dict`.
    pub dict: Option<Box<Expression>>,
}

/// A statement and its line.
#[derive(Debug)]
pub(crate) struct Statement {
    pub line: u32,
    pub kind: StatementKind,
}

#[derive(Debug)]
pub(crate) enum StatementKind {
    Text(Arc<str>),
    Print(Expression),
    If(Vec<(Expression, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expression),
    /// What the body writes, through the filters.
    SetBlock(Target, Vec<Step>, Body),
    FilterBlock(Vec<Step>, Body),
    Macro(Arc<Macro>),
    /// The call, its arguments, and what it may call as `caller`.
    Call {
        of: Expression,
        arguments: Arguments,
        caller: Arc<Macro>,
    },
    With(Vec<(Target, Expression)>, Body),
    /// A body with names of its own.
    Scoped(Body),
    Break,
    Continue,
    /// A tag that needs what is not here: other templates.
    Foreign(Arc<str>),
}

/// Where a value goes.
#[derive(Debug)]
pub(crate) enum Target {
    Name(Arc<str>),
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(crate) struct For {
    pub target: Target,
    pub over: Expression,
    pub test: Option<Expression>,
    pub recursive: bool,
    pub body: Body,
    pub otherwise: Body,
}

#[derive(Debug)]
pub(crate) struct Macro {
    /// `None` for what a call block hands over.
    pub name: Option<Arc<str>>,
    pub parameters: Vec<Arc<str>>,
    /// Those of the last parameters.
    pub defaults: Vec<Expression>,
    pub body: Body,
    pub takes: Takes,
}

/// The names without a declaration that a macro's body mentions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Takes {
    pub caller: bool,
    pub named: bool,
    pub positional: bool,
}
