//! Performance profiles of model and accelerator pairs, from a JSON file or built in.

use anyhow::Context as _;
use serde::Deserialize;

use crate::emulate::profile::{EngineProfile, IterationTime};

/// A profile with what a variant of it costs.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedProfile {
    /// Name, e.g. `llama-3.1-8b_h100`.
    pub id: String,
    /// Model served.
    pub model: String,
    /// Accelerator type.
    pub accelerator: String,
    /// Accelerators per replica.
    pub accelerators_per_replica: u32,
    /// Cost of one replica per hour, relative to whatever the file's unit is.
    pub cost_per_hour: f64,
    /// Engine parameters.
    pub engine: EngineProfile,
}

/// The file: an object with a list `variants`.
#[derive(Deserialize)]
struct File {
    variants: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    model: String,
    gpu: String,
    #[serde(default = "one")]
    gpus_per_replica: u32,
    iteration_ms: Coefficients,
    #[serde(default)]
    ttft_overhead_ms: f64,
    kv_tokens: u32,
    #[serde(default = "sixteen")]
    block_size: u32,
    #[serde(default = "max_num_seqs")]
    max_num_seqs: u32,
    #[serde(default = "max_num_batched_tokens")]
    max_num_batched_tokens: u32,
    #[serde(default = "unit_cost")]
    cost_rel: f64,
}

#[derive(Deserialize)]
struct Coefficients {
    a: f64,
    #[serde(default)]
    b: f64,
    #[serde(default)]
    c: f64,
    #[serde(default)]
    d: f64,
    #[serde(default)]
    q: f64,
}

fn one() -> u32 {
    1
}
fn sixteen() -> u32 {
    16
}
fn max_num_seqs() -> u32 {
    256
}
fn max_num_batched_tokens() -> u32 {
    8192
}
fn unit_cost() -> f64 {
    1.0
}

/// Built-in profiles: figures as published in the model trainer of llm-inferno, by ai-dynamo (70B) and by
/// LLMServingSim (32B and 4090).
const BUILT_IN: &str = include_str!("profiles.json");

/// The profiles that need no file.
pub fn built_in() -> Vec<NamedProfile> {
    read("built-in", BUILT_IN)
        .unwrap_or_else(|error| unreachable!("the built-in profiles are valid: {error}"))
}

/// Reads profiles: `{"variants": [{"id", "model", "gpu", "iteration_ms": {"a", "b", "c", "d", "q"},
/// "kv_tokens", ...}]}`; further keys are ignored.
///
/// # Errors
/// When the text is no such JSON; the message names the place.
pub fn read(name: &str, text: &str) -> anyhow::Result<Vec<NamedProfile>> {
    let file: File = serde_json::from_str(text).with_context(|| {
        format!("profiles {name}: needs {{\"variants\": [{{\"id\", \"iteration_ms\", \"kv_tokens\", ...}}]}}")
    })?;
    Ok(file.variants.into_iter().map(named).collect())
}

fn named(entry: Entry) -> NamedProfile {
    let Coefficients { a, b, c, d, q } = entry.iteration_ms;
    let engine = EngineProfile {
        iteration: IterationTime { a_ms: a, b_ms: b, c_ms: c, d_ms: d, q_ms: q },
        ttft_overhead_ms: entry.ttft_overhead_ms,
        block_size: entry.block_size,
        num_gpu_blocks: entry.kv_tokens / entry.block_size.max(1),
        max_num_seqs: entry.max_num_seqs,
        max_num_batched_tokens: entry.max_num_batched_tokens,
        max_model_len: entry.kv_tokens,
    };
    NamedProfile {
        id: entry.id,
        model: entry.model,
        accelerator: entry.gpu,
        accelerators_per_replica: entry.gpus_per_replica.max(1),
        cost_per_hour: entry.cost_rel.max(0.0),
        engine: engine.checked(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profiles_are_in_range_and_have_distinct_names() {
        let profiles = built_in();
        let mut names: Vec<&str> = profiles.iter().map(|profile| profile.id.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), profiles.len());
        assert!(profiles.iter().all(|p| p.engine.iteration.a_ms > 0.0 && p.engine.kv_tokens() > 1000));
    }

    #[test]
    fn a_file_that_is_none_says_what_it_should_be() {
        let error = format!("{:#}", read("p.json", "{\"variants\": [{\"id\": \"x\"}]}").unwrap_err());
        assert!(error.contains("p.json") && error.contains("missing field"), "{error}");
    }
}
