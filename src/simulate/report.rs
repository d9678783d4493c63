//! Outcomes as text and JSON.

use super::problem::Problem;
use super::run::Outcome;
use super::scenario::Scenario;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

/// Name of the policy that the others' replica-hours are compared with.
const YARDSTICK: &str = "oracle";

/// A comparison that was made.
#[derive(Clone, Debug)]
pub struct Study {
    /// What made it.
    pub provenance: Provenance,
    /// What was simulated.
    pub scenarios: Vec<Scenario>,
    /// What came of it: per scenario, in the order of the policies; those that failed are missing.
    pub outcomes: Vec<Vec<Outcome>>,
    /// What was left out.
    pub problems: Vec<Problem>,
}

/// Which program made a comparison, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Version of the program.
    pub version: &'static str,
    /// Commit that it was built from, where `INFERNO_COMMIT` said so at the build.
    pub commit: Option<&'static str>,
    /// Day, UTC.
    pub date: String,
}

impl Provenance {
    /// This program, today.
    pub fn now() -> Self {
        let now = jiff::Timestamp::now().to_string();
        Provenance {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("INFERNO_COMMIT").filter(|commit| !commit.is_empty()),
            date: now.split('T').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.map(|commit| format!(", commit {commit}")).unwrap_or_default();
        write!(f, "inferno-sidecar simulate {}{commit}, {}", self.version, self.date)
    }
}

/// One table per scenario and, over several, their means.
pub fn text(study: &Study) -> String {
    let mut out = format!("{}\n", study.provenance);
    for (scenario, outcomes) in study.scenarios.iter().zip(&study.outcomes) {
        // Writing to a string cannot fail; here and below.
        let _ = writeln!(out, "\n{}: {}", scenario.name(), scenario.summary());
        let skipped = &scenario.trace.skipped;
        for (count, what) in [
            (skipped.bad_times, "rows without a usable time, left out"),
            (skipped.garbled, "rows that are no request, left out"),
            (skipped.unsorted, "rows out of order, sorted"),
            (skipped.too_long, "requests beyond the context, rejected alike for every policy"),
        ] {
            if count > 0 {
                let _ = writeln!(out, "  {count} {what}");
            }
        }
        let _ = writeln!(
            out,
            "  {:<14}{:>10}{:>10}{:>9}{:>10}{:>6}{:>11}{:>17}{:>16}{:>7}",
            "policy",
            "attained",
            "repl.-h",
            "/oracle",
            "cost",
            "peak",
            "changes/h",
            "TTFT p50/p99 s",
            "TPOT p50/p99 ms",
            "lost"
        );
        for outcome in outcomes {
            let _ = writeln!(out, "  {}", row(outcome, yardstick(outcomes)));
        }
    }
    if study.outcomes.len() > 1 {
        out.push_str(&summary(study));
    }
    if !study.problems.is_empty() {
        out.push_str("\nleft out:\n");
        for problem in &study.problems {
            let _ = writeln!(out, "  {problem}");
        }
    }
    out
}

/// Replica-hours of the yardstick among the outcomes of a scenario.
pub fn yardstick(outcomes: &[Outcome]) -> Option<f64> {
    outcomes.iter().find(|outcome| outcome.policy == YARDSTICK).map(|outcome| outcome.replica_hours)
}

fn row(outcome: &Outcome, yardstick: Option<f64>) -> String {
    let ratio =
        yardstick.map_or_else(|| "-".to_owned(), |hours| format!("{:.2}", outcome.replica_hours / hours));
    format!(
        "{:<14}{:>9.2}%{:>10.2}{:>9}{:>10.2}{:>6}{:>11.1}{:>9.2} /{:>6.2}{:>9.0} /{:>5.0}{:>7}",
        outcome.policy,
        outcome.attainment() * 100.0,
        outcome.replica_hours,
        ratio,
        outcome.cost,
        outcome.peak,
        outcome.changes_per_hour,
        outcome.ttft_ms[0] / 1000.0,
        outcome.ttft_ms[1] / 1000.0,
        outcome.tpot_ms[0],
        outcome.tpot_ms[1],
        outcome.lost + outcome.unfinished
    )
}

/// Means over the scenarios, as tables in Markdown: over all, and per start-up time where there are several.
fn summary(study: &Study) -> String {
    let rows = || study.scenarios.iter().zip(&study.outcomes);
    let mut out = means("all start-up times", &study.outcomes.iter().collect::<Vec<_>>());
    let startups: BTreeSet<i64> = study.scenarios.iter().map(|scenario| scenario.startup_ms).collect();
    if startups.len() == 1 {
        let what =
            startups.iter().map(|ms| format!("start-up {} s", *ms as f64 / 1000.0)).collect::<String>();
        return means(&what, &study.outcomes.iter().collect::<Vec<_>>());
    }
    for startup_ms in startups {
        let of_it = rows().filter(|(scenario, _)| scenario.startup_ms == startup_ms);
        let outcomes: Vec<&Vec<Outcome>> = of_it.map(|(_, outcomes)| outcomes).collect();
        out.push_str(&means(&format!("start-up {} s", startup_ms as f64 / 1000.0), &outcomes));
    }
    out
}

fn means(what: &str, outcomes: &[&Vec<Outcome>]) -> String {
    let mut out = format!(
        "\n| policy ({} scenarios, {what}) | attainment, mean (worst) | replica-hours / oracle |\n| --- | --- | --- |\n",
        outcomes.len()
    );
    let mut names: Vec<&str> = Vec::new();
    for outcome in outcomes.iter().copied().flatten() {
        if !names.contains(&&*outcome.policy) {
            names.push(&outcome.policy);
        }
    }
    for name in names {
        let of_it = |row: &&Vec<Outcome>| row.iter().find(|outcome| outcome.policy == name).cloned();
        let attained: Vec<f64> =
            outcomes.iter().filter_map(of_it).map(|outcome| outcome.attainment() * 100.0).collect();
        let ratio = |row: &&Vec<Outcome>| Some(of_it(row)?.replica_hours / yardstick(row)?);
        let ratios: Vec<f64> = outcomes.iter().filter_map(ratio).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let worst = attained.iter().copied().fold(f64::INFINITY, f64::min);
        let hours = if ratios.is_empty() { "-".to_owned() } else { format!("{:.2}", mean(&ratios)) };
        let _ = writeln!(out, "| {name} | {:.1} % ({worst:.1}) | {hours} |", mean(&attained));
    }
    out
}

/// Everything as JSON. Keys end in the unit of their value.
pub fn to_json(study: &Study) -> Value {
    let one = |(scenario, outcomes): (&Scenario, &Vec<Outcome>)| {
        let policies: Vec<Value> =
            outcomes.iter().map(|outcome| outcome_json(outcome, yardstick(outcomes))).collect();
        let skipped = &scenario.trace.skipped;
        let (prompt_tokens, output_tokens) = scenario.trace.mean_tokens();
        json!({
            "trace": scenario.trace.name,
            "profile": scenario.profile.id,
            "requests": scenario.trace.requests.len(),
            "mean_prompt_tokens": prompt_tokens,
            "mean_output_tokens": output_tokens,
            "duration_s": scenario.trace.duration_ms() as f64 / 1000.0,
            "left_out": {
                "bad_times": skipped.bad_times,
                "garbled": skipped.garbled,
                "too_long": skipped.too_long,
            },
            "unsorted": skipped.unsorted,
            "hopeless": scenario.hopeless(),
            "remarks": scenario.remarks(),
            "slo": {"ttft_ms": scenario.slo.ttft_ms, "itl_ms": scenario.slo.itl_ms},
            "startup_s": scenario.startup_ms as f64 / 1000.0,
            "scrape_s": scenario.scrape_ms as f64 / 1000.0,
            "seed": scenario.seed,
            "replicas": {"min": scenario.replicas.0, "max": scenario.replicas.1, "initial": scenario.initial},
            "policies": policies,
        })
    };
    json!({
        "version": study.provenance.version,
        "commit": study.provenance.commit,
        "date": study.provenance.date,
        "scenarios": study.scenarios.iter().zip(&study.outcomes).map(one).collect::<Vec<Value>>(),
        "left_out": study.problems,
    })
}

/// Names of the columns of a course.
const COURSE: [&str; 8] = [
    "at_s",
    "arrivals_per_s",
    "desired_replicas",
    "current_replicas",
    "ready_replicas",
    "requests_waiting",
    "requests_finished",
    "requests_met",
];

fn outcome_json(outcome: &Outcome, yardstick: Option<f64>) -> Value {
    let rows: Vec<Value> = outcome
        .course
        .iter()
        .map(|moment| {
            json!([
                moment.at_s,
                moment.arrivals_per_s,
                moment.desired,
                moment.current,
                moment.ready,
                moment.waiting,
                moment.finished,
                moment.met,
            ])
        })
        .collect();
    json!({
        "policy": outcome.policy,
        "attainment_ratio": outcome.attainment(),
        "replica_hours": outcome.replica_hours,
        "replica_hours_over_oracle": yardstick.map(|hours| outcome.replica_hours / hours),
        "cost": outcome.cost,
        "arrived": outcome.arrived,
        "finished": outcome.finished,
        "met": outcome.met,
        "lost": outcome.lost,
        "unfinished": outcome.unfinished,
        "peak_replicas": outcome.peak,
        "changes_per_hour": outcome.changes_per_hour,
        "ttft_ms": {"p50": outcome.ttft_ms[0], "p99": outcome.ttft_ms[1]},
        "tpot_ms": {"p50": outcome.tpot_ms[0], "p99": outcome.tpot_ms[1]},
        "course": {"columns": COURSE, "rows": rows},
    })
}
