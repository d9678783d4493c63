//! Comparison of our answers with the blocks of a queueing record, field by field. A field that the record
//! does not have is not compared.

use super::{EXACT, VANISHING};
use inferno_sidecar::analyze::queueing::{Allocation, Metrics, Queue, SizeError, Target};
use inferno_sidecar::config::SloTargets;
use serde_json::Value;

/// A number of a record; non-finite ones are strings there.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) if s == "NaN" => Some(f64::NAN),
        Value::String(s) if s == "+Inf" => Some(f64::INFINITY),
        Value::String(s) if s == "-Inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Collects differences.
#[derive(Default)]
pub(super) struct Check {
    pub(super) wrong: Vec<String>,
}

impl Check {
    /// Compares with a field of a record, if the record has it.
    pub(super) fn field(&mut self, block: &Value, name: &str, got: f64, relative: f64, absolute: f64) {
        let Some(want) = number(&block[name]) else { return };
        let close = (got - want).abs() <= relative * want.abs() + absolute.max(VANISHING);
        if !close {
            self.wrong.push(format!("{name} {got:e}, expected {want:e}"));
        }
    }

    pub(super) fn truth(&mut self, name: &str, holds: bool) {
        if !holds {
            self.wrong.push(name.into());
        }
    }

    pub(super) fn done(self) -> Result<(), String> {
        if self.wrong.is_empty() { Ok(()) } else { Err(self.wrong.join("; ")) }
    }
}

pub(super) fn metrics_a(
    check: &mut Check,
    block: &Value,
    got: &Metrics,
    relative: f64,
    noise: f64,
    wait: f64,
) {
    let wait = wait.max(relative);
    check.field(block, "throughput_per_ms", got.throughput_per_ms, relative, 0.0);
    check.field(block, "resp_ms", got.response_ms, relative, 0.0);
    check.field(block, "serv_ms", got.service_ms, relative, 0.0);
    check.field(block, "wait_ms", got.wait_ms, wait, noise);
    check.field(block, "num_in_system", got.in_system, relative, 0.0);
    check.field(block, "num_in_service", got.in_service, relative, 0.0);
    check.field(block, "queue_len", got.in_system - got.in_service, wait, noise * got.throughput_per_ms);
    check.field(block, "rho", got.rho, relative, if noise > 0.0 { 1e-7 } else { 0.0 });
}

pub(super) fn metrics_b(
    check: &mut Check,
    block: &Value,
    got: &Metrics,
    relative: f64,
    noise: f64,
    wait: f64,
) {
    let wait = wait.max(relative);
    check.field(block, "throughput_rps", 1000.0 * got.throughput_per_ms, relative, 0.0);
    check.field(block, "resp_ms", got.response_ms, relative, 0.0);
    check.field(block, "wait_ms", got.wait_ms, wait, noise);
    check.field(block, "num_in_service", got.in_service, relative, 0.0);
    check.field(block, "prefill_ms", got.prefill_ms, relative, 0.0);
    check.field(block, "itl_ms", got.itl_ms, relative, 0.0);
    check.field(block, "ttft_ms", got.ttft_ms, wait, noise);
    check.field(block, "rho", got.rho, relative, 0.0);
}

pub(super) fn range(check: &mut Check, block: &Value, queue: &Queue, relative: f64) {
    check.field(block, "range_min_rps", 1000.0 * queue.min_rate_per_ms(), relative, 0.0);
    check.field(block, "range_max_rps", 1000.0 * queue.max_rate_per_ms(), relative, 0.0);
}

/// A `size` block of generations B and C: rates per target, what is out of reach, and the metrics at the
/// smallest rate.
pub(super) fn sizing(
    queue: &Queue,
    targets: &SloTargets,
    block: &Value,
    relative: f64,
    noise_ratio: f64,
) -> Result<(), String> {
    let mut check = Check::default();
    range(&mut check, block, queue, if noise_ratio > 0.0 { 3e-7 } else { relative });
    let only = |ttft_ms: f64, itl_ms: f64| queue.size(&SloTargets { ttft_ms, itl_ms, tps: 0.0 });
    let (ttft, itl) = (only(targets.ttft_ms, 0.0), only(0.0, targets.itl_ms));
    let missed = |answer: &Result<_, SizeError>| matches!(answer, Err(SizeError::Unreachable(_)));
    match block["infeasible"].as_str() {
        Some("ttft") => check.truth("ttft must be unreachable", missed(&ttft)),
        Some("itl") => check.truth("itl must be unreachable", missed(&itl)),
        _ => {}
    }
    let whole = queue.size(targets);
    let failed = block["infeasible"].is_string() || block["error"].is_string();
    check.truth("feasible must agree", failed != whole.is_ok());
    if !failed {
        for (name, answer) in [("rate_ttft_rps", &ttft), ("rate_itl_rps", &itl)] {
            match answer {
                Ok(s) => check.field(block, name, 1000.0 * s.rate_per_ms, relative, 0.0),
                Err(e) => check.wrong.push(format!("{name}: {e}")),
            }
        }
    }
    if let Ok(whole) = &whole {
        let least = ["rate_ttft_rps", "rate_itl_rps", "rate_tps_rps"]
            .iter()
            .filter_map(|name| number(&block[*name]))
            .fold(f64::INFINITY, f64::min);
        let tps = if targets.tps > 0.0 { 0.9 * least } else { least };
        check.truth(
            "smallest rate must agree",
            (1000.0 * whole.rate_per_ms - least).abs() <= relative * least
                || (1000.0 * whole.rate_per_ms - tps).abs() <= relative * least,
        );
        let (at_rate, wait) = if noise_ratio > 0.0 { (5e-4, 2e-3) } else { (relative, 0.0) };
        let noise = noise_ratio * whole.metrics.response_ms;
        metrics_b(&mut check, &block["metrics"], &whole.metrics, at_rate, noise, wait);
        let achieved = &block["achieved"];
        check.field(achieved, "itl_ms", whole.metrics.itl_ms, at_rate, 0.0);
        check.field(achieved, "ttft_ms", whole.metrics.ttft_ms, at_rate.max(wait), noise);
        for (target, got) in
            [(targets.ttft_ms, whole.metrics.ttft_ms), (targets.itl_ms, whole.metrics.itl_ms)]
        {
            check.truth("targets must hold", target == 0.0 || got <= target * (1.0 + 1e-9));
        }
    }
    check.done()
}

/// The rates of an allocation of generation A.
pub(super) fn sizing_a(queue: &Queue, targets: &SloTargets, exact: &Value) -> Result<(), String> {
    let mut check = Check::default();
    check.field(exact, "n", f64::from(queue.batch()), 0.0, 0.0);
    check.field(exact, "lambda_min_per_ms", queue.min_rate_per_ms(), EXACT, 0.0);
    check.field(exact, "lambda_max_per_ms", queue.max_rate_per_ms(), EXACT, 0.0);
    let only = |ttft_ms: f64, itl_ms: f64| queue.size(&SloTargets { ttft_ms, itl_ms, tps: 0.0 });
    for (name, word, target, answer) in [
        ("lambda_ttw_per_ms", "ttw", Target::Ttft, only(targets.ttft_ms, 0.0)),
        ("lambda_itl_per_ms", "itl", Target::Itl, only(0.0, targets.itl_ms)),
    ] {
        match answer {
            Ok(answer) => {
                check.truth(&format!("{word} must be unreachable"), exact["infeasible"] != *word);
                check.field(exact, name, answer.rate_per_ms, EXACT, 0.0);
            }
            Err(SizeError::Unreachable(why)) if why.target == target => {
                check.truth(&format!("{word} must be reachable"), !exact[name].is_number());
            }
            Err(error) => check.wrong.push(error.to_string()),
        }
    }
    check.done()
}

/// The figures of a feasible allocation.
pub(super) fn allocation(
    is_a: bool,
    block: &Value,
    got: &Allocation,
    relative: f64,
    noise: f64,
    wait: f64,
) -> Result<(), String> {
    let wait = wait.max(relative);
    let peer = noise > 0.0;
    let mut check = Check::default();
    check.field(block, "replicas", f64::from(got.replicas), 0.0, 0.0);
    check.field(block, "replica_ratio", got.replica_ratio, relative, 0.0);
    check.field(block, "cost", got.cost, relative, 0.0);
    check.field(block, "batch", f64::from(got.batch), 0.0, 0.0);
    check.field(block, "itl_ms", got.itl_ms, relative, 0.0);
    check.field(block, "wait_ms", got.wait_ms, wait, noise);
    check.field(block, "resp_ms", got.response_ms, relative, 0.0);
    check.field(block, "rho", got.rho, relative, if peer { 1e-7 } else { 0.0 });
    if !is_a {
        // The peer leaves the first decode step out here (10.7).
        check.field(block, "ttft_ms", got.wait_ms + got.prefill_ms, wait, noise);
    }
    let rate = got.max_rate_per_replica_per_ms;
    let rate_tolerance = if peer { 1e-4 } else { relative };
    check.field(block, "max_rate_per_replica_per_ms", rate, rate_tolerance, 0.0);
    check.field(block, "max_rpm", 60_000.0 * rate, rate_tolerance, 0.0);
    check.done()
}
