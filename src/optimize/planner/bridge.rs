//! A fast variant bridges the time until slower replicas are there.
//!
//! The cheapest mix for the demand ahead may consist of replicas that take minutes to start. Where the demand of now
//! exceeds what will serve by the time that a faster variant could, that variant gets the replicas for the rest, as
//! far as the misses that they prevent cost more than they do. They stay until the others are ready, and then go by
//! the ordinary rule, since the mix never asked for them.
//!
//! Counted is what serves and what has been asked for long enough, never what was asked for a moment ago, so that
//! asking again changes nothing.

use super::{PlanVariant, Wish};
use crate::analyze::slo::{Demand, VariantMemory};
use crate::optimize::cause::Cause;
use crate::units::TimeMs;
use std::sync::Arc;

/// How many times as long the others must take to start.
const MUCH_LONGER: i64 = 2;
/// Time in which what waits is to be gone, s.
const DRAIN_S: f64 = 60.0;

/// What the bridge is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// The demand ahead.
    pub demand: &'a Demand,
    /// What is remembered of each variant.
    pub memories: &'a [VariantMemory],
    /// Time of the newest sample.
    pub at: TimeMs,
    /// Requests that wait, the scheduler's among them.
    pub waiting: f64,
    /// What a missed request costs, in costs of serving one.
    pub miss_cost: f64,
}

/// Replicas of a fast variant beyond the cheapest mix.
#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    /// Name of the variant.
    pub variant: Arc<str>,
    /// Its replicas beyond the mix.
    pub replicas: u32,
    /// Its start-up time, ms.
    pub startup_ms: i64,
    /// Requests per second that nobody else could carry by then.
    pub short_per_s: f64,
    /// Time until the slower replicas are expected, ms.
    pub until_ms: i64,
}

/// The replicas of the mix that do not serve yet.
struct Growth<'a> {
    wishes: &'a [Wish],
    variants: &'a [PlanVariant<'a>],
    outlook: &'a Outlook<'a>,
}

impl Growth<'_> {
    fn capacity(&self, index: usize) -> f64 {
        self.wishes[index].capacity_per_s.unwrap_or(0.0)
    }

    fn price(&self, index: usize) -> f64 {
        self.variants[index].state.cost / self.capacity(index)
    }

    /// Replicas that serve and may stay.
    fn ready(&self, index: usize) -> u32 {
        let state = &self.variants[index].state;
        state.current.saturating_sub(state.pending).min(self.wishes[index].replicas)
    }

    /// Replicas that the mix waits for.
    fn missing(&self, index: usize) -> u32 {
        self.wishes[index].replicas - self.ready(index)
    }

    fn until_ready_ms(&self, index: usize, nth: u32) -> i64 {
        self.outlook.memories[index].until_ready_ms(self.outlook.at, nth)
    }

    /// Longest start-up time of what the mix waits for; `None` when it waits for nothing.
    fn slowest_ms(&self) -> Option<i64> {
        let growing = (0..self.wishes.len()).filter(|index| self.capacity(*index) > 0.0);
        let growing = growing.filter(|index| self.missing(*index) > 0);
        growing.map(|index| self.outlook.memories[index].startup_ms()).max()
    }

    /// Time until the last one is there that a variant which starts in `fast_ms` could stand in for.
    fn until_ms(&self, fast_ms: i64) -> i64 {
        let slow = |index: &usize| self.outlook.memories[*index].startup_ms() >= MUCH_LONGER * fast_ms;
        let missing = (0..self.wishes.len()).filter(|index| self.missing(*index) > 0).filter(slow);
        missing.map(|index| self.until_ready_ms(index, self.missing(index))).max().unwrap_or(0)
    }

    /// The variant with the lowest price that starts much faster than what the mix waits for.
    fn fastest(&self) -> Option<usize> {
        let slowest_ms = self.slowest_ms()?;
        let startup_ms = |index: usize| self.outlook.memories[index].startup_ms();
        let is_fast = |index: &usize| startup_ms(*index).saturating_mul(MUCH_LONGER) <= slowest_ms;
        let fits = |index: &usize| self.capacity(*index) > 0.0 && !self.wishes[*index].is_missed;
        let has_room = |index: &usize| {
            let state = &self.variants[*index].state;
            state.max > self.wishes[*index].replicas
        };
        let open = (0..self.wishes.len()).filter(is_fast).filter(fits).filter(has_room);
        open.min_by(|a, b| self.price(*a).total_cmp(&self.price(*b)).then(a.cmp(b)))
    }

    /// What all but `fast` carry in `within_ms`, requests per s.
    fn carried_by_others(&self, fast: usize, within_ms: i64) -> f64 {
        let there = |index: usize| {
            let coming =
                (1..=self.missing(index)).filter(|nth| self.until_ready_ms(index, *nth) <= within_ms);
            self.ready(index) + coming.count() as u32
        };
        let others = (0..self.wishes.len()).filter(|index| *index != fast);
        others.map(|index| self.capacity(index) * f64::from(there(index))).sum()
    }

    /// Replicas of `fast` that carry `rate_per_s`, without a last one that prevents less than it costs. `use_ratio` is
    /// the share of the time that it is paid for in which it serves.
    fn replicas(&self, fast: usize, rate_per_s: f64, use_ratio: f64) -> u32 {
        let capacity = self.capacity(fast);
        let cheapest = (0..self.wishes.len()).filter(|index| self.capacity(*index) > 0.0);
        let cheapest = cheapest.map(|index| self.price(index)).fold(f64::INFINITY, f64::min);
        let is_worth = |carried: f64| {
            carried * self.outlook.miss_cost * use_ratio * cheapest > self.price(fast) * capacity
        };
        let whole = (rate_per_s / capacity).floor().max(0.0);
        if !is_worth(capacity) {
            return 0;
        }
        whole as u32 + u32::from(is_worth(rate_per_s - whole * capacity))
    }
}

/// Raises the wish for a fast variant where it is worth it.
pub(super) fn bridge(
    wishes: &mut [Wish],
    variants: &[PlanVariant<'_>],
    outlook: &Outlook<'_>,
) -> Option<Bridge> {
    let growth = Growth { wishes, variants, outlook };
    let fast = growth.fastest()?;
    let state = &variants[fast].state;
    let startup_ms = outlook.memories[fast].startup_ms();
    let until_ms = growth.until_ms(startup_ms);
    let demand = outlook.demand;
    let trend_per_s = demand.trend_per_s * startup_ms as f64 / demand.horizon_ms.max(startup_ms) as f64;
    let now_per_s = demand.arriving_per_s + trend_per_s + outlook.waiting / DRAIN_S;
    let short_per_s = now_per_s - growth.carried_by_others(fast, startup_ms);
    let use_ratio = (until_ms - startup_ms).max(0) as f64 / until_ms.max(1) as f64;
    let asked = growth.replicas(fast, short_per_s, use_ratio);
    // What runs already stays for all that is to be carried, and not only for what arrives now: else noise would
    // send replicas away that are asked for again.
    let uncovered_per_s = demand.ready_for_per_s() - growth.carried_by_others(fast, 0);
    let kept = growth.replicas(fast, uncovered_per_s, 1.0).min(state.current);
    let count = asked.max(kept).min(state.max);
    let wish = &mut wishes[fast];
    let replicas = count.checked_sub(wish.replicas).filter(|more| *more > 0)?;
    (wish.replicas, wish.analyzed, wish.cause) = (count, count, Cause::Bridge);
    let variant = variants[fast].config.key.name.clone();
    Some(Bridge { variant, replicas, startup_ms, short_per_s: short_per_s.max(0.0), until_ms })
}
