//! `simulate`: what would a policy cost on a trace and hardware, and would it hold the targets?
//!
//! Input: traces, profiles, targets and policies. Output: [`run::Outcome`]s, as a table, JSON or picture.
//!
//! # Map
//!
//! [`input`] finds the traces: [`trace`] reads files, [`pattern`] makes synthetic ones, [`recording`] takes
//! them from recordings; [`profiles`] reads profiles. [`scenario`] puts a trace on a profile; [`policy`] has the
//! autoscalers to compare with and [`sidecar`] our own engine, the very code of `serve` on virtual time; [`run`]
//! is one simulation; [`report`] and [`plot`] show the outcomes. The fleet is that of [`crate::emulate`].

pub mod command;
pub mod input;
pub mod pattern;
pub mod plot;
pub mod policy;
pub mod problem;
pub mod profiles;
pub mod recording;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sidecar;
pub mod suite;
pub mod trace;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use policy::{Hpa, Metric, Policy, Schedule, Static};
use problem::Problem;
use run::{Outcome, run};
use scenario::Scenario;
use sidecar::Sidecar;

use crate::config::Mode;

/// Bins of the clairvoyant schedule, ms.
const ORACLE_BIN_MS: i64 = 10_000;
/// Steps of the search for the smallest margin of the clairvoyant policy.
const ORACLE_STEPS: u32 = 7;

/// A policy by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyName {
    /// Knows the whole trace; the smallest schedule that serves 99 % within the targets.
    Oracle,
    /// The smallest constant count that does, known in hindsight.
    BestStatic,
    /// A constant count.
    Static(u32),
    /// The sidecar in one of its modes.
    Sidecar(Mode),
    /// Saturation analysis every minute, as the reference controller 0.5 has it.
    Wva05,
    /// Token capacity every 15 s, as the reference controller 0.9 has it.
    Wva09,
    /// Horizontal pod autoscaler on the queue length.
    HpaQueue,
    /// Horizontal pod autoscaler on KV cache usage.
    HpaKv,
    /// KEDA on queue length and KV usage.
    Keda,
}

impl PolicyName {
    /// All that run by default, in the order of the table.
    pub const DEFAULT: &str = "oracle,best-static,slo,keda,wva-0.9,hpa-queue,hpa-kv,wva-0.5,model";

    /// Reads a name.
    ///
    /// # Errors
    /// The names there are.
    pub fn parse(name: &str) -> Result<PolicyName, Problem> {
        let fixed = name.strip_prefix("static-").and_then(|count| count.parse().ok());
        Ok(match name {
            "oracle" => PolicyName::Oracle,
            "best-static" => PolicyName::BestStatic,
            "wva-0.5" => PolicyName::Wva05,
            "wva-0.9" => PolicyName::Wva09,
            "hpa-queue" => PolicyName::HpaQueue,
            "hpa-kv" => PolicyName::HpaKv,
            "keda" => PolicyName::Keda,
            _ => match (fixed, Mode::parse(name)) {
                (Some(count), _) => PolicyName::Static(count),
                (None, Some(mode)) => PolicyName::Sidecar(mode),
                (None, None) => {
                    let fix = format!(
                        "there are oracle, best-static, static-N, hpa-queue, hpa-kv, keda, wva-0.5, wva-0.9, and \
                         the sidecar's modes: {}",
                        Mode::CHOICES
                    );
                    return Err(Problem::new(format!("--policy {name}"), "there is no such policy", fix));
                }
            },
        })
    }

    /// Name in reports.
    pub fn name(self) -> String {
        match self {
            PolicyName::Oracle => "oracle".to_owned(),
            PolicyName::BestStatic => "best-static".to_owned(),
            PolicyName::Static(count) => format!("static-{count}"),
            PolicyName::Sidecar(mode) => mode.as_str().to_owned(),
            PolicyName::Wva05 => "wva-0.5".to_owned(),
            PolicyName::Wva09 => "wva-0.9".to_owned(),
            PolicyName::HpaQueue => "hpa-queue".to_owned(),
            PolicyName::HpaKv => "hpa-kv".to_owned(),
            PolicyName::Keda => "keda".to_owned(),
        }
    }

    /// Runs a scenario under the policy.
    ///
    /// # Errors
    /// When the scenario cannot be configured.
    pub fn run(self, scenario: &Scenario, progress: &mut dyn FnMut(f64)) -> anyhow::Result<Outcome> {
        let mut policy: Box<dyn Policy> = match self {
            PolicyName::Oracle => return Ok(clairvoyant(scenario, progress)),
            PolicyName::BestStatic => return Ok(best_static(scenario, progress)),
            PolicyName::Static(count) => {
                // As if it had always been so many.
                let initial = count.clamp(scenario.replicas.0, scenario.replicas.1);
                let scenario = Scenario { initial, ..scenario.clone() };
                return Ok(run(&scenario, &mut Static(count), progress));
            }
            PolicyName::Sidecar(mode) => Box::new(Sidecar::new(mode.as_str(), scenario, mode, 0)?),
            PolicyName::Wva05 => Box::new(Sidecar::new("wva-0.5", scenario, Mode::SATURATION, 60_000)?),
            PolicyName::Wva09 => Box::new(Sidecar::new("wva-0.9", scenario, Mode::TOKENS, 15_000)?),
            PolicyName::HpaQueue => Box::new(Hpa::new("hpa-queue", vec![Metric::Waiting(2.0)])),
            PolicyName::HpaKv => Box::new(Hpa::new("hpa-kv", vec![Metric::KvUsage(0.7)])),
            PolicyName::Keda => {
                let metrics = vec![Metric::Waiting(5.0), Metric::KvUsage(0.5), Metric::InFlight(32.0)];
                Box::new(Hpa::new("keda", metrics))
            }
        };
        Ok(run(scenario, policy.as_mut(), progress))
    }
}

/// The smallest clairvoyant schedule that reaches the wanted attainment; the largest tried when none does.
fn clairvoyant(scenario: &Scenario, progress: &mut dyn FnMut(f64)) -> Outcome {
    let demand = scenario.fluid_demand(ORACLE_BIN_MS);
    let steps = f64::from(ORACLE_STEPS + 1);
    let mut attempt = |margin: f64, step: u32| {
        let mut schedule = Schedule::clairvoyant(scenario, &demand, ORACLE_BIN_MS, margin);
        let scenario = Scenario { initial: schedule.counts[0], ..scenario.clone() };
        run(&scenario, &mut schedule, &mut |share| progress((f64::from(step) + share) / steps))
    };
    let (mut low, mut high) = (0.4, 4.0);
    let mut best = attempt(high, 0);
    for step in 1..=ORACLE_STEPS {
        let middle = f64::sqrt(low * high);
        let outcome = attempt(middle, step);
        if outcome.attainment() >= scenario.attainment {
            (best, high) = (outcome, middle);
        } else {
            low = middle;
        }
    }
    best
}

/// The smallest constant count that reaches the wanted attainment; the largest allowed when none does.
fn best_static(scenario: &Scenario, progress: &mut dyn FnMut(f64)) -> Outcome {
    let (mut low, mut high) = scenario.replicas;
    let mut attempt = |count: u32| {
        let scenario = Scenario { initial: count, ..scenario.clone() };
        run(&scenario, &mut Static(count), progress)
    };
    let mut best = None;
    while low < high {
        let middle = (low + high) / 2;
        let outcome = attempt(middle);
        if outcome.attainment() >= scenario.attainment {
            (best, high) = (Some(outcome), middle);
        } else {
            low = middle + 1;
        }
    }
    let outcome = best.unwrap_or_else(|| attempt(high));
    Outcome { policy: "best-static".to_owned(), ..outcome }
}

/// How far a comparison is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// Share of all the work that is done, 0..1.
    Share {
        /// The share.
        share: f64,
    },
    /// A run has ended.
    Done {
        /// Index of its scenario.
        scenario: usize,
        /// Index of its policy.
        policy: usize,
    },
}

/// Outcomes by scenario and policy.
pub type Results = Vec<Vec<anyhow::Result<Outcome>>>;

/// Runs every policy on every scenario on all cores. The result is in the order of the scenarios, and
/// within each in that of the policies, whatever finished first.
pub fn run_all(
    scenarios: &[Scenario],
    policies: &[PolicyName],
    progress: &(dyn Fn(Progress) + Sync),
) -> Results {
    let jobs = scenarios.len() * policies.len();
    // Share of each run that is done, in parts of `PARTS`.
    const PARTS: f64 = 1e6;
    let done: Vec<AtomicU64> = (0..jobs).map(|_| AtomicU64::new(0)).collect();
    let tell = |job: usize, share: f64| {
        let parts = (share.clamp(0.0, 1.0) * PARTS) as u64;
        // Only whole percents are worth a sum over all runs.
        let before = done[job].swap(parts, Ordering::Relaxed);
        if parts / 10_000 != before / 10_000 {
            let sum: u64 = done.iter().map(|one| one.load(Ordering::Relaxed)).sum();
            progress(Progress::Share { share: sum as f64 / PARTS / jobs as f64 });
        }
    };
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, anyhow::Result<Outcome>)>> = Mutex::new(Vec::new());
    let work = || {
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                break;
            }
            let (scenario, policy) = (job / policies.len(), job % policies.len());
            let outcome = policies[policy].run(&scenarios[scenario], &mut |share| tell(job, share));
            tell(job, 1.0);
            progress(Progress::Done { scenario, policy });
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((job, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(job, _)| *job);
    let mut outcomes = results.into_iter().map(|(_, result)| result);
    scenarios.iter().map(|_| outcomes.by_ref().take(policies.len()).collect()).collect()
}
