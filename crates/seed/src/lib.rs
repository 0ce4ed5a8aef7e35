//! What a guest is given: looks at the guest, renders its seed and makes an edit plan.
//!
//! Knows guests, not formats: files are reached through [`imgcore::fs::FileSystem`], changes leave as an
//! [`imgcore::fs::EditPlan`]. Randomness and time come from the caller, so that the same inputs give the same bytes.
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

pub mod document;
pub mod guest;
pub mod identity;
pub mod iso;
pub mod keys;
pub mod network;
pub mod plan;
