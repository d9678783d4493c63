//! Runs the records of the scale-to-zero enforcer.

use std::collections::BTreeMap;

use inferno_sidecar::config::ScaleToZero;
use inferno_sidecar::optimize::enforcer::{Enforced, enforce};
use serde_json::Value;

use crate::field::{count, name, number};
use crate::report::Report;

/// Runs every record of an `enforcer` file.
pub fn run(report: &mut Report, records: &[Value]) {
    for record in records {
        let (input, out) = (&record["in"], &record["out"]);
        let policy = policy(input);
        let failed = input["request_count_error"] == true;
        let requests = Some(number(&input["request_count"])).filter(|_| !failed);
        let mut targets: BTreeMap<&str, u32> = (input["targets"].as_object().into_iter().flatten())
            .map(|(variant, target)| (variant.as_str(), count(target)))
            .collect();
        let given = input["variants"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = targets.keys().copied().collect();
        let cost =
            |i: usize| given.iter().find(|v| name(&v["variant"]) == names[i]).map(|v| number(&v["cost"]));
        let mut counts: Vec<u32> = targets.values().copied().collect();
        let done = enforce(&mut counts, cost, &policy, requests);
        for (target, count) in targets.values_mut().zip(&counts) {
            *target = *count;
        }
        let want: BTreeMap<&str, u32> = (out["targets"].as_object().into_iter().flatten())
            .map(|(variant, target)| (variant.as_str(), count(target)))
            .collect();
        let retention = out["retention_seconds"].as_f64().map(|s| (s * 1000.0) as i64);
        if out["enabled"] != policy.enabled || retention.is_some_and(|ms| ms != policy.retention_ms) {
            report.fail(name(&record["id"]), format!("policy {policy:?}, want {out}"));
        } else if targets == want && out["applied"] == done.applied() {
            report.agree();
        } else if done == Enforced::KeptByUnknownRequests && !failed {
            report.deviate("an unknown request count is not zero (10.26)");
        } else {
            report.fail(name(&record["id"]), format!("{done:?} {targets:?}, want {out}"));
        }
    }
}

/// The policy that applies: the model's entry, else the default one, else the environment.
fn policy(input: &Value) -> ScaleToZero {
    let entries = [&input["config"][name(&input["model_id"])], &input["config"]["default"]];
    let environment = name(&input["env_wva_scale_to_zero"]).eq_ignore_ascii_case("true");
    let enabled = entries.iter().find_map(|e| e["enable_scale_to_zero"].as_bool()).unwrap_or(environment);
    let retention = entries.iter().find_map(|e| duration_ms(name(&e["retention_period"])));
    ScaleToZero { enabled, retention_ms: retention.unwrap_or(ScaleToZero::default().retention_ms) }
}

/// A positive duration such as `1h30m`, `1.5h` or `500ms`, ms.
fn duration_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 1.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)];
        let (unit, ms) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += value * ms;
        rest = &rest[unit.len()..];
    }
    Some(total as i64).filter(|&ms| ms > 0)
}
