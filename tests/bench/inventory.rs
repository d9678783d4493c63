//! Time to share 1,000 claims over 5 accelerator types, in full and after one change.
//!
//! `cargo bench --bench inventory` prints microseconds for each policy: everything anew, one claim of a
//! scarce type, one claim while nothing is scarce.

use inferno_sidecar::optimize::inventory::{Claim, Inventory, Limits, Quota};
use inferno_sidecar::optimize::solver::SaturationPolicy;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::hint::black_box;
use std::time::Instant;

const CLAIMS: u32 = 1000;
const TYPES: u32 = 5;
const NAMESPACES: u32 = 20;
/// Runs of which the median counts.
const RUNS: usize = 21;
/// Single changes in one run.
const CHANGES: usize = 200;
/// Target for one full share, us.
const FULL_MAX_US: f64 = 20_000.0;

fn claim(random: &mut Pcg64) -> Claim {
    Claim {
        pool: random.random_range(0..TYPES),
        namespace: random.random_range(0..NAMESPACES),
        gpus_per_replica: [1, 1, 2, 4, 8][random.random_range(0..5)],
        current: random.random_range(0..6),
        wanted: random.random_range(1..60),
        min: 1,
        priority: random.random_range(1..=10),
        cost: f64::from(random.random_range(1..100_u32)),
        spare: random.random_range(0.0..1.0),
        rank: random.random_range(0..u64::MAX),
    }
}

fn limits(cards: u64, with_quotas: bool) -> Limits {
    let per_namespace = |namespace| Quota { namespace: Some(namespace), pool: None, cards: cards / 5 };
    let quotas = if with_quotas { (0..NAMESPACES).map(per_namespace).collect() } else { Vec::new() };
    Limits { pools: vec![cards; TYPES as usize], quotas }
}

/// The median time of `runs`, us.
fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

fn full(inventory: &mut Inventory, limits: &Limits, policy: SaturationPolicy) -> f64 {
    // Two limits take turns, so that everything has to be shared again.
    let mut other = limits.clone();
    other.pools[0] += 1;
    let run = |run: usize| {
        let next = if run.is_multiple_of(2) { other.clone() } else { limits.clone() };
        let start = Instant::now();
        inventory.resize(next, policy);
        start.elapsed().as_secs_f64() * 1e6
    };
    median((0..RUNS).map(run).collect())
}

fn single(inventory: &mut Inventory, random: &mut Pcg64, claims: &mut [Claim]) -> f64 {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let changes: Vec<(u32, Claim)> = (0..CHANGES)
            .map(|_| {
                let id = random.random_range(0..CLAIMS);
                let claim = &mut claims[id as usize];
                (claim.wanted, claim.spare) = (random.random_range(1..60), random.random_range(0.0..1.0));
                (id, *claim)
            })
            .collect();
        let start = Instant::now();
        for (id, claim) in changes {
            inventory.set(id, claim);
            black_box(inventory.changed());
        }
        runs.push(start.elapsed().as_secs_f64() * 1e6 / CHANGES as f64);
    }
    median(runs)
}

/// All claims on one type, each for another number of replicas, so that rounds end one by one.
fn hardest(policy: SaturationPolicy) -> f64 {
    let mut random = Pcg64::seed_from_u64(7);
    let mut inventory = Inventory::new(limits(0, false), policy);
    for id in 0..CLAIMS {
        let wanted = 1_000 + id * 1_000;
        inventory.stage(id, Some(Claim { pool: 0, priority: 1, wanted, ..claim(&mut random) }));
    }
    inventory.settle();
    full(&mut inventory, &limits(600_000_000, false), policy)
}

fn main() {
    println!("{CLAIMS} claims over {TYPES} types, us (median of {RUNS})");
    println!(
        "{:<20} {:>10} {:>12} {:>12} {:>12}",
        "policy", "full", "one claim", "with quotas", "not scarce"
    );
    for policy in [
        SaturationPolicy::None,
        SaturationPolicy::PriorityExhaustive,
        SaturationPolicy::PriorityRoundRobin,
        SaturationPolicy::RoundRobin,
    ] {
        let mut random = Pcg64::seed_from_u64(7);
        let mut claims: Vec<Claim> = (0..CLAIMS).map(|_| claim(&mut random)).collect();
        let mut inventory = Inventory::new(limits(5_000, false), policy);
        for (id, claim) in claims.iter().enumerate() {
            inventory.stage(id as u32, Some(*claim));
        }
        inventory.settle();
        assert!(inventory.is_scarce());
        let whole = full(&mut inventory, &limits(5_000, false), policy);
        let one = single(&mut inventory, &mut random, &mut claims);
        inventory.resize(limits(5_000, true), policy);
        let linked = single(&mut inventory, &mut random, &mut claims);
        inventory.resize(limits(1_000_000, false), policy);
        assert!(!inventory.is_scarce());
        let idle = single(&mut inventory, &mut random, &mut claims);
        println!("{:<20} {whole:>10.1} {one:>12.2} {linked:>12.2} {idle:>12.3}", format!("{policy:?}"));
        let hard = hardest(policy);
        println!("{:<20} {hard:>10.1}", "  one type, hardest");
        assert!(hard < FULL_MAX_US, "the hardest share took {hard} us");
        assert!(whole < FULL_MAX_US, "a full share took {whole} us");
    }
}
