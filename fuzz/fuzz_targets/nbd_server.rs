//! Any bytes are what a client sends to an NBD server.
#![no_main]

#[path = "../../tests/support/fuzz.rs"]
#[allow(dead_code, reason = "each target has a body of its own")]
mod fuzz;
#[path = "../../tests/support/fuzz_server.rs"]
mod fuzz_server;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| fuzz_server::serve(bytes));

fuzz_mutator!(|bytes: &mut [u8], len: usize, most: usize, seed: u32| {
    if seed % 4 != 0 {
        return fuzzer_mutate(bytes, len, most);
    }
    let sent = fuzz_server::conversation(seed.into());
    let len = sent.len().min(most);
    bytes[..len].copy_from_slice(&sent[..len]);
    len
});
