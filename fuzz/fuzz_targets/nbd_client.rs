//! Any bytes are what an NBD server says to a client.
#![no_main]

#[path = "../../tests/support/fuzz.rs"]
#[allow(dead_code, reason = "each target has a body of its own")]
mod fuzz;
#[path = "../../tests/support/fuzz_client.rs"]
mod fuzz_client;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| fuzz_client::talk(bytes));

fuzz_mutator!(|bytes: &mut [u8], len: usize, most: usize, seed: u32| {
    if seed % 4 != 0 {
        return fuzzer_mutate(bytes, len, most);
    }
    let said = fuzz_client::conversation(seed.into());
    let len = said.len().min(most);
    bytes[..len].copy_from_slice(&said[..len]);
    len
});
