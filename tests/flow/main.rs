//! Flow files: what is read, what is refused and where, and expressions.

mod expressions;
mod good;
mod wrong;
