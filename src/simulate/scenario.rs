//! What is simulated: a trace on a profile, with targets, start-up time and bounds.
//!
//! Also the fluid estimate of how many replicas a load needs, on which the clairvoyant policy and the
//! replicas at the start rest.

use std::sync::Arc;

use super::problem::Problem;
use super::profiles::NamedProfile;
use super::trace::{Trace, TraceRequest};
use crate::config::{ATTAINMENT_DEFAULT, SloTargets};
use crate::emulate::load;
use crate::emulate::spec::{EngineVersion, FleetSpec, ModelSpec, NodeSpec, VariantSpec};
use crate::units::TimeMs;

/// Namespace of the simulated model.
pub const NAMESPACE: &str = "llm";
/// Name of its only variant.
pub const VARIANT: &str = "simulated";
/// Where simulated time starts: 2026-01-01, so that times look real.
pub const START: TimeMs = TimeMs(1_767_225_600_000);
/// How long a removed replica may go on with its requests, ms: room for long generations.
const GRACE_MS: i64 = 120_000;

/// One trace on one profile.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The requests, all of which the profile can hold.
    pub trace: Arc<Trace>,
    /// Who serves them.
    pub profile: NamedProfile,
    /// Targets; 0 means none.
    pub slo: SloTargets,
    /// Share of the requests that are to meet the targets.
    pub attainment: f64,
    /// From the creation of a replica until it is ready, ms.
    pub startup_ms: i64,
    /// Bounds of the replicas.
    pub replicas: (u32, u32),
    /// Replicas that are ready at the start.
    pub initial: u32,
    /// Interval at which the engines' metrics are read, ms.
    pub scrape_ms: i64,
    /// Decides names and ties; the trace is the same whatever it is.
    pub seed: u64,
}

impl Scenario {
    /// Name of the scenario: trace and profile.
    pub fn name(&self) -> String {
        format!("{} on {}", self.trace.name, self.profile.id)
    }

    /// What is simulated, in one line.
    pub fn summary(&self) -> String {
        let target = |ms: f64| if ms > 0.0 { format!("{ms} ms") } else { "none".to_owned() };
        format!(
            "{} requests in {:.0} min; targets TTFT {}, ITL {}{}; start-up {} s, {} replicas at the start of {} to \
             {}; seed {}",
            self.trace.requests.len(),
            self.trace.duration_ms() as f64 / 60_000.0,
            target(self.slo.ttft_ms),
            target(self.slo.itl_ms),
            match self.attainment == ATTAINMENT_DEFAULT {
                true => String::new(),
                false => format!(" for {:.2} %", 100.0 * self.attainment),
            },
            self.startup_ms as f64 / 1000.0,
            self.initial,
            self.replicas.0,
            self.replicas.1,
            self.seed,
        )
    }

    /// Time to first token and per further token, ms, of a request that has a replica for itself.
    pub fn alone_ms(&self, request: &TraceRequest) -> (f64, f64) {
        let engine = &self.profile.engine;
        let time = &engine.iteration;
        let (prompt, output) = (f64::from(request.prompt_tokens), f64::from(request.output_tokens));
        let steps = f64::from(request.prompt_tokens.div_ceil(engine.max_num_batched_tokens));
        let prefill_ms = time.a_ms * steps + time.c_ms * prompt + time.q_ms * prompt * prompt / 2.0;
        let step_ms = time.a_ms + time.b_ms + time.d_ms * (prompt + output / 2.0);
        (engine.ttft_overhead_ms + prefill_ms, if request.output_tokens > 1 { step_ms } else { 0.0 })
    }

    /// Requests that miss a target even with a replica for themselves; no policy can help them.
    pub fn hopeless(&self) -> u64 {
        let misses = |value: f64, target: f64| target > 0.0 && value > target;
        let is_hopeless = |request: &&TraceRequest| {
            let (ttft_ms, itl_ms) = self.alone_ms(request);
            misses(ttft_ms, self.slo.ttft_ms) || misses(itl_ms, self.slo.itl_ms)
        };
        self.trace.requests.iter().filter(is_hopeless).count() as u64
    }

    /// Why no fleet could hold the targets, or there is nothing to serve; `None` when it is worth a run.
    pub fn impossible(&self) -> Option<Problem> {
        let name = self.name();
        let (trace, time) = (&self.trace, &self.profile.engine.iteration);
        if trace.requests.is_empty() {
            let reason = format!(
                "all {} requests exceed its {} tokens of context",
                trace.skipped.too_long, self.profile.engine.max_model_len
            );
            return Some(Problem::new(name, reason, "choose a profile with more KV cache"));
        }
        let step_ms = time.a_ms + time.b_ms;
        if self.slo.itl_ms > 0.0 && self.slo.itl_ms < step_ms {
            let reason = format!(
                "the ITL target of {} ms is below the {step_ms:.1} ms of a step with one request",
                self.slo.itl_ms
            );
            return Some(Problem::new(name, reason, format!("aim at {} ms or more", above(step_ms))));
        }
        let first_ms = self.profile.engine.ttft_overhead_ms + time.a_ms + time.c_ms;
        if self.slo.ttft_ms > 0.0 && self.slo.ttft_ms < first_ms {
            let reason = format!(
                "the TTFT target of {} ms is below the {first_ms:.1} ms of a prompt of one token",
                self.slo.ttft_ms
            );
            return Some(Problem::new(name, reason, format!("aim at {} ms or more", above(first_ms))));
        }
        if self.hopeless() < trace.requests.len() as u64 {
            return None;
        }
        let least = |value: fn(&(f64, f64)) -> f64| {
            trace.requests.iter().map(|r| value(&self.alone_ms(r))).fold(f64::INFINITY, f64::min)
        };
        let reason = format!(
            "none of the requests can be served within TTFT {} ms and ITL {} ms, even with a replica for itself: \
             the least are {:.1} and {:.1} ms",
            self.slo.ttft_ms,
            self.slo.itl_ms,
            least(|alone| alone.0),
            least(|alone| alone.1)
        );
        Some(Problem::new(name, reason, "choose a faster profile or other targets"))
    }

    /// What is worth knowing about the input beforehand.
    pub fn remarks(&self) -> Vec<Problem> {
        let mut remarks = self.trace.remarks.clone();
        let (all, too_long) = (self.trace.requests.len() as u64, self.trace.skipped.too_long);
        if too_long > 0 {
            let reason = format!(
                "{too_long} of {} requests exceed its {} tokens of context",
                all + too_long,
                self.profile.engine.max_model_len
            );
            remarks.push(Problem::new(self.name(), reason, "they are rejected alike under every policy"));
        }
        let hopeless = self.hopeless();
        if hopeless > 0 {
            // Rounded down: it is a bound.
            let percent = (1e4 * (1.0 - hopeless as f64 / all as f64)).floor() / 100.0;
            let reason = format!(
                "{hopeless} of {all} requests miss a target even with a replica for themselves, so at most {percent:.2} % \
                 can be attained"
            );
            remarks.push(Problem::new(
                self.name(),
                reason,
                "allow them more time, or choose a faster profile",
            ));
        }
        remarks
    }

    /// The fleet at its start.
    pub fn fleet(&self) -> FleetSpec {
        let requests = self.trace.clone();
        let rows = (0..requests.requests.len()).map(move |index| {
            let request = requests.requests[index];
            (request.arrival_ms, request.prompt_tokens, request.output_tokens)
        });
        let variant = VariantSpec {
            name: VARIANT.to_owned(),
            accelerator: self.profile.accelerator.clone(),
            cost: self.profile.cost_per_hour,
            profile: self.profile.engine,
            engine: EngineVersion::V1,
            startup_ms: self.startup_ms,
            grace_ms: GRACE_MS,
            replicas: self.initial,
        };
        FleetSpec {
            start: START,
            seed: self.seed,
            models: vec![ModelSpec {
                namespace: NAMESPACE.to_owned(),
                model_id: self.profile.model.clone(),
                slo: self.slo,
                load: Box::new(load::trace(START, rows)),
                variants: vec![variant],
            }],
            nodes: vec![NodeSpec { name: "gpu-a".to_owned(), gpus: 8 }],
        }
    }

    /// Fluid replica demand per bin of `bin_ms`: the engine time that the bin's requests ask for over the
    /// time one replica has at the targeted pace, or the share of its KV cache, whichever is larger. The
    /// work of a request is spread over its own time at that pace.
    ///
    /// At a step time `T` a request with prompt `P` and output `G` takes `b G + c P + d G (P + G/2)` of
    /// engine time, of which a step has `T - a`.
    pub fn fluid_demand(&self, bin_ms: i64) -> Vec<f64> {
        let engine = &self.profile.engine;
        let time = &engine.iteration;
        let pace_ms = self.pace_ms();
        let share = 1.0 - time.a_ms / pace_ms;
        let bins = (self.trace.duration_ms() / bin_ms + 1) as usize;
        let (mut work, mut kv) = (vec![0.0; bins], vec![0.0; bins]);
        for request in &self.trace.requests {
            let (prompt, output) = (f64::from(request.prompt_tokens), f64::from(request.output_tokens));
            let prefill_ms = time.c_ms * prompt + time.q_ms * prompt * prompt / 2.0;
            let decode_ms = time.b_ms * output + time.d_ms * output * (prompt + output / 2.0);
            let life_ms = output * pace_ms + prefill_ms / share;
            let first = (request.arrival_ms / bin_ms as f64) as usize;
            let last = (((request.arrival_ms + life_ms) / bin_ms as f64) as usize).min(bins - 1);
            let spread = (last - first + 1) as f64;
            work[first] += prefill_ms;
            for bin in first..=last {
                work[bin] += decode_ms / spread;
                kv[bin] += (prompt + output / 2.0) * (life_ms / spread).min(bin_ms as f64);
            }
        }
        let capacity_ms = share * bin_ms as f64;
        let kv_capacity = engine.kv_tokens() as f64 * bin_ms as f64;
        work.iter().zip(&kv).map(|(work, kv)| (work / capacity_ms).max(kv / kv_capacity)).collect()
    }

    /// Step time that the replicas are to keep, ms: the ITL target, or three times an idle step.
    fn pace_ms(&self) -> f64 {
        let idle_ms = self.profile.engine.iteration.a_ms;
        let target_ms = if self.slo.itl_ms > 0.0 { self.slo.itl_ms } else { 3.0 * idle_ms };
        // Below its idle step no replica can go; the rest is a step that is hardly loaded.
        target_ms.max(1.1 * idle_ms)
    }
}

/// A round number of milliseconds from `ms` on.
fn above(ms: f64) -> f64 {
    (ms * 1.2).ceil()
}
