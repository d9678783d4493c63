//! One emulated vLLM engine: continuous batching at iteration level.
//!
//! Input: requests and a time to advance to. Output: finished requests, gauges and counters.
//!
//! Every iteration advances each decoding sequence by one token, and that is what keeps it cheap: when a
//! sequence starts to decode, the iteration in which it finishes is already known (`finishes`), and so is
//! the iteration-number residue at which it takes another KV block (`boundary`). An iteration therefore
//! costs the same however many sequences decode; only arrivals, prefill chunks, ends and preemptions cost
//! work of their own.
//!
//! Rules of an iteration, in order: running sequences decode; if their new blocks do not fit, the newest
//! running sequence is preempted (it will be recomputed from its first token) until they do; a prompt that
//! was only partly computed goes on; then, unless something was preempted, waiting requests are admitted
//! first come first served within the limits on sequences, tokens and blocks.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::profile::{Batch, EngineProfile};
use super::request::{Counters, FinishReason, Finished, Request};
use super::{ms_to_us, us_to_ms};

/// A request inside the engine.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    request: Request,
    /// Tokens it will generate here: as asked, or fewer at the longest sequence length.
    output_tokens: u32,
    reason: FinishReason,
    /// Tokens generated at the last time it was not decoding.
    generated: u32,
    /// Tokens with computed KV while prefilling.
    computed: u64,
    /// Iteration whose end gave the last token before decoding began; `None` while not decoding.
    decoding_since: Option<u64>,
    admitted_before: bool,
    first_token_us: i64,
    last_token_us: i64,
    /// Distinguishes this stay in its slot from earlier ones, for lazy deletion from `finishes`.
    epoch: u64,
}

impl Sequence {
    /// Tokens that prefill has to compute: the prompt and, after a preemption, what was generated.
    fn prefill_tokens(&self) -> u64 {
        u64::from(self.request.prompt_tokens) + u64::from(self.generated)
    }
}

/// A part of a prompt computed in one iteration.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    slot: u32,
    tokens: u64,
}

/// An iteration under way.
#[derive(Clone, Copy, Debug)]
struct Iteration {
    end_us: i64,
    duration_us: i64,
    decode_seqs: u64,
}

/// One emulated engine. Call [`Replica::advance_to`] with times that never go back, then
/// [`Replica::submit`] for requests that arrive at that time.
#[derive(Debug)]
pub struct Replica {
    profile: EngineProfile,
    now_us: i64,
    /// Number of the newest iteration.
    step: u64,
    current: Option<Iteration>,
    slots: Vec<Sequence>,
    free_slots: Vec<u32>,
    waiting: VecDeque<u32>,
    /// Admitted sequences in order of admission; the last is the newest.
    running: Vec<u32>,
    /// Chunks of the current iteration.
    chunks: Vec<Chunk>,
    /// Decoding sequences by iteration of their last token.
    finishes: BinaryHeap<Reverse<(u64, u32, u64)>>,
    /// Decoding sequences by the residue of the iteration number at which they need another block.
    boundary: Vec<u32>,
    decoding: u64,
    /// Resident tokens of the decoding sequences.
    decode_kv_tokens: u64,
    used_blocks: u64,
    next_epoch: u64,
    counters: Counters,
    finished: Vec<Finished>,
}

impl Replica {
    /// An idle engine at `now_us`.
    pub fn new(profile: EngineProfile, now_us: i64) -> Self {
        let profile = profile.checked();
        Replica {
            profile,
            now_us,
            step: 0,
            current: None,
            slots: Vec::new(),
            free_slots: Vec::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            chunks: Vec::new(),
            finishes: BinaryHeap::new(),
            boundary: vec![0; profile.block_size as usize],
            decoding: 0,
            decode_kv_tokens: 0,
            used_blocks: 0,
            next_epoch: 0,
            counters: Counters::new(profile.max_model_len),
            finished: Vec::new(),
        }
    }

    /// The engine's parameters, in range.
    pub fn profile(&self) -> &EngineProfile {
        &self.profile
    }

    /// Counters and histograms since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Requests admitted to the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests waiting for admission.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests inside the engine.
    pub fn in_flight(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// KV blocks in use.
    pub fn used_blocks(&self) -> u64 {
        self.used_blocks
    }

    /// Share of the KV blocks in use, 0..1.
    pub fn kv_usage(&self) -> f64 {
        self.used_blocks as f64 / f64::from(self.profile.num_gpu_blocks)
    }

    /// Moves the requests finished since the last call to the end of `into`, in order of finishing.
    pub fn drain_finished(&mut self, into: &mut Vec<Finished>) {
        into.append(&mut self.finished);
    }

    /// Takes a request at the present time; false when its prompt can never fit (counted as rejected).
    pub fn submit(&mut self, mut request: Request) -> bool {
        request.prompt_tokens = request.prompt_tokens.max(1);
        request.output_tokens = request.output_tokens.max(1);
        // At least one token is always computed: its output is the first token.
        request.cached_tokens = request.cached_tokens.min(request.prompt_tokens - 1);
        let room = self.profile.max_model_len.saturating_sub(request.prompt_tokens);
        if room == 0 {
            self.counters.rejected += 1;
            return false;
        }
        let reason = if request.output_tokens > room { FinishReason::Length } else { FinishReason::Stop };
        let sequence = Sequence {
            request,
            output_tokens: request.output_tokens.min(room),
            reason,
            generated: 0,
            computed: 0,
            decoding_since: None,
            admitted_before: false,
            first_token_us: 0,
            last_token_us: 0,
            epoch: self.take_epoch(),
        };
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.slots[slot as usize] = sequence;
                slot
            }
            None => {
                self.slots.push(sequence);
                (self.slots.len() - 1) as u32
            }
        };
        self.waiting.push_back(slot);
        true
    }

    /// Runs every iteration that ends at or before `until_us`; one may be left under way.
    pub fn advance_to(&mut self, until_us: i64) {
        loop {
            if let Some(iteration) = self.current {
                if iteration.end_us > until_us {
                    break;
                }
                self.complete(iteration);
            }
            // An iteration that would start right at `until_us` waits for requests of that time.
            if self.now_us >= until_us || !self.schedule() {
                break;
            }
        }
        self.now_us = self.now_us.max(until_us);
    }

    fn take_epoch(&mut self) -> u64 {
        self.next_epoch += 1;
        self.next_epoch
    }

    /// Starts an iteration at `now_us`; false when there is nothing to do.
    fn schedule(&mut self) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            return false;
        }
        self.chunks.clear();
        let preempted = self.make_room_for_decodes();
        let decode_seqs = self.decoding;
        let mut budget = u64::from(self.profile.max_num_batched_tokens).saturating_sub(decode_seqs);
        self.step += 1;
        self.used_blocks += self.boundary_need(self.step);
        self.decode_kv_tokens += decode_seqs;
        let mut batch = Batch { decode_seqs, decode_kv_tokens: self.decode_kv_tokens, ..Batch::default() };
        let preempted = !self.continue_prefill(&mut budget, &mut batch) || preempted;
        if !preempted {
            self.admit(&mut budget, &mut batch);
        }
        if decode_seqs == 0 && self.chunks.is_empty() {
            return false;
        }
        let duration_us = ms_to_us(self.profile.iteration.of_ms(&batch)).max(1);
        self.current =
            Some(Iteration { end_us: self.now_us.saturating_add(duration_us), duration_us, decode_seqs });
        true
    }

    /// Blocks that the decoding sequences need for their tokens of iteration `step`.
    fn boundary_need(&self, step: u64) -> u64 {
        u64::from(self.boundary[(step % self.boundary.len() as u64) as usize])
    }

    fn free_blocks(&self) -> u64 {
        u64::from(self.profile.num_gpu_blocks).saturating_sub(self.used_blocks)
    }

    /// Preempts newest first until every decoding sequence can take its next token; true if any was.
    fn make_room_for_decodes(&mut self) -> bool {
        let mut preempted = false;
        while self.boundary_need(self.step + 1) > self.free_blocks() {
            if !self.preempt_newest() {
                break;
            }
            preempted = true;
        }
        preempted
    }

    /// Goes on with the prompt that the last iteration left unfinished. Only the newest sequence can be
    /// in that state: whatever follows it was not admitted for want of tokens. False when its next
    /// blocks do not fit, which preempts it.
    fn continue_prefill(&mut self, budget: &mut u64, batch: &mut Batch) -> bool {
        let Some(&slot) = self.running.last() else { return true };
        let sequence = &self.slots[slot as usize];
        if sequence.decoding_since.is_some() {
            return true;
        }
        let total = sequence.prefill_tokens();
        let (computed, tokens) = (sequence.computed, (total - sequence.computed).min(*budget));
        let blocks = self.profile.blocks_of(computed + tokens) - self.profile.blocks_of(computed);
        if blocks > self.free_blocks() {
            self.preempt_newest();
            return false;
        }
        self.used_blocks += blocks;
        self.add_chunk(slot, tokens, budget, batch);
        true
    }

    /// Admits waiting requests while sequences, tokens and blocks last.
    fn admit(&mut self, budget: &mut u64, batch: &mut Batch) {
        while *budget > 0 && self.running.len() < self.profile.max_num_seqs as usize {
            let Some(&slot) = self.waiting.front() else { break };
            let sequence = &self.slots[slot as usize];
            // A preempted sequence is recomputed whole: its blocks were given away.
            let cached = if sequence.admitted_before { 0 } else { u64::from(sequence.request.cached_tokens) };
            let tokens = (sequence.prefill_tokens() - cached).min(*budget);
            let blocks = self.profile.blocks_of(cached + tokens);
            if blocks > self.free_blocks() {
                break;
            }
            self.waiting.pop_front();
            self.running.push(slot);
            self.used_blocks += blocks;
            self.note_admission(slot, cached);
            self.add_chunk(slot, tokens, budget, batch);
        }
    }

    fn note_admission(&mut self, slot: u32, cached: u64) {
        let sequence = &mut self.slots[slot as usize];
        sequence.computed = cached;
        if sequence.admitted_before {
            return;
        }
        sequence.admitted_before = true;
        self.counters.prefix_queries += u64::from(sequence.request.prompt_tokens);
        self.counters.prefix_hits += cached;
        let queued_us = self.now_us - sequence.request.arrival_us;
        self.counters.queue_s.observe(us_to_ms(queued_us) / 1000.0, 1);
    }

    fn add_chunk(&mut self, slot: u32, tokens: u64, budget: &mut u64, batch: &mut Batch) {
        if tokens == 0 {
            return;
        }
        let before = self.slots[slot as usize].computed;
        batch.prefill_tokens += tokens;
        batch.prefill_context += tokens as f64 * (before as f64 + tokens as f64 / 2.0);
        *budget -= tokens;
        self.chunks.push(Chunk { slot, tokens });
    }

    /// Puts the newest running sequence back to the head of the queue and frees its blocks.
    fn preempt_newest(&mut self) -> bool {
        let Some(slot) = self.running.pop() else { return false };
        self.leave_batch(slot);
        let epoch = self.take_epoch();
        let sequence = &mut self.slots[slot as usize];
        sequence.computed = 0;
        sequence.epoch = epoch;
        self.waiting.push_front(slot);
        self.counters.preemptions += 1;
        true
    }

    /// Takes a sequence's tokens and blocks out of the engine's totals and settles what it generated.
    fn leave_batch(&mut self, slot: u32) {
        let block_size = u64::from(self.profile.block_size);
        let sequence = &mut self.slots[slot as usize];
        let mut resident = sequence.computed;
        if let Some(since) = sequence.decoding_since.take() {
            sequence.last_token_us = self.now_us;
            let base = sequence.prefill_tokens() - 1;
            let decoded = self.step - since;
            resident = base + decoded;
            sequence.generated += decoded as u32;
            self.boundary[boundary_of(since, base, block_size)] -= 1;
            self.decoding -= 1;
            self.decode_kv_tokens -= resident;
        }
        self.used_blocks -= self.profile.blocks_of(resident);
    }

    /// Ends an iteration: tokens come out, prompts get done, sequences finish.
    fn complete(&mut self, iteration: Iteration) {
        self.current = None;
        self.now_us = iteration.end_us;
        self.counters.iterations += 1;
        if iteration.decode_seqs > 0 {
            self.counters.generation_tokens += iteration.decode_seqs;
            self.counters.itl_s.observe(us_to_ms(iteration.duration_us) / 1000.0, iteration.decode_seqs);
        }
        while let Some(&Reverse((step, slot, epoch))) = self.finishes.peek() {
            let live = self.slots[slot as usize].epoch == epoch;
            if live && step > self.step {
                break;
            }
            self.finishes.pop();
            if live {
                self.finish(slot);
            }
        }
        for at in 0..self.chunks.len() {
            let Chunk { slot, tokens } = self.chunks[at];
            let sequence = &mut self.slots[slot as usize];
            sequence.computed += tokens;
            if sequence.computed >= sequence.prefill_tokens() {
                self.prefill_done(slot);
            }
        }
        self.chunks.clear();
    }

    /// The end of a prefill gives one token; then the sequence decodes, or is done already.
    fn prefill_done(&mut self, slot: u32) {
        let (now_us, step) = (self.now_us, self.step);
        let overhead_us = ms_to_us(self.profile.ttft_overhead_ms);
        let sequence = &mut self.slots[slot as usize];
        if sequence.generated == 0 {
            sequence.first_token_us = now_us;
            self.counters.prompt_tokens += u64::from(sequence.request.prompt_tokens);
            let ttft_us = now_us - sequence.request.arrival_us + overhead_us;
            self.counters.ttft_s.observe(us_to_ms(ttft_us) / 1000.0, 1);
        } else {
            self.counters.itl_s.observe(us_to_ms(now_us - sequence.last_token_us) / 1000.0, 1);
        }
        let base = sequence.prefill_tokens();
        sequence.generated += 1;
        sequence.last_token_us = now_us;
        sequence.decoding_since = Some(step);
        let left = u64::from(sequence.output_tokens.saturating_sub(sequence.generated));
        let entry = (step + left, slot, sequence.epoch);
        self.counters.generation_tokens += 1;
        self.boundary[boundary_of(step, base, u64::from(self.profile.block_size))] += 1;
        self.decoding += 1;
        self.decode_kv_tokens += base;
        if left == 0 {
            self.finish(slot);
        } else {
            self.finishes.push(Reverse(entry));
        }
    }

    fn finish(&mut self, slot: u32) {
        self.leave_batch(slot);
        if let Some(at) = self.running.iter().position(|&other| other == slot) {
            self.running.remove(at);
        }
        self.free_slots.push(slot);
        let epoch = self.take_epoch();
        let sequence = &mut self.slots[slot as usize];
        sequence.epoch = epoch;
        let overhead_ms = self.profile.ttft_overhead_ms;
        let arrival_us = sequence.request.arrival_us;
        let ttft_ms = us_to_ms(sequence.first_token_us - arrival_us) + overhead_ms;
        let after_first = sequence.output_tokens - 1;
        let decode_ms = us_to_ms(self.now_us - sequence.first_token_us);
        let tpot_ms = if after_first == 0 { 0.0 } else { decode_ms / f64::from(after_first) };
        let finished = Finished {
            request: sequence.request,
            output_tokens: sequence.output_tokens,
            finish_us: self.now_us,
            ttft_ms,
            tpot_ms,
        };
        let e2e_ms = us_to_ms(self.now_us - arrival_us) + overhead_ms;
        self.counters.note_finished(&finished, sequence.reason, e2e_ms);
        self.finished.push(finished);
    }
}

/// Residue of the iteration numbers at which a sequence takes another block, when the iteration `since`
/// left it with `base` resident tokens: in iteration `s` it adds token `base + s - since`, and that one
/// starts a block when the tokens before it fill theirs.
fn boundary_of(since: u64, base: u64, block_size: u64) -> usize {
    // base + s - since - 1 = 0 (mod block_size), solved for s without going below zero.
    let base = base % block_size;
    ((since % block_size + 1 + block_size - base) % block_size) as usize
}
