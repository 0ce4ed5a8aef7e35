//! Any bytes are a file system that is read, changed and grown. A corpus of small ones of mke2fs makes it worth its time.
#![no_main]

#[path = "../../tests/support/fuzz.rs"]
#[allow(dead_code, reason = "each target has a body of its own")]
mod fuzz;
#[path = "../../tests/support/fuzz_ext4.rs"]
#[allow(dead_code, reason = "damage to one kind of structure is what the tests do")]
mod fuzz_ext4;
#[path = "../../tests/support/fuzz_places.rs"]
#[allow(dead_code, reason = "as above")]
mod fuzz_places;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|bytes: &[u8]| fuzz_ext4::change(bytes));

fuzz_mutator!(|bytes: &mut [u8], len: usize, _most: usize, seed: u32| {
    let mut image = bytes[..len].to_vec();
    if len >= 1 << 16 {
        fuzz_ext4::mutate(&mut image, seed.into());
    }
    bytes[..len].copy_from_slice(&image);
    len
});
