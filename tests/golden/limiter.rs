//! Runs the records of the GPU limiter.

use std::collections::BTreeMap;

use inferno_sidecar::analyze::rule::Rule;
use inferno_sidecar::optimize::limiter::{Grant, Limiter, Pool, Request, accelerator_type};
use serde_json::Value;

use crate::field::{count, name, number};
use crate::report::Report;

/// Runs every record of a `gpu_limiter` file.
pub fn run(report: &mut Report, records: &[Value]) {
    for record in records {
        match check(&record["in"], &record["out"]) {
            Ok(()) => report.agree(),
            Err(why) => report.fail(name(&record["id"]), why),
        }
    }
}

fn check(input: &Value, out: &Value) -> Result<(), String> {
    let mut cards: BTreeMap<&str, u64> = BTreeMap::new();
    for models in input["nodes"].as_object().into_iter().flatten() {
        for (device, count) in models.1.as_object().into_iter().flatten() {
            *cards.entry(accelerator_type(device)).or_default() += count.as_u64().unwrap_or(0);
        }
    }
    let names: Vec<&str> = cards.keys().copied().collect();
    let mut pools: Vec<Pool> = cards.values().map(|&limit| Pool { limit, used: 0 }).collect();
    let decisions = input["decisions"].as_array().map_or(&[][..], |v| v);
    let requests: Vec<Request> = (decisions.iter())
        .map(|d| Request {
            pool: names.binary_search(&name(&d["accelerator"])).ok().map(|at| at as u32),
            current: count(&d["current"]),
            target: count(&d["target"]),
            gpus_per_replica: count(&d["gpus_per_replica"]),
            spare_capacity: number(&d["spare_capacity"]),
            cost: number(&d["cost"]),
        })
        .collect();
    let mut grants = Vec::new();
    Limiter::default().limit_into(&mut grants, Rule::Reference, &mut pools, &requests);
    let want: Vec<Grant> = (out["decisions"].as_array().into_iter().flatten())
        .map(|d| Grant {
            target: count(&d["target"]),
            gpus_allocated: u64::from(count(&d["gpus_allocated"])),
            limited: d["was_limited"] == true,
        })
        .collect();
    if grants != want {
        return Err(format!("{grants:?}, want {want:?}"));
    }
    for (name, pool) in names.iter().zip(&pools) {
        let want = &out["pools"][name];
        let got = [pool.limit, pool.used, pool.available()];
        if got.map(Some) != [&want["limit"], &want["used"], &want["available"]].map(Value::as_u64) {
            return Err(format!("pool {name} {pool:?}, want {want}"));
        }
    }
    Ok(())
}
