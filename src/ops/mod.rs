//! Floor 2: tensor maths, one op a file.

pub mod sample;
