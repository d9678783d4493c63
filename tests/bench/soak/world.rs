//! The fleet of the soak: what its pods report, with a load that swings, and pods that are replaced.

use crate::fleet::{self, Fleet, PER_REQUEST, PODS, encode, target};
use crate::link::post;
use inferno_sidecar::proto::TimeSeries;
use inferno_sidecar::runner::wall_now;
use inferno_sidecar::units::TimeMs;
use inferno_sidecar::wire::{STALE_MARKER_BITS, Version};
use std::time::Duration;

/// Variants, each with two pods of some 300 series: all are reported every 12 s.
pub const VARIANTS: usize = 1_000;
/// Requests of 2,000 samples per second: 50,000 samples per second.
pub const REQUESTS_PER_S: usize = 25;
/// Requests between two replacements of a pod: every pod lives for some ten minutes.
const REPLACE_EVERY: usize = 8;
/// Mean of the requests that a pod completes, per second.
const MEAN_PER_S: f64 = 4.2;
/// The load of a variant swings by this share around the mean, over this time, s.
const SWING: (f64, f64) = (0.8, 400.0);
/// Completed requests per step of the fleet's counters.
const PER_STEP: f64 = 5.0;
/// Letters of the generated end of a pod's name.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Configuration of the fleet: every second model in mode `slo`, the others in mode `model`.
pub fn files() -> Vec<String> {
    let mut files = fleet::files(VARIANTS, 1, "model");
    let mut modes = String::from("default: \"mode: model\"\n");
    for number in (0..VARIANTS).step_by(2) {
        let (model, namespace) = (format!("org/model-{number}"), fleet::namespace(number));
        modes += &format!("  slo-{number}: \"{{model_id: {model}, namespace: {namespace}, mode: slo}}\"\n");
    }
    let default = "default: \"mode: model\"\n";
    assert!(files[0].contains(default), "the thresholds are in the first file");
    files[0] = files[0].replacen(default, &modes, 1);
    files
}

pub struct World {
    fleet: Fleet,
    /// Per pod: how many came before it in its place.
    generations: Vec<usize>,
    /// Per pod: the step of its counters at which it began.
    began: Vec<i64>,
    start: TimeMs,
    next_pod: usize,
    queue: Vec<TimeSeries>,
    /// Time for which nothing was sent, for checks.
    pub paused: Duration,
}

impl World {
    pub fn new() -> Self {
        let fleet = Fleet::cold(VARIANTS, 1, "model");
        let pods = fleet.pods();
        World {
            fleet,
            generations: vec![0; pods],
            began: vec![0; pods],
            start: wall_now(),
            next_pod: 0,
            queue: Vec::new(),
            paused: Duration::ZERO,
        }
    }

    /// Steps that the counters of a variant's pods have taken since the start.
    fn step(&self, variant: usize, time: TimeMs) -> i64 {
        let (seconds, (share, period_s)) = (time.since(self.start) as f64 / 1e3, SWING);
        let angular = std::f64::consts::TAU / period_s;
        let phase = |seconds: f64| (angular * seconds + variant as f64).cos();
        let swung_s = share / angular * (phase(0.0) - phase(seconds));
        (MEAN_PER_S * (seconds + swung_s) / PER_STEP) as i64
    }

    /// What a pod reports now.
    fn pod(&self, pod: usize, time: TimeMs) -> Vec<TimeSeries> {
        let step = self.step(pod / PODS, time) - self.began[pod];
        let mut all = self.fleet.pod(pod, step.max(0), time, false);
        let mut number = self.generations[pod];
        let mut end = [b'b'; 4];
        for letter in &mut end {
            *letter = LETTERS[number % LETTERS.len()];
            number /= LETTERS.len();
        }
        let end = String::from_utf8_lossy(&end);
        let labels = all.iter_mut().flat_map(|series| &mut series.labels);
        for label in labels.filter(|label| label.name == "pod") {
            // The last letter tells the pods of a variant apart.
            label.value.replace_range(label.value.len() - 5..label.value.len() - 1, &end);
        }
        all
    }

    /// Ends a pod now and then, with the markers that Prometheus sends for it; the next one begins at zero.
    pub fn replace_pods(&mut self, number: usize) -> u64 {
        if !number.is_multiple_of(REPLACE_EVERY) || self.next_pod == 0 {
            return 0;
        }
        let pod = number / REPLACE_EVERY * 7 % self.fleet.pods();
        let time = wall_now();
        let mut ended = self.pod(pod, time);
        for sample in ended.iter_mut().flat_map(|series| &mut series.samples) {
            sample.value = f64::from_bits(STALE_MARKER_BITS);
        }
        self.queue.extend(ended);
        self.generations[pod] += 1;
        self.began[pod] = self.step(pod / PODS, time);
        1
    }

    /// The next request as it is sent, and its part that matters.
    pub fn next_request(&mut self) -> (Vec<u8>, Vec<u8>) {
        while self.queue.len() < PER_REQUEST {
            let (pod, time) = (self.next_pod % self.fleet.pods(), wall_now());
            if pod.is_multiple_of(PODS) {
                self.queue.extend(target(pod / PODS, time));
            }
            self.queue.extend(self.pod(pod, time));
            self.next_pod += 1;
        }
        let rest = self.queue.split_off(PER_REQUEST);
        let all = std::mem::replace(&mut self.queue, rest);
        let is_bucket = |series: &TimeSeries| {
            series.labels.iter().any(|label| label.name == "__name__" && label.value.ends_with("_bucket"))
        };
        let relevant = all.iter().filter(|series| !is_bucket(series)).cloned().collect();
        (post(Version::V1, &encode(all)), post(Version::V1, &encode(relevant)))
    }

    /// A request that is refused, at a time.
    pub fn request_at(&self, time: TimeMs) -> Vec<u8> {
        post(Version::V1, &encode(self.pod(0, time)))
    }
}
