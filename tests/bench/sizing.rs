//! Benchmark of sizing against the plain method, in one run: `cargo bench --bench sizing`.
//!
//! Cold: queue built and sized for a TTFT and an ITL target. Moved: token counts moved by up to 10 %, the
//! queue built again and sized from the previous answer. Warm: only the rate of the load moved, so the
//! previous answer is recognised; queue built and state at the new share evaluated. Ratios are medians over
//! the same random problems. Nothing is allocated on the heap in any of the three.

mod plain;

use inferno_sidecar::analyze::queueing::{Queue, ServiceTimes, Tokens};
use inferno_sidecar::config::{PerfParms, SloTargets};
use plain::Plain;
use std::hint::black_box;
use std::time::Instant;

/// Random problems per batch limit.
const PROBLEMS: usize = 200;

/// A small generator of uniform numbers in `[0, 1)` (64-bit LCG, upper bits), so that runs are the same.
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

struct Problem {
    parms: PerfParms,
    tokens: Tokens,
    moved: Tokens,
    batch: u32,
    targets: SloTargets,
}

impl Problem {
    fn queue(&self, tokens: Tokens) -> Queue {
        let service = ServiceTimes::new(&self.parms, tokens).expect("parameters are positive");
        Queue::new(service, self.batch, 10 * self.batch).expect("batch limit is in range")
    }

    fn plain(&self) -> Plain {
        let service = ServiceTimes::new(&self.parms, self.tokens).expect("parameters are positive");
        Plain::new(service, self.tokens.output, self.batch as usize, 10 * self.batch as usize)
    }
}

/// A problem whose targets can be met: a decode step at 0.2 to 0.95 of the way to the full batch and a time to first
/// token of 1 to 9 unloaded full-batch ones, with the profile and tokens of the published timings varied.
fn problem(random: &mut Uniform, batch: u32) -> Problem {
    let parms = PerfParms::Iteration {
        alpha: 6.0 + 6.0 * random.next(),
        beta: 0.01 + 0.02 * random.next(),
        gamma: 0.000_03 + 0.000_05 * random.next(),
    };
    let tokens = Tokens {
        input: (256.0 + 1536.0 * random.next()).round(),
        output: (64.0 + 448.0 * random.next()).round(),
    };
    let near = |value: f64, random: &mut Uniform| value * (0.9 + 0.2 * random.next());
    let moved = Tokens { input: near(tokens.input, random), output: near(tokens.output, random) };
    let service = ServiceTimes::new(&parms, tokens).expect("parameters are positive");
    let full = f64::from(batch);
    let targets = SloTargets {
        itl_ms: service.decode_ms(1.5 + (full - 1.5) * (0.2 + 0.75 * random.next())),
        ttft_ms: (service.prefill_ms(full) + service.decode_ms(full)) * (1.0 + 8.0 * random.next()),
        tps: 0.0,
    };
    Problem { parms, tokens, moved, batch, targets }
}

/// Best of `rounds` runs, ns per call over `calls` calls in each.
fn best_ns(rounds: usize, calls: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..calls {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / calls as f64);
    }
    best
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn row(batch: u32) {
    let mut random = Uniform(2026);
    let (mut plain_ns, mut cold_ns) = (Vec::new(), Vec::new());
    let (mut moved_ns, mut warm_ns) = (Vec::new(), Vec::new());
    let (mut solutions, mut cold_steps, mut moved_steps) = (0, 0, 0);
    let mut worst = 0.0_f64;
    let mut worst_steps = 0;
    for _ in 0..PROBLEMS {
        let problem = problem(&mut random, batch);
        let (ttft_ms, itl_ms) = (problem.targets.ttft_ms, problem.targets.itl_ms);
        let mut rate = 0.0;
        plain_ns.push(best_ns(2, 1, || {
            let mut plain = problem.plain();
            rate = black_box(plain.size(ttft_ms, itl_ms)).map_or(f64::NAN, |(rate, _)| rate);
            solutions += plain.solutions;
        }));
        let cold = problem.queue(problem.tokens).size(&problem.targets).expect("targets can be met");
        cold_ns.push(best_ns(5, 20, || {
            let _ = black_box(problem.queue(black_box(problem.tokens)).size(black_box(&problem.targets)));
        }));
        let previous = &cold;
        let moved = problem.queue(problem.moved).size_warm(&problem.targets, previous);
        moved_ns.push(best_ns(5, 20, || {
            let queue = problem.queue(black_box(problem.moved));
            let _ = black_box(queue.size_warm(black_box(&problem.targets), previous));
        }));
        let share = cold.rate_per_ms * (0.7 + 0.3 * random.next());
        warm_ns.push(best_ns(5, 20, || {
            let queue = problem.queue(black_box(problem.tokens));
            let _ = black_box(queue.size_again(black_box(&problem.targets), previous));
            let _ = black_box(queue.metrics_at(black_box(share)));
        }));
        cold_steps += cold.evaluations;
        worst_steps = worst_steps.max(cold.evaluations);
        moved_steps += moved.map_or(0, |moved| moved.evaluations);
        worst = worst.max((cold.rate_per_ms / rate - 1.0).abs());
    }
    let ratio = |ours: &[f64]| median(plain_ns.iter().zip(ours).map(|(plain, ours)| plain / ours).collect());
    println!(
        "{batch:>5} {:>10.1} {:>9.1} | {:>8.3} {:>5.2} {worst_steps:>4} {:>6.0} | {:>8.3} {:>5.2} {:>6.0} | {:>8.3} {:>6.0} {:>9.2} | {worst:>8.0e}",
        mean(&plain_ns) / 1e3,
        solutions as f64 / (2 * PROBLEMS) as f64,
        mean(&cold_ns) / 1e3,
        f64::from(cold_steps) / PROBLEMS as f64,
        ratio(&cold_ns),
        mean(&moved_ns) / 1e3,
        f64::from(moved_steps) / PROBLEMS as f64,
        ratio(&moved_ns),
        mean(&warm_ns) / 1e3,
        ratio(&warm_ns),
        mean(&warm_ns) / mean(&cold_ns),
    );
}

fn main() {
    println!(
        "{PROBLEMS} random problems per batch limit; times are means, us; ratios are medians of plain / ours"
    );
    println!(
        "batch   plain us solutions |  cold us evals most  ratio | moved us evals  ratio |  warm us  ratio warm/cold | rate differs"
    );
    for batch in [4, 32, 128, 256, 512] {
        row(batch);
    }
}
