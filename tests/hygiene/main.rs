//! Rules that the sources themselves keep.

mod help;
mod layers;
mod readme;
