//! Random damage to sound input: `cargo test --test fuzz`. Every target runs for about a second, or for
//! `INFERNO_FUZZ_SECONDS`; `INFERNO_FUZZ_SEED` chooses other inputs. Whatever comes in: no panic, no value that
//! is not a number, no unbounded memory, and what is held of the whole is held of its parts.

#[allow(dead_code, reason = "shared with the engine's tests")]
#[path = "../engine/support.rs"]
mod support;
#[allow(dead_code, reason = "shared with the engine's tests")]
#[path = "../support/table.rs"]
mod table;

mod mutate;
mod operations;
mod recordings;
mod requests;
mod surface;
mod texts;
#[allow(dead_code, reason = "shared with the engine's tests")]
#[path = "../engine/worlds.rs"]
mod worlds;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use std::time::{Duration, Instant};

/// Names the input that failed.
struct Attempt<'a> {
    target: &'a str,
    seed: u64,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} failed; repeat it with INFERNO_FUZZ_SEED={}", self.target, self.seed);
        }
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

/// Calls `once` with one generator after another until the time is over.
fn attempts(target: &str, mut once: impl FnMut(&mut Pcg64)) {
    let time = Duration::from_secs(number_from_env("INFERNO_FUZZ_SECONDS").unwrap_or(1));
    let first = number_from_env("INFERNO_FUZZ_SEED").unwrap_or(0);
    let begun = Instant::now();
    let mut seed = first;
    while seed == first || begun.elapsed() < time {
        let _attempt = Attempt { target, seed };
        once(&mut Pcg64::seed_from_u64(seed));
        seed += 1;
    }
    println!("{target}: {} inputs", seed - first);
}
