//! The greedy solver within limits: priority, then what is lost by waiting, then value.

use super::{Grant, Options, Problem, Search, Server, Stock, best_effort, improve};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Indices of the candidates with a finite value, by ascending value; equal values keep their order.
pub(super) fn by_value(server: &Server) -> Vec<u32> {
    let value = |at: u32| server.candidates[at as usize].value;
    let mut order: Vec<u32> =
        (0..server.candidates.len() as u32).filter(|&at| value(at).is_finite()).collect();
    order.sort_by(|&a, &b| value(a).total_cmp(&value(b)));
    order
}

/// A server that waits for its turn. The greatest entry is served first.
#[derive(Clone, Copy, PartialEq)]
struct Entry {
    rank: u32,
    /// What is lost when the present candidate is gone; infinite for the last one.
    delta: f64,
    /// Value of the present candidate.
    value: f64,
    /// Breaks ties: initially the position; a returning entry goes before its equals.
    turn: i64,
    server: u32,
    /// Position in the server's order of candidates.
    at: u32,
}

impl Eq for Entry {}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .rank
            .cmp(&self.rank)
            .then(self.delta.total_cmp(&other.delta))
            .then(self.value.total_cmp(&other.value))
            .then(other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Entry {
    fn new(problem: &Problem, order: &[u32], server: u32, at: u32, turn: i64) -> Option<Entry> {
        let owner = &problem.servers[server as usize];
        let value = |at: u32| order.get(at as usize).map(|&c| owner.candidates[c as usize].value);
        let present = value(at)?;
        let delta = value(at + 1).map_or(f64::INFINITY, |next| next - present);
        Some(Entry { rank: owner.rank(), delta, value: present, turn, server, at })
    }
}

/// Full grants in greedy order, then best effort.
pub(super) fn solve(problem: &Problem, options: &Options) -> Vec<Option<Grant>> {
    let orders: Vec<Vec<u32>> = problem.servers.iter().map(by_value).collect();
    let mut stock = Stock { left: problem.capacity.clone() };
    let mut grants = vec![None; problem.servers.len()];
    let mut entries: Vec<Entry> = (0..problem.servers.len() as u32)
        .filter_map(|at| Entry::new(problem, &orders[at as usize], at, 0, i64::from(at)))
        .collect();
    entries.sort_by_key(|entry| entry.rank);
    let mut left_out = Vec::new();
    for equals in entries.chunk_by(|a, b| a.rank == b.rank) {
        let mut unallocated = fill(problem, &orders, equals, &mut stock, &mut grants);
        if options.search == Search::BestValue {
            let servers: Vec<u32> = equals.iter().map(|entry| entry.server).collect();
            improve::improve(problem, &orders, &servers, &mut stock, &mut grants);
            unallocated.retain(|&at| grants[at as usize].is_none());
            let known = unallocated.len();
            // Servers that gave way to others come after those that failed.
            unallocated.extend(servers.iter().filter(|&&at| grants[at as usize].is_none()));
            let (first, second) = unallocated.split_at(known);
            unallocated =
                first.iter().chain(second.iter().filter(|at| !first.contains(at))).copied().collect();
        }
        match options.delayed_best_effort {
            true => left_out.extend(unallocated),
            false => {
                best_effort::allocate(
                    problem,
                    &orders,
                    options.policy,
                    &unallocated,
                    &mut stock,
                    &mut grants,
                );
            }
        }
    }
    best_effort::allocate(problem, &orders, options.policy, &left_out, &mut stock, &mut grants);
    grants
}

/// Serves the entries in order; returns the servers left without an allocation, as they failed.
fn fill(
    problem: &Problem,
    orders: &[Vec<u32>],
    entries: &[Entry],
    stock: &mut Stock,
    grants: &mut [Option<Grant>],
) -> Vec<u32> {
    let mut waiting: BinaryHeap<Entry> = entries.iter().copied().collect();
    let mut unallocated = Vec::new();
    let mut turn = 0;
    while let Some(entry) = waiting.pop() {
        let order = &orders[entry.server as usize];
        let server = &problem.servers[entry.server as usize];
        let choice = order[entry.at as usize];
        let candidate = &server.candidates[choice as usize];
        if stock.take(candidate, candidate.replicas) {
            grants[entry.server as usize] = Some(server.grant(choice, candidate.replicas));
            continue;
        }
        turn -= 1;
        match Entry::new(problem, order, entry.server, entry.at + 1, turn) {
            Some(next) => waiting.push(next),
            None => unallocated.push(entry.server),
        }
    }
    unallocated
}
