//! Runs the records of the percentage-based saturation analyzer and its target rule.

use std::collections::BTreeMap;

use inferno_sidecar::analyze::rule::Rule;
use inferno_sidecar::analyze::saturation::{
    Cause, Reading, ReplicaLoad, SaturationAnalysis, Target, Trigger, VariantState, analyze_into, reading,
    targets_into,
};
use inferno_sidecar::config::SaturationConfig;
use serde_json::Value;

use crate::field::{close, count, name, number};
use crate::report::Report;

/// Runs every record of a `saturation_v1` file.
pub fn run(report: &mut Report, records: &[Value]) {
    for record in records {
        match check(record) {
            Ok(()) => report.agree(),
            Err(why) => report.fail(name(&record["id"]), why),
        }
    }
}

/// One record's input in the library's terms.
struct Model<'a> {
    config: SaturationConfig,
    names: Vec<&'a str>,
    states: Vec<VariantState>,
    loads: Vec<ReplicaLoad>,
}

impl<'a> Model<'a> {
    fn read(input: &'a Value) -> Self {
        let config = SaturationConfig {
            kv_cache_threshold: number(&input["config"]["kv_cache_threshold"]),
            queue_length_threshold: number(&input["config"]["queue_length_threshold"]),
            kv_spare_trigger: number(&input["config"]["kv_spare_trigger"]),
            queue_spare_trigger: number(&input["config"]["queue_spare_trigger"]),
            ..SaturationConfig::default()
        };
        let replicas = input["replicas"].as_array().map_or(&[][..], |v| v);
        // Name order, and the cost of a variant's first replica: both as the reference has them.
        let mut variants: BTreeMap<&str, VariantState> = BTreeMap::new();
        for replica in replicas.iter().rev() {
            let state = VariantState { cost: number(&replica["cost"]), ..VariantState::default() };
            variants.insert(name(&replica["variant"]), state);
        }
        for given in input["states"].as_array().into_iter().flatten() {
            let state = variants.entry(name(&given["variant"])).or_default();
            state.current = count(&given["current"]);
            state.desired = Some(count(&given["desired"])).filter(|&d| d != 0);
            state.pending = count(&given["pending"]);
        }
        let names: Vec<&str> = variants.keys().copied().collect();
        let load = |r: &Value| ReplicaLoad {
            variant: names.binary_search(&name(&r["variant"])).expect("every variant is listed") as u32,
            kv_cache_usage: number(&r["kv_cache_usage"]),
            queue_length: number(&r["queue_length"]),
        };
        let loads = replicas.iter().map(load).collect();
        Model { config, states: variants.values().copied().collect(), names, loads }
    }

    fn solve(&self, rule: Rule) -> (SaturationAnalysis, Vec<Target>) {
        let (mut analysis, mut targets) = (SaturationAnalysis::default(), Vec::new());
        analyze_into(&mut analysis, &self.config, rule, self.states.len(), &self.loads);
        targets_into(&mut targets, &analysis, &self.states, rule);
        (analysis, targets)
    }
}

/// Runs the same records under the guarded rule and names the reason of every different target.
pub fn run_guarded(report: &mut Report, records: &[Value]) {
    for record in records {
        let model = Model::read(&record["in"]);
        let (old, theirs) = model.solve(Rule::Reference);
        let (new, ours) = model.solve(Rule::Guarded);
        let replicas = |t: &[Target]| t.iter().map(|t| t.replicas).collect::<Vec<_>>();
        let used = |i: usize| ours[i].cause == Cause::ScaleUp && new.variants[i].replicas == 0;
        if replicas(&theirs) == replicas(&ours) {
            report.agree();
        } else if ours.iter().any(|t| t.cause == Cause::NoReplicas) {
            report.deviate("what was asked for is held while nothing reports");
        } else if new.scale_up == Some(Trigger::AllSaturated) {
            report.deviate("an all-saturated model grows although its triggers are 0 (10.19)");
        } else if old.scale_down_safe && !new.scale_down_safe && new.saturated() >= new.non_saturated {
            report.deviate("an idle minority does not make a scale-down safe (10.19)");
        } else if (0..ours.len()).any(used) {
            report.deviate("a cheaper variant at zero replicas is used (10.20)");
        } else if ours.iter().any(|t| t.cause == Cause::InTransition)
            && !theirs.iter().any(|t| t.cause == Cause::InTransition)
        {
            report.deviate("a variant asked for that has not come yet holds the model (10.20)");
        } else if (old.avg_spare_kv - new.avg_spare_kv).abs() < 1e-12
            && (old.scale_up, old.scale_down_safe) != (new.scale_up, new.scale_down_safe)
        {
            report.deviate("a figure that meets its bound exactly is not rounded away");
        } else {
            report.fail(name(&record["id"]), format!("{ours:?}, reference {theirs:?}"));
        }
    }
}

fn check(record: &Value) -> Result<(), String> {
    let (input, out) = (&record["in"], &record["out"]);
    let replicas = input["replicas"].as_array().map_or(&[][..], |v| v);
    let model = Model::read(input);
    let (analysis, targets) = model.solve(Rule::Reference);
    let Model { config, names, loads, .. } = model;

    check_model(&analysis, &out["analysis"])?;
    let pods = |i: usize| -> Vec<&str> {
        let saturated =
            |l: &ReplicaLoad| l.variant as usize == i && reading(&config, l) == Reading::Saturated;
        replicas.iter().zip(&loads).filter(|(_, l)| saturated(l)).map(|(r, _)| name(&r["pod"])).collect()
    };
    check_variants(&analysis, &names, pods, &out["analysis"]["variants"])?;
    let got: BTreeMap<&str, u64> = (names.iter().zip(&targets))
        .filter(|(_, target)| target.cause != Cause::NotCovered)
        .map(|(name, target)| (*name, u64::from(target.replicas)))
        .collect();
    let want: BTreeMap<&str, u64> = (out["targets"].as_object().into_iter().flatten())
        .map(|(name, target)| (name.as_str(), u64::from(count(target))))
        .collect();
    if got != want { Err(format!("targets {got:?}, want {want:?}")) } else { Ok(()) }
}

fn check_model(got: &SaturationAnalysis, want: &Value) -> Result<(), String> {
    let trigger = match name(&want["reason"]) {
        "" => None,
        text if text.starts_with("both") => Some(Trigger::KvAndQueue),
        text if text.starts_with("KV") => Some(Trigger::Kv),
        _ => Some(Trigger::Queue),
    };
    let agrees = close(got.avg_spare_kv, &want["avg_spare_kv"])
        && close(got.avg_spare_queue, &want["avg_spare_queue"])
        && got.non_saturated == count(&want["non_saturated"])
        && got.total == count(&want["total_replicas"])
        && got.should_scale_up() == want["should_scale_up"]
        && got.scale_up == trigger
        && got.scale_down_safe == want["scale_down_safe"];
    if agrees { Ok(()) } else { Err(format!("model {got:?}, want {want}")) }
}

fn check_variants<'a>(
    got: &SaturationAnalysis,
    names: &[&str],
    pods: impl Fn(usize) -> Vec<&'a str>,
    want: &Value,
) -> Result<(), String> {
    let want = want.as_array().map_or(&[][..], |v| v);
    let reporting: Vec<usize> = (0..names.len()).filter(|&i| got.variants[i].replicas > 0).collect();
    if reporting.len() != want.len() {
        return Err(format!("{} variants report, want {}", reporting.len(), want.len()));
    }
    for (i, want) in reporting.into_iter().zip(want) {
        let got = &got.variants[i];
        let saturated: Vec<&str> =
            want["saturated_pods"].as_array().into_iter().flatten().map(name).collect();
        let agrees = names[i] == name(&want["variant"])
            && got.replicas == count(&want["replicas"])
            && got.non_saturated == count(&want["non_saturated"])
            && got.max_kv == number(&want["max_kv"])
            && got.max_queue == number(&want["max_queue"])
            && close(got.avg_spare_kv, &want["avg_spare_kv"])
            && close(got.avg_spare_queue, &want["avg_spare_queue"])
            && pods(i) == saturated;
        if !agrees {
            return Err(format!("variant {got:?}, want {want}"));
        }
    }
    Ok(())
}
