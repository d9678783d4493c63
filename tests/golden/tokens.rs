//! Runs the sequences of the token-capacity analyzer, each followed by the cost-aware optimizer.

use std::collections::BTreeMap;
use std::sync::Arc;

use inferno_sidecar::analyze::rule::Rule;
use inferno_sidecar::analyze::tokens::{
    Deployment, EngineParams, Learned, OutputLength, ReplicaTokens, SchedulerQueue, TokenAnalysis,
    TokenInput, TokenMemory, TokenVariant, analyze_into,
};
use inferno_sidecar::config::SaturationConfig;
use inferno_sidecar::units::TimeMs;
use serde_json::{Value, json};

use crate::field::{close, count, name, number};
use crate::optimizer::{compare, decide};
use crate::report::Report;

/// Runs every record of a `saturation_v2` file.
pub fn run(report: &mut Report, records: &[Value]) {
    for record in records {
        match check(record) {
            Ok(()) => report.agree(),
            Err(why) => report.fail(name(&record["id"]), why),
        }
    }
}

fn check(record: &Value) -> Result<(), String> {
    let deployments: Vec<Deployment> = list(&record["in"]["deployments"]).iter().map(deployment).collect();
    for (parsed, want) in deployments.iter().zip(list(&record["out"]["deployment_params"])) {
        check_params(&parsed.params, &want["params"])?;
    }
    let (mut memory, mut analysis) = (TokenMemory::default(), TokenAnalysis::default());
    let steps = list(&record["in"]["steps"]).iter().zip(list(&record["out"]["steps"]));
    for (at, (step, want)) in steps.enumerate() {
        let now = TimeMs(at as i64 * 1000);
        for d in &deployments {
            if *d.namespace == *name(&step["namespace"]) && *d.model_id == *name(&step["model_id"]) {
                memory.observe_deployment(Rule::Reference, d, now);
            }
        }
        check_step(&mut memory, &mut analysis, step, want, now).map_err(|why| format!("step {at}: {why}"))?;
    }
    Ok(())
}

fn check_step(
    memory: &mut TokenMemory,
    analysis: &mut TokenAnalysis,
    step: &Value,
    want: &Value,
    now: TimeMs,
) -> Result<(), String> {
    let (namespace, model_id) = (Arc::from(name(&step["namespace"])), Arc::from(name(&step["model_id"])));
    let (states, replicas) = (list(&step["states"]), list(&step["replicas"]));
    let first = |variant: &Value| replicas.iter().find(|r| r["variant"] == *variant);
    let variant = |state: &Value| TokenVariant {
        name: name(&state["variant"]).into(),
        // The reference takes it from the replicas, as it does the cost.
        accelerator: first(&state["variant"]).map_or("", |r| name(&r["accelerator"])).into(),
        gpus_per_replica: count(&state["gpus_per_replica"]),
        current: count(&state["current"]),
        pending: count(&state["pending"]),
    };
    let variants: Vec<TokenVariant> = states.iter().map(variant).collect();
    let replica = |r: &Value| ReplicaTokens {
        variant: states.iter().position(|s| s["variant"] == r["variant"]).map_or(u32::MAX, |at| at as u32),
        total_kv_tokens: r["total_kv_capacity_tokens"].as_u64().unwrap_or(0),
        tokens_in_use: r["tokens_in_use"].as_u64().unwrap_or(0),
        queue_length: number(&r["queue_length"]),
        avg_input_tokens: number(&r["avg_input_tokens"]),
        avg_output_tokens: number(&r["avg_output_tokens"]),
        prefix_cache_hit_rate: number(&r["prefix_cache_hit_rate"]),
    };
    let readings: Vec<ReplicaTokens> = replicas.iter().map(replica).collect();
    let queue = &step["scheduler_queue"];
    let scheduler = (!queue.is_null())
        .then(|| SchedulerQueue { size: number(&queue["queue_size"]), bytes: number(&queue["queue_bytes"]) });
    let config = config(&step["config"]);
    let input = TokenInput {
        namespace: &namespace,
        model_id: &model_id,
        config: &config,
        variants: &variants,
        replicas: &readings,
        scheduler,
        now,
    };
    analyze_into(analysis, memory, Rule::Reference, &input);
    check_model(analysis, want)?;
    let entries = check_variants(analysis, &variants, first, want)?;
    check_memory(memory, want)?;
    let decided = decide(&model_id, analysis.required, analysis.spare, &entries, states);
    compare(decided, &want["decisions"])
}

fn check_model(got: &TokenAnalysis, want: &Value) -> Result<(), String> {
    let figures = [
        ("total_supply", got.supply),
        ("total_demand", got.demand),
        ("utilization", got.utilization),
        ("required_capacity", got.required),
        ("spare_capacity", got.spare),
    ];
    for (field, got) in figures {
        if !near(got, &want[field], number(&want["total_demand"])) {
            return Err(format!("{field} {got}, want {}", want[field]));
        }
    }
    Ok(())
}

/// Required and spare are differences of large figures: 1e-12 is relative to those.
fn near(got: f64, want: &Value, scale: f64) -> bool {
    close(got, want) || (got - number(want)).abs() <= 1e-12 * scale
}

/// Compares the variants; answers them as the optimizer's input.
fn check_variants<'a>(
    got: &TokenAnalysis,
    variants: &[TokenVariant],
    first: impl Fn(&Value) -> Option<&'a Value>,
    want: &Value,
) -> Result<Vec<Value>, String> {
    let mut entries = Vec::new();
    for ((got, variant), want) in got.variants.iter().zip(variants).zip(list(&want["variants"])) {
        let cost = first(&want["variant"]).map_or(0.0, |r| number(&r["cost"]));
        let agrees = *variant.name == *name(&want["variant"])
            && *variant.accelerator == *name(&want["accelerator"])
            && cost == number(&want["cost"])
            && got.ready == count(&want["replicas"])
            && got.pending == count(&want["pending"])
            && got.per_replica as f64 == number(&want["per_replica_capacity"])
            && close(got.supply, &want["total_capacity"])
            && close(got.demand, &want["total_demand"])
            && close(got.utilization, &want["utilization"]);
        if !agrees {
            return Err(format!("variant {got:?}, want {want}"));
        }
        entries.push(json!({
            "variant": *variant.name, "accelerator": *variant.accelerator, "cost": cost,
            "per_replica_capacity": got.per_replica,
        }));
    }
    Ok(entries)
}

fn check_memory(memory: &TokenMemory, want: &Value) -> Result<(), String> {
    for (key, want) in want["store"].as_object().into_iter().flatten() {
        let parts: Vec<&str> = key.split('|').collect();
        let Some(got) = memory.record(parts[0], parts[1], parts[2]) else {
            return Err(format!("no record {key}"));
        };
        let learned = if got.learned == Learned::Live { "live" } else { "deployment" };
        let agrees = *got.accelerator == *name(&want["accelerator"])
            && got.gpus_per_replica == count(&want["gpus_per_replica"])
            && Some(got.effective_tokens) == want["effective_capacity"].as_u64()
            && Some(got.total_kv_tokens) == want["total_kv_capacity_tokens"].as_u64()
            && learned == name(&want["learned_from"]);
        if !agrees {
            return Err(format!("record {key} {got:?}, want {want}"));
        }
    }
    let stored = want["store"].as_object().map_or(0, |s| s.len());
    if memory.len() != stored {
        return Err(format!("{} records, want {stored}", memory.len()));
    }
    for (key, want) in want["k2_history"].as_object().into_iter().flatten() {
        let parts: Vec<&str> = key.split('|').collect();
        let length = match parts[2] {
            "short" => OutputLength::Short,
            "medium" => OutputLength::Medium,
            _ => OutputLength::Long,
        };
        let history = memory.shared_history(parts[0], parts[1], length);
        let got: Vec<u64> = history.into_iter().flat_map(|h| h.iter()).collect();
        let want: Vec<u64> = list(want).iter().filter_map(Value::as_u64).collect();
        if got != want {
            return Err(format!("history {key} {got:?}, want {want:?}"));
        }
    }
    Ok(())
}

fn check_params(got: &EngineParams, want: &Value) -> Result<(), String> {
    let printed = json!({
        "block_size": got.block_size,
        "chunked_prefill": got.chunked_prefill,
        "effective_max_batched_tokens": got.step_budget(),
        "enforce_eager": got.enforce_eager,
        "gpu_memory_utilization": got.gpu_memory_utilization,
        "kv_cache_dtype": *got.kv_cache_dtype,
        "max_model_len": got.max_model_len,
        "max_num_batched_tokens": got.max_num_batched_tokens,
        "max_num_seqs": got.max_num_seqs,
        "num_gpu_blocks_override": got.num_gpu_blocks_override,
        "tensor_parallel_size": got.tensor_parallel_size,
        "v1_engine": got.v1_engine,
    });
    if printed == *want { Ok(()) } else { Err(format!("parameters {printed}, want {want}")) }
}

fn deployment(d: &Value) -> Deployment {
    let words = |field: &str| -> Vec<&str> { list(&d[field]).iter().map(name).collect() };
    let env: BTreeMap<&str, &str> =
        d["env"].as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), name(v))).collect();
    Deployment {
        namespace: name(&d["namespace"]).into(),
        model_id: name(&d["model_id"]).into(),
        variant: name(&d["variant"]).into(),
        accelerator: name(&d["accelerator"]).into(),
        gpus_per_replica: count(&d["gpus_per_replica"]),
        params: EngineParams::parse(words("command"), words("args"), env),
    }
}

fn config(given: &Value) -> SaturationConfig {
    SaturationConfig {
        kv_cache_threshold: number(&given["kv_cache_threshold"]),
        queue_length_threshold: number(&given["queue_length_threshold"]),
        scale_up_threshold: number(&given["scale_up_threshold"]),
        scale_down_boundary: number(&given["scale_down_boundary"]),
        ..SaturationConfig::default()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |v| v)
}
