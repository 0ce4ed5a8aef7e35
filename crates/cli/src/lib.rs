//! The `vmimg` program as a library: arguments, output, prepare as a transaction, the image store and hypervisors.
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used,
        reason = "a test that panics has failed, as it should"
    )
)]

pub mod domain;
