//! Parameters of an inference engine from the command line and environment of its container: what the
//! token analyzer needs to estimate a replica that it has not seen yet.

use std::sync::Arc;

/// Step budget of the V1 engine when nothing states it, tokens.
const V1_BATCHED_TOKENS: u64 = 8192;
/// Step budget of the V0 engine with chunked prefill, and the least without, tokens.
const V0_BATCHED_TOKENS: u64 = 2048;

/// Parameters of one vLLM engine. Defaults are the engine's own.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineParams {
    /// Share of GPU memory that the engine may use, 0..1.
    pub gpu_memory_utilization: f64,
    /// Tokens per KV-cache block.
    pub block_size: u64,
    /// Data type of the KV cache, e.g. `auto` or `fp8`.
    pub kv_cache_dtype: Arc<str>,
    /// GPUs that one model copy is split over.
    pub tensor_parallel_size: u32,
    /// KV-cache blocks, when stated; 0 otherwise.
    pub num_gpu_blocks_override: u64,
    /// Step budget as stated, tokens; 0 otherwise. See [`EngineParams::step_budget`].
    pub max_num_batched_tokens: u64,
    /// Most sequences that run together.
    pub max_num_seqs: u64,
    /// Longest sequence as stated, tokens; 0 otherwise.
    pub max_model_len: u64,
    /// Whether CUDA graphs are off.
    pub enforce_eager: bool,
    /// Whether a prefill may be split over steps.
    pub chunked_prefill: bool,
    /// Whether it is the V1 engine.
    pub v1_engine: bool,
}

impl Default for EngineParams {
    fn default() -> Self {
        EngineParams {
            gpu_memory_utilization: 0.9,
            block_size: 16,
            kv_cache_dtype: "auto".into(),
            tensor_parallel_size: 1,
            num_gpu_blocks_override: 0,
            max_num_batched_tokens: 0,
            max_num_seqs: 256,
            max_model_len: 0,
            enforce_eager: false,
            chunked_prefill: true,
            v1_engine: true,
        }
    }
}

impl EngineParams {
    /// Reads the parameters from a container's command, arguments and environment.
    ///
    /// Flags come as `--key=value` or `--key value`, with hyphens or underscores; a value is the next
    /// word unless it starts with `--`. The string after `-c` of a shell is split at spaces outside of
    /// quotes. `VLLM_USE_V1=0` selects the V0 engine. Unknown flags are left alone, and a value that
    /// does not parse leaves the default in place; the last of several wins.
    pub fn parse<'a>(
        command: impl IntoIterator<Item = &'a str>,
        args: impl IntoIterator<Item = &'a str>,
        env: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let v1_engine = !env.into_iter().any(|(key, value)| key == "VLLM_USE_V1" && value.trim() == "0");
        let mut params = EngineParams { v1_engine, chunked_prefill: v1_engine, ..EngineParams::default() };
        let words = words(command.into_iter().chain(args));
        for (at, word) in words.iter().enumerate() {
            let Some(flag) = word.strip_prefix("--") else { continue };
            let next = words.get(at + 1).map(String::as_str).filter(|w| !w.starts_with("--"));
            let (key, value) = match flag.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (flag, next),
            };
            params.set(&key.replace('_', "-"), value.unwrap_or_default());
        }
        params
    }

    /// Most tokens that one engine step computes.
    pub fn step_budget(&self) -> u64 {
        match (self.max_num_batched_tokens, self.v1_engine, self.chunked_prefill) {
            (stated @ 1.., _, _) => stated,
            (0, true, _) => V1_BATCHED_TOKENS,
            (0, false, true) => V0_BATCHED_TOKENS,
            (0, false, false) => self.max_model_len.max(V0_BATCHED_TOKENS),
        }
    }

    /// KV-cache capacity in tokens, when the number of blocks is stated.
    pub fn stated_kv_tokens(&self) -> Option<u64> {
        Some(self.num_gpu_blocks_override.saturating_mul(self.block_size)).filter(|&tokens| tokens > 0)
    }

    /// The two limits that bind compute.
    pub fn limits(&self) -> Limits {
        Limits { step_budget: self.step_budget(), max_num_seqs: self.max_num_seqs }
    }

    fn set(&mut self, key: &str, value: &str) {
        fn put<T: std::str::FromStr>(slot: &mut T, value: &str) {
            if let Ok(value) = value.parse() {
                *slot = value;
            }
        }
        match key {
            "gpu-memory-utilization" => {
                let parsed = value.parse().ok().filter(|v: &f64| v.is_finite());
                self.gpu_memory_utilization = parsed.unwrap_or(self.gpu_memory_utilization);
            }
            "block-size" => put(&mut self.block_size, value),
            "kv-cache-dtype" if !value.is_empty() => self.kv_cache_dtype = value.into(),
            "tensor-parallel-size" => put(&mut self.tensor_parallel_size, value),
            "num-gpu-blocks-override" => put(&mut self.num_gpu_blocks_override, value),
            "max-num-batched-tokens" => put(&mut self.max_num_batched_tokens, value),
            "max-num-seqs" => put(&mut self.max_num_seqs, value),
            "max-model-len" => put(&mut self.max_model_len, value),
            "enforce-eager" => self.enforce_eager = true,
            "enable-chunked-prefill" => self.chunked_prefill = !value.eq_ignore_ascii_case("false"),
            "no-enable-chunked-prefill" => self.chunked_prefill = false,
            _ => {}
        }
    }
}

/// What an engine computes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens that one engine step computes.
    pub step_budget: u64,
    /// Most sequences that run together.
    pub max_num_seqs: u64,
}

impl Limits {
    /// Tokens resident in a replica that runs as many average requests together as the limits allow,
    /// rounded down. `None` when the averages give none: `output` of 0 or less, NaN, a negative `input`.
    ///
    /// With budget M and s sequences, inputs of I and outputs of O tokens: `n = min(M O / (I + O), s)`
    /// requests of `I + O / 2` tokens each.
    pub fn estimate(&self, input: f64, output: f64) -> Option<u64> {
        if !(output > 0.0 && input >= 0.0) {
            return None;
        }
        let running = (self.step_budget as f64 * output / (input + output)).min(self.max_num_seqs as f64);
        Some((running * (input + output / 2.0)) as u64).filter(|&tokens| tokens > 0)
    }
}

/// All words of a command line, with the string of a shell's `-c` split.
fn words<'a>(given: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in given {
        match words.last().is_some_and(|last| last == "-c") {
            true => words.extend(split_shell(word)),
            false => words.push(word.into()),
        }
    }
    words
}

/// Splits at white space outside of single and double quotes, and drops the quotes.
fn split_shell(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(command: &[&str], args: &[&str], env: &[(&str, &str)]) -> EngineParams {
        EngineParams::parse(command.iter().copied(), args.iter().copied(), env.iter().copied())
    }

    #[test]
    fn flags_are_read_in_every_spelling() {
        let want = EngineParams { max_num_seqs: 64, block_size: 32, ..EngineParams::default() };
        for args in [
            &["--max-num-seqs=64", "--block-size", "32"][..],
            &["--max_num_seqs", "64", "--block_size=32"],
            &["--max-num-seqs", "8", "--max-num-seqs", "64", "--block-size", "32", "--max-num-seqs"],
        ] {
            assert_eq!(parse(&["vllm", "serve"], args, &[]), want);
        }
        let shell = "vllm serve \"a  b\" --max-num-seqs '64' --block-size=32";
        assert_eq!(parse(&["/bin/sh", "-c", shell], &[], &[]), want);
        assert_eq!(parse(&["/bin/sh", "-c"], &[shell], &[]), want);
    }

    #[test]
    fn values_that_do_not_parse_leave_the_default() {
        let args =
            ["--max-num-seqs=-1", "--block-size", "--gpu-memory-utilization", "NaN", "--kv-cache-dtype="];
        assert_eq!(parse(&[], &args, &[]), EngineParams::default());
    }

    #[test]
    fn step_budget_follows_the_engine() {
        let budget = |args: &[&str], v1: &str| parse(&[], args, &[("VLLM_USE_V1", v1)]).step_budget();
        assert_eq!(budget(&[], "1"), 8192);
        assert_eq!(budget(&["--no-enable-chunked-prefill"], "1"), 8192);
        assert_eq!(budget(&["--max-model-len", "4096"], "0"), 4096);
        assert_eq!(budget(&["--max-model-len", "1024"], "0"), 2048);
        assert_eq!(budget(&["--enable-chunked-prefill", "--max-model-len=4096"], "0"), 2048);
        assert_eq!(budget(&["--max-num-batched-tokens=16"], "0"), 16);
    }

    #[test]
    fn estimate_needs_an_output_length() {
        let params = EngineParams::default().limits();
        assert_eq!(params.estimate(1000.0, 1000.0), Some(256 * 1500));
        for (input, output) in [(1000.0, 0.0), (f64::NAN, 5.0), (5.0, f64::NAN), (-1.0, 5.0)] {
            assert_eq!(params.estimate(input, output), None);
        }
    }
}
