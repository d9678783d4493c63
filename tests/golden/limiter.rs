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

/// Accelerator types, their pools, and what is asked of them.
fn read(input: &Value) -> (Vec<&str>, Vec<Pool>, Vec<Request>) {
    let mut cards: BTreeMap<&str, u64> = BTreeMap::new();
    for models in input["nodes"].as_object().into_iter().flatten() {
        for (device, count) in models.1.as_object().into_iter().flatten() {
            *cards.entry(accelerator_type(device)).or_default() += count.as_u64().unwrap_or(0);
        }
    }
    let names: Vec<&str> = cards.keys().copied().collect();
    let request = |d: &Value| Request {
        pool: names.binary_search(&name(&d["accelerator"])).ok().map(|at| at as u32),
        current: count(&d["current"]),
        target: count(&d["target"]),
        gpus_per_replica: count(&d["gpus_per_replica"]),
        spare_capacity: number(&d["spare_capacity"]),
        cost: number(&d["cost"]),
    };
    let requests = input["decisions"].as_array().into_iter().flatten().map(request).collect();
    let pools = cards.values().map(|&limit| Pool { limit, used: 0 }).collect();
    (names, pools, requests)
}

/// Runs the same records under the guarded rule and names the reason of every different grant.
pub fn run_guarded(report: &mut Report, records: &[Value]) {
    for record in records {
        let (_, mut pools, requests) = read(&record["in"]);
        let mut grants = |rule| {
            let mut out = Vec::new();
            Limiter::default().limit_into(&mut out, rule, &mut pools, &requests);
            out
        };
        let (theirs, ours) = (grants(Rule::Reference), grants(Rule::Guarded));
        let replicas = |grants: &[Grant]| grants.iter().map(|g| g.target).sum::<u32>();
        if ours == theirs {
            report.agree();
        } else if requests.iter().any(|r| r.gpus_per_replica == 0 && r.current > 0) {
            report.deviate("a replica of unknown size uses one card also where it runs (10.27)");
        } else if replicas(&ours) > replicas(&theirs) {
            report.deviate("cards of an incomplete replica are not lost (10.27)");
        } else {
            report.fail(name(&record["id"]), format!("{ours:?}, reference {theirs:?}"));
        }
    }
}

fn check(input: &Value, out: &Value) -> Result<(), String> {
    let (names, mut pools, requests) = read(input);
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
