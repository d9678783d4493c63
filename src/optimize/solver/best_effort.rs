//! Best effort: what is left of the inventory goes to servers that got nothing.

use super::{Grant, Problem, SaturationPolicy, Stock};

/// Hands out reduced grants to `servers`, in the order in which they failed.
pub(super) fn allocate(
    problem: &Problem,
    orders: &[Vec<u32>],
    policy: SaturationPolicy,
    servers: &[u32],
    stock: &mut Stock,
    grants: &mut [Option<Grant>],
) {
    match policy {
        SaturationPolicy::None => {}
        SaturationPolicy::PriorityExhaustive => exhaustive(problem, orders, servers, stock, grants),
        SaturationPolicy::RoundRobin => in_turn(problem, orders, servers, stock, grants),
        SaturationPolicy::PriorityRoundRobin => {
            let rank = |server: &u32| problem.servers[*server as usize].rank();
            for equals in servers.chunk_by(|a, b| rank(a) == rank(b)) {
                in_turn(problem, orders, equals, stock, grants);
            }
        }
    }
}

/// The first candidate of a server, by value, of which at least one replica fits.
fn first_fit(problem: &Problem, order: &[u32], server: u32, stock: &Stock) -> Option<u32> {
    let candidates = &problem.servers[server as usize].candidates;
    order.iter().copied().find(|&choice| stock.fit(&candidates[choice as usize]) > 0)
}

/// Each server in turn takes all that fits.
fn exhaustive(
    problem: &Problem,
    orders: &[Vec<u32>],
    servers: &[u32],
    stock: &mut Stock,
    grants: &mut [Option<Grant>],
) {
    for &at in servers {
        let Some(choice) = first_fit(problem, &orders[at as usize], at, stock) else { continue };
        let server = &problem.servers[at as usize];
        let candidate = &server.candidates[choice as usize];
        let replicas = stock.fit(candidate);
        if stock.take(candidate, replicas) {
            grants[at as usize] = Some(server.grant(choice, replicas));
        }
    }
}

/// Each server chooses what fits now; then all receive one replica per round until nothing fits.
fn in_turn(
    problem: &Problem,
    orders: &[Vec<u32>],
    servers: &[u32],
    stock: &mut Stock,
    grants: &mut [Option<Grant>],
) {
    let mut open: Vec<(u32, u32, u32)> = servers
        .iter()
        .filter_map(|&at| Some((at, first_fit(problem, &orders[at as usize], at, stock)?, 0)))
        .collect();
    while !open.is_empty() {
        open.retain_mut(|(at, choice, replicas)| {
            let server = &problem.servers[*at as usize];
            let candidate = &server.candidates[*choice as usize];
            if *replicas >= candidate.replicas || !stock.take(candidate, 1) {
                return false;
            }
            *replicas += 1;
            grants[*at as usize] = Some(server.grant(*choice, *replicas));
            true
        });
    }
}
