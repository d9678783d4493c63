//! The report of the `check` subcommand: problems and a summary, as text and as JSON.
//!
//! Input: a [`Resolved`] configuration. Output: text. Must not know files or exit codes.

use serde_json::{Value, json};

use super::resolve::Resolved;
use super::{Kept, Problem};

/// The report as text, one problem per line, the summary last.
pub fn render(resolved: &Resolved) -> String {
    let mut text = String::new();
    for problem in &resolved.problems {
        text += &format!("{problem}\n");
    }
    text += &summary(resolved);
    text.push('\n');
    text
}

/// Counts of what is in force, on one line.
pub fn summary(resolved: &Resolved) -> String {
    let parts: Vec<String> =
        counts(resolved).iter().map(|(count, one, many, _)| counted(*count, one, many)).collect();
    parts.join(", ")
}

/// The report as JSON: `problems`, and the counts of the summary.
pub fn render_json(resolved: &Resolved) -> Value {
    let problems: Vec<Value> = resolved.problems.iter().map(problem_json).collect();
    let mut report = json!({ "problems": problems });
    for (count, _, _, key) in counts(resolved) {
        if key != "problems" {
            report[key] = count.into();
        }
    }
    report
}

/// One problem as JSON.
pub fn problem_json(problem: &Problem) -> Value {
    json!({
        "origin": problem.origin,
        "object": problem.object,
        "field": problem.field,
        "reason": problem.reason,
        "fix": problem.fix,
        "kept": match problem.kept {
            Kept::LastGood => "last_good",
            Kept::Default => "default",
            Kept::Nothing => "nothing",
        },
    })
}

type Count = (usize, &'static str, &'static str, &'static str);

fn counts(resolved: &Resolved) -> [Count; 5] {
    let snapshot = &resolved.snapshot;
    [
        (snapshot.variants.len(), "variant", "variants", "variants"),
        (snapshot.models.len(), "model", "models", "models"),
        (snapshot.classes.len(), "service class", "service classes", "service_classes"),
        (snapshot.accelerators.len(), "accelerator", "accelerators", "accelerators"),
        (resolved.problems.len(), "problem", "problems", "problems"),
    ]
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
