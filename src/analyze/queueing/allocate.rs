//! Allocation: how many replicas of one arrangement carry a load within its targets, and what each of
//! them then does. Knows nothing of other arrangements, inventories or the past.

use super::{Binding, MAX_BATCH, Metrics, Queue, QueueError, Revision, ServiceTimes, SizeError, Sizing};
use super::{MAX_QUEUE, QUEUE_PER_BATCH, Tokens};
use crate::config::{PerfParms, SloTargets};

/// 95th percentile of an exponentially distributed wait over its mean, `-ln(0.05)`.
pub const WAIT_P95_OVER_MEAN: f64 = 2.995732273553991;
/// Most replicas that are ever asked for; a load that needs more is reported as capped.
pub const MAX_REPLICAS: u32 = 1_000_000_000;

/// Where the batch limit comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSource {
    /// Batch limit stated for the server; 0 when not stated. Wins over the profile.
    pub stated: u32,
    /// Batch limit of the profile, at `at_tokens` tokens per request.
    pub profile: u32,
    /// Tokens per request at which the profile's limit holds.
    pub at_tokens: u32,
}

/// One load on one arrangement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AllocationInput {
    /// Performance parameters; they choose the generation of the model.
    pub parms: PerfParms,
    /// Revision of generation B.
    pub revision: Revision,
    /// Average tokens per request.
    pub tokens: Tokens,
    /// Arrival rate of the whole load, requests/s, >= 0.
    pub rate_per_s: f64,
    /// Targets; 0 means none. In generation A `ttft_ms` bounds the 95th percentile of the wait. A
    /// throughput target asks for capacity for that many tokens/s even when fewer are requested.
    pub targets: SloTargets,
    /// Batch limit.
    pub batch: BatchSource,
    /// Replicas wanted in any case.
    pub min_replicas: u32,
    /// Replicas allowed; `None` for no bound but [`MAX_REPLICAS`].
    pub max_replicas: Option<u32>,
    /// Cost of one replica, finite, >= 0.
    pub cost_per_replica: f64,
}

/// What set the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetBy {
    /// The load.
    Load,
    /// The lower bound on replicas; the load needs fewer, or there is none.
    Minimum,
    /// The upper bound on replicas, or a reduced grant; the load needs more.
    Maximum,
}

/// Replicas for a load and the state of each of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allocation {
    /// Number of replicas.
    pub replicas: u32,
    /// Demand over the rate of one replica, before rounding up; 0 without load.
    pub replica_ratio: f64,
    /// What set the number.
    pub set_by: SetBy,
    /// Batch limit `N` of each replica; 0 when unknown (no load and no token counts).
    pub batch: u32,
    /// Cost of all replicas.
    pub cost: f64,
    /// Decode step at the replica's share of the load, ms.
    pub itl_ms: f64,
    /// Time to first token at that share, ms, with the first decode step in generation C as in the
    /// target. In generation A the mean wait.
    pub ttft_ms: f64,
    /// Mean wait at that share, ms.
    pub wait_ms: f64,
    /// Prefill time at that share, ms.
    pub prefill_ms: f64,
    /// Mean time from arrival to completion at that share, ms; 0 without load.
    pub response_ms: f64,
    /// Utilisation at that share, as the generation defines it, in `[0, 1]`.
    pub rho: f64,
    /// Largest rate of one replica, requests/ms: the completed requests at the sized rate (generation A:
    /// the sized rate). 0 without load when the token counts or targets do not give one.
    pub max_rate_per_replica_per_ms: f64,
    /// The sizing behind it; `None` without load when there is none.
    pub sizing: Option<Sizing>,
}

/// Batch limit of a replica: the stated one, else the profile's scaled to `output_tokens` per request and
/// rounded down, at least 1. 0 when neither is stated.
pub fn batch_limit(source: BatchSource, output_tokens: f64) -> u32 {
    if source.stated > 0 {
        return source.stated;
    }
    if source.profile == 0 || output_tokens.is_nan() || output_tokens <= 0.0 {
        return 0;
    }
    let scaled = f64::from(source.profile) * f64::from(source.at_tokens) / output_tokens;
    // The conversion saturates; the queue checks the upper end.
    (scaled.floor() as u32).max(1)
}

/// The least number `n` with `n per_replica >= total`, decided exactly in f64, without rounding of the
/// quotient; at least 1, and [`MAX_REPLICAS`] when more are needed or the rates make no sense.
pub fn replicas_for(total: f64, per_replica: f64) -> u32 {
    let mut count = (total / per_replica).ceil();
    if count.is_nan() || count > f64::from(MAX_REPLICAS) {
        return MAX_REPLICAS;
    }
    // The quotient may be rounded across an integer; the fused product is not rounded before comparing.
    if count.mul_add(per_replica, -total) < 0.0 {
        count += 1.0;
    } else if (count - 1.0).mul_add(per_replica, -total) >= 0.0 {
        count -= 1.0;
    }
    (count as u32).clamp(1, MAX_REPLICAS)
}

/// Replicas, cost and state for a load.
///
/// - No load (`rate_per_s = 0`): the minimum of replicas, with the latency of a lone request where token
///   counts give one. Targets that cannot be met do not matter then.
/// - Output tokens 0 under load: an error, because the load is unknown, not zero.
/// - A target out of reach: [`SizeError::Unreachable`] with the best possible value.
/// - Negative, NaN or infinite input: [`SizeError::Input`] with the value.
/// - Demand under a throughput target is the larger of the measured rate and the target's.
pub fn allocate(input: &AllocationInput) -> Result<Allocation, SizeError> {
    allocate_from(input, Start::Cold)
}

/// As [`allocate`], to the last bit, with the sizing of a previous answer of [`allocate`] or of this
/// function: when only the rate of the load has moved, nothing is sized again.
pub fn allocate_again(input: &AllocationInput, previous: &Sizing) -> Result<Allocation, SizeError> {
    allocate_from(input, Start::Again(previous))
}

/// As [`allocate`], starting the sizing from a previous one of the same arrangement; see
/// [`Queue::size_warm`] for how the answer depends on it.
pub fn allocate_warm(input: &AllocationInput, previous: &Sizing) -> Result<Allocation, SizeError> {
    allocate_from(input, Start::Warm(previous))
}

/// What a sizing may start from.
#[derive(Clone, Copy)]
enum Start<'a> {
    Cold,
    Again(&'a Sizing),
    Warm(&'a Sizing),
}

fn allocate_from(input: &AllocationInput, start: Start) -> Result<Allocation, SizeError> {
    check_load(input)?;
    if input.rate_per_s == 0.0 {
        return Ok(idle(input));
    }
    let queue = input.queue()?;
    let sizing = input.sizing(&queue, start)?;
    let per_replica = input.rate_of_one(&sizing);
    let total = input.demand_per_ms();
    let needed = replicas_for(total, per_replica);
    let most = input.max_replicas.unwrap_or(MAX_REPLICAS).min(MAX_REPLICAS);
    let replicas = needed.max(input.min_replicas).min(most);
    let allocation = Allocation {
        replicas,
        replica_ratio: total / per_replica,
        set_by: match needed {
            n if n > replicas => SetBy::Maximum,
            n if n < replicas => SetBy::Minimum,
            _ => SetBy::Load,
        },
        ..idle_shell(input, queue.batch(), replicas, per_replica, Some(sizing))
    };
    at_share(input, &queue, allocation)
}

impl Allocation {
    /// The same load on another number of replicas, re-evaluated: fewer replicas show the latency and
    /// utilisation of the larger share. With 0 replicas under load the latencies of the last one stay,
    /// since nothing is served.
    pub fn with_replicas(&self, input: &AllocationInput, replicas: u32) -> Result<Allocation, SizeError> {
        let cost = f64::from(replicas) * input.cost_per_replica;
        let set_by = if replicas < self.replicas { SetBy::Maximum } else { self.set_by };
        let changed = Allocation { replicas, cost, set_by, ..*self };
        if replicas == 0 || input.rate_per_s == 0.0 {
            return Ok(changed);
        }
        check_load(input)?;
        at_share(input, &input.queue()?, changed)
    }

    /// What binds one replica, when it was sized.
    pub fn binding(&self) -> Option<Binding> {
        self.sizing.map(|sizing| sizing.binding)
    }
}

impl AllocationInput {
    /// The queue of one replica under this load.
    pub fn queue(&self) -> Result<Queue, QueueError> {
        let service = ServiceTimes::with_revision(&self.parms, self.tokens, self.revision)?;
        let batch = batch_limit(self.batch, self.tokens.output);
        if batch > MAX_BATCH {
            return Err(QueueError::Batch(batch));
        }
        // Published: 10 N states in generation A, 10 N places above the batch in the others.
        let places = match self.parms {
            PerfParms::Decode { .. } => batch * (QUEUE_PER_BATCH - 1),
            _ => batch * QUEUE_PER_BATCH,
        };
        Queue::new(service, batch, places.min(MAX_QUEUE))
    }

    /// Demand, requests/ms: the measured rate, or what a throughput target asks for if that is more.
    pub fn demand_per_ms(&self) -> f64 {
        let promised_per_s = if self.targets.tps > 0.0 { self.targets.tps / self.tokens.output } else { 0.0 };
        self.rate_per_s.max(promised_per_s) / 1000.0
    }

    fn sizing(&self, queue: &Queue, start: Start) -> Result<Sizing, SizeError> {
        let mut targets = self.targets;
        if matches!(self.parms, PerfParms::Decode { .. }) {
            targets.ttft_ms /= WAIT_P95_OVER_MEAN;
        }
        match start {
            Start::Cold => queue.size(&targets),
            Start::Again(previous) => queue.size_again(&targets, previous),
            Start::Warm(previous) => queue.size_warm(&targets, previous),
        }
    }

    fn rate_of_one(&self, sizing: &Sizing) -> f64 {
        match self.parms {
            PerfParms::Decode { .. } => sizing.rate_per_ms,
            _ => sizing.metrics.throughput_per_ms,
        }
    }
}

fn check_load(input: &AllocationInput) -> Result<(), QueueError> {
    let positive = |value: f64| value >= 0.0 && value.is_finite();
    if !positive(input.rate_per_s) {
        return Err(QueueError::Load(input.rate_per_s));
    }
    if !positive(input.cost_per_replica) {
        return Err(QueueError::Cost(input.cost_per_replica));
    }
    for (name, value) in [("input", input.tokens.input), ("output", input.tokens.output)] {
        if !positive(value) {
            return Err(QueueError::Tokens { name, value });
        }
    }
    Ok(())
}

/// An allocation without latencies.
fn idle_shell(
    input: &AllocationInput,
    batch: u32,
    replicas: u32,
    per_replica: f64,
    sizing: Option<Sizing>,
) -> Allocation {
    Allocation {
        replicas,
        replica_ratio: 0.0,
        set_by: SetBy::Minimum,
        batch,
        cost: f64::from(replicas) * input.cost_per_replica,
        itl_ms: 0.0,
        ttft_ms: 0.0,
        wait_ms: 0.0,
        prefill_ms: 0.0,
        response_ms: 0.0,
        rho: 0.0,
        max_rate_per_replica_per_ms: per_replica,
        sizing,
    }
}

/// The allocation without load.
fn idle(input: &AllocationInput) -> Allocation {
    let replicas = input.min_replicas.min(input.max_replicas.unwrap_or(MAX_REPLICAS));
    let Ok(queue) = input.queue() else {
        let batch = batch_limit(input.batch, input.tokens.output);
        return idle_shell(input, batch, replicas, 0.0, None);
    };
    let sizing = input.sizing(&queue, Start::Cold).ok();
    let per_replica = sizing.map_or(0.0, |sizing| input.rate_of_one(&sizing));
    let lone = queue.lone_request();
    Allocation {
        itl_ms: lone.itl_ms,
        prefill_ms: lone.prefill_ms,
        ttft_ms: lone.first_token_ms,
        ..idle_shell(input, queue.batch(), replicas, per_replica, sizing)
    }
}

/// Fills in the state of each replica at its share of the demand.
fn at_share(input: &AllocationInput, queue: &Queue, shell: Allocation) -> Result<Allocation, SizeError> {
    let share_per_ms = input.demand_per_ms() / f64::from(shell.replicas.max(1));
    let Metrics { itl_ms, ttft_ms, wait_ms, prefill_ms, response_ms, rho, .. } =
        queue.metrics_at(share_per_ms)?;
    Ok(Allocation { itl_ms, ttft_ms, wait_ms, prefill_ms, response_ms, rho, ..shell })
}
