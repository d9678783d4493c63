//! The cheapest mix of variants that covers a demand: exact, by branch and bound.
//!
//! Minimise `sum cost_v n_v + 0.1 sum cost_v |n_v - base_v|` subject to `sum capacity_v n_v >= demand` and
//! `min_v <= n_v <= max_v`, in whole replicas. The second term is the transition penalty: a replica
//! started or stopped costs a tenth of its price once. It is what the reference charges for moving a model
//! to another accelerator, `0.1 (cost(a) + cost(b))`, for every change; it keeps a plan from swapping
//! variants for a saving that a noisy demand would soon undo, and it makes a plan a fixed point: solving
//! again from the plan changes nothing (triangle inequality of the second term).
//!
//! Since the penalty is convex, each variant is two *bins* of replicas: those up to `base` at 0.9 of the
//! cost, those above at 1.1. A relaxation that fills bins by price per capacity bounds the search.

/// Share of a replica's cost that starting or stopping it costs once.
pub const TRANSITION_PENALTY: f64 = 0.1;
/// Nodes after which the search settles for the best plan found so far. Real models have a handful of
/// variants and end within tens.
const NODES_MAX: u32 = 20_000;

/// What one variant offers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// Capacity of one replica in the demand's unit. Zero, negative and NaN: it cannot serve the demand.
    pub capacity: f64,
    /// Cost of one replica, >= 0.
    pub cost: f64,
    /// Replicas that run, from which a change is counted.
    pub base: u32,
    /// Fewest replicas.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
}

/// One of the two price ranges of an offer.
#[derive(Clone, Copy, Debug)]
struct Bin {
    /// Its replicas run already.
    kept: bool,
    offer: usize,
    price: f64,
    capacity: f64,
    room: u32,
}

/// The solver; keeps its working memory from call to call.
#[derive(Clone, Debug, Default)]
pub struct Mixer {
    bins: Vec<Bin>,
    taken: Vec<u32>,
    best: Vec<u32>,
    best_cost: f64,
    nodes: u32,
}

impl Mixer {
    /// Writes the replicas of each offer into `out` and returns the demand that stays uncovered because
    /// every offer is at its maximum (0 when covered).
    ///
    /// A demand that is not a positive number asks for the minimum of each offer. Ties go to the offer
    /// given first. `min > max` counts as `max`.
    pub fn solve_into(&mut self, out: &mut Vec<u32>, demand: f64, offers: &[Offer]) -> f64 {
        out.clear();
        out.extend(offers.iter().map(|offer| offer.min.min(offer.max)));
        let usable = |offer: &Offer| offer.capacity > 0.0 && offer.capacity.is_finite();
        let served: f64 = offers
            .iter()
            .zip(out.iter())
            .filter(|(offer, _)| usable(offer))
            .map(|(offer, count)| offer.capacity * f64::from(*count))
            .sum();
        let rest = demand - served;
        if rest.is_nan() || rest <= 0.0 {
            return 0.0;
        }
        self.fill_bins(offers, out, usable);
        let room: f64 = self.bins.iter().map(|bin| bin.capacity * f64::from(bin.room)).sum();
        if room <= rest {
            for bin in &self.bins {
                out[bin.offer] += bin.room;
            }
            return (rest - room).max(0.0);
        }
        self.taken.clear();
        self.taken.resize(self.bins.len(), 0);
        self.nodes = 0;
        self.begin_with_what_runs(rest);
        self.search(0, rest, 0.0);
        for (bin, count) in self.bins.iter().zip(&self.best) {
            out[bin.offer] += count;
        }
        0.0
    }

    fn fill_bins(&mut self, offers: &[Offer], minimum: &[u32], usable: impl Fn(&Offer) -> bool) {
        self.bins.clear();
        for (index, (offer, least)) in offers.iter().zip(minimum).enumerate().filter(|(_, (o, _))| usable(o))
        {
            let kept = offer.base.min(offer.max).saturating_sub(*least);
            let (cost, capacity) = (offer.cost.max(0.0), offer.capacity);
            let bin = |kept, price, room| Bin { kept, offer: index, price, capacity, room };
            self.bins.push(bin(true, cost * (1.0 - TRANSITION_PENALTY), kept));
            self.bins.push(bin(false, cost * (1.0 + TRANSITION_PENALTY), offer.max - least - kept));
        }
        self.bins.retain(|bin| bin.room > 0);
        let ratio = |bin: &Bin| bin.price / bin.capacity;
        self.bins.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)).then(a.offer.cmp(&b.offer)));
    }

    /// What runs is the plan to beat, if it covers the demand: an equally cheap one is no reason to change.
    fn begin_with_what_runs(&mut self, rest: f64) {
        let kept = || self.bins.iter().filter(|bin| bin.kept);
        let covered: f64 = kept().map(|bin| bin.capacity * f64::from(bin.room)).sum();
        let cost: f64 = kept().map(|bin| bin.price * f64::from(bin.room)).sum();
        self.best_cost = if covered >= rest { cost } else { f64::INFINITY };
        self.best.clear();
        self.best.extend(self.bins.iter().map(|bin| if bin.kept { bin.room } else { 0 }));
    }

    /// Least cost of covering `rest` with fractions of replicas from bin `from` on.
    fn bound(&self, from: usize, mut rest: f64) -> f64 {
        let mut cost = 0.0;
        for bin in &self.bins[from..] {
            let (needed, room) = (rest / bin.capacity, f64::from(bin.room));
            // Not by what is left of `rest`: rounding may leave a trace that no bin covers.
            if needed <= room {
                return cost + needed * bin.price;
            }
            cost += room * bin.price;
            rest -= room * bin.capacity;
        }
        f64::INFINITY
    }

    fn search(&mut self, at: usize, rest: f64, cost: f64) {
        if rest <= 0.0 {
            if self.best_cost.is_infinite() || cost < self.best_cost * (1.0 - 1e-9) {
                self.best_cost = cost;
                self.best.clone_from(&self.taken);
            }
            return;
        }
        self.nodes += 1;
        let settled = self.nodes > NODES_MAX && self.best_cost.is_finite();
        // Rounding must not make an equal plan look better than the one found first.
        let slack = 1e-9 * self.best_cost.abs();
        if settled || at == self.bins.len() || cost + self.bound(at, rest) >= self.best_cost - slack {
            return;
        }
        let bin = self.bins[at];
        let most = crate::analyze::queueing::replicas_for(rest, bin.capacity).min(bin.room);
        for count in (0..=most).rev() {
            self.taken[at] = count;
            self.search(at + 1, rest - bin.capacity * f64::from(count), cost + bin.price * f64::from(count));
        }
        self.taken[at] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(capacity: f64, cost: f64, base: u32) -> Offer {
        Offer { capacity, cost, base, min: 0, max: 20 }
    }

    fn solve(demand: f64, offers: &[Offer]) -> (Vec<u32>, f64) {
        let mut out = Vec::new();
        let unmet = Mixer::default().solve_into(&mut out, demand, offers);
        (out, unmet)
    }

    #[test]
    fn the_rest_goes_where_it_is_cheapest() {
        // 2.2 needs: three small ones (3.0) or one big and one small (4.0 + 1.0).
        assert_eq!(solve(2.2, &[offer(1.0, 1.0, 0), offer(5.0, 4.0, 0)]).0, [3, 0]);
        // 11: two big and one small beat three big and eleven small.
        assert_eq!(solve(11.0, &[offer(1.0, 1.0, 0), offer(5.0, 4.0, 0)]).0, [1, 2]);
    }

    #[test]
    fn a_small_saving_does_not_swap_running_replicas() {
        let running = [offer(1.0, 1.0, 4), offer(1.0, 0.95, 0)];
        assert_eq!(solve(4.0, &running).0, [4, 0]);
        assert_eq!(solve(4.0, &[offer(1.0, 1.0, 4), offer(1.0, 0.5, 0)]).0, [0, 4]);
    }

    #[test]
    fn bounds_hold_and_what_does_not_fit_is_told() {
        let bounded = Offer { min: 1, max: 3, ..offer(2.0, 1.0, 0) };
        assert_eq!(solve(0.0, &[bounded]), (vec![1], 0.0));
        assert_eq!(solve(f64::NAN, &[bounded]), (vec![1], 0.0));
        assert_eq!(solve(10.0, &[bounded]), (vec![3], 4.0));
        assert_eq!(solve(10.0, &[Offer { capacity: f64::NAN, ..bounded }]), (vec![1], 10.0));
    }

    #[test]
    fn the_bound_does_not_hide_a_cheaper_plan() {
        let offer = |capacity, cost, min, max| Offer { capacity, cost, base: 0, min, max };
        let offers = [offer(2.75, 15.0, 1, 2), offer(1.5, 1.0, 0, 4), offer(2.625, 1.0, 0, 2)];
        assert_eq!(solve(14.375, &offers).0, [2, 3, 2]);
    }

    fn cost_of(counts: &[u32], offers: &[Offer]) -> f64 {
        let of = |(count, offer): (&u32, &Offer)| {
            offer.cost * (f64::from(*count) + TRANSITION_PENALTY * f64::from(count.abs_diff(offer.base)))
        };
        counts.iter().zip(offers).map(of).sum()
    }

    fn covered(counts: &[u32], offers: &[Offer]) -> f64 {
        counts.iter().zip(offers).map(|(count, offer)| f64::from(*count) * offer.capacity).sum()
    }

    fn offers() -> impl Strategy<Value = Vec<Offer>> {
        let one =
            (1u32..40, 1u32..40, 0u32..5, 0u32..2, 2u32..6).prop_map(|(capacity, cost, base, min, max)| {
                Offer { capacity: f64::from(capacity) / 8.0, cost: f64::from(cost), base, min, max }
            });
        prop::collection::vec(one, 1..4)
    }

    proptest! {
        /// As cheap as the best of all plans, covers the demand or is at every maximum, and is a fixed
        /// point.
        #[test]
        fn exact_feasible_and_idempotent(offers in offers(), demand in 0u32..120) {
            let demand = f64::from(demand) / 8.0;
            let (plan, unmet) = solve(demand, &offers);
            prop_assert!(covered(&plan, &offers) + unmet >= demand);
            let mut best = f64::INFINITY;
            let mut counts: Vec<u32> = offers.iter().map(|offer| offer.min).collect();
            loop {
                if covered(&counts, &offers) >= demand {
                    best = best.min(cost_of(&counts, &offers));
                }
                let Some(at) = (0..counts.len()).find(|at| counts[*at] < offers[*at].max) else { break };
                for (count, offer) in counts.iter_mut().zip(&offers).take(at) {
                    *count = offer.min;
                }
                counts[at] += 1;
            }
            if unmet == 0.0 {
                prop_assert!(cost_of(&plan, &offers) <= best * (1.0 + 1e-9));
            } else {
                prop_assert!(best.is_infinite());
            }
            let again: Vec<Offer> =
                offers.iter().zip(&plan).map(|(offer, count)| Offer { base: *count, ..*offer }).collect();
            prop_assert_eq!(solve(demand, &again).0, plan);
        }

        /// More demand never costs less.
        #[test]
        fn monotone_in_demand(offers in offers(), demand in 0u32..100, more in 0u32..20) {
            let cost = |demand: u32| cost_of(&solve(f64::from(demand) / 8.0, &offers).0, &offers);
            prop_assert!(cost(demand + more) >= cost(demand) * (1.0 - 1e-9));
        }
    }
}
