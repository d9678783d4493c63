//! Loads on which nothing of the `slo` policy was tuned: `cargo bench --bench unseen`.
//!
//! The recorded traces backwards, so that what rose falls and what stopped begins, and loads of made-up clients that
//! change their rate every ten minutes, each at its own time, with bursts, spikes and shapes of their own. Printed is
//! what `slo` attains and costs beside the clairvoyant policy. Needs the shared traces for the first part.

use std::path::PathBuf;
use std::sync::Arc;

use inferno_sidecar::config::SloTargets;
use inferno_sidecar::simulate::profiles::built_in;
use inferno_sidecar::simulate::scenario::Scenario;
use inferno_sidecar::simulate::suite::{self, Common};
use inferno_sidecar::simulate::trace::{Trace, TraceRequest};
use inferno_sidecar::simulate::{PolicyName, input, run_all};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Gamma, LogNormal, Normal};
use rand_pcg::Pcg64;

const COMMON: Common =
    Common { attainment: 0.99, startup_ms: 110_000, scrape_ms: 5_000, replicas: (1, 64), seed: 1 };
/// Time for which a client keeps its rate, s.
const STEP_S: f64 = 600.0;
/// Share of the steps in which a client does something else altogether.
const SURPRISES: f64 = 0.05;

/// Clients and what they send.
struct Clients {
    name: &'static str,
    seed: u64,
    minutes: f64,
    clients: u32,
    /// Mean rate of all together, per s.
    rate_per_s: f64,
    /// Standard deviation of the logarithm of a client's rate from step to step.
    volatility: f64,
    /// Mean coefficient of variation of the gaps between a client's requests.
    burstiness: f64,
    /// Mean prompt and generated tokens.
    tokens: (f64, f64),
    /// What the rate is multiplied by, over the minutes.
    shape: fn(f64) -> f64,
    profile: &'static str,
    targets: (f64, f64),
}

const QWEN: &str = "qwen3-32b_rtxpro6000x2";
const LLAMA: &str = "llama-3.1-8b_rtx4090";

const CLIENTS: [Clients; 7] = [
    Clients {
        name: "documents with pictures",
        seed: 12,
        minutes: 120.0,
        clients: 20,
        rate_per_s: 4.0,
        volatility: 0.5,
        burstiness: 1.2,
        tokens: (2500.0, 180.0),
        shape: |_| 1.0,
        profile: QWEN,
        targets: (8000.0, 150.0),
    },
    Clients {
        name: "chat over a day's hump",
        seed: 13,
        minutes: 240.0,
        clients: 40,
        rate_per_s: 6.0,
        volatility: 0.35,
        burstiness: 1.0,
        tokens: (900.0, 220.0),
        shape: |minute| 0.4 + 1.2 * (std::f64::consts::PI * minute / 240.0).sin().powi(2),
        profile: QWEN,
        targets: (4000.0, 120.0),
    },
    Clients {
        name: "threefold for 20 of 50 minutes",
        seed: 14,
        minutes: 150.0,
        clients: 10,
        rate_per_s: 4.0,
        volatility: 0.2,
        burstiness: 1.0,
        tokens: (800.0, 200.0),
        shape: |minute| if minute % 50.0 > 30.0 { 3.0 } else { 1.0 },
        profile: LLAMA,
        targets: (3000.0, 80.0),
    },
    Clients {
        name: "few wild clients",
        seed: 15,
        minutes: 180.0,
        clients: 12,
        rate_per_s: 12.0,
        volatility: 0.8,
        burstiness: 2.0,
        tokens: (500.0, 60.0),
        shape: |_| 1.0,
        profile: QWEN,
        targets: (4000.0, 150.0),
    },
    Clients {
        name: "few other wild clients",
        seed: 25,
        minutes: 180.0,
        clients: 12,
        rate_per_s: 12.0,
        volatility: 0.8,
        burstiness: 2.0,
        tokens: (500.0, 60.0),
        shape: |_| 1.0,
        profile: LLAMA,
        targets: (3000.0, 80.0),
    },
    Clients {
        name: "classifier that grows",
        seed: 16,
        minutes: 90.0,
        clients: 17,
        rate_per_s: 60.0,
        volatility: 0.5,
        burstiness: 1.0,
        tokens: (200.0, 28.0),
        shape: |minute| 0.5 + minute / 90.0,
        profile: QWEN,
        targets: (4000.0, 200.0),
    },
    Clients {
        name: "long answers",
        seed: 17,
        minutes: 240.0,
        clients: 30,
        rate_per_s: 3.0,
        volatility: 0.4,
        burstiness: 1.0,
        tokens: (600.0, 1000.0),
        shape: |_| 1.0,
        profile: LLAMA,
        targets: (5000.0, 60.0),
    },
];

fn log_normal(mean: f64, cv: f64) -> LogNormal<f64> {
    LogNormal::from_mean_cv(mean, cv).expect("means are positive")
}

impl Clients {
    fn trace(&self) -> Trace {
        let mut random = Pcg64::seed_from_u64(self.seed);
        let weights: f64 = (1..=self.clients).map(|rank| 1.0 / f64::from(rank)).sum();
        let mut requests = Vec::new();
        for rank in 1..=self.clients {
            let rate_per_s = self.rate_per_s / f64::from(rank) / weights;
            self.client(rate_per_s, &mut random, &mut requests);
        }
        requests.sort_by(|a: &TraceRequest, b| a.arrival_ms.total_cmp(&b.arrival_ms));
        Trace { name: self.name.into(), requests, ..Trace::default() }
    }

    /// Requests of one client: a mean rate that wanders, kept for a step, with gaps of a gamma law.
    fn client(&self, rate_per_s: f64, random: &mut Pcg64, requests: &mut Vec<TraceRequest>) {
        let wander = Normal::new(0.0, self.volatility).expect("spreads are positive");
        let prompt = log_normal(self.tokens.0 * log_normal(1.0, 0.9).sample(random), 1.2);
        let output = log_normal(self.tokens.1 * log_normal(1.0, 0.9).sample(random), 1.0);
        let cv = (self.burstiness * log_normal(1.0, 0.5).sample(random)).max(0.7);
        let gap = Gamma::new(1.0 / (cv * cv), cv * cv).expect("shapes are positive");
        let (mut from_s, mut level) = (-random.random::<f64>() * STEP_S, wander.sample(random));
        while from_s < self.minutes * 60.0 {
            level = 0.7 * level + 0.7 * wander.sample(random);
            let surprise = match random.random::<f64>() {
                chance if chance < SURPRISES / 3.0 => 0.1,
                chance if chance < SURPRISES => 3.0,
                _ => 1.0,
            };
            let rate = rate_per_s * level.exp() * surprise * (self.shape)((from_s + STEP_S / 2.0) / 60.0);
            let count = (rate * STEP_S + random.random::<f64>()) as usize;
            let gaps: Vec<f64> = (0..count).map(|_| gap.sample(random)).collect();
            let sum = gaps.iter().sum::<f64>() * (1.0 + 1.0 / count.max(1) as f64);
            let mut at_s = from_s;
            for gap in gaps {
                at_s += STEP_S * gap / sum.max(f64::MIN_POSITIVE);
                let tokens = |mean: f64, most: f64| mean.clamp(1.0, most) as u32;
                if (0.0..self.minutes * 60.0).contains(&at_s) {
                    requests.push(TraceRequest {
                        arrival_ms: at_s * 1000.0,
                        prompt_tokens: tokens(prompt.sample(random), 20_000.0),
                        output_tokens: tokens(output.sample(random), 6_000.0),
                    });
                }
            }
            from_s += STEP_S;
        }
    }

    fn scenario(&self) -> Scenario {
        let profile = built_in().into_iter().find(|profile| profile.id == self.profile);
        let slo = SloTargets { ttft_ms: self.targets.0, itl_ms: self.targets.1, tps: 0.0 };
        suite::scenario(&Arc::new(self.trace()), &profile.expect("it is built in"), slo, COMMON)
    }
}

/// The suite, every trace backwards.
fn backwards() -> Vec<Scenario> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    if !folder.exists() {
        println!("left out: {} is not there, so no trace runs backwards", folder.display());
        return Vec::new();
    }
    let (traces, _) = input::traces(&[folder], 1, 1);
    let reverse = |trace: &Arc<Trace>| {
        let end_ms = trace.duration_ms() as f64;
        let turned =
            |request: &TraceRequest| TraceRequest { arrival_ms: end_ms - request.arrival_ms, ..*request };
        let mut requests: Vec<TraceRequest> = trace.requests.iter().map(turned).collect();
        requests.reverse();
        Arc::new(Trace { requests, ..Trace::clone(trace) })
    };
    let known = built_in();
    let all = traces.iter().flatten().map(reverse);
    all.flat_map(|trace| suite::scenarios(&trace, &known, COMMON)).collect()
}

fn main() {
    let mut scenarios = backwards();
    let recorded = scenarios.len();
    scenarios.extend(CLIENTS.iter().map(Clients::scenario));
    let policies = ["oracle", "slo"].map(|name| PolicyName::parse(name).expect("it is a policy"));
    let results = run_all(&scenarios, &policies, &|_| ());
    println!("{:<68} {:>9} {:>9} {:>14}", "load", "oracle", "slo", "hours / oracle");
    let (mut sums, mut worst) = ((0.0, 0.0), 1.0_f64);
    for (index, (scenario, outcomes)) in scenarios.iter().zip(&results).enumerate() {
        let [oracle, slo] = [0, 1].map(|policy| outcomes[policy].as_ref().expect("it can be configured"));
        let ratio = slo.replica_hours / oracle.replica_hours;
        let name = if index < recorded { scenario.name() + ", backwards" } else { scenario.name() };
        let [held, attained] = [oracle, slo].map(|outcome| 100.0 * outcome.attainment());
        println!("{name:<68} {held:>8.1}% {attained:>8.1}% {ratio:>14.2}");
        sums = (sums.0 + slo.attainment(), sums.1 + ratio);
        worst = worst.min(slo.attainment());
    }
    let count = results.len() as f64;
    println!("mean {:.1} %, worst {:.1} %, {:.2}", 100.0 * sums.0 / count, 100.0 * worst, sums.1 / count);
}
