//! Runs the records of the cost-aware optimizer.

use std::collections::BTreeMap;

use inferno_sidecar::analyze::rule::Rule;
use inferno_sidecar::optimize::cost_aware::{CostAware, Offer};
use serde_json::Value;

use crate::field::{count, name, number};
use crate::report::Report;

/// Runs every record of a `cost_aware_optimizer` file.
pub fn run(report: &mut Report, records: &[Value]) {
    for record in records {
        match check(record) {
            Ok(()) => report.agree(),
            Err(why) => report.fail(name(&record["id"]), why),
        }
    }
}

fn check(record: &Value) -> Result<(), String> {
    let mut got: Vec<String> = Vec::new();
    for request in record["in"]["requests"].as_array().into_iter().flatten() {
        if request["no_result"] == true {
            continue;
        }
        let (required, spare) = (number(&request["required_capacity"]), number(&request["spare_capacity"]));
        let entries = request["variants"].as_array().map_or(&[][..], |v| v);
        let states = request["states"].as_array().map_or(&[][..], |v| v);
        got.extend(decide(name(&request["model_id"]), required, spare, entries, states));
    }
    compare(got, &record["out"]["decisions"])
}

/// An offer with its variant, accelerator and whether the reference publishes a decision for it.
type Named<'a> = (&'a str, &'a str, bool, Offer);

/// Entries first, in their order, as it breaks ties; then the states without an entry.
fn offers<'a>(entries: &'a [Value], states: &'a [Value]) -> Vec<Named<'a>> {
    let mut current: BTreeMap<&str, u32> =
        states.iter().map(|s| (name(&s["variant"]), count(&s["current"]))).collect();
    let mut offers: Vec<Named> = Vec::new();
    for entry in entries {
        let variant = name(&entry["variant"]);
        let has = current.remove(variant);
        let offer = Offer {
            capacity: Some(number(&entry["per_replica_capacity"])),
            cost: number(&entry["cost"]),
            current: has.unwrap_or(0),
            ..Offer::default()
        };
        offers.push((variant, name(&entry["accelerator"]), has.is_some(), offer));
    }
    offers.extend(current.iter().map(|(v, &current)| (*v, "", true, Offer { current, ..Offer::default() })));
    offers
}

/// Runs the same records under the guarded rule and names the reason of every different plan.
pub fn run_guarded(report: &mut Report, records: &[Value]) {
    for record in records {
        let reasons: Result<Vec<_>, String> =
            (record["in"]["requests"].as_array().into_iter().flatten()).map(deviation).collect();
        match reasons.map(|found| found.into_iter().flatten().next()) {
            Ok(None) => report.agree(),
            Ok(Some(reason)) => report.deviate(reason),
            Err(why) => report.fail(name(&record["id"]), why),
        }
    }
}

fn deviation(request: &Value) -> Result<Option<&'static str>, String> {
    let (required, spare) = (number(&request["required_capacity"]), number(&request["spare_capacity"]));
    let list = |field: &str| request[field].as_array().map_or(&[][..], |v| v);
    let offers: Vec<Offer> = offers(list("variants"), list("states")).iter().map(|o| o.3).collect();
    let plan = |rule| {
        let mut plans = Vec::new();
        CostAware::default().solve_into(&mut plans, rule, required, spare, &offers);
        plans.iter().map(|p| p.replicas).collect::<Vec<_>>()
    };
    let cost = |plan: &[u32]| plan.iter().zip(&offers).map(|(&n, o)| f64::from(n) * o.cost).sum::<f64>();
    let (theirs, ours) = (plan(Rule::Reference), plan(Rule::Guarded));
    if theirs == ours {
        Ok(None)
    } else if required > 0.0 && cost(&ours) < cost(&theirs) {
        Ok(Some("the rest is covered where it costs least (10.25)"))
    } else if required > 0.0 && cost(&ours) == cost(&theirs) {
        Ok(Some("equal cost, other variant"))
    } else if required <= 0.0 && theirs.iter().sum::<u32>() == 0 && ours.iter().sum::<u32>() == 1 {
        Ok(Some("the last running replica stays (10.25)"))
    } else {
        Err(format!("{ours:?}, reference {theirs:?}"))
    }
}

/// Decisions as `model variant accelerator cost current target action`, one per state.
pub fn decide(model: &str, required: f64, spare: f64, entries: &[Value], states: &[Value]) -> Vec<String> {
    let offers = offers(entries, states);
    let only: Vec<Offer> = offers.iter().map(|o| o.3).collect();
    let mut plans = Vec::new();
    CostAware::default().solve_into(&mut plans, Rule::Reference, required, spare, &only);
    (offers.iter().zip(&plans).filter(|((_, _, published, _), _)| *published))
        .map(|((variant, accelerator, _, offer), plan)| {
            let (cost, current, target) = (offer.cost, offer.current, plan.replicas);
            format!("{model} {variant} {accelerator} {cost} {current} {target} {:?}", plan.step)
        })
        .collect()
}

/// Compares decisions regardless of their order.
pub fn compare(mut got: Vec<String>, want: &Value) -> Result<(), String> {
    let mut want: Vec<String> = (want.as_array().into_iter().flatten())
        .map(|d| {
            let step = match name(&d["action"]) {
                "scale-up" => "ScaleUp",
                "scale-down" => "ScaleDown",
                _ => "NoChange",
            };
            let (model, variant, accelerator) =
                (name(&d["model_id"]), name(&d["variant"]), name(&d["accelerator"]));
            let (cost, current, target) = (number(&d["cost"]), count(&d["current"]), count(&d["target"]));
            format!("{model} {variant} {accelerator} {cost} {current} {target} {step}")
        })
        .collect();
    got.sort();
    want.sort();
    if got != want { Err(format!("decisions {got:?}, want {want:?}")) } else { Ok(()) }
}
