//! Any bytes are checked and repaired as an image.
#![no_main]

#[path = "../../tests/support/fuzz.rs"]
#[allow(dead_code, reason = "each target has a body of its own")]
mod fuzz;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|bytes: &[u8]| fuzz::check(bytes));

fuzz_mutator!(|bytes: &mut [u8], len: usize, most: usize, seed: u32| {
    fuzz::mutate_within(&mut bytes[..most], len, seed.into())
});
