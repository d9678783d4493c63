//! Physics of one emulated engine: conservation, Little's law, the iteration formula, KV limits, and real
//! measured runs.

use std::path::Path;

use inferno_sidecar::emulate::load::{PoissonLoad, RequestShape, Scenario, trace};
use inferno_sidecar::emulate::profile::{Batch, EngineProfile, IterationTime};
use inferno_sidecar::emulate::replica::Replica;
use inferno_sidecar::emulate::request::{Finished, Request};
use inferno_sidecar::units::TimeMs;
use proptest::prelude::*;

fn profile(kv_tokens: u32) -> EngineProfile {
    let iteration = IterationTime { a_ms: 8.0, b_ms: 0.05, c_ms: 0.03, d_ms: 1e-4, q_ms: 0.0 };
    EngineProfile::new(iteration, kv_tokens)
}

fn request(id: u64, arrival_us: i64, prompt_tokens: u32, output_tokens: u32) -> Request {
    Request { id, arrival_us, prompt_tokens, output_tokens, cached_tokens: 0 }
}

fn finished(replica: &mut Replica) -> Vec<Finished> {
    let mut all = Vec::new();
    replica.drain_finished(&mut all);
    all
}

#[test]
fn a_lone_request_takes_what_the_formula_says() {
    let mut replica = Replica::new(profile(100_000), 0);
    assert!(replica.submit(request(1, 0, 1000, 3)));
    replica.advance_to(1_000_000);
    // Prefill 8 + 1000 x 0.03; then two decodes with 1001 and 1002 resident tokens.
    let done = finished(&mut replica)[0];
    assert_eq!(done.ttft_ms, 38.0);
    let decode_ms = 2.0 * 8.05 + 1e-4 * (1001.0 + 1002.0);
    assert!((done.tpot_ms - decode_ms / 2.0).abs() < 0.002, "{} ms", done.tpot_ms);
    assert_eq!(replica.used_blocks(), 0);
    assert_eq!(replica.counters().iterations, 3);
}

#[test]
fn a_long_prompt_is_computed_in_chunks() {
    let mut replica = Replica::new(EngineProfile { max_num_batched_tokens: 512, ..profile(100_000) }, 0);
    assert!(replica.submit(request(1, 0, 1300, 1)));
    replica.advance_to(1_000_000);
    assert_eq!(replica.counters().iterations, 3);
    assert_eq!(finished(&mut replica)[0].ttft_ms, 3.0 * 8.0 + 1300.0 * 0.03);
}

#[test]
fn cached_prompt_tokens_cost_blocks_but_no_time() {
    let mut replica = Replica::new(profile(100_000), 0);
    let cached = Request { cached_tokens: 960, ..request(1, 0, 1000, 2) };
    assert!(replica.submit(cached));
    replica.advance_to(1000);
    assert_eq!(replica.used_blocks(), 63);
    replica.advance_to(1_000_000);
    assert!((finished(&mut replica)[0].ttft_ms - (8.0 + 40.0 * 0.03)).abs() < 1e-9);
    assert_eq!((replica.counters().prefix_queries, replica.counters().prefix_hits), (1000, 960));
}

#[test]
fn prompts_beyond_capacity_are_rejected_and_long_generations_cut() {
    let mut replica = Replica::new(profile(1600), 0);
    assert!(!replica.submit(request(1, 0, 1600, 1)));
    assert!(replica.submit(request(2, 0, 1500, 1000)));
    replica.advance_to(100_000_000);
    let counters = replica.counters();
    assert_eq!((counters.rejected, counters.success_stop, counters.success_length), (1, 0, 1));
    assert_eq!(finished(&mut replica)[0].output_tokens, 100);
}

/// Keeps `seqs` requests in the engine and compares its pace with the formula at the mean batch.
#[test]
fn a_saturated_engine_runs_at_the_pace_of_the_formula() {
    let (prompt, seqs) = (400_u32, 64_u32);
    // 100 to 300 tokens, all equally often, so that the sequences do not run in lockstep.
    let output = |id: u64| 100 + (id * 7919 % 201) as u32;
    let (mean_output, mean_square) = (200.0, 200.0 * 200.0 + (201.0 * 201.0 - 1.0) / 12.0);
    let mut replica = Replica::new(EngineProfile { max_num_seqs: seqs, ..profile(400_000) }, 0);
    for id in 0..10_000 {
        assert!(replica.submit(request(id, 0, prompt, output(id))));
    }
    replica.advance_to(60_000_000);
    let (tokens_before, itl_before) =
        (replica.counters().generation_tokens, replica.counters().itl_s.clone());
    replica.advance_to(400_000_000);
    let after = replica.counters();
    let tokens = (after.generation_tokens - tokens_before) as f64;
    // In balance, a sequence spends one iteration in its prefill and the others decoding; seen at a
    // random time, it has generated E[o^2] / 2 E[o] tokens.
    let (seqs, prompt) = (f64::from(seqs), f64::from(prompt));
    let decoding = seqs * (1.0 - 1.0 / mean_output);
    let iteration_ms = 8.0
        + 0.05 * decoding
        + 0.03 * seqs / mean_output * prompt
        + 1e-4 * decoding * (prompt + mean_square / (2.0 * mean_output));
    let (expected_per_s, measured_per_s) = (seqs / iteration_ms * 1000.0, tokens / 340.0);
    assert!(
        (measured_per_s / expected_per_s - 1.0).abs() < 0.01,
        "{measured_per_s} {expected_per_s} tokens/s"
    );
    let itl_s = (after.itl_s.sum() - itl_before.sum()) / (after.itl_s.count() - itl_before.count()) as f64;
    assert!((itl_s * 1000.0 / iteration_ms - 1.0).abs() < 0.02, "ITL {itl_s} s, iteration {iteration_ms} ms");
}

#[test]
fn littles_law_holds() {
    let shape = RequestShape {
        prompt_tokens: 500.0,
        output_tokens: 150.0,
        spread: 0.7,
        max_tokens: 8000,
        cached_share: 0.0,
    };
    let mut replica = Replica::new(profile(200_000), 0);
    let (mut area_ms, mut time_in_system_ms, mut done) = (0.0, 0.0, 0_u64);
    let mut arrivals = PoissonLoad::new(TimeMs(0), 12.0, Scenario::Steady, shape, 3).peekable();
    let (end_us, step_us) = (1_800_000_000_i64, 2_000_i64);
    let mut id = 0;
    for now_us in (0..end_us).step_by(step_us as usize) {
        while let Some(arrival) = arrivals.next_if(|arrival| arrival.at_us <= now_us) {
            replica.advance_to(arrival.at_us);
            id += 1;
            replica.submit(request(id, arrival.at_us, arrival.prompt_tokens, arrival.output_tokens));
        }
        replica.advance_to(now_us);
        area_ms += replica.in_flight() as f64 * step_us as f64 / 1000.0;
        for one in finished(&mut replica) {
            time_in_system_ms += (one.finish_us - one.request.arrival_us) as f64 / 1000.0;
            done += 1;
        }
    }
    let mean_in_system = area_ms / (end_us as f64 / 1000.0);
    let rate_per_ms = done as f64 / (end_us as f64 / 1000.0);
    let product = rate_per_ms * time_in_system_ms / done as f64;
    assert!(mean_in_system > 10.0, "the engine should be busy: {mean_in_system}");
    assert!((mean_in_system / product - 1.0).abs() < 0.02, "L = {mean_in_system}, lambda W = {product}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, in whatever cramped engine: nothing is lost, the KV cache never overflows, every
    /// token is counted, and everything ends with an empty engine.
    #[test]
    fn requests_are_conserved_and_kv_never_overflows(
        requests in prop::collection::vec((0_i64..50_000, 0_u32..700, 0_u32..300, 0_u32..800), 1..60),
        blocks in 1_u32..60,
        block_size in 1_u32..20,
        max_num_seqs in 0_u32..12,
        max_num_batched_tokens in 0_u32..300,
    ) {
        let cramped =
            EngineProfile { num_gpu_blocks: blocks, block_size, max_num_seqs, max_num_batched_tokens, ..profile(16) };
        let cramped = EngineProfile { max_model_len: u32::MAX, ..cramped };
        let mut replica = Replica::new(cramped, 0);
        let (mut now_us, mut rejected) = (0, 0);
        let mut all = Vec::new();
        for (id, &(gap_us, prompt, output, cached)) in requests.iter().enumerate() {
            now_us += gap_us;
            replica.advance_to(now_us);
            prop_assert!(replica.used_blocks() <= u64::from(blocks));
            let request = Request { cached_tokens: cached, ..request(id as u64, now_us, prompt, output) };
            rejected += u64::from(!replica.submit(request));
            replica.drain_finished(&mut all);
            prop_assert_eq!(id as u64 + 1, all.len() as u64 + replica.in_flight() as u64 + rejected);
        }
        while replica.in_flight() > 0 && now_us < 36_000_000_000 {
            now_us += 5_000;
            replica.advance_to(now_us);
            prop_assert!(replica.used_blocks() <= u64::from(blocks));
            prop_assert!(replica.running() <= max_num_seqs.max(1) as usize);
        }
        replica.drain_finished(&mut all);
        prop_assert_eq!(all.len() as u64 + rejected, requests.len() as u64);
        prop_assert_eq!(replica.used_blocks(), 0);
        let counters = replica.counters();
        let generated: u64 = all.iter().map(|one| u64::from(one.output_tokens)).sum();
        prop_assert_eq!(counters.generation_tokens, generated);
        prop_assert_eq!(counters.ttft_s.count() + counters.itl_s.count(), generated);
        prop_assert_eq!(counters.success(), all.len() as u64);
        prop_assert_eq!((counters.rejected, counters.queue_s.count()), (rejected, counters.success()));
    }
}

/// The formula itself, term by term.
#[test]
fn an_iteration_adds_up_its_terms() {
    let time = IterationTime { a_ms: 1.0, b_ms: 2.0, c_ms: 3.0, d_ms: 4.0, q_ms: 5.0 };
    let batch = Batch { decode_seqs: 1, prefill_tokens: 10, decode_kv_tokens: 100, prefill_context: 1000.0 };
    assert_eq!(time.of_ms(&batch), 1.0 + 2.0 + 30.0 + 400.0 + 5000.0);
}

/// One measured run: requests in, mean latencies out.
struct Run {
    requests: Vec<(f64, u32, u32)>,
    ttft_ms: f64,
    tpot_ms: f64,
}

fn read_run(path: &Path) -> Option<Run> {
    let text = std::fs::read_to_string(path).ok()?;
    let rows: Vec<Vec<f64>> = text
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|field| field.parse().expect("a number")).collect())
        .collect();
    let mean = |f: fn(&[f64]) -> f64| rows.iter().map(|row| f(row)).sum::<f64>() / rows.len() as f64;
    Some(Run {
        requests: rows.iter().map(|row| (row[0] * 1000.0, row[1] as u32, row[2] as u32)).collect(),
        ttft_ms: mean(|row| (row[4] - row[0]) * 1000.0),
        tpot_ms: mean(|row| (row[5] - row[4]) * 1000.0 / (row[2] - 1.0)),
    })
}

fn read_profile(text: &str, id: &str) -> EngineProfile {
    let all: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let variants = all["variants"].as_array().expect("variants");
    let one = variants.iter().find(|one| one["id"] == id).expect("a profile of that name");
    let time = |name: &str| one["iteration_ms"][name].as_f64().unwrap_or(0.0);
    let size = |name: &str| one[name].as_u64().expect("a size") as u32;
    let iteration =
        IterationTime { a_ms: time("a"), b_ms: time("b"), c_ms: time("c"), d_ms: time("d"), q_ms: time("q") };
    EngineProfile {
        ttft_overhead_ms: one["ttft_overhead_ms"].as_f64().unwrap_or(0.0),
        block_size: size("block_size"),
        num_gpu_blocks: size("kv_tokens") / size("block_size"),
        max_num_seqs: size("max_num_seqs"),
        max_num_batched_tokens: size("max_num_batched_tokens"),
        ..EngineProfile::new(iteration, size("kv_tokens"))
    }
}

#[test]
fn measured_runs_are_reproduced_within_ten_percent() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/profiles");
    let Ok(profiles) = std::fs::read_to_string(folder.join("profiles.json")) else {
        println!("SKIPPED: no measured runs in {}", folder.display());
        return;
    };
    for id in ["llama-3.1-8b_rtx4090", "llama-3.1-8b_rtxpro6000", "qwen3-32b_rtxpro6000x2"] {
        let Some(run) = read_run(&folder.join(format!("validation_{id}.csv"))) else {
            println!("SKIPPED: no measured run of {id}");
            continue;
        };
        let mut replica = Replica::new(read_profile(&profiles, id), 0);
        for (index, arrival) in trace(TimeMs(0), run.requests.iter().copied()).enumerate() {
            replica.advance_to(arrival.at_us);
            replica.submit(request(
                index as u64,
                arrival.at_us,
                arrival.prompt_tokens,
                arrival.output_tokens,
            ));
        }
        replica.advance_to(3_600_000_000);
        let all = finished(&mut replica);
        assert_eq!(all.len(), run.requests.len());
        let mean = |f: fn(&Finished) -> f64| all.iter().map(f).sum::<f64>() / all.len() as f64;
        let (ttft_ms, tpot_ms) = (mean(|one| one.ttft_ms), mean(|one| one.tpot_ms));
        println!(
            "{id}: TTFT {:.0} ms measured, {ttft_ms:.0} ms emulated; TPOT {:.1} ms and {tpot_ms:.1} ms; {} preemptions; ends at {:.1} s",
            run.ttft_ms,
            run.tpot_ms,
            replica.counters().preemptions,
            all.iter().map(|one| one.finish_us).max().unwrap_or(0) as f64 / 1e6,
        );
        assert!((ttft_ms / run.ttft_ms - 1.0).abs() < 0.1, "{id}: TTFT {ttft_ms} against {}", run.ttft_ms);
        assert!((tpot_ms / run.tpot_ms - 1.0).abs() < 0.1, "{id}: TPOT {tpot_ms} against {}", run.tpot_ms);
    }
}
