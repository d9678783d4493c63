//! Outcomes as text and JSON.

use super::run::Outcome;
use super::scenario::Scenario;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Name of the policy that the others' replica-hours are compared with.
const YARDSTICK: &str = "oracle";

/// One table per scenario and, over several, their means.
pub fn text(scenarios: &[Scenario], outcomes: &[Vec<Outcome>]) -> String {
    let mut out = String::new();
    for (scenario, outcomes) in scenarios.iter().zip(outcomes) {
        let slo = &scenario.slo;
        let _ = writeln!(
            out,
            "\n{}: {} requests, TTFT {} ms, ITL {} ms, start-up {} s, {} replicas at the start",
            scenario.name(),
            scenario.trace.requests.len(),
            slo.ttft_ms,
            slo.itl_ms,
            scenario.startup_ms / 1000,
            scenario.initial
        );
        let skipped = &scenario.trace.skipped;
        if skipped.bad_times + skipped.too_long + skipped.unsorted > 0 {
            let _ = writeln!(
                out,
                "  left out: {} rows without a usable time, {} beyond the context; {} rows were out of order",
                skipped.bad_times, skipped.too_long, skipped.unsorted
            );
        }
        let _ = writeln!(
            out,
            "  {:<14}{:>10}{:>10}{:>9}{:>6}{:>11}{:>17}{:>15}{:>7}",
            "policy",
            "attained",
            "repl.-h",
            "/oracle",
            "peak",
            "changes/h",
            "TTFT p50/p99 s",
            "TPOT ms",
            "lost"
        );
        for outcome in outcomes {
            let _ = writeln!(out, "  {}", row(outcome, yardstick(outcomes)));
        }
    }
    if outcomes.len() > 1 {
        out.push_str(&means(outcomes));
    }
    out
}

fn yardstick(outcomes: &[Outcome]) -> Option<f64> {
    outcomes.iter().find(|outcome| outcome.policy == YARDSTICK).map(|outcome| outcome.replica_hours)
}

fn row(outcome: &Outcome, yardstick: Option<f64>) -> String {
    let ratio =
        yardstick.map_or_else(|| "-".to_owned(), |hours| format!("{:.2}", outcome.replica_hours / hours));
    format!(
        "{:<14}{:>9.2}%{:>10.2}{:>9}{:>6}{:>11.1}{:>9.2} /{:>6.2}{:>8.0} /{:>5.0}{:>7}",
        outcome.policy,
        outcome.attainment() * 100.0,
        outcome.replica_hours,
        ratio,
        outcome.peak,
        outcome.changes_per_hour,
        outcome.ttft_ms[0] / 1000.0,
        outcome.ttft_ms[1] / 1000.0,
        outcome.tpot_ms[0],
        outcome.tpot_ms[1],
        outcome.lost
    )
}

/// Mean over the scenarios, as a table in Markdown.
fn means(outcomes: &[Vec<Outcome>]) -> String {
    let mut out = format!(
        "\n| policy ({} scenarios) | attainment, mean (worst) | replica-hours / oracle |\n| --- | --- | --- |\n",
        outcomes.len()
    );
    for (index, policy) in outcomes[0].iter().enumerate() {
        let attained: Vec<f64> = outcomes.iter().map(|row| row[index].attainment() * 100.0).collect();
        let ratios: Vec<f64> = outcomes
            .iter()
            .filter_map(|row| yardstick(row).map(|hours| row[index].replica_hours / hours))
            .collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let worst = attained.iter().copied().fold(f64::INFINITY, f64::min);
        let _ = writeln!(
            out,
            "| {} | {:.1} % ({worst:.1}) | {:.2} |",
            policy.policy,
            mean(&attained),
            mean(&ratios)
        );
    }
    out
}

/// Everything as JSON.
pub fn to_json(scenarios: &[Scenario], outcomes: &[Vec<Outcome>]) -> Value {
    let one = |(scenario, outcomes): (&Scenario, &Vec<Outcome>)| {
        let policies: Vec<Value> =
            outcomes.iter().map(|outcome| outcome_json(outcome, yardstick(outcomes))).collect();
        json!({
            "trace": scenario.trace.name,
            "profile": scenario.profile.id,
            "requests": scenario.trace.requests.len(),
            "left_out": {
                "bad_times": scenario.trace.skipped.bad_times,
                "too_long": scenario.trace.skipped.too_long,
            },
            "slo": {"ttft_ms": scenario.slo.ttft_ms, "itl_ms": scenario.slo.itl_ms},
            "startup_s": scenario.startup_ms as f64 / 1000.0,
            "policies": policies,
        })
    };
    json!({"scenarios": scenarios.iter().zip(outcomes).map(one).collect::<Vec<Value>>()})
}

fn outcome_json(outcome: &Outcome, yardstick: Option<f64>) -> Value {
    json!({
        "policy": outcome.policy,
        "attainment_ratio": outcome.attainment(),
        "replica_hours": outcome.replica_hours,
        "replica_hours_over_oracle": yardstick.map(|hours| outcome.replica_hours / hours),
        "cost": outcome.cost,
        "arrived": outcome.arrived,
        "met": outcome.met,
        "lost": outcome.lost,
        "peak_replicas": outcome.peak,
        "changes_per_hour": outcome.changes_per_hour,
        "ttft_ms": {"p50": outcome.ttft_ms[0], "p99": outcome.ttft_ms[1]},
        "tpot_ms": {"p50": outcome.tpot_ms[0], "p99": outcome.tpot_ms[1]},
        "course": outcome.course.iter().map(|moment| json!([
            moment.at_s, moment.arrivals_per_s, moment.desired, moment.current, moment.ready, moment.waiting,
            moment.attainment,
        ])).collect::<Vec<Value>>(),
    })
}
