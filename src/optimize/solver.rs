//! The allocation solver: which candidate every server gets, without limits or within an inventory.
//!
//! Input: a [`Problem`] already lowered to integers: servers with their candidates, accelerator types
//! with their cards. Output: a [`Solution`]. Knows nothing of names, queues, configuration or the past,
//! except through the value of a candidate ([`transition_value`]).
//!
//! # Unlimited
//!
//! Every server takes its candidate of least value.
//!
//! # Limited
//!
//! 1. A server's candidates are ordered by value. What it loses when the first is gone, the difference
//!    to the second, is its *delta*; with one candidate left it is infinite.
//! 2. Servers are served by priority, then largest delta, then largest value, then position.
//! 3. A server takes its candidate if its cards are there; otherwise it moves on to the next and waits
//!    its turn again, before those that compare equal. Without candidates it is *unallocated*.
//! 4. The [`SaturationPolicy`] hands what is left to the unallocated, after each priority or at the end
//!    (`delayed_best_effort`).
//! 5. [`Search::BestValue`] then improves on the greedy result; see `solver/improve.rs`.
//!
//! # Differences from the published controller
//!
//! - Equal entries are served by position instead of map order; give servers sorted by name.
//! - A server whose best candidate is "no replicas" gets that candidate, also under limits, where the
//!   published solver drops it without an allocation.
//! - A reduced grant states granted and wanted replicas; its cost is that of the granted ones and its
//!   value is computed from that cost. The caller re-evaluates latency and utilisation
//!   (`Allocation::with_replicas` of the queueing model) instead of keeping those of the full grant.
//! - Candidates are never changed.

mod best_effort;
mod greedy;
mod improve;
#[cfg(test)]
mod tests;

/// What is known of the present allocation of a server, for the transition penalty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Current {
    /// Accelerator in use; `None` when there is none.
    pub accelerator: Option<u32>,
    /// Replicas in use.
    pub replicas: u32,
    /// Their cost.
    pub cost: f64,
}

/// Share of both costs that a change of accelerator is charged.
pub const TRANSITION_PENALTY: f64 = 0.1;

/// Value of moving from the present allocation to `replicas` on `accelerator` at `cost`; less is better.
/// 0 for no change, the difference in cost on the same accelerator, and that plus a tenth of both costs
/// on another.
pub fn transition_value(from: &Current, accelerator: Option<u32>, replicas: u32, cost: f64) -> f64 {
    let moved = if from.accelerator == accelerator { 0.0 } else { TRANSITION_PENALTY * (from.cost + cost) };
    match from.accelerator == accelerator && from.replicas == replicas {
        true => 0.0,
        false => moved + cost - from.cost,
    }
}

/// One way to serve a server's load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Accelerator, as an index of the caller; `None` for no replicas at all.
    pub accelerator: Option<u32>,
    /// Accelerator type, an index into [`Problem::capacity`]; a type beyond it has no cards.
    pub kind: u32,
    /// Cards of that type that one replica takes; 0 counts as 1.
    pub cards_per_replica: u32,
    /// Replicas that the load needs.
    pub replicas: u32,
    /// Cost of all of them; finite.
    pub cost: f64,
    /// What is minimised, usually [`transition_value`]. A value that is not finite never wins.
    pub value: f64,
}

impl Candidate {
    /// Cards that `replicas` replicas take.
    fn cards(&self, replicas: u32) -> u64 {
        match self.accelerator {
            None => 0,
            Some(_) => u64::from(replicas) * u64::from(self.cards_per_replica.max(1)),
        }
    }

    /// Cost of `replicas` of the wanted replicas.
    fn cost_of(&self, replicas: u32) -> f64 {
        match replicas == self.replicas {
            true => self.cost,
            false => self.cost * f64::from(replicas) / f64::from(self.replicas.max(1)),
        }
    }
}

/// One server: a load that wants one of its candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Priority of its service class, 1 first; outside `1..=100` it counts as 100.
    pub priority: u32,
    /// Present allocation.
    pub current: Current,
    /// Ways to serve it, in any order; equal values are tried in this order.
    pub candidates: Vec<Candidate>,
}

/// Servers and inventory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    /// Servers; their order breaks ties, so sort them by name.
    pub servers: Vec<Server>,
    /// Cards per accelerator type.
    pub capacity: Vec<u64>,
}

/// What to do for servers that no candidate could be granted in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SaturationPolicy {
    /// Nothing.
    #[default]
    None,
    /// In the order they failed, each gets as many replicas as fit.
    PriorityExhaustive,
    /// Within each priority, one replica each in turn.
    PriorityRoundRobin,
    /// One replica each in turn, whatever the priority.
    RoundRobin,
}

impl SaturationPolicy {
    /// The policy of that name; unknown names mean [`SaturationPolicy::None`].
    pub fn from_name(name: &str) -> Self {
        match name {
            "PriorityExhaustive" => SaturationPolicy::PriorityExhaustive,
            "PriorityRoundRobin" => SaturationPolicy::PriorityRoundRobin,
            "RoundRobin" => SaturationPolicy::RoundRobin,
            _ => SaturationPolicy::None,
        }
    }
}

/// How full grants are found under limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Search {
    /// The published greedy order.
    #[default]
    Greedy,
    /// The greedy result, then improved within each priority without taking from a higher one: more
    /// servers allocated first, less total value second. Never worse than greedy in that order.
    BestValue,
}

/// Options of [`solve`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Ignore the inventory.
    pub unlimited: bool,
    /// Best effort once at the end instead of after each priority.
    pub delayed_best_effort: bool,
    /// Best effort for the unallocated.
    pub policy: SaturationPolicy,
    /// How full grants are found.
    pub search: Search,
}

/// What a server gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grant {
    /// Index into the server's candidates.
    pub candidate: u32,
    /// Replicas granted, at most those wanted.
    pub replicas: u32,
    /// Replicas that the candidate wants.
    pub wanted: u32,
    /// Cost of the granted replicas.
    pub cost: f64,
    /// Value of the granted replicas: the candidate's, or for a reduced grant the transition value at its
    /// cost.
    pub value: f64,
}

/// What every server gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// One entry per server, in their order; `None` without a candidate or without cards.
    pub grants: Vec<Option<Grant>>,
    /// Cards taken per accelerator type.
    pub used: Vec<u64>,
}

impl Solution {
    /// Sum of the costs of all grants.
    pub fn cost(&self) -> f64 {
        self.grants.iter().flatten().map(|grant| grant.cost).sum()
    }

    /// Sum of the values of all grants.
    pub fn value(&self) -> f64 {
        self.grants.iter().flatten().map(|grant| grant.value).sum()
    }
}

impl Server {
    /// Priority with the values outside the range lowered.
    fn rank(&self) -> u32 {
        if (1..=100).contains(&self.priority) { self.priority } else { 100 }
    }

    fn grant(&self, candidate: u32, replicas: u32) -> Grant {
        let chosen = &self.candidates[candidate as usize];
        let cost = chosen.cost_of(replicas);
        let value = match replicas == chosen.replicas {
            true => chosen.value,
            false => transition_value(&self.current, chosen.accelerator, replicas, cost),
        };
        Grant { candidate, replicas, wanted: chosen.replicas, cost, value }
    }
}

/// Cards left per accelerator type.
struct Stock {
    left: Vec<u64>,
}

impl Stock {
    fn left(&self, kind: u32) -> u64 {
        self.left.get(kind as usize).copied().unwrap_or(0)
    }

    /// Replicas of a candidate that fit, at most those it wants.
    fn fit(&self, candidate: &Candidate) -> u32 {
        match candidate.cards(1) {
            0 => candidate.replicas,
            cards => (self.left(candidate.kind) / cards).min(u64::from(candidate.replicas)) as u32,
        }
    }

    /// Takes the cards of `replicas` replicas if they are there.
    fn take(&mut self, candidate: &Candidate, replicas: u32) -> bool {
        let cards = candidate.cards(replicas);
        if cards == 0 {
            return true;
        }
        match self.left.get_mut(candidate.kind as usize) {
            Some(left) if *left >= cards => {
                *left -= cards;
                true
            }
            _ => false,
        }
    }

    fn give_back(&mut self, candidate: &Candidate, replicas: u32) {
        if let Some(left) = self.left.get_mut(candidate.kind as usize) {
            *left += candidate.cards(replicas);
        }
    }
}

/// Assigns a candidate to every server. The same problem always gives the same solution; the order of
/// candidates and servers matters only among equals.
pub fn solve(problem: &Problem, options: &Options) -> Solution {
    let grants = if options.unlimited { unlimited(problem) } else { greedy::solve(problem, options) };
    let mut used = vec![0_u64; problem.capacity.len()];
    for (server, grant) in problem.servers.iter().zip(&grants) {
        let Some(grant) = grant else { continue };
        let candidate = &server.candidates[grant.candidate as usize];
        if let Some(used) = used.get_mut(candidate.kind as usize) {
            *used += candidate.cards(grant.replicas);
        }
    }
    Solution { grants, used }
}

fn unlimited(problem: &Problem) -> Vec<Option<Grant>> {
    let best = |server: &Server| {
        let order = greedy::by_value(server);
        order.first().map(|&first| server.grant(first, server.candidates[first as usize].replicas))
    };
    problem.servers.iter().map(best).collect()
}
