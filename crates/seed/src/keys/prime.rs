//! Primes for RSA keys, found quickly and always the same ones for the same randomness.
//!
//! A candidate first has to pass a sieve by small primes, which costs additions only, and then rounds of Miller-Rabin with random
//! bases. The two primes of a key have streams of their own, so that two threads can look for them.

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;
use rsa::BigUint;

use crate::identity::Randomness;

/// Returns two different primes of `bits / 2` bits each, whose product has exactly `bits` bits; `p - 1` and `q - 1` are coprime
/// to 65537.
pub(super) fn pair(randomness: &Randomness, purpose: &str, bits: usize) -> (BigUint, BigUint) {
    let search = |name: &str| {
        let mut stream = randomness.stream(&format!("{purpose}: {name}"));
        find(&mut stream, bits / 2)
    };
    let (p, mut q) = std::thread::scope(|scope| {
        let p = std::thread::Builder::new().spawn_scoped(scope, || search("p"));
        let q = search("q");
        // Without a second thread, this one does both.
        let p = p.ok().and_then(|p| p.join().ok()).unwrap_or_else(|| search("p"));
        (p, q)
    });
    let mut attempt = 1_u32;
    while p == q {
        q = search(&format!("q {attempt}"));
        attempt = attempt.wrapping_add(1);
    }
    (p, q)
}

/// Returns the first prime that `random` leads to.
///
/// The two highest bits are set, so that the product of two such primes has no bit less than both together.
#[expect(clippy::arithmetic_side_effects, reason = "numbers of any length: nothing overflows, and no divisor is zero")]
fn find(random: &mut ChaCha20Rng, bits: usize) -> BigUint {
    let small = small_primes();
    let mut bytes = vec![0; bits / 8];
    loop {
        random.fill_bytes(&mut bytes);
        if let Some(first) = bytes.first_mut() {
            *first |= 0xc0;
        }
        if let Some(last) = bytes.last_mut() {
            *last |= 1;
        }
        let start = BigUint::from_bytes_be(&bytes);
        for delta in survivors(&start, &small) {
            let candidate = &start + BigUint::from(delta);
            if candidate.bits() == bits && is_prime(&candidate, random) {
                return candidate;
            }
        }
    }
}

/// Returns the even distances from `start` at which no number of `small` divides, nor 65537 divides one less.
#[expect(clippy::arithmetic_side_effects, reason = "numbers of any length: nothing overflows, and no divisor is zero")]
fn survivors(start: &BigUint, small: &[u32]) -> Vec<u32> {
    let mut composite = vec![false; SPAN];
    for &prime in small {
        cross_out(&mut composite, remainder(start, prime), prime);
    }
    // Spec: FIPS 186-5, A.1.3: "If (GCD(p-1, e) = 1)": 65537 is prime, so it must not divide p - 1.
    let exponent = 65537;
    cross_out(&mut composite, remainder(&(start - BigUint::from(1_u32)), exponent), exponent);
    let odd = (0_u32..).step_by(2);
    composite.iter().zip(odd).filter(|(composite, _)| !**composite).map(|(_, delta)| delta).collect()
}

/// Marks each `index` for which `prime`, which is odd, divides a number of remainder `remainder` plus `2 * index`.
fn cross_out(composite: &mut [bool], remainder: u32, prime: u32) {
    // remainder + 2 * index = 0 (mod prime): the distance to the next multiple, made even by one more prime.
    let mut distance = prime.saturating_sub(remainder);
    if distance == prime {
        distance = 0;
    }
    if distance & 1 == 1 {
        distance = distance.saturating_add(prime);
    }
    let first = usize::try_from(distance / 2).unwrap_or(usize::MAX);
    let step = usize::try_from(prime).unwrap_or(usize::MAX);
    composite.iter_mut().skip(first).step_by(step).for_each(|mark| *mark = true);
}

#[expect(clippy::arithmetic_side_effects, reason = "numbers of any length: nothing overflows, and no divisor is zero")]
fn remainder(number: &BigUint, divisor: u32) -> u32 {
    let rest = number % BigUint::from(divisor);
    rest.to_bytes_le().iter().rev().fold(0, |value, byte| value.wrapping_shl(8) | u32::from(*byte))
}

/// Returns whether `number`, odd and large, passes Miller-Rabin with random bases.
///
/// Spec: FIPS 186-5, B.3.1 and table B.1: for 1024-bit candidates, 5 rounds give an error below 2^-112.
#[expect(clippy::arithmetic_side_effects, reason = "numbers of any length: nothing overflows, and no divisor is zero")]
fn is_prime(number: &BigUint, random: &mut ChaCha20Rng) -> bool {
    let one = BigUint::from(1_u32);
    let less_one = number - &one;
    let twos = less_one.trailing_zeros().unwrap_or(0);
    let odd = &less_one >> twos;
    let mut bytes = vec![0; number.bits().div_ceil(8)];
    for _ in 0..ROUNDS {
        random.fill_bytes(&mut bytes);
        // Between 2 and number - 2.
        let base = BigUint::from_bytes_be(&bytes) % (number - BigUint::from(3_u32)) + BigUint::from(2_u32);
        let mut power = base.modpow(&odd, number);
        if power == one || power == less_one {
            continue;
        }
        let reached = (1..twos).any(|_| {
            power = (&power * &power) % number;
            power == less_one
        });
        if !reached {
            return false;
        }
    }
    true
}

/// Returns the odd primes below [`SIEVE_LIMIT`].
fn small_primes() -> Vec<u32> {
    let mut primes: Vec<u32> = Vec::new();
    for number in (3..SIEVE_LIMIT).step_by(2) {
        let prime = primes
            .iter()
            .take_while(|prime| prime.checked_mul(**prime).is_some_and(|square| square <= number))
            .all(|prime| !number.is_multiple_of(*prime));
        if prime {
            primes.push(number);
        }
    }
    primes
}

/// Odd numbers looked at from one random start: about six times the mean distance of 1024-bit primes.
const SPAN: usize = 2048;
/// Small primes are tried up to here; a longer list costs more divisions than it saves Miller-Rabin rounds.
const SIEVE_LIMIT: u32 = 8192;
const ROUNDS: u32 = 5;

#[cfg(test)]
mod tests {
    use rsa::BigUint;

    use super::{is_prime, pair, small_primes, survivors};
    use crate::identity::Randomness;

    #[test]
    fn the_sieve_keeps_exactly_what_no_small_prime_divides() {
        let small = small_primes();
        assert_eq!(small[..5], [3, 5, 7, 11, 13]);
        assert_eq!(small.len(), 1027);
        let start: u64 = (1 << 40) + 1;
        let kept = survivors(&BigUint::from(start), &small);
        for delta in (0..4096).step_by(2) {
            let number = start + u64::from(delta);
            let passes =
                small.iter().all(|prime| !number.is_multiple_of(u64::from(*prime))) && !(number - 1).is_multiple_of(65537);
            assert_eq!(kept.contains(&delta), passes, "{delta}");
        }
    }

    #[test]
    fn known_primes_pass_and_known_composites_do_not() {
        let mut random = Randomness::from_root([1; 32]).stream("test");
        let power = |exponent: usize| (BigUint::from(1_u32) << exponent) - BigUint::from(1_u32);
        // Mersenne numbers: 2^521 - 1 and 2^607 - 1 are prime, 2^523 - 1 is not.
        assert!(is_prime(&power(521), &mut random));
        assert!(is_prime(&power(607), &mut random));
        assert!(!is_prime(&power(523), &mut random));
        // Carmichael numbers fool Fermat's test, not this one.
        for carmichael in [561_u32, 41041, 825_265, 321_197_185] {
            assert!(!is_prime(&BigUint::from(carmichael), &mut random));
        }
        assert!(!is_prime(&(power(521) * power(607)), &mut random));
    }

    #[test]
    fn a_pair_has_the_asked_length() {
        let (p, q) = pair(&Randomness::from_root([2; 32]), "test", 512);
        assert_eq!((p.bits(), q.bits(), (&p * &q).bits()), (256, 256, 512));
        assert_ne!(p, q);
    }
}
