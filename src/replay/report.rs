//! What a replay found, as text and as JSON.

use super::player::Outcome;
use super::tally::{Course, Tally};
use crate::config::VariantKey;
use crate::tape::segment::End;
use crate::units::TimeMs;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Most changes listed in the text; JSON has all.
const CHANGES_LISTED: usize = 40;

/// A point in time for people.
pub fn time(at: TimeMs) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| at.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// The same without the date.
pub fn clock(at: TimeMs) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| at.to_string(), |time| time.strftime("%H:%M:%S").to_string())
}

/// A length of time for people, e.g. `1h02m03s`.
pub fn span(ms: i64) -> String {
    let seconds = ms / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds:02}s"),
        _ => format!("{hours}h{minutes:02}m{seconds:02}s"),
    }
}

/// All variants of either configuration.
pub fn variants(outcome: &Outcome) -> BTreeSet<&VariantKey> {
    let with = outcome.with.iter().flat_map(|tally| tally.courses.keys());
    outcome.recorded.courses.keys().chain(with).collect()
}

/// The report for people.
pub fn text(outcome: &Outcome) -> String {
    let mut text = head(outcome);
    table(outcome, &mut text);
    changes(outcome, &mut text);
    text
}

fn head(outcome: &Outcome) -> String {
    let mut text = String::from("recording   ");
    // Writing to a string cannot fail; here and below.
    let _ = match outcome.span {
        Some((first, last)) => {
            writeln!(text, "{} to {} UTC ({})", time(first), clock(last), span(last.since(first)))
        }
        None => writeln!(text, "without samples"),
    };
    let versions: Vec<&str> = outcome.versions.iter().map(String::as_str).collect();
    let _ = writeln!(
        text,
        "            {} writes, {} configurations, {} publications; {} segments of {} runs, version {}",
        outcome.writes,
        outcome.configurations,
        outcome.publications,
        outcome.segments,
        outcome.runs,
        versions.join(", "),
    );
    for (name, end) in &outcome.broken {
        let how = match end {
            End::CutOff => "is cut off; read up to its last good record",
            End::Damaged => "is damaged; read up to its last good record",
            End::Foreign => "is no recording of this format; left out",
            End::Whole => continue,
        };
        let _ = writeln!(text, "            {name} {how}");
    }
    if outcome.beginning_lost {
        text += "            the beginning is overwritten: the engine starts empty where it now begins\n";
    }
    if outcome.missing > 0 {
        let _ = writeln!(text, "            {} records are missing", outcome.missing);
    }
    let (all, exact, same) = (outcome.publications, outcome.exact, outcome.same_desired);
    let _ = match exact == all {
        true => writeln!(text, "reproduced  all {all} publications, bit for bit"),
        false => writeln!(
            text,
            "reproduced  {exact} of {all} publications bit for bit, {same} with the same desired counts"
        ),
    };
    if let Some(first) = &outcome.first_difference {
        let _ = writeln!(text, "            first difference at {first}");
        if outcome.is_complete() {
            text += "            the recording is complete, so this is a bug: please report it\n";
        }
    }
    text
}

fn cells(course: Option<&Course>) -> String {
    let Some(course) = course else { return format!("{:>6} {:>5} {:>8} {:>10}", "-", "-", "-", "-") };
    let mean = course.mean().map_or("-".into(), |mean| format!("{mean:.2}"));
    let changes = format!("+{} -{}", course.changes[0], course.changes[1]);
    format!("{mean:>6} {:>5} {changes:>8} {:>10.3}", course.max(), course.cost)
}

fn table(outcome: &Outcome, text: &mut String) {
    let names: Vec<String> = variants(outcome).iter().map(|key| key.to_string()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max("variant".len());
    let columns = format!("{:>6} {:>5} {:>8} {:>10}", "mean", "max", "changes", "cost");
    let _ = match outcome.with {
        Some(_) => writeln!(
            text,
            "\n{:width$}  {:<32}   with the other configuration\n{:width$}  {columns}   {columns}",
            "", "desired as recorded", "variant"
        ),
        None => writeln!(text, "\n{:width$}  {columns}", "variant"),
    };
    for (key, name) in variants(outcome).into_iter().zip(&names) {
        let _ = write!(text, "{name:width$}  {}", cells(outcome.recorded.courses.get(key)));
        if let Some(with) = &outcome.with {
            let _ = write!(text, "   {}", cells(with.courses.get(key)));
        }
        text.push('\n');
    }
    let cost = outcome.recorded.cost();
    let _ = write!(text, "{:width$}  {:>32.3}", "all", cost);
    if let Some(with) = &outcome.with {
        let _ = write!(text, "   {:>32.3}", with.cost());
        if cost > 0.0 {
            let _ = write!(text, "  {:+.1} %", (with.cost() / cost - 1.0) * 100.0);
        }
    }
    text.push('\n');
    text.push_str("cost = desired replicas x hours x cost of a replica\n");
    if outcome.with.is_some() {
        text.push_str(
            "Both saw the same fleet: replicas that only the other configuration asks for take no load here.\n",
        );
    }
}

/// The changes of both configurations in the order of time.
fn changes(outcome: &Outcome, text: &mut String) {
    let of = |tally: &Tally, who: &str| -> Vec<(TimeMs, String)> {
        let mut lines = Vec::new();
        for (key, course) in &tally.courses {
            let mut before: Option<u32> = None;
            for step in &course.steps {
                if step.desired != before {
                    let from = before.map_or("-".into(), |desired| desired.to_string());
                    let to = step.desired.map_or("-".into(), |desired| desired.to_string());
                    let message = if step.message.is_empty() { step.reason } else { &step.message };
                    let line = format!("{} {who}{key} {from} -> {to}: {message}", clock(step.at));
                    lines.push((step.at, line));
                }
                before = step.desired;
            }
        }
        lines
    };
    let mut lines = of(&outcome.recorded, if outcome.with.is_some() { "recorded  " } else { "" });
    lines.extend(outcome.with.iter().flat_map(|with| of(with, "other     ")));
    lines.sort();
    text.push('\n');
    for (_, line) in lines.iter().take(CHANGES_LISTED) {
        let _ = writeln!(text, "{line}");
    }
    if lines.len() > CHANGES_LISTED {
        let _ = writeln!(text, "and {} more changes; --json lists all", lines.len() - CHANGES_LISTED);
    }
}

/// The report for scripts.
pub fn json(outcome: &Outcome) -> Value {
    let variants: Vec<Value> = variants(outcome)
        .into_iter()
        .map(|key| {
            let course = |tally: &Tally| tally.courses.get(key).map(course_json);
            json!({
                "namespace": &*key.namespace,
                "name": &*key.name,
                "recorded": course(&outcome.recorded),
                "with": outcome.with.as_ref().and_then(course),
            })
        })
        .collect();
    let broken: Vec<Value> = outcome
        .broken
        .iter()
        .map(|(name, end)| json!({"segment": name, "end": format!("{end:?}").to_lowercase()}))
        .collect();
    let total = |tally: &Tally| json!({"cost": tally.cost(), "replicaHours": tally.replica_hours()});
    json!({
        "recording": {
            "fromMs": outcome.span.map(|(first, _)| first.0),
            "toMs": outcome.span.map(|(_, last)| last.0),
            "segments": outcome.segments,
            "runs": outcome.runs,
            "versions": outcome.versions,
            "writes": outcome.writes,
            "configurations": outcome.configurations,
            "broken": broken,
            "beginningLost": outcome.beginning_lost,
            "missingRecords": outcome.missing,
        },
        "reproduced": {
            "publications": outcome.publications,
            "exact": outcome.exact,
            "sameDesired": outcome.same_desired,
            "firstDifference": outcome.first_difference,
        },
        "total": {"recorded": total(&outcome.recorded), "with": outcome.with.as_ref().map(total)},
        "variants": variants,
    })
}

fn course_json(course: &Course) -> Value {
    let steps: Vec<Value> = course
        .steps
        .iter()
        .map(|step| {
            json!({
                "atMs": step.at.0,
                "desired": step.desired,
                "current": step.current,
                "reason": step.reason,
                "message": step.message,
            })
        })
        .collect();
    json!({
        "modelId": &*course.model_id,
        "accelerator": &*course.accelerator,
        "mean": course.mean(),
        "max": course.max(),
        "raises": course.changes[0],
        "cuts": course.changes[1],
        "replicaHours": course.replica_hours,
        "cost": course.cost,
        "steps": steps,
    })
}
