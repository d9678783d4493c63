//! The standard suite: which trace runs on which profile, with which targets.

use std::sync::Arc;

use super::profiles::NamedProfile;
use super::scenario::Scenario;
use super::trace::Trace;
use crate::config::SloTargets;

/// One row of the suite.
struct Pairing {
    trace: &'static str,
    profile: &'static str,
    ttft_ms: f64,
    itl_ms: f64,
}

const fn pairing(trace: &'static str, profile: &'static str, ttft_ms: f64, itl_ms: f64) -> Pairing {
    Pairing { trace, profile, ttft_ms, itl_ms }
}

/// Pairings that need several replicas at the busiest minute. The targets are such that a fleet that is
/// large enough meets them for 99 % of the requests; long prompts get more time to their first token.
const PAIRINGS: &[Pairing] = &[
    pairing("azure2023-conv", "qwen3-32b_rtxpro6000x2", 4000.0, 120.0),
    pairing("mooncake-conv-a", "qwen3-32b_rtxpro6000x2", 40_000.0, 200.0),
    pairing("servegen-large-spikes-a", "qwen3-32b_rtxpro6000x2", 4000.0, 200.0),
    pairing("servegen-mid-ramp-a", "qwen3-32b_rtxpro6000x2", 4000.0, 120.0),
    pairing("servegen-mid-outage-a", "qwen3-32b_rtxpro6000x2", 4000.0, 120.0),
    pairing("servegen-reason-a", "qwen3-32b_rtxpro6000x2", 6000.0, 100.0),
    pairing("servegen-small-ramp-a", "qwen3-32b_rtxpro6000x2", 4000.0, 200.0),
    pairing("servegen-bursty-a", "qwen3-32b_rtxpro6000x2", 4000.0, 200.0),
    pairing("servegen-large-spikes-a", "llama-3.1-8b_rtx4090", 3000.0, 100.0),
    pairing("servegen-reason-a", "llama-3.1-8b_rtx4090", 5000.0, 60.0),
    pairing("servegen-bursty-a", "llama-3.1-8b_rtx4090", 3000.0, 100.0),
    pairing("mooncake-conv-a", "llama-3.3-70b-fp8_h100x4", 20_000.0, 100.0),
    pairing("servegen-reason-a", "llama-3.3-70b-fp8_h100x4", 3000.0, 60.0),
    pairing("servegen-bursty-a", "llama-3.3-70b-fp8_h100x4", 3000.0, 100.0),
];

/// What all scenarios of the suite share.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// Share of the requests that are to meet the targets.
    pub attainment: f64,
    /// From the creation of a replica until it is ready, ms.
    pub startup_ms: i64,
    /// Interval at which the engines' metrics are read, ms.
    pub scrape_ms: i64,
    /// Bounds of the replicas.
    pub replicas: (u32, u32),
    /// Decides names and ties.
    pub seed: u64,
}

/// The scenarios of the suite in which a trace takes part, by the name of its file without ending.
pub fn scenarios(trace: &Arc<Trace>, profiles: &[NamedProfile], common: Common) -> Vec<Scenario> {
    let scenario = |pairing: &Pairing| {
        let profile = profiles.iter().find(|profile| profile.id == pairing.profile)?;
        let slo = SloTargets { ttft_ms: pairing.ttft_ms, itl_ms: pairing.itl_ms, tps: 0.0 };
        Some(scenario(trace, profile, slo, common))
    };
    PAIRINGS.iter().filter(|pairing| pairing.trace == trace.name).filter_map(scenario).collect()
}

/// Brings scenarios into the order of the suite, by start-up time and seed.
pub fn in_order(scenarios: &mut [Scenario]) {
    let place = |scenario: &Scenario| {
        let is_it = |pairing: &Pairing| {
            pairing.trace == scenario.trace.name && pairing.profile == scenario.profile.id
        };
        PAIRINGS.iter().position(is_it)
    };
    scenarios.sort_by_key(|scenario| (scenario.startup_ms, scenario.seed, place(scenario)));
}

/// A scenario whose fleet starts at the size that its first minutes need.
pub fn scenario(trace: &Arc<Trace>, profile: &NamedProfile, slo: SloTargets, common: Common) -> Scenario {
    let mut scenario = Scenario {
        trace: Trace::fitting(trace, profile.engine.max_model_len),
        profile: profile.clone(),
        slo,
        attainment: common.attainment,
        startup_ms: common.startup_ms,
        replicas: common.replicas,
        initial: 1,
        scrape_ms: common.scrape_ms,
        seed: common.seed,
    };
    const BEGINNING_MS: i64 = 300_000;
    const BIN_MS: i64 = 60_000;
    /// Over the fluid demand, as a fleet that has been running for a while would have.
    const MARGIN: f64 = 1.5;
    let demand = scenario.fluid_demand(BIN_MS);
    let beginning = demand.iter().take((BEGINNING_MS / BIN_MS) as usize).copied().fold(0.0, f64::max);
    scenario.initial =
        ((MARGIN * beginning).ceil() as u32).clamp(common.replicas.0.max(1), common.replicas.1);
    scenario
}
