//! Benchmark of the solver on candidates that are ready: `cargo bench --bench solver`.

use inferno_sidecar::optimize::solver::{
    Candidate, Current, Options, Problem, SaturationPolicy, Search, Server, solve, transition_value,
};
use std::hint::black_box;
use std::time::Instant;

/// Accelerator types of every system.
const KINDS: u32 = 5;

/// Numbers in `0..below`, the same in every run (64-bit LCG, upper bits).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(below)) as u32
    }
}

/// `servers` servers with a candidate on every type, and cards for about 70 % of the wanted ones.
fn system(servers: u32) -> Problem {
    let mut random = Numbers(7);
    let mut wanted = 0;
    let servers: Vec<Server> = (0..servers)
        .map(|_| {
            let current = Current {
                accelerator: Some(random.below(KINDS)),
                replicas: 1 + random.below(8),
                cost: f64::from(20 + random.below(400)),
            };
            let load = 1 + random.below(40);
            let candidates = (0..KINDS)
                .map(|kind| {
                    let replicas = load.div_ceil(1 + kind) + random.below(2);
                    let cost = f64::from(replicas * (10 + 9 * kind + random.below(4)));
                    let value = transition_value(&current, Some(kind), replicas, cost);
                    let cards_per_replica = 1 + random.below(2);
                    Candidate { accelerator: Some(kind), kind, cards_per_replica, replicas, cost, value }
                })
                .collect();
            wanted += load.div_ceil(3);
            Server { priority: 1 + 10 * random.below(4), current, candidates }
        })
        .collect();
    Problem { servers, capacity: vec![u64::from(wanted) / 5; KINDS as usize] }
}

fn main() {
    println!("{KINDS} accelerator types; best of 20 runs");
    println!("servers  search     policy               ms   unallocated  reduced     value");
    for servers in [10, 100, 1000] {
        let problem = system(servers);
        for search in [Search::Greedy, Search::BestValue] {
            for policy in [SaturationPolicy::None, SaturationPolicy::PriorityRoundRobin] {
                let options = Options { policy, search, ..Options::default() };
                let mut best = f64::INFINITY;
                for _ in 0..20 {
                    let start = Instant::now();
                    black_box(solve(black_box(&problem), &options));
                    best = best.min(start.elapsed().as_secs_f64() * 1e3);
                }
                let solution = solve(&problem, &options);
                let missing = solution.grants.iter().filter(|grant| grant.is_none()).count();
                let reduced = solution.grants.iter().flatten().filter(|g| g.replicas < g.wanted).count();
                println!(
                    "{servers:>7}  {:<10} {:<18} {best:>7.3} {missing:>10} {reduced:>8} {:>10.1}",
                    format!("{search:?}"),
                    format!("{policy:?}"),
                    solution.value()
                );
            }
        }
    }
}
