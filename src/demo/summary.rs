//! What a run amounts to: figures as one structure, rendered as JSON or as text.
//!
//! Everything outside [`Summary::wall`] depends on the flags and the seed alone.

use super::plan::Plan;
use super::scaler::{DOWN_WINDOW_MS, SYNC_MS};
use super::tally::{Enough, Tally, quantile};
use super::wall::{Wall, WallSummary};
use crate::emulate::fleet::{Fleet, Model, Totals};
use serde::Serialize;

/// Figures of a run. Times are virtual seconds since its start, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Seed of the load.
    pub seed: u64,
    /// Analyzers that decided.
    pub mode: &'static str,
    /// Planned length.
    pub duration_s: f64,
    /// Length played.
    pub played_s: f64,
    /// Whether it was played to its end.
    pub completed: bool,
    /// Start-up time of a replica.
    pub startup_s: f64,
    /// The emulated autoscaler.
    pub autoscaler: AutoscalerSummary,
    /// How the rise of the load was answered.
    pub response: Response,
    /// All requests.
    pub requests: Requests,
    /// Most requests waiting at once.
    pub waiting_max: u64,
    /// Changes of replica counts.
    pub scale_events: ScaleEvents,
    /// Time that replicas existed, h.
    pub replica_hours: f64,
    /// Their cost, in the units of `variantCost`.
    pub cost: f64,
    /// What was pushed.
    pub pushed: Pushed,
    /// By model.
    pub models: Vec<ModelSummary>,
    /// By variant.
    pub variants: Vec<VariantSummary>,
    /// Every change of a published count.
    pub decisions: Vec<DecisionSummary>,
    /// Measured with the machine's clock: differs from run to run.
    pub wall: WallSummary,
}

/// The emulated autoscaler.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AutoscalerSummary {
    /// Time between two looks at the published count.
    pub sync_s: f64,
    /// Stabilisation window of scale-down.
    pub scale_down_window_s: f64,
    /// Mean time that a raised count waited for the next look; one that is pushed would not wait.
    pub mean_wait_s: Option<f64>,
}

/// How the rise of the load was answered. `*_after_s` count from the rise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Response {
    /// When the load began to rise.
    pub rise_at_s: f64,
    /// When it began to fall, or the end of the run.
    pub fall_at_s: f64,
    /// First raised decision.
    pub decision_after_s: Option<f64>,
    /// The variant that it raised.
    pub variant: Option<String>,
    /// Count before.
    pub from: Option<u32>,
    /// Count after.
    pub to: Option<u32>,
    /// Reason of the decision.
    pub reason: Option<String>,
    /// First time that the autoscaler created replicas.
    pub applied_after_s: Option<f64>,
    /// A queue or the KV cache over its threshold for the first time.
    pub short_after_s: Option<f64>,
    /// How long one was while the load was up.
    pub short_for_s: f64,
    /// Queues and KV cache back under their thresholds, for as long as the load was up.
    pub enough_after_s: Option<f64>,
    /// `always`, `reached` or `not_reached`.
    pub enough: &'static str,
}

/// Requests and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// Requests that came.
    pub arrived: u64,
    /// Requests served to their end.
    pub served: u64,
    /// Of those, the ones within both latency targets.
    pub met: u64,
    /// `met` relative to the requests that have ended, 0..1.
    pub attainment: Option<f64>,
    /// Requests lost with replicas that were removed.
    pub lost: u64,
    /// Requests refused as too long.
    pub refused: u64,
    /// Requests unfinished at the end.
    pub in_flight: u64,
}

/// Changes of replica counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScaleEvents {
    /// Published counts raised.
    pub decided_up: usize,
    /// Published counts lowered.
    pub decided_down: usize,
    /// Targets scaled up by the autoscaler.
    pub applied_up: usize,
    /// Targets scaled down by the autoscaler.
    pub applied_down: usize,
}

/// What was pushed by remote-write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pushed {
    /// Samples.
    pub samples: u64,
    /// Requests.
    pub requests: u64,
    /// Bytes of the bodies, compressed.
    pub bytes: u64,
    /// Samples per virtual second.
    pub samples_per_s: f64,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSummary {
    /// Model ID.
    pub model: String,
    /// Its requests.
    #[serde(flatten)]
    pub requests: Requests,
    /// Attainment of the requests that came while the load was up.
    pub attainment_while_up: Option<f64>,
    /// Target for the time to first token, ms.
    pub slo_ttft_ms: f64,
    /// Target for the time per output token, ms.
    pub slo_tpot_ms: f64,
    /// Median time to first token, ms.
    pub ttft_p50_ms: Option<f64>,
    /// 95th percentile of the time to first token, ms.
    pub ttft_p95_ms: Option<f64>,
    /// 95th percentile of the time per output token, ms.
    pub tpot_p95_ms: Option<f64>,
    /// Most requests waiting at once.
    pub waiting_max: u64,
    /// First raised decision, since the rise.
    pub decision_after_s: Option<f64>,
    /// Enough replicas, since the rise.
    pub enough_after_s: Option<f64>,
    /// `always`, `reached` or `not_reached`.
    pub enough: &'static str,
}

/// One variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VariantSummary {
    /// Name.
    pub name: String,
    /// Accelerator type.
    pub accelerator: String,
    /// Cost of a replica per hour.
    pub cost_per_hour: f64,
    /// Most replicas ready at once.
    pub ready_max: u32,
    /// Replicas ready at the end.
    pub ready_at_end: u32,
    /// Time that replicas existed, h.
    pub replica_hours: f64,
    /// Their cost.
    pub cost: f64,
}

/// A change of a published count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecisionSummary {
    /// When.
    pub at_s: f64,
    /// Name of the variant.
    pub variant: String,
    /// Count before.
    pub from: u32,
    /// Count after.
    pub to: u32,
    /// Reason.
    pub reason: String,
}

impl Summary {
    /// The figures of a run.
    pub fn of(plan: &Plan, fleet: &Fleet, tally: &mut Tally, mut pushed: Pushed, wall: &mut Wall) -> Self {
        let played_s = s(tally.at_ms);
        pushed.samples_per_s = pushed.samples as f64 / played_s.max(1.0);
        let wall = wall.summary(tally.at_ms, pushed.samples);
        let models: Vec<ModelSummary> =
            (0..tally.models.len()).map(|index| model(index, &fleet.models()[index], tally)).collect();
        let variants: Vec<VariantSummary> = fleet
            .variants()
            .into_iter()
            .zip(&tally.variants)
            .map(|(status, variant)| VariantSummary {
                cost: status.replica_hours * status.cost,
                name: status.name,
                accelerator: status.accelerator,
                cost_per_hour: status.cost,
                ready_max: variant.ready_max,
                ready_at_end: status.ready,
                replica_hours: status.replica_hours,
            })
            .collect();
        let waits = &tally.waits_ms;
        let mean_wait_ms = (!waits.is_empty()).then(|| waits.iter().sum::<i64>() as f64 / waits.len() as f64);
        let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        Summary {
            scenario: plan.name(),
            seed: plan.seed,
            mode: plan.mode.as_str(),
            duration_s: s(plan.duration_ms),
            played_s,
            completed: tally.at_ms >= plan.duration_ms,
            startup_s: s(plan.startup_ms),
            autoscaler: AutoscalerSummary {
                sync_s: s(SYNC_MS),
                scale_down_window_s: s(DOWN_WINDOW_MS),
                mean_wait_s: mean_wait_ms.map(|ms| ms / 1000.0),
            },
            response: response(plan, tally, &names),
            requests: all_requests(&models),
            waiting_max: tally.waiting_max,
            scale_events: scale_events(tally),
            replica_hours: variants.iter().map(|variant| variant.replica_hours).sum(),
            cost: variants.iter().map(|variant| variant.cost).sum(),
            pushed,
            decisions: decisions(tally, &names),
            models,
            variants,
            wall,
        }
    }
}

fn s(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn model(index: usize, model: &Model, tally: &mut Tally) -> ModelSummary {
    let (enough_after_s, enough) = enough(tally.enough(index));
    let one = &mut tally.models[index];
    ModelSummary {
        model: one.id.clone(),
        requests: requests(model.totals(), model.in_flight()),
        attainment_while_up: share(one.up.1, one.up.0),
        slo_ttft_ms: one.slo.ttft_ms,
        slo_tpot_ms: one.slo.itl_ms,
        ttft_p50_ms: quantile(&mut one.ttft_ms, 0.5),
        ttft_p95_ms: quantile(&mut one.ttft_ms, 0.95),
        tpot_p95_ms: quantile(&mut one.tpot_ms, 0.95),
        waiting_max: one.waiting_max,
        decision_after_s: one.first_raise_ms.map(|ms| s(ms - tally.plan.rise_ms)),
        enough_after_s,
        enough,
    }
}

fn requests(totals: Totals, in_flight: u64) -> Requests {
    Requests {
        arrived: totals.arrived,
        served: totals.finished,
        met: totals.met,
        attainment: share(totals.met, totals.finished + totals.killed + totals.rejected),
        lost: totals.killed,
        refused: totals.rejected,
        in_flight,
    }
}

fn all_requests(models: &[ModelSummary]) -> Requests {
    let mut all = Requests::default();
    for one in models.iter().map(|model| &model.requests) {
        all.arrived += one.arrived;
        all.served += one.served;
        all.met += one.met;
        all.lost += one.lost;
        all.refused += one.refused;
        all.in_flight += one.in_flight;
    }
    all.attainment = share(all.met, all.served + all.lost + all.refused);
    all
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn enough(enough: Enough) -> (Option<f64>, &'static str) {
    match enough {
        Enough::Always => (None, "always"),
        Enough::After(ms) => (Some(s(ms)), "reached"),
        Enough::Never => (None, "not_reached"),
    }
}

fn response(plan: &Plan, tally: &Tally, names: &[&str]) -> Response {
    let raise = tally.first_raise();
    let applied = raise
        .and_then(|raise| tally.applied.iter().find(|change| change.is_up() && change.at_ms >= raise.at_ms));
    let (enough_after_s, enough) = enough(tally.enough_for_all());
    let since = |at_ms: i64| s(at_ms - plan.rise_ms);
    Response {
        rise_at_s: s(plan.rise_ms),
        fall_at_s: s(plan.fall_ms),
        decision_after_s: raise.map(|change| since(change.at_ms)),
        variant: raise.map(|change| names[change.variant].to_owned()),
        from: raise.map(|change| change.from),
        to: raise.map(|change| change.to),
        reason: raise.map(|change| change.reason.clone()),
        applied_after_s: applied.map(|change| since(change.at_ms)),
        short_after_s: tally.first_short_ms.map(since),
        short_for_s: s(tally.short_ms),
        enough_after_s,
        enough,
    }
}

fn scale_events(tally: &Tally) -> ScaleEvents {
    let ups = |changes: &[super::tally::Change]| changes.iter().filter(|change| change.is_up()).count();
    let (decided_up, applied_up) = (ups(&tally.decided), ups(&tally.applied));
    ScaleEvents {
        decided_up,
        decided_down: tally.decided.len() - decided_up,
        applied_up,
        applied_down: tally.applied.len() - applied_up,
    }
}

fn decisions(tally: &Tally, names: &[&str]) -> Vec<DecisionSummary> {
    let one = |change: &super::tally::Change| DecisionSummary {
        at_s: s(change.at_ms),
        variant: names[change.variant].to_owned(),
        from: change.from,
        to: change.to,
        reason: change.reason.clone(),
    };
    tally.decided.iter().map(one).collect()
}
