//! Performance of one emulated engine: how long an iteration takes and what limits a batch.
//!
//! Plain numbers; anything out of range is brought into range once, by [`EngineProfile::checked`].

/// Coefficients of the time of one engine iteration with continuous batching and chunked prefill, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IterationTime {
    /// Base time of an iteration, ms.
    pub a_ms: f64,
    /// Per decoding sequence, ms.
    pub b_ms: f64,
    /// Per prompt token computed in the iteration, ms.
    pub c_ms: f64,
    /// Per KV token that the decoding sequences read, ms.
    pub d_ms: f64,
    /// Per computed prompt token and token of its context (attention within long prompts), ms.
    pub q_ms: f64,
}

/// What an iteration works on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Batch {
    /// Sequences that decode one token each.
    pub decode_seqs: u64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Resident tokens of the decoding sequences.
    pub decode_kv_tokens: u64,
    /// Sum over prefill chunks of tokens times mean context length.
    pub prefill_context: f64,
}

impl IterationTime {
    /// Duration of an iteration over `batch`, ms.
    pub fn of_ms(&self, batch: &Batch) -> f64 {
        self.a_ms
            + self.b_ms * batch.decode_seqs as f64
            + self.c_ms * batch.prefill_tokens as f64
            + self.d_ms * batch.decode_kv_tokens as f64
            + self.q_ms * batch.prefill_context
    }
}

/// Engine parameters of one model on one accelerator arrangement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineProfile {
    /// Iteration time.
    pub iteration: IterationTime,
    /// Time of a request outside the engine's iterations until its first token (HTTP, tokenizer), ms.
    pub ttft_overhead_ms: f64,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks of the replica.
    pub num_gpu_blocks: u32,
    /// Most sequences that run together.
    pub max_num_seqs: u32,
    /// Most tokens computed in one iteration; at least `max_num_seqs`, as the engine itself demands.
    pub max_num_batched_tokens: u32,
    /// Longest sequence (prompt and generation), tokens; never more than the KV cache holds.
    pub max_model_len: u32,
}

impl EngineProfile {
    /// A profile with vLLM's usual limits (block size 16, 256 sequences, 8192 tokens per iteration) and
    /// `kv_tokens` of KV cache.
    pub fn new(iteration: IterationTime, kv_tokens: u32) -> Self {
        EngineProfile {
            iteration,
            ttft_overhead_ms: 0.0,
            block_size: 16,
            num_gpu_blocks: kv_tokens / 16,
            max_num_seqs: 256,
            max_num_batched_tokens: 8192,
            max_model_len: kv_tokens,
        }
    }

    /// The same profile with every value in range: times finite and not negative, sizes positive, no
    /// sequence longer than the cache, and a token budget that lets every running sequence decode.
    pub fn checked(mut self) -> Self {
        let time = &mut self.iteration;
        for value in [
            &mut time.a_ms,
            &mut time.b_ms,
            &mut time.c_ms,
            &mut time.d_ms,
            &mut time.q_ms,
            &mut self.ttft_overhead_ms,
        ] {
            if !value.is_finite() || *value < 0.0 {
                *value = 0.0;
            }
        }
        self.block_size = self.block_size.max(1);
        self.num_gpu_blocks = self.num_gpu_blocks.max(1);
        self.max_num_seqs = self.max_num_seqs.max(1);
        self.max_num_batched_tokens = self.max_num_batched_tokens.max(self.max_num_seqs);
        let longest = u32::try_from(self.kv_tokens()).unwrap_or(u32::MAX);
        self.max_model_len = self.max_model_len.clamp(1, longest);
        self
    }

    /// KV capacity, tokens.
    pub fn kv_tokens(&self) -> u64 {
        u64::from(self.num_gpu_blocks) * u64::from(self.block_size)
    }

    /// Blocks that `tokens` tokens occupy.
    pub fn blocks_of(&self, tokens: u64) -> u64 {
        tokens.div_ceil(u64::from(self.block_size))
    }
}
