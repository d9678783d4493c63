//! Performance profiles of model and accelerator pairs, from a JSON file or built in.

use serde::Deserialize;
use serde_json::Value;

use super::problem::Problem;
use crate::analyze::slo::fit::Coefficients;
use crate::analyze::slo::start::Profile;
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
    /// What else was learned of it.
    pub learned: LearnedOf,
}

/// What a simulation does not need of a learned profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LearnedOf {
    /// Observations that it rests on.
    pub observations: f64,
    /// Start-up time of a replica, s, if it was measured.
    pub startup_s: Option<f64>,
    /// Share of the capacity by which overloaded replicas fell short.
    pub shortfall_ratio: f64,
    /// Most sequences that run together, where that is known.
    max_num_seqs: Option<u32>,
}

/// Profiles as the start of what an engine learns. What is wrong with them has been said.
pub fn starts(texts: &[String]) -> Vec<Profile> {
    texts.iter().flat_map(|text| read("profiles", text).0).map(NamedProfile::start).collect()
}

impl NamedProfile {
    /// As the start of what is learned; what a prompt's context costs is no part of it.
    fn start(self) -> Profile {
        let NamedProfile { engine, learned, .. } = self;
        let time = engine.iteration;
        let is_usable = |value: &f64| value.is_finite() && *value > 0.0;
        let startup_ms = learned.startup_s.filter(is_usable).map(|seconds| (seconds * 1000.0) as i64);
        Profile {
            id: self.id.into(),
            model: self.model.into(),
            accelerator: self.accelerator.into(),
            cards: self.accelerators_per_replica,
            iteration: Coefficients { a: time.a_ms, b: time.b_ms, c: time.c_ms, d: time.d_ms },
            observations: Some(learned.observations).filter(is_usable).unwrap_or(0.0),
            kv_tokens: f64::from(engine.num_gpu_blocks) * f64::from(engine.block_size),
            max_seqs: learned.max_num_seqs.map_or(0.0, f64::from),
            startup_ms,
            shortfall: Some(learned.shortfall_ratio).filter(is_usable).unwrap_or(0.0),
        }
    }
}

/// The file: an object with a list `variants`.
#[derive(Deserialize)]
struct File {
    variants: Vec<Value>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    model: String,
    gpu: String,
    #[serde(default = "one")]
    gpus_per_replica: u32,
    iteration_ms: Iteration,
    #[serde(default)]
    ttft_overhead_ms: f64,
    kv_tokens: u32,
    #[serde(default = "sixteen")]
    block_size: u32,
    #[serde(default = "max_num_seqs")]
    max_num_seqs: u32,
    #[serde(default = "max_num_batched_tokens")]
    max_num_batched_tokens: u32,
    max_model_len: Option<u32>,
    /// Relative cost of one accelerator per hour.
    #[serde(default = "unit_cost")]
    cost_rel: f64,
    /// Cost of one replica per hour, in place of `cost_rel`.
    cost_per_hour: Option<f64>,
}

#[derive(Deserialize)]
struct Iteration {
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

/// What a profile needs, for messages.
const FORMAT: &str = "a profile needs id, model, gpu, iteration_ms {a, b, c, d, q} in ms and kv_tokens; see \
                      `simulate` in the README";

/// The profiles that need no file.
pub fn built_in() -> Vec<NamedProfile> {
    let (profiles, problems) = read("built-in", BUILT_IN);
    debug_assert!(problems.is_empty(), "the built-in profiles are valid: {problems:?}");
    profiles
}

/// Reads profiles: `{"variants": [{"id", "model", "gpu", "iteration_ms": {"a", "b", "c", "d", "q"},
/// "kv_tokens", ...}]}`; further keys are ignored. Those that are wrong are left out and named.
pub fn read(file: &str, text: &str) -> (Vec<NamedProfile>, Vec<Problem>) {
    let entries = match serde_json::from_str::<File>(text) {
        Ok(File { variants }) => variants,
        Err(error) => {
            let place = format!("{file} line {}", error.line());
            let fix = format!("the file is {{\"variants\": [...]}}; {FORMAT}");
            return (Vec::new(), vec![Problem::new(place, error.to_string(), fix)]);
        }
    };
    let (mut profiles, mut problems) = (Vec::<NamedProfile>::new(), Vec::new());
    for (index, entry) in entries.into_iter().enumerate() {
        let id = entry["id"].as_str().map_or_else(|| "without id".to_owned(), |id| format!("{id:?}"));
        let subject = format!("{file} variant {} ({id})", index + 1);
        let read = LearnedOf::deserialize(&entry)
            .and_then(|learned| Ok((serde_json::from_value::<Entry>(entry)?, learned)))
            .map_err(|error| error.to_string());
        match read.and_then(|(entry, learned)| named(entry, learned)) {
            Ok(profile) if profiles.iter().any(|other| other.id == profile.id) => {
                problems.push(Problem::new(
                    subject,
                    "the id occurs twice",
                    "the first one counts; rename this one",
                ));
            }
            Ok(profile) => profiles.push(profile),
            Err(reason) => problems.push(Problem::new(subject, reason, FORMAT)),
        }
    }
    (profiles, problems)
}

/// The profile of an entry, or what is out of range.
fn named(entry: Entry, learned: LearnedOf) -> Result<NamedProfile, String> {
    let Iteration { a, b, c, d, q } = entry.iteration_ms;
    let cost_per_hour =
        entry.cost_per_hour.unwrap_or(entry.cost_rel * f64::from(entry.gpus_per_replica.max(1)));
    let numbers = [
        ("iteration_ms.a", a),
        ("iteration_ms.b", b),
        ("iteration_ms.c", c),
        ("iteration_ms.d", d),
        ("iteration_ms.q", q),
        ("ttft_overhead_ms", entry.ttft_overhead_ms),
        ("the cost", cost_per_hour),
    ];
    if let Some((name, value)) = numbers.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
        return Err(format!("{name} is {value}, which is no time or cost"));
    }
    if a <= 0.0 {
        return Err("iteration_ms.a is 0: an engine's step takes some time".to_owned());
    }
    if entry.block_size == 0 || entry.kv_tokens < entry.block_size {
        return Err(format!("kv_tokens {} is not one block of {}", entry.kv_tokens, entry.block_size));
    }
    let engine = EngineProfile {
        iteration: IterationTime { a_ms: a, b_ms: b, c_ms: c, d_ms: d, q_ms: q },
        ttft_overhead_ms: entry.ttft_overhead_ms,
        block_size: entry.block_size,
        num_gpu_blocks: entry.kv_tokens / entry.block_size,
        max_num_seqs: entry.max_num_seqs,
        max_num_batched_tokens: entry.max_num_batched_tokens,
        max_model_len: entry.max_model_len.unwrap_or(entry.kv_tokens),
    };
    Ok(NamedProfile {
        id: entry.id,
        model: entry.model,
        accelerator: entry.gpu,
        accelerators_per_replica: entry.gpus_per_replica.max(1),
        cost_per_hour,
        engine: engine.checked(),
        learned,
    })
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
    fn what_is_wrong_with_a_profile_is_named_and_the_others_are_used() {
        let text = r#"{"variants": [
            {"id": "x"},
            {"id": "idle", "model": "m", "gpu": "g", "iteration_ms": {"a": 0}, "kv_tokens": 1000},
            {"id": "tiny", "model": "m", "gpu": "g", "iteration_ms": {"a": 5}, "kv_tokens": 3},
            {"id": "good", "model": "m", "gpu": "g", "iteration_ms": {"a": 5}, "kv_tokens": 1000, "note": 1},
            {"id": "good", "model": "m", "gpu": "g", "iteration_ms": {"a": 6}, "kv_tokens": 1000}
        ]}"#;
        let (profiles, problems) = read("p.json", text);
        assert_eq!(profiles.iter().map(|profile| &*profile.id).collect::<Vec<_>>(), ["good"]);
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        for (problem, part) in problems.iter().zip(["missing field", "takes some time", "one block", "twice"])
        {
            assert!(problem.starts_with("p.json variant") && problem.contains(part), "{problem}");
        }
        let (none, problems) = read("p.json", "{\n\"variants\": [,]}");
        assert!(none.is_empty() && problems[0].subject == "p.json line 2", "{problems:?}");
    }

    #[test]
    fn the_cost_of_a_replica_is_that_of_its_accelerators() {
        let text = r#"{"variants": [
            {"id": "a", "model": "m", "gpu": "g", "iteration_ms": {"a": 5}, "kv_tokens": 1000,
             "gpus_per_replica": 4, "cost_rel": 0.5},
            {"id": "b", "model": "m", "gpu": "g", "iteration_ms": {"a": 5}, "kv_tokens": 1000,
             "gpus_per_replica": 4, "cost_per_hour": 9.5}
        ]}"#;
        let costs: Vec<f64> = read("p", text).0.iter().map(|profile| profile.cost_per_hour).collect();
        assert_eq!(costs, [2.0, 9.5]);
    }
}
