//! The emulated engine against a plain one that touches every sequence in every iteration.
//!
//! [`Replica`] knows ends and block boundaries in advance; this oracle has no such cleverness, only the
//! scheduling rules, so agreement to the microsecond shows that the shortcut changes nothing.

use std::collections::VecDeque;

use inferno_sidecar::emulate::profile::{Batch, EngineProfile, IterationTime};
use inferno_sidecar::emulate::replica::Replica;
use inferno_sidecar::emulate::request::Request;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Sequence {
    request: Request,
    output: u64,
    generated: u64,
    /// Tokens with computed KV.
    computed: u64,
    /// Tokens to compute in the present iteration.
    planned: u64,
    blocks: u64,
    /// Prefill is over: from now on one token per iteration.
    decodes: bool,
}

impl Sequence {
    fn total(&self) -> u64 {
        u64::from(self.request.prompt_tokens) + self.generated
    }
}

struct Oracle {
    profile: EngineProfile,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    preemptions: u64,
}

impl Oracle {
    fn free(&self) -> u64 {
        u64::from(self.profile.num_gpu_blocks) - self.running.iter().map(|one| one.blocks).sum::<u64>()
    }

    fn preempt_newest(&mut self) {
        let mut newest = self.running.pop().expect("a running sequence");
        (newest.computed, newest.blocks, newest.decodes) = (0, 0, false);
        self.waiting.push_front(newest);
        self.preemptions += 1;
    }

    /// Plans one iteration; its duration in us, or `None` when there is nothing to do.
    fn plan(&mut self) -> Option<i64> {
        let mut preempted = false;
        loop {
            let need = |one: &Sequence| self.profile.blocks_of(one.computed + 1) - one.blocks;
            if self.running.iter().filter(|one| one.decodes).map(need).sum::<u64>() <= self.free() {
                break;
            }
            self.preempt_newest();
            preempted = true;
        }
        let mut batch = Batch::default();
        for one in self.running.iter_mut().filter(|one| one.decodes) {
            one.planned = 1;
            one.blocks = self.profile.blocks_of(one.computed + 1);
            batch.decode_seqs += 1;
            batch.decode_kv_tokens += one.computed + 1;
        }
        let mut budget = u64::from(self.profile.max_num_batched_tokens) - batch.decode_seqs;
        if let Some(at) = self.running.iter().position(|one| !one.decodes) {
            assert_eq!(at + 1, self.running.len(), "only the newest can be in its prefill");
            let one = &self.running[at];
            let tokens = (one.total() - one.computed).min(budget);
            let blocks = self.profile.blocks_of(one.computed + tokens);
            if blocks - one.blocks > self.free() {
                self.preempt_newest();
                preempted = true;
            } else {
                self.plan_prefill(at, tokens, blocks, &mut budget, &mut batch);
            }
        }
        while !preempted && budget > 0 && self.running.len() < self.profile.max_num_seqs as usize {
            let Some(front) = self.waiting.front() else { break };
            let tokens = front.total().min(budget);
            let blocks = self.profile.blocks_of(tokens);
            if blocks > self.free() {
                break;
            }
            self.running.extend(self.waiting.pop_front());
            self.plan_prefill(self.running.len() - 1, tokens, blocks, &mut budget, &mut batch);
        }
        let busy = batch.decode_seqs + batch.prefill_tokens > 0;
        busy.then(|| ((self.profile.iteration.of_ms(&batch) * 1000.0).round() as i64).max(1))
    }

    fn plan_prefill(&mut self, at: usize, tokens: u64, blocks: u64, budget: &mut u64, batch: &mut Batch) {
        let one = &mut self.running[at];
        (one.planned, one.blocks) = (tokens, blocks);
        *budget -= tokens;
        batch.prefill_tokens += tokens;
        batch.prefill_context += tokens as f64 * (one.computed as f64 + tokens as f64 / 2.0);
    }

    /// Ends the iteration; the requests that finished.
    fn complete(&mut self) -> Vec<u64> {
        for one in &mut self.running {
            one.computed += std::mem::take(&mut one.planned);
            if one.computed == one.total() {
                one.generated += 1;
                one.decodes = true;
            }
        }
        let (done, rest) = self.running.drain(..).partition(|one: &Sequence| one.generated == one.output);
        self.running = rest;
        done.iter().map(|one: &Sequence| one.request.id).collect()
    }
}

/// Serves `requests` (in order of arrival): `(id, finish_us)` sorted, and preemptions.
fn by_oracle(profile: EngineProfile, requests: &[Request]) -> (Vec<(u64, i64)>, u64) {
    let mut oracle = Oracle { profile, waiting: VecDeque::new(), running: Vec::new(), preemptions: 0 };
    let mut coming = requests.iter().copied().peekable();
    let (mut now_us, mut finished) = (0, Vec::new());
    loop {
        while let Some(request) = coming.next_if(|request| request.arrival_us <= now_us) {
            let room = u64::from(profile.max_model_len).saturating_sub(u64::from(request.prompt_tokens));
            let output = u64::from(request.output_tokens).min(room);
            let sequence = Sequence {
                request,
                output,
                generated: 0,
                computed: 0,
                planned: 0,
                blocks: 0,
                decodes: false,
            };
            if room > 0 {
                oracle.waiting.push_back(sequence);
            }
        }
        match (oracle.plan(), coming.peek()) {
            (Some(duration_us), _) => {
                now_us += duration_us;
                finished.extend(oracle.complete().into_iter().map(|id| (id, now_us)));
            }
            (None, Some(next)) => now_us = next.arrival_us,
            (None, None) => break,
        }
    }
    finished.sort_unstable();
    (finished, oracle.preemptions)
}

fn by_replica(profile: EngineProfile, requests: &[Request]) -> (Vec<(u64, i64)>, u64) {
    let mut replica = Replica::new(profile, 0);
    for request in requests {
        replica.advance_to(request.arrival_us);
        replica.submit(*request);
    }
    replica.advance_to(i64::MAX / 2);
    let mut finished = Vec::new();
    replica.drain_finished(&mut finished);
    let mut finished: Vec<_> = finished.iter().map(|one| (one.request.id, one.finish_us)).collect();
    finished.sort_unstable();
    (finished, replica.counters().preemptions)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn knowing_the_future_changes_nothing(
        sizes in prop::collection::vec((0_i64..60_000, 1_u32..300, 1_u32..200), 1..50),
        (blocks, block_size) in (4_u32..80, 1_u32..20),
        (max_num_seqs, spare_tokens) in (1_u32..12, 0_u32..200),
    ) {
        let iteration = IterationTime { a_ms: 5.0, b_ms: 0.1, c_ms: 0.02, d_ms: 1e-3, q_ms: 1e-5 };
        let profile = EngineProfile {
            block_size,
            num_gpu_blocks: blocks,
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + spare_tokens,
            ..EngineProfile::new(iteration, blocks * block_size)
        }
        .checked();
        let mut arrival_us = 0;
        let requests: Vec<Request> = sizes
            .iter()
            .enumerate()
            .map(|(id, &(gap_us, prompt_tokens, output_tokens))| {
                arrival_us += gap_us;
                Request { id: id as u64, arrival_us, prompt_tokens, output_tokens, cached_tokens: 0 }
            })
            .collect();
        prop_assert_eq!(by_replica(profile, &requests), by_oracle(profile, &requests));
    }
}

/// The property above must not hold for want of preemptions.
#[test]
fn the_cramped_engine_does_preempt() {
    let profile = EngineProfile::new(IterationTime { a_ms: 5.0, ..IterationTime::default() }, 640).checked();
    let requests: Vec<Request> = (0..10)
        .map(|id| Request { id, arrival_us: 0, prompt_tokens: 100, output_tokens: 150, cached_tokens: 0 })
        .collect();
    let (finished, preemptions) = by_replica(profile, &requests);
    assert!(preemptions > 5, "{preemptions}");
    assert_eq!(finished.len(), 10);
    assert_eq!((finished, preemptions), by_oracle(profile, &requests));
}
