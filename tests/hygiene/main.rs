//! Rules that the sources themselves keep.

mod layers;
