//! The answer to a what-if: the allocation, its neighbours, and the same load on other variants.
//!
//! Input: [`Question`]s. Output: an [`Answer`]. Pure.

use super::Question;
use crate::analyze::queueing::{
    Allocation, AllocationInput, Binding, QueueError, SetBy, SizeError, Target, Unreachable,
    WAIT_P95_OVER_MEAN, allocate,
};
use crate::config::{PerfParms, VariantKey};

/// Share by which a target may be missed and still count as met: what sizing may leave.
const TOLERANCE: f64 = 1e-6;

/// The answer.
pub(super) struct Answer {
    pub outcome: Outcome,
    /// The same load on the other variants of the model, the best first.
    pub others: Vec<Other>,
}

/// Whether there is an allocation.
pub(super) enum Outcome {
    Sized(Box<Sized>),
    Unreachable {
        /// What cannot be met; in generation A with the 95th percentile of the wait, as in the target.
        target: Unreachable,
        /// The allocation without that target, when there is one.
        without: Option<Step>,
    },
}

/// An allocation with its neighbours.
pub(super) struct Sized {
    pub allocation: Allocation,
    pub here: Step,
    pub fewer: Option<Step>,
    pub more: Option<Step>,
}

/// The load on a certain number of replicas.
pub(super) struct Step {
    pub replicas: u32,
    pub cost: f64,
    pub ttft_ms: f64,
    pub itl_ms: f64,
    pub wait_ms: f64,
    /// 95th percentile of the wait, which generation A bounds; `None` in the others.
    pub wait_p95_ms: Option<f64>,
    pub rho: f64,
    /// What is missed; empty when all targets are met.
    pub misses: Vec<&'static str>,
}

/// The same load on another variant.
pub(super) struct Other {
    pub variant: VariantKey,
    /// Its allocation, or why there is none.
    pub result: Result<Step, String>,
}

impl Other {
    /// Those that meet the targets first, then the cheaper; the name breaks ties.
    fn rank(&self) -> (bool, bool, f64) {
        match &self.result {
            Ok(step) => (false, !step.misses.is_empty(), step.cost),
            Err(_) => (true, true, f64::INFINITY),
        }
    }
}

impl Answer {
    /// Whether the replicas carry the load within the targets.
    pub fn targets_are_met(&self) -> bool {
        matches!(&self.outcome, Outcome::Sized(sized) if sized.here.misses.is_empty())
    }

    /// The best of the other variants.
    pub fn runner_up(&self) -> Option<(&VariantKey, &Step)> {
        self.others.first().and_then(|other| Some((&other.variant, other.result.as_ref().ok()?)))
    }
}

/// Answers the question; an error says which flag is to be corrected, and how.
pub(super) fn answer(
    question: &Question,
    peers: &[(VariantKey, Result<Question, String>)],
) -> Result<Answer, String> {
    let outcome = match allocate(&question.input) {
        Ok(allocation) => Outcome::Sized(Box::new(sized(&question.input, allocation)?)),
        Err(SizeError::Unreachable(target)) => unreachable(&question.input, target),
        Err(SizeError::Input(error)) => return Err(in_flags(&error)),
    };
    let mut others: Vec<Other> = peers
        .iter()
        .map(|(variant, peer)| Other {
            variant: variant.clone(),
            result: peer.as_ref().map_err(Clone::clone).and_then(whole),
        })
        .collect();
    others.sort_by(|a, b| {
        let (a_rank, b_rank) = (a.rank(), b.rank());
        (a_rank.0, a_rank.1)
            .cmp(&(b_rank.0, b_rank.1))
            .then(a_rank.2.total_cmp(&b_rank.2))
            .then_with(|| a.variant.cmp(&b.variant))
    });
    Ok(Answer { outcome, others })
}

fn sized(input: &AllocationInput, allocation: Allocation) -> Result<Sized, String> {
    let with = |replicas: u32| -> Result<Step, String> {
        let other = allocation.with_replicas(input, replicas).map_err(|error| error.to_string())?;
        step(input, &other)
    };
    let has_load = input.rate_per_s > 0.0;
    let fewer = allocation.replicas.checked_sub(1).filter(|replicas| has_load && *replicas > 0);
    let more = has_load.then(|| allocation.replicas.saturating_add(1));
    Ok(Sized {
        here: step(input, &allocation)?,
        fewer: fewer.map(with).transpose()?,
        more: more.map(with).transpose()?,
        allocation,
    })
}

fn whole(question: &Question) -> Result<Step, String> {
    match allocate(&question.input) {
        Ok(allocation) => step(&question.input, &allocation),
        Err(SizeError::Input(error)) => Err(in_flags(&error)),
        Err(SizeError::Unreachable(target)) => Err(in_words(&as_stated(&question.input, target))),
    }
}

fn step(input: &AllocationInput, at: &Allocation) -> Result<Step, String> {
    Ok(Step {
        replicas: at.replicas,
        cost: at.cost,
        ttft_ms: at.ttft_ms,
        itl_ms: at.itl_ms,
        wait_ms: at.wait_ms,
        wait_p95_ms: is_decode_only(input).then_some(at.wait_ms * WAIT_P95_OVER_MEAN),
        rho: at.rho,
        misses: misses(input, at)?,
    })
}

/// What a number of replicas misses.
fn misses(input: &AllocationInput, at: &Allocation) -> Result<Vec<&'static str>, String> {
    if input.rate_per_s == 0.0 {
        return Ok(Vec::new());
    }
    if at.replicas == 0 {
        return Ok(vec!["load"]);
    }
    let share_per_ms = input.demand_per_ms() / f64::from(at.replicas);
    if share_per_ms <= at.max_rate_per_replica_per_ms * (1.0 + TOLERANCE) {
        return Ok(Vec::new());
    }
    let first_token_ms = if is_decode_only(input) { at.wait_ms * WAIT_P95_OVER_MEAN } else { at.ttft_ms };
    let over = |value: f64, target: f64| target > 0.0 && value > target * (1.0 + TOLERANCE);
    let mut missed = Vec::new();
    if over(first_token_ms, input.targets.ttft_ms) {
        missed.push("ttft");
    }
    if over(at.itl_ms, input.targets.itl_ms) {
        missed.push("itl");
    }
    let queue = input.queue().map_err(|error| in_flags(&error))?;
    if share_per_ms > queue.max_rate_per_ms() {
        missed.push("load");
    } else if missed.is_empty() {
        missed.push("tps");
    }
    Ok(missed)
}

/// Whether the model is generation A, in which the first token is bounded by its wait.
pub(super) fn is_decode_only(input: &AllocationInput) -> bool {
    matches!(input.parms, PerfParms::Decode { .. })
}

/// Undoes what generation A does to its target.
fn as_stated(input: &AllocationInput, mut missed: Unreachable) -> Unreachable {
    if missed.target == Target::Ttft && is_decode_only(input) {
        missed.wanted_ms *= WAIT_P95_OVER_MEAN;
        missed.best_ms *= WAIT_P95_OVER_MEAN;
    }
    missed
}

fn unreachable(input: &AllocationInput, missed: Unreachable) -> Outcome {
    let mut relaxed = *input;
    match missed.target {
        Target::Ttft => relaxed.targets.ttft_ms = 0.0,
        Target::Itl => relaxed.targets.itl_ms = 0.0,
        Target::Tps => relaxed.targets.tps = 0.0,
    }
    let without = allocate(&relaxed).ok().and_then(|at| step(&relaxed, &at).ok());
    Outcome::Unreachable { target: as_stated(input, missed), without }
}

/// The sentence for a target out of reach.
pub(super) fn in_words(missed: &Unreachable) -> String {
    format!(
        "unreachable: {} target {} ms; the best possible is {} ms, by one replica with almost no load",
        missed.target,
        super::render::number(missed.wanted_ms),
        super::render::number(missed.best_ms)
    )
}

/// The sentence for what binds.
pub(super) fn reason(input: &AllocationInput, sized: &Sized) -> String {
    let per_replica = match sized.allocation.binding() {
        None => "nothing to size".into(),
        Some(Binding::ServiceLimit) => "the service limit of its batch binds one replica".into(),
        Some(Binding::Target(Target::Ttft)) if is_decode_only(input) => {
            "the wait before the first token (ttft target) binds one replica".into()
        }
        Some(Binding::Target(target)) => format!("the {target} target binds one replica"),
    };
    let ratio = super::render::number(sized.allocation.replica_ratio);
    match sized.allocation.set_by {
        SetBy::Load => format!("the load is worth {ratio} replicas; {per_replica}"),
        SetBy::Minimum if input.rate_per_s == 0.0 => "no load: the minimum of replicas binds".into(),
        SetBy::Minimum => {
            format!("the minimum of replicas binds: the load is worth only {ratio}; {per_replica}")
        }
        SetBy::Maximum => format!("the maximum of replicas binds: the load is worth {ratio}; {per_replica}"),
    }
}

/// The word for what sets the number of replicas.
pub(super) fn binds(allocation: &Allocation) -> &'static str {
    match (allocation.set_by, allocation.binding()) {
        (SetBy::Minimum, _) => "min",
        (SetBy::Maximum, _) => "max",
        (SetBy::Load, binding) => replica_binds(binding),
    }
}

/// The word for what binds one replica.
pub(super) fn replica_binds(binding: Option<Binding>) -> &'static str {
    match binding {
        Some(Binding::Target(Target::Ttft)) => "ttft",
        Some(Binding::Target(Target::Itl)) => "itl",
        Some(Binding::Target(Target::Tps)) => "tps",
        Some(Binding::ServiceLimit) | None => "service_limit",
    }
}

/// An error of the library in terms of the flags.
fn in_flags(error: &QueueError) -> String {
    let (flag, fix) = match error {
        QueueError::Parameter { name, .. } => (*name, "give a number of at least 0"),
        QueueError::Tokens { name: "input", .. } => ("input-tokens", "give a number of at least 0"),
        QueueError::Tokens { .. } | QueueError::NoOutput(_) => {
            ("output-tokens", "give a number above 0; without tokens the load is unknown, not zero")
        }
        QueueError::ServiceTime(_) => {
            ("alpha", "give the measured parameters of the performance model in milliseconds")
        }
        QueueError::Batch(_) => ("max-batch", "give the most requests that one replica runs together"),
        QueueError::QueueLength(_) => ("max-batch", "give a smaller batch limit"),
        QueueError::Rate(_) | QueueError::RateAboveLimit { .. } | QueueError::Load(_) => {
            ("rate", "give a rate of at least 0")
        }
        QueueError::Cost(_) => ("cost", "give a number of at least 0"),
        QueueError::Target { name: "ttft", .. } => ("slo-ttft", "give a time of at least 0"),
        QueueError::Target { name: "itl", .. } => ("slo-itl", "give a time of at least 0"),
        QueueError::Target { .. } => ("slo-tps", "give a number of at least 0"),
    };
    format!("--{flag}: {error}; {fix}")
}
