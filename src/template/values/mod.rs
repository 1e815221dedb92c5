//! What a template computes with: values, what may be done with them, and what that may cost. Each needs the others: to print an
//! object is to look into it, and to compare two values is to spend from the budget.

pub(crate) mod access;
pub(crate) mod arguments;
pub(crate) mod budget;
pub(crate) mod format;
pub(crate) mod methods;
pub(crate) mod object;
pub(crate) mod operators;
pub(crate) mod print;
pub(crate) mod scope;
pub(crate) mod value;
