//! Golden records of the queueing model: generations A, B and C.
//!
//! Every record is checked three times: against its double-precision `f64` block (1e-6), against the
//! peer's single-precision answer (tolerances of the vectors' README, section 1), and for whether our
//! default behaviour departs from what was published. [`REASONS`] lists every accepted difference.

mod compare;

use crate::report::Report;
use compare::{Check, allocation, metrics_a, metrics_b, number, range, sizing, sizing_a};
use inferno_sidecar::analyze::queueing::{
    Allocation, AllocationInput, BatchSource, Metrics, Queue, QueueError, Revision, ServiceTimes, SizeError,
    Tokens, allocate,
};
use inferno_sidecar::config::{PerfParms, SloTargets};
use serde_json::Value;

/// Accepted differences from the peer; numbers are those of section 10 of the vectors' README.
pub const REASONS: &[&str] =
    &[FLAT, ONE_STATE, HIT_TEST, GAMMA, DEMAND, NO_OUTPUT, ZERO_LOAD, NOT_A_NUMBER, NEAR_TIE];
const FLAT: &str = "10.1: a metric that does not vary with load is decided exactly, not by rounding noise";
const ONE_STATE: &str = "10.4: a queue of one state is valid";
const HIT_TEST: &str = "10.5: the search does not stop because the metric is about 1 ms";
const GAMMA: &str = "10.6: gamma is not counted as prefill when there is none";
const DEMAND: &str = "10.8: measured load above the throughput target is not ignored";
const NO_OUTPUT: &str = "10.9: output tokens 0 under load is an error, not zero load";
const ZERO_LOAD: &str = "10.10: latency and rate without load follow the token counts";
const NOT_A_NUMBER: &str = "section 4: no NaN where service does not depend on concurrency";
const NEAR_TIE: &str = "section 1: replicas within single-precision noise of a tie; ours match f64";
// Not visible as a difference, because the quantity is compared under its own name: 10.7, the time to
// first token of an allocation includes the first decode step of generation C, as its target does; the
// peer's figure is compared with our wait plus prefill.

/// Relative tolerance against the double-precision block.
const EXACT: f64 = 1e-6;

/// Waits shorter than this (ms) are the same.
const VANISHING: f64 = 1e-250;

/// What a record showed: agreement, an accepted difference, or a failure.
type Verdict = Result<Option<&'static str>, String>;

/// Runs all records of a queueing file; the generation and revision follow from its name.
pub fn run(report: &mut Report, records: &[Value]) {
    let file = report.file.clone();
    let generation = if file.starts_with("queue_a") {
        Generation::A
    } else if file.starts_with("queue_b") {
        Generation::B(if file.contains("v0.0.1") { Revision::V0_0_1 } else { Revision::V0_4_1 })
    } else {
        Generation::C
    };
    for record in records {
        let case = Case { record, generation };
        let verdict = match record["kind"].as_str() {
            Some("alloc") => case.alloc(),
            Some("analyze") => case.analyze(),
            Some("size") => case.size(),
            kind => Err(format!("unknown kind {kind:?}")),
        };
        match verdict {
            Ok(None) => report.agree(),
            Ok(Some(reason)) => {
                assert!(REASONS.contains(&reason));
                report.deviate(reason);
            }
            Err(why) => report.fail(record["id"].as_str().unwrap_or("?"), why),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Generation {
    A,
    B(Revision),
    C,
}

struct Case<'a> {
    record: &'a Value,
    generation: Generation,
}

impl Case<'_> {
    fn tagged(&self, tag: &str) -> bool {
        self.record["tags"].as_array().is_some_and(|tags| tags.iter().any(|t| t == tag))
    }

    /// An input as the peer sees it: rounded to single precision.
    fn input(&self, name: &str) -> f64 {
        f64::from(number(&self.record["in"][name]).unwrap_or(0.0) as f32)
    }

    fn whole(&self, name: &str) -> u32 {
        self.record["in"][name].as_i64().unwrap_or(0).clamp(0, i64::from(u32::MAX)) as u32
    }

    fn parms(&self) -> PerfParms {
        let [alpha, beta, gamma, delta] = ["alpha", "beta", "gamma", "delta"].map(|name| self.input(name));
        match self.generation {
            Generation::A => PerfParms::Decode { alpha, beta },
            Generation::B(_) => PerfParms::DecodePrefill { alpha, beta, gamma, delta },
            Generation::C => PerfParms::Iteration { alpha, beta, gamma },
        }
    }

    fn tokens(&self) -> Tokens {
        match self.generation {
            Generation::A => Tokens { input: 0.0, output: self.input("tokens") },
            _ => Tokens { input: self.input("in_tokens"), output: self.input("out_tokens") },
        }
    }

    fn revision(&self) -> Revision {
        match self.generation {
            Generation::B(revision) => revision,
            _ => Revision::default(),
        }
    }

    /// Relative tolerance of metrics against the peer.
    fn single(&self) -> f64 {
        if matches!(self.generation, Generation::B(_)) { 3e-5 } else { 3e-6 }
    }

    fn queue(&self, revision: Revision) -> Result<Queue, QueueError> {
        let service = ServiceTimes::with_revision(&self.parms(), self.tokens(), revision)?;
        let batch = self.whole("max_batch");
        let (batch, length) = match self.generation {
            Generation::A => {
                let states = self.whole("k_states");
                (batch.min(states), states.saturating_sub(batch))
            }
            // A negative length is out of range too.
            _ => (batch, self.record["in"]["max_queue"].as_i64().unwrap_or(0).try_into().unwrap_or(u32::MAX)),
        };
        Queue::new(service, batch, length)
    }

    fn analyze(&self) -> Verdict {
        let (out, exact) = (&self.record["out"], &self.record["f64"]);
        // The double-precision block starts from the rate per ms in single precision.
        let rate_per_ms = match self.generation {
            Generation::A => number(&out["lambda_per_ms"]).map_or(0.0, |rate| f64::from(rate as f32)),
            _ => f64::from(self.input("rate_rps") as f32 / 1000.0),
        };
        let answer = self.queue(self.revision()).and_then(|queue| {
            if self.generation != Generation::A {
                queue.check_rate(rate_per_ms)?;
            }
            Ok((queue, queue.metrics_at(rate_per_ms)?))
        });
        let refused = out["error"].as_str().is_some_and(|e| !e.is_empty());
        let (queue, got) = match answer {
            Err(_) if refused || exact.is_null() => return Ok(None),
            Err(error) => return Err(format!("refused: {error}")),
            Ok(_) if refused && !self.tagged("k1") => return Err("accepted, the peer refuses".into()),
            Ok(answer) => answer,
        };
        let mut check = Check::default();
        if self.generation == Generation::A {
            metrics_a(&mut check, exact, &got, EXACT, 0.0, 0.0);
        } else {
            metrics_b(&mut check, &exact["metrics"], &got, EXACT, 0.0, 0.0);
            range(&mut check, exact, &queue, EXACT);
        }
        check.done().map_err(|e| format!("f64: {e}"))?;
        if self.tagged("k1") {
            return Ok(Some(ONE_STATE));
        }
        let mut check = Check::default();
        let noise = 1e-6 * got.response_ms;
        if self.generation == Generation::A {
            metrics_a(&mut check, out, &got, self.single(), noise, 1e-5);
        } else {
            metrics_b(&mut check, &out["metrics"], &got, self.single(), noise, 1e-5);
            range(&mut check, out, &queue, 3e-7);
        }
        self.settle(check, || self.queue(Revision::Corrected)?.metrics_at(rate_per_ms), |m| same(&got, m))
    }

    /// Ends a record that agrees with the double-precision block: what the peer's answer and our default
    /// revision make of it.
    fn settle<T, E>(
        &self,
        check: Check,
        default: impl Fn() -> Result<T, E>,
        same_as_default: impl Fn(&T) -> bool,
    ) -> Verdict {
        if let Err(why) = check.done() {
            return if why.contains("NaN") {
                Ok(Some(NOT_A_NUMBER))
            } else if self.tagged("tolerance_bug") {
                Ok(Some(HIT_TEST))
            } else if self.tagged("replicas_near_tie") {
                Ok(Some(NEAR_TIE))
            } else {
                Err(format!("out: {why}"))
            };
        }
        let differs = match default() {
            Ok(answer) => !same_as_default(&answer),
            Err(_) => true,
        };
        Ok((differs && self.input("in_tokens") == 0.0).then_some(GAMMA))
    }

    fn size(&self) -> Verdict {
        let targets = SloTargets {
            ttft_ms: self.input("target_ttft_ms"),
            itl_ms: self.input("target_itl_ms"),
            tps: self.input("target_tps"),
        };
        let queue = self.queue(self.revision());
        if self.record["f64"].is_null() {
            let refused = queue.map_err(SizeError::from).and_then(|queue| queue.size(&targets)).is_err();
            return if refused { Ok(None) } else { Err("accepted, the peer refuses".into()) };
        }
        let queue = queue.map_err(|e| e.to_string())?;
        sizing(&queue, &targets, &self.record["f64"], EXACT, 0.0)?;
        if let Some(reason) = self.peer_feasibility() {
            return Ok(Some(reason));
        }
        let mut check = Check::default();
        if let Err(why) = self.peer_sizing(&queue, &targets, &self.record["out"]) {
            check.wrong.push(why);
        }
        let rate = |queue: Queue| queue.size(&targets).map_or(-1.0, |s| s.rate_per_ms);
        let published = rate(queue);
        self.settle(check, || self.queue(Revision::Corrected).map(rate), |r| close(*r, published))
    }

    /// The peer's `size` block, unless the record says that it is badly conditioned.
    fn peer_sizing(&self, queue: &Queue, targets: &SloTargets, block: &Value) -> Result<(), String> {
        if block.is_null() || self.tagged("ill_conditioned") {
            return Ok(());
        }
        sizing(queue, targets, block, 1e-4, 1e-6)
    }

    /// The reason when the peer errs on whether the targets can be met.
    fn peer_feasibility(&self) -> Option<&'static str> {
        let rejects = self.tagged("peer_rejects_attainable");
        match rejects || self.tagged("peer_accepts_unattainable") {
            true if self.tagged("k1") => Some(ONE_STATE),
            true if self.tagged("tolerance_bug") => Some(HIT_TEST),
            true => Some(FLAT),
            false => None,
        }
    }

    fn alloc_input(&self) -> AllocationInput {
        let ttft = if self.generation == Generation::A { "slo_ttw_ms" } else { "slo_ttft_ms" };
        let count = self.record["in"]["acc_count"].as_i64().unwrap_or(0).max(1);
        AllocationInput {
            parms: self.parms(),
            revision: self.revision(),
            tokens: self.tokens(),
            rate_per_s: self.input("rate_rpm") / 60.0,
            targets: SloTargets {
                ttft_ms: self.input(ttft),
                itl_ms: self.input("slo_itl_ms"),
                tps: self.input("slo_tps"),
            },
            batch: BatchSource {
                stated: self.whole("server_max_batch"),
                profile: self.whole("perf_max_batch"),
                at_tokens: self.whole("at_tokens"),
            },
            min_replicas: self.whole("min_replicas"),
            max_replicas: None,
            cost_per_replica: self.input("acc_cost") * count as f64,
        }
    }

    fn alloc(&self) -> Verdict {
        let (out, exact) = (&self.record["out"], &self.record["f64"]);
        let ours = self.alloc_input();
        if exact.is_null() {
            return self.alloc_without_queue(&ours);
        }
        let negative = ["rate_rpm", "tokens", "in_tokens", "out_tokens"].iter().any(|n| self.input(n) < 0.0);
        if negative && out["feasible"] == false && matches!(allocate(&ours), Err(SizeError::Input(_))) {
            return Ok(None);
        }
        // As published: a throughput target replaces the measured rate.
        let mut published = ours;
        if ours.targets.tps > 0.0 {
            published.rate_per_s = ours.targets.tps / ours.tokens.output;
        }
        let queue = published.queue().map_err(|e| e.to_string())?;
        let mut targets = published.targets;
        if self.generation == Generation::A {
            targets.ttft_ms /= 2.9957323_f32 as f64;
            sizing_a(&queue, &targets, exact)?;
        } else {
            let sized = sizing(&queue, &targets, &exact["size"], EXACT, 0.0);
            if sized.as_ref().is_err_and(|why| why.contains("expected NaN")) {
                return Ok(Some(NOT_A_NUMBER));
            }
            sized?;
        }
        let answer = allocate(&published);
        let feasible = exact["feasible"] == true;
        let got = match &answer {
            Err(SizeError::Unreachable(_)) if !feasible => None,
            Ok(got) if feasible => Some(got),
            other => return Err(format!("f64 feasible is {feasible}, ours {other:?}")),
        };
        if let Some(got) = got {
            allocation(self.generation == Generation::A, exact, got, EXACT, 0.0, 0.0)
                .map_err(|e| format!("f64: {e}"))?;
        }
        if let Some(reason) = self.peer_feasibility() {
            return Ok(Some(reason));
        }
        let mut check = Check::default();
        if let Err(why) = self.peer_allocation(&queue, &targets, got, out) {
            check.wrong.push(why);
        }
        let gamma = self.settle(
            check,
            || Ok::<_, ()>(allocate(&AllocationInput { revision: Revision::Corrected, ..published })),
            |a| same_allocation(got, a.as_ref().ok()),
        );
        let more = got.is_some() && ours.demand_per_ms() > published.demand_per_ms();
        if matches!(gamma, Ok(None)) && more { Ok(Some(DEMAND)) } else { gamma }
    }

    /// The peer's answer of an allocation.
    fn peer_allocation(
        &self,
        queue: &Queue,
        targets: &SloTargets,
        got: Option<&Allocation>,
        out: &Value,
    ) -> Result<(), String> {
        let feasible = out["feasible"] == true;
        if feasible != got.is_some() {
            return Err(format!("feasible is {feasible}"));
        }
        self.peer_sizing(queue, targets, &out["size"])?;
        let Some(got) = got else { return Ok(()) };
        let noise = 1e-6 * got.response_ms;
        let mut out = out.clone();
        if self.tagged("ill_conditioned") {
            for name in ["max_rate_per_replica_per_ms", "max_rpm"] {
                out[name] = Value::Null;
            }
        }
        if self.tagged("ill_conditioned") && number(&out["replicas"]) != Some(f64::from(got.replicas)) {
            return Ok(());
        }
        allocation(self.generation == Generation::A, &out, got, self.single(), noise, 1e-5)
    }

    /// Zero load and refused input: no queue is solved.
    fn alloc_without_queue(&self, ours: &AllocationInput) -> Verdict {
        let out = &self.record["out"];
        let negative = ["rate_rpm", "tokens", "in_tokens", "out_tokens"].iter().any(|n| self.input(n) < 0.0);
        match allocate(ours) {
            Err(SizeError::Input(QueueError::NoOutput(_))) if out["zero_load"] == true => Ok(Some(NO_OUTPUT)),
            Err(SizeError::Input(_)) if out["feasible"] == false || negative => Ok(None),
            Ok(got) if out["zero_load"] == true => {
                let mut check = Check::default();
                check.field(out, "replicas", f64::from(got.replicas), 0.0, 0.0);
                check.field(out, "cost", got.cost, 1e-6, 0.0);
                check.done()?;
                let mut check = Check::default();
                check.field(out, "itl_ms", got.itl_ms, self.single(), 0.0);
                check.field(out, "batch", f64::from(got.batch), 0.0, 0.0);
                check.field(out, "max_rate_per_replica_per_ms", got.max_rate_per_replica_per_ms, 1e-4, 0.0);
                Ok(check.done().is_err().then_some(ZERO_LOAD))
            }
            other => Err(format!("no f64 block, ours {other:?}")),
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

fn same_allocation(a: Option<&Allocation>, b: Option<&Allocation>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.replicas == b.replicas && close(a.itl_ms, b.itl_ms),
        (a, b) => a.is_none() && b.is_none(),
    }
}

fn same(a: &Metrics, b: &Metrics) -> bool {
    close(a.itl_ms, b.itl_ms) && close(a.prefill_ms, b.prefill_ms)
}
