//! Requests on their way through an emulated engine, and what the engine counts about them.

use super::histogram::{Histogram, ITL_BOUNDS_S, REQUEST_BOUNDS_S, TTFT_BOUNDS_S};
use crate::config::SloTargets;

/// A request as it reaches a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Identity, chosen by the caller.
    pub id: u64,
    /// When the client sent it, us since the epoch.
    pub arrival_us: i64,
    /// Prompt length, tokens; 0 counts as 1.
    pub prompt_tokens: u32,
    /// Tokens it would generate, 0 counts as 1.
    pub output_tokens: u32,
    /// Leading prompt tokens found in the prefix cache; they cost KV blocks but no computation.
    pub cached_tokens: u32,
}

/// What a client can tell about a request that was served to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// The request.
    pub request: Request,
    /// Tokens generated.
    pub output_tokens: u32,
    /// When its last token came, us since the epoch.
    pub finish_us: i64,
    /// Time to first token, ms, from arrival.
    pub ttft_ms: f64,
    /// Mean time per output token after the first, ms; 0 when there was only one.
    pub tpot_ms: f64,
}

impl Finished {
    /// Whether the request met both latency targets; 0 means "no target".
    pub fn meets(&self, targets: &SloTargets) -> bool {
        let within = |value: f64, target: f64| target <= 0.0 || value <= target;
        within(self.ttft_ms, targets.ttft_ms) && within(self.tpot_ms, targets.itl_ms)
    }
}

/// Why a request ended; the values of the engine's `finished_reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model stopped by itself.
    Stop,
    /// The sequence reached the longest length that the engine allows.
    Length,
}

/// Counters and histograms of an engine since its start.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Requests finished by themselves.
    pub success_stop: u64,
    /// Requests cut at the longest sequence length.
    pub success_length: u64,
    /// Requests refused because the prompt is longer than the engine can ever hold.
    pub rejected: u64,
    /// Prompt tokens of prefilled requests.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
    /// Preemptions for want of KV blocks.
    pub preemptions: u64,
    /// Iterations run.
    pub iterations: u64,
    /// Time to first token, s.
    pub ttft_s: Histogram,
    /// Time between tokens, s.
    pub itl_s: Histogram,
    /// Mean time per output token of finished requests, s.
    pub tpot_s: Histogram,
    /// Time from arrival to admission, s.
    pub queue_s: Histogram,
    /// Time from arrival to last token, s.
    pub e2e_s: Histogram,
    /// Prompt tokens per finished request.
    pub request_prompt_tokens: Histogram,
    /// Generated tokens per finished request.
    pub request_generation_tokens: Histogram,
}

impl Counters {
    /// Counters of an engine whose sequences have at most `longest` tokens.
    pub fn new(longest: u32) -> Self {
        Counters {
            success_stop: 0,
            success_length: 0,
            rejected: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            prefix_queries: 0,
            prefix_hits: 0,
            preemptions: 0,
            iterations: 0,
            ttft_s: Histogram::new(TTFT_BOUNDS_S),
            itl_s: Histogram::new(ITL_BOUNDS_S),
            tpot_s: Histogram::new(ITL_BOUNDS_S),
            queue_s: Histogram::new(REQUEST_BOUNDS_S),
            e2e_s: Histogram::new(REQUEST_BOUNDS_S),
            request_prompt_tokens: Histogram::of_tokens(longest),
            request_generation_tokens: Histogram::of_tokens(longest),
        }
    }

    /// Requests served to their end.
    pub fn success(&self) -> u64 {
        self.success_stop + self.success_length
    }

    /// Counts a request at its end.
    pub fn note_finished(&mut self, finished: &Finished, reason: FinishReason, e2e_ms: f64) {
        match reason {
            FinishReason::Stop => self.success_stop += 1,
            FinishReason::Length => self.success_length += 1,
        }
        if finished.output_tokens > 1 {
            self.tpot_s.observe(finished.tpot_ms / 1000.0, 1);
        }
        self.e2e_s.observe(e2e_ms / 1000.0, 1);
        self.request_prompt_tokens.observe(f64::from(finished.request.prompt_tokens), 1);
        self.request_generation_tokens.observe(f64::from(finished.output_tokens), 1);
    }
}
