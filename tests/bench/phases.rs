//! How much decisions depend on when the pods of a variant are scraped, and on which of their samples are decided upon
//! together: `cargo bench --bench engine -- phases`. The load is the same in every row, so the counts should be.

use crate::fleet::{Fleet, PODS, encode, target};
use crate::line;
use inferno_sidecar::units::TimeMs;

/// Variants with a model each.
const VARIANTS: usize = 100;
/// Scrape interval, ms.
const SCRAPE_MS: i64 = 12_000;
/// Scrapes before counts are looked at, and in all.
const SCRAPES: (i64, i64) = (150, 300);
/// When the load begins.
const START: TimeMs = TimeMs(1_767_225_600_000);
/// Requests that a pod completes per second, by how much that swings, and over which time, s.
const LOAD: (f64, f64, f64) = (4.2, 0.8, 400.0);
/// Completed requests per step of the fleet's counters.
const PER_STEP: f64 = 5.0;

/// Steps that the counters of a variant's pods have taken.
fn step(variant: usize, at: TimeMs) -> i64 {
    let (per_s, share, period_s) = LOAD;
    let (seconds, angular) = (at.since(START) as f64 / 1e3, std::f64::consts::TAU / period_s);
    let phase = |seconds: f64| (angular * seconds + variant as f64).cos();
    (per_s * (seconds + share / angular * (phase(0.0) - phase(seconds))) / PER_STEP) as i64
}

/// Counts of all variants in the end, and the mean of all of them over time. The second pod of each is scraped
/// `phase_ms` after the first one; `together` says that both are in one request all the same.
fn decided(mode: &str, phase_ms: i64, together: bool) -> (Vec<u32>, f64) {
    let mut fleet = Fleet::cold(VARIANTS, 1, mode);
    let (mut sum, mut number) = (0.0, 0.0);
    for scrape in 0..SCRAPES.1 {
        for variant in 0..VARIANTS {
            let first = START + SCRAPE_MS * scrape + variant as i64;
            let second = first + phase_ms;
            let mut one = target(variant, first);
            one.extend(fleet.pod(variant * PODS, step(variant, first), first, true));
            let other = fleet.pod(variant * PODS + 1, step(variant, second), second, true);
            let requests =
                if together { vec![one.into_iter().chain(other).collect()] } else { vec![one, other] };
            for request in requests {
                fleet.engine.write_v1(&encode(request), second).expect("the request is sound");
                fleet.engine.publish();
            }
        }
        if scrape >= SCRAPES.0 {
            let entries = fleet.engine.board().entries.values();
            let counts: Vec<f64> = entries.filter_map(|entry| entry.desired()).map(f64::from).collect();
            sum += counts.iter().sum::<f64>();
            number += counts.len() as f64;
        }
    }
    (fleet.engine.board().entries.values().filter_map(|entry| entry.desired()).collect(), sum / number)
}

/// The table.
pub fn phases() {
    for mode in ["model", "slo"] {
        let (counts, mean) = decided(mode, 0, true);
        line(&format!("mean count, mode {mode}, pods scraped at once"), mean, "", "", "");
        for (phase_ms, together, what) in [
            (0, false, "at once, in two requests"),
            (40, false, "40 ms apart, in two requests"),
            (SCRAPE_MS / 2, false, "half an interval apart"),
        ] {
            let (other, mean) = decided(mode, phase_ms, together);
            let apart = |by: u32| counts.iter().zip(&other).filter(|(a, b)| a.abs_diff(**b) > by).count();
            let note =
                format!("{} of {VARIANTS} counts differ in the end, {} by more than one", apart(0), apart(1));
            line(&format!("mean count, mode {mode}, {what}"), mean, "", "", &note);
        }
    }
}
