//! Improvement of the full grants of one priority. Input: the greedy grants and the cards left. Output:
//! grants that leave fewer servers without one, or as few at less total value.
//!
//! 1. Local search: move one server to another candidate, or to none, and give the freed cards to the
//!    servers that gain most. Kept when the whole is better; repeated until nothing helps.
//! 2. Small groups are then searched exhaustively, by branch and bound from that result.
//!
//! Both are deterministic and bounded, and never end worse than they began. Servers of other priorities
//! are not touched.

use super::{Grant, Problem, Stock};

/// Groups up to this size are searched exhaustively.
const EXACT_SERVERS: usize = 12;
/// Bound on the nodes of the exhaustive search.
const EXACT_NODES: u32 = 200_000;
/// Bound on the offers examined by the local search; keeps 1,000 servers on 5 types within milliseconds.
const OFFERS: u64 = 2_000_000;
/// Values closer than this share are equal.
const SAME: f64 = 1e-12;

/// How good a state of a group is: less is better, unallocated servers first.
#[derive(Clone, Copy)]
struct Score {
    unallocated: usize,
    value: f64,
}

impl Score {
    fn better_than(self, other: Score) -> bool {
        let margin = SAME * (1.0 + other.value.abs());
        self.unallocated < other.unallocated
            || (self.unallocated == other.unallocated && self.value < other.value - margin)
    }
}

/// The servers of one priority, their present choices and the cards left.
struct Group<'a> {
    problem: &'a Problem,
    orders: &'a [Vec<u32>],
    servers: &'a [u32],
    choices: Vec<Option<u32>>,
    stock: &'a mut Stock,
    /// By accelerator type: servers (as positions in the group) and their candidates on it.
    offers: Vec<Vec<(u32, u32)>>,
    score: Score,
    /// Offers that may still be examined.
    budget: u64,
}

/// Improves the grants of `servers`, which have one priority.
pub(super) fn improve(
    problem: &Problem,
    orders: &[Vec<u32>],
    servers: &[u32],
    stock: &mut Stock,
    grants: &mut [Option<Grant>],
) {
    let mut group = Group::new(problem, orders, servers, stock, grants);
    group.local_search();
    if servers.len() <= EXACT_SERVERS {
        group.exact();
    }
    for (&at, choice) in servers.iter().zip(&group.choices) {
        let server = &problem.servers[at as usize];
        grants[at as usize] =
            choice.map(|choice| server.grant(choice, server.candidates[choice as usize].replicas));
    }
}

impl<'a> Group<'a> {
    fn new(
        problem: &'a Problem,
        orders: &'a [Vec<u32>],
        servers: &'a [u32],
        stock: &'a mut Stock,
        grants: &[Option<Grant>],
    ) -> Self {
        let choices: Vec<_> =
            servers.iter().map(|&at| grants[at as usize].map(|grant| grant.candidate)).collect();
        let mut offers = vec![Vec::new(); problem.capacity.len()];
        for (position, &at) in servers.iter().enumerate() {
            for &choice in &orders[at as usize] {
                let candidate = &problem.servers[at as usize].candidates[choice as usize];
                if let Some(offers) = offers.get_mut(candidate.kind as usize) {
                    offers.push((position as u32, choice));
                }
            }
        }
        let score = Score { unallocated: 0, value: 0.0 };
        let mut group = Group { problem, orders, servers, choices, stock, offers, score, budget: OFFERS };
        group.score = group.total();
        group
    }

    fn candidate(&self, position: usize, choice: u32) -> &'a super::Candidate {
        &self.problem.servers[self.servers[position] as usize].candidates[choice as usize]
    }

    fn total(&self) -> Score {
        let mut score = Score { unallocated: 0, value: 0.0 };
        for (position, choice) in self.choices.iter().enumerate() {
            match choice {
                Some(choice) => score.value += self.candidate(position, *choice).value,
                None => score.unallocated += 1,
            }
        }
        score
    }

    /// Changes a server's choice if the cards are there.
    fn change(&mut self, position: usize, to: Option<u32>) -> bool {
        let from = self.choices[position];
        if let Some(from) = from.map(|choice| self.candidate(position, choice)) {
            self.stock.give_back(from, from.replicas);
        }
        let fits = to
            .map(|choice| self.candidate(position, choice))
            .is_none_or(|to| self.stock.take(to, to.replicas));
        if fits {
            self.choices[position] = to;
        } else if let Some(from) = from.map(|choice| self.candidate(position, choice)) {
            // The cards were just given back.
            self.stock.take(from, from.replicas);
        }
        fits
    }

    fn local_search(&mut self) {
        let mut undo = Vec::new();
        loop {
            let mut improved = false;
            for position in 0..self.servers.len() {
                let order = &self.orders[self.servers[position] as usize];
                let alternatives = order.iter().map(|&choice| Some(choice)).chain([None]);
                for to in alternatives {
                    if self.budget == 0 {
                        return;
                    }
                    improved |= self.try_move(position, to, &mut undo);
                }
            }
            if !improved {
                return;
            }
        }
    }

    /// Moves one server, lets the others have what it freed, and keeps the result if it is better.
    fn try_move(&mut self, position: usize, to: Option<u32>, undo: &mut Vec<(usize, Option<u32>)>) -> bool {
        let from = self.choices[position];
        if from == to || !self.change(position, to) {
            return false;
        }
        undo.clear();
        undo.push((position, from));
        if let Some(freed) = from.map(|choice| self.candidate(position, choice).kind) {
            self.refill(freed, position, undo);
        }
        let score = self.total_after(undo);
        if score.better_than(self.score) {
            self.score = score;
            return true;
        }
        // Backwards, so that every step finds the cards it had.
        for &(position, choice) in undo.iter().rev() {
            if let Some(now) = self.choices[position].map(|choice| self.candidate(position, choice)) {
                self.stock.give_back(now, now.replicas);
            }
            if let Some(before) = choice.map(|choice| self.candidate(position, choice)) {
                self.stock.take(before, before.replicas);
            }
            self.choices[position] = choice;
        }
        false
    }

    /// The score after the changes in `undo`, from the score before them.
    fn total_after(&self, undo: &[(usize, Option<u32>)]) -> Score {
        let mut score = self.score;
        for &(position, before) in undo {
            let value = |choice: Option<u32>| choice.map(|choice| self.candidate(position, choice).value);
            score.value += value(self.choices[position]).unwrap_or(0.0) - value(before).unwrap_or(0.0);
            score.unallocated += usize::from(self.choices[position].is_none());
            score.unallocated -= usize::from(before.is_none()).min(score.unallocated);
        }
        score
    }

    /// Gives the cards of one type to those that gain most: the unallocated first, then by gain in value.
    /// The server at `except` has just moved away and stays.
    fn refill(&mut self, kind: u32, except: usize, undo: &mut Vec<(usize, Option<u32>)>) {
        let Some(offers) = self.offers.get(kind as usize) else { return };
        self.budget = self.budget.saturating_sub(offers.len() as u64);
        let mut wishes: Vec<(bool, f64, usize, u32)> = Vec::new();
        for &(position, choice) in offers {
            let position = position as usize;
            let offered = self.candidate(position, choice);
            if position == except || self.stock.fit(offered) < offered.replicas {
                continue;
            }
            let present = self.choices[position].map(|choice| self.candidate(position, choice).value);
            let gain = present.map_or(-offered.value, |present| present - offered.value);
            if present.is_none() || gain > 0.0 {
                wishes.push((present.is_none(), gain, position, choice));
            }
        }
        wishes.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        for (_, _, position, choice) in wishes {
            let before = self.choices[position];
            if undo.iter().any(|&(moved, _)| moved == position) || !self.change(position, Some(choice)) {
                continue;
            }
            undo.push((position, before));
        }
    }

    /// Searches all combinations, best values first, and keeps the best.
    fn exact(&mut self) {
        let start = self.choices.clone();
        for position in 0..start.len() {
            self.change(position, None);
        }
        // Least value that the servers from each position on can add.
        let mut least = vec![0.0; start.len() + 1];
        for position in (0..start.len()).rev() {
            let order = &self.orders[self.servers[position] as usize];
            let best = order.first().map_or(0.0, |&choice| self.candidate(position, choice).value);
            least[position] = least[position + 1] + best;
        }
        let mut best = Best { choices: start, score: self.score, nodes: EXACT_NODES, least };
        self.branch(0, Score { unallocated: 0, value: 0.0 }, &mut best);
        for (position, &choice) in best.choices.iter().enumerate() {
            // The choices fit together, so each fits.
            self.change(position, choice);
        }
        self.score = best.score;
    }

    fn branch(&mut self, position: usize, so_far: Score, best: &mut Best) {
        let bound = Score { value: so_far.value + best.least[position], ..so_far };
        if best.nodes == 0 || !bound.better_than(best.score) {
            return;
        }
        best.nodes -= 1;
        if position == self.servers.len() {
            best.choices.clone_from(&self.choices);
            best.score = so_far;
            return;
        }
        let orders = self.orders;
        for &choice in &orders[self.servers[position] as usize] {
            if self.change(position, Some(choice)) {
                let value = so_far.value + self.candidate(position, choice).value;
                self.branch(position + 1, Score { value, ..so_far }, best);
                self.change(position, None);
            }
        }
        let without = Score { unallocated: so_far.unallocated + 1, ..so_far };
        self.branch(position + 1, without, best);
    }
}

/// The best combination found so far, and what bounds the search.
struct Best {
    choices: Vec<Option<u32>>,
    score: Score,
    nodes: u32,
    least: Vec<f64>,
}
