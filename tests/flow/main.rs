//! Flow files: what is read, what is refused and where, what is made of them, and expressions.

mod bounds;
mod exports;
mod expressions;
mod good;
mod keys;
mod reference;
mod wrong;
mod wrong_nodes;
