//! A day in which every pod is replaced again and again: `cargo bench --bench engine -- churn`.

use crate::fleet::{Fleet, PODS, encode, target};
use crate::{line, resident_bytes};
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::limits::HISTORY_MAX_BYTES;
use inferno_sidecar::proto::TimeSeries;
use inferno_sidecar::publish::history::{History, Retention};
use inferno_sidecar::units::TimeMs;
use inferno_sidecar::wire::STALE_MARKER_BITS;
use std::sync::Arc;

/// Variants with a model each, half of them in mode `slo`, half in mode `model`.
const VARIANTS: usize = 100;
/// Scrape interval, ms.
const SCRAPE_MS: i64 = 15_000;
/// Scrapes of an hour.
const HOUR: i64 = 3_600_000 / SCRAPE_MS;
/// Scrapes after which a pod of each variant is replaced: a minute. Its pods take turns.
const REPLACED_AFTER: i64 = 60_000 / SCRAPE_MS;
/// Hours after which memory is looked at: `slo` remembers somewhat over two.
const LOOKED_AT: [i64; 6] = [1, 3, 6, 12, 18, 24];
/// Modes, of variants in turn.
const MODES: [&str; 2] = ["model", "slo"];
/// When the day begins.
const START: TimeMs = TimeMs(1_767_225_600_000);
/// Letters of the generated end of a pod's name.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A fleet whose models are in modes in turn.
fn fleet() -> Fleet {
    let mut fleet = Fleet::cold(VARIANTS, 1, MODES[0]);
    let mut files = crate::fleet::files(VARIANTS, 1, MODES[0]);
    let default = format!("default: \"mode: {}\"\n", MODES[0]);
    let mut modes = default.clone();
    for number in (1..VARIANTS).step_by(2) {
        let namespace = crate::fleet::namespace(number);
        modes += &format!(
            "  other-{number}: \"{{model_id: org/model-{number}, namespace: {namespace}, mode: {}}}\"\n",
            MODES[1]
        );
    }
    files[0] = files[0].replacen(&default, &modes, 1);
    let documents: Vec<_> = files.iter().flat_map(|file| documents("churn.yaml", file)).collect();
    let resolved = resolve(&documents, &Resolved::default());
    assert!(resolved.problems.is_empty(), "{:?}", resolved.problems.first());
    fleet.engine.apply_snapshot(&resolved.snapshot, Arc::from([]));
    fleet
}

/// What a pod reports; each variant's pods are replaced in turn, and the new one counts from zero.
fn report(fleet: &Fleet, pod: usize, scrape: i64, time: TimeMs) -> Vec<TimeSeries> {
    let place = pod as i64 % PODS as i64;
    let turn = (scrape / REPLACED_AFTER + place) / PODS as i64;
    let began = (turn * PODS as i64 - place).max(0) * REPLACED_AFTER;
    // Loads differ between variants and over the day.
    let swing = 1.0 + 0.6 * ((scrape as f64 / HOUR as f64 + pod as f64 / PODS as f64).sin());
    let grown = ((scrape - began).max(0) as f64 * swing) as i64;
    let mut all = fleet.pod(pod, grown, time, true);
    let mut number = turn as usize;
    let end: String = (0..4)
        .map(|_| {
            let letter = char::from(LETTERS[number % LETTERS.len()]);
            number /= LETTERS.len();
            letter
        })
        .collect();
    for label in all.iter_mut().flat_map(|series| &mut series.labels).filter(|label| label.name == "pod") {
        label.value.replace_range(label.value.len() - 5..label.value.len() - 1, &end);
    }
    all
}

/// The markers that Prometheus sends when a target is gone.
fn ended(mut series: Vec<TimeSeries>) -> Vec<TimeSeries> {
    for sample in series.iter_mut().flat_map(|series| &mut series.samples) {
        sample.value = f64::from_bits(STALE_MARKER_BITS);
    }
    series
}

/// A day; memory after some of its hours.
pub fn churn() {
    let mut fleet = fleet();
    let mut history = History::new(Retention { ms: 3_600_000, bytes: HISTORY_MAX_BYTES });
    let (mut replaced, mut full) = (0, None);
    for scrape in 0..=24 * HOUR {
        let time = START + SCRAPE_MS * scrape;
        for pod in 0..fleet.pods() {
            let mut series = report(&fleet, pod, scrape, time);
            let is_new = scrape > 0
                && scrape % REPLACED_AFTER == 0
                && scrape / REPLACED_AFTER % PODS as i64 == pod as i64 % PODS as i64;
            if is_new {
                replaced += 1;
                series.extend(ended(report(&fleet, pod, scrape - 1, time)));
            }
            if pod % PODS == 0 {
                series.extend(target(pod / PODS, time));
            }
            fleet.engine.write_v1(&encode(series), time).expect("the request is sound");
        }
        fleet.engine.publish();
        history.step(fleet.engine.board(), time);
        if scrape % HOUR == 0 && LOOKED_AT.contains(&(scrape / HOUR)) {
            let resident = resident_bytes();
            let full = *full.get_or_insert(resident);
            line(
                &format!("resident after {} h, {replaced} pods replaced", scrape / HOUR),
                resident / 1e6,
                "MB",
                "",
                &format!(
                    "{:+.1} % since hour 1, {} series, {:.1} MB of record",
                    100.0 * (resident / full - 1.0),
                    fleet.engine.stats().series,
                    history.stats().bytes as f64 / 1e6,
                ),
            );
        }
    }
    let decided = fleet.engine.board().entries.values().filter_map(|entry| entry.decision.as_ref());
    let in_mode = decided.filter(|decision| decision.evidence.fallback.is_none()).count();
    assert_eq!(in_mode, VARIANTS, "every variant is decided, and in its mode");
}
