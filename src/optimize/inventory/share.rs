//! The policies: claims in their order take from what is free. Knows nothing of how claims were found or
//! that they change.

use super::SaturationPolicy;

/// Most bounds of one claim: its pool, and a quota of each scope.
pub(super) const BOUNDS_MAX: usize = 5;

/// Numbers of the bounds of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    numbers: [u32; BOUNDS_MAX],
    count: u8,
}

impl Bounds {
    pub(super) fn push(&mut self, number: u32) {
        self.numbers[usize::from(self.count)] = number;
        self.count += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.numbers.iter().take(usize::from(self.count)).map(|number| *number as usize)
    }
}

/// A claim being served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Cards per replica.
    pub(super) cards: u64,
    /// Replicas so far.
    pub(super) granted: u32,
    pub(super) wanted: u32,
    /// Replicas that come before the growth of others.
    pub(super) min: u32,
    pub(super) priority: u32,
    /// Scarce bounds only.
    pub(super) bounds: Bounds,
}

impl Work {
    /// Replicas that fit, at most `most`.
    fn fit(&self, free: &[u64], most: u32) -> u32 {
        let fit = self.bounds.iter().map(|at| free[at] / self.cards).min();
        // At most `most`, so it fits the replicas' type.
        fit.map_or(most, |fit| fit.min(u64::from(most)) as u32)
    }

    fn take(&mut self, free: &mut [u64], replicas: u32) {
        for at in self.bounds.iter() {
            free[at] -= u64::from(replicas) * self.cards;
        }
        self.granted += replicas;
    }

    fn missing(&self) -> u32 {
        self.wanted - self.granted
    }
}

/// Working memory of the policies.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharing {
    /// Claims that did not fit whole.
    refused: Vec<u32>,
    /// Cards that one round of all takes, per bound.
    round: Vec<u64>,
}

impl Sharing {
    /// Serves `work`, which is in order, from `free` cards per bound.
    pub(super) fn share(&mut self, policy: SaturationPolicy, work: &mut [Work], free: &mut [u64]) {
        if policy != SaturationPolicy::None {
            for claim in work.iter_mut() {
                let replicas = claim.fit(free, claim.min.saturating_sub(claim.granted));
                claim.take(free, replicas);
            }
        }
        if policy == SaturationPolicy::RoundRobin {
            self.whole(work, free);
            self.in_turn(work, free);
            return;
        }
        for equals in work.chunk_by_mut(|a, b| a.priority == b.priority) {
            self.whole(equals, free);
            match policy {
                SaturationPolicy::None => {}
                SaturationPolicy::PriorityExhaustive => {
                    for &at in &self.refused {
                        let claim = &mut equals[at as usize];
                        let replicas = claim.fit(free, claim.missing());
                        claim.take(free, replicas);
                    }
                }
                SaturationPolicy::PriorityRoundRobin | SaturationPolicy::RoundRobin => {
                    self.in_turn(equals, free);
                }
            }
        }
    }

    /// Grants what fits whole; notes the others.
    fn whole(&mut self, work: &mut [Work], free: &mut [u64]) {
        self.refused.clear();
        for (at, claim) in work.iter_mut().enumerate() {
            let missing = claim.missing();
            if missing == 0 {
                continue;
            }
            match claim.fit(free, missing) == missing {
                true => claim.take(free, missing),
                false => self.refused.push(at as u32),
            }
        }
    }

    /// Gives the refused one replica each in turn, until nothing fits. As many rounds as all can take part
    /// in are done at once: each such step ends with a claim that is satisfied or a bound that is too
    /// short for a round, so there are at most twice as many steps as claims.
    fn in_turn(&mut self, work: &mut [Work], free: &mut [u64]) {
        self.round.resize(free.len(), 0);
        while !self.refused.is_empty() {
            let rounds = self.common_rounds(work, free);
            if rounds > 0 {
                self.refused.iter().for_each(|&at| work[at as usize].take(free, rounds));
            }
            self.refused.retain(|&at| {
                let claim = &mut work[at as usize];
                let fits = claim.missing() > 0 && claim.fit(free, 1) == 1;
                if fits {
                    claim.take(free, 1);
                }
                fits
            });
        }
    }

    /// Rounds in which all of the refused can take part.
    fn common_rounds(&mut self, work: &[Work], free: &[u64]) -> u32 {
        let claims = || self.refused.iter().map(|&at| &work[at as usize]);
        let mut rounds = claims().map(Work::missing).min().unwrap_or(0);
        for claim in claims() {
            claim.bounds.iter().for_each(|at| self.round[at] = 0);
        }
        for &at in &self.refused {
            let claim = &work[at as usize];
            claim.bounds.iter().for_each(|at| self.round[at] += claim.cards);
        }
        for &at in &self.refused {
            for at in work[at as usize].bounds.iter() {
                rounds = u64::from(rounds).min(free[at] / self.round[at]) as u32;
            }
        }
        rounds
    }
}
