//! Cost-aware optimizer: where to add required capacity, or give up spare capacity, most cheaply.
//!
//! Input: a model's required or spare capacity and one [`Offer`] per variant. Output: one [`Plan`] per
//! offer. Capacity is in any unit (tokens for the token analyzer), as long as it is one. It must not
//! know how the capacity was found.

use std::cmp::Ordering;

use crate::analyze::rule::Rule;

/// What one variant has and can give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// Capacity of one replica. `None` when the analyzer has no entry for the variant; zero, negative
    /// and NaN when it has one but no figure. None of these is ever added to or taken from.
    pub capacity: Option<f64>,
    /// Cost of one replica; finite and >= 0. NaN ranks as the most expensive.
    pub cost: f64,
    /// Replicas that the scale target runs now: where the plan starts.
    pub current: u32,
    /// Fewest replicas wanted by configuration (guarded rule only).
    pub min: u32,
    /// Most replicas allowed by configuration, `u32::MAX` for no bound (guarded rule only).
    pub max: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Offer { capacity: None, cost: 0.0, current: 0, min: 0, max: u32::MAX }
    }
}

impl Offer {
    fn usable(&self) -> Option<f64> {
        self.capacity.filter(|&c| c > 0.0 && c.is_finite())
    }

    fn cost(&self) -> f64 {
        // Adding zero makes a negative zero equal to a positive one.
        self.cost + 0.0
    }

    /// Cost per capacity; infinite without capacity, so that such offers come last.
    fn cost_ratio(&self) -> f64 {
        self.usable().map_or(f64::INFINITY, |capacity| self.cost() / capacity)
    }
}

/// Why a variant's target is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Stays at `current`.
    NoChange,
    /// Takes a share of the required capacity.
    ScaleUp,
    /// Gives up a share of the spare capacity.
    ScaleDown,
}

/// Planned replicas of one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Replicas wanted.
    pub replicas: u32,
    /// Why.
    pub step: Step,
}

/// The optimizer; keeps its working memory from call to call.
#[derive(Clone, Debug, Default)]
pub struct CostAware {
    order: Vec<usize>,
}

impl CostAware {
    /// Plans one model into `out`, one entry per offer, and returns the required capacity that no
    /// variant could take (always 0 under [`Rule::Reference`] when some offer has a capacity).
    ///
    /// Targets start at `current`. With `required > 0` the offer of least cost per capacity gets as many
    /// replicas as cover it. Otherwise, with `spare > 0`, offers in descending order of cost lose as
    /// many replicas as the rest of the spare carries. Equal offers are taken in the order given. Unless
    /// both amounts are numbers (infinities are not), nothing is given up; without a number required,
    /// nothing is added.
    ///
    /// [`Rule::Guarded`] differs as follows:
    /// * at least one replica of the model remains, on the cheapest variant that has any (the reference
    ///   protects the cheapest variant even if it has none, and then removes every running replica);
    /// * `min` and `max` are respected, and what one variant cannot take goes to the next;
    /// * the last, partly used replica is bought where covering the rest costs least, so a plan never
    ///   costs more than the reference's.
    pub fn solve_into(
        &mut self,
        out: &mut Vec<Plan>,
        rule: Rule,
        required: f64,
        spare: f64,
        offers: &[Offer],
    ) -> f64 {
        out.clear();
        out.extend(offers.iter().map(|o| Plan { replicas: o.current, step: Step::NoChange }));
        let mut unmet = 0.0;
        if required > 0.0 && required.is_finite() {
            self.sort(offers, |a, b| a.cost_ratio().total_cmp(&b.cost_ratio()));
            unmet = match rule {
                Rule::Reference => self.add_to_first(out, required, offers),
                Rule::Guarded => self.add_cheapest(out, required, offers),
            };
        } else if required <= 0.0 && spare > 0.0 && spare.is_finite() {
            self.sort(offers, |a, b| b.cost().total_cmp(&a.cost()));
            self.remove(out, rule, spare, offers);
        }
        for (plan, offer) in out.iter_mut().zip(offers) {
            plan.step = match plan.replicas.cmp(&offer.current) {
                Ordering::Less => Step::ScaleDown,
                Ordering::Equal => Step::NoChange,
                Ordering::Greater => Step::ScaleUp,
            };
        }
        unmet
    }

    /// Indices of usable offers in the given order; the index breaks ties.
    fn sort(&mut self, offers: &[Offer], by: impl Fn(&Offer, &Offer) -> Ordering) {
        self.order.clear();
        self.order.extend((0..offers.len()).filter(|&i| offers[i].usable().is_some()));
        self.order.sort_unstable_by(|&a, &b| by(&offers[a], &offers[b]).then(a.cmp(&b)));
    }

    fn add_to_first(&self, out: &mut [Plan], required: f64, offers: &[Offer]) -> f64 {
        let Some((i, capacity)) = self.order.first().and_then(|&i| Some((i, offers[i].usable()?))) else {
            return required;
        };
        out[i].replicas = out[i].replicas.saturating_add(replicas(required, capacity, f64::ceil));
        0.0
    }

    /// Whole replicas in order of cost per capacity, then the rest where it costs least.
    fn add_cheapest(&self, out: &mut [Plan], required: f64, offers: &[Offer]) -> f64 {
        let mut rest = required;
        for &i in &self.order {
            let room = room(out, offers, i);
            let Some(capacity) = offers[i].usable() else { continue };
            let whole = replicas(rest, capacity, f64::floor).min(room);
            out[i].replicas += whole;
            rest -= f64::from(whole) * capacity;
            if whole < room {
                break;
            }
        }
        // What rounding leaves of an exact fit is not worth a replica.
        while rest > required * 1e-12 {
            let covering = self.order.iter().filter_map(|&i| {
                let needed = replicas(rest, offers[i].usable()?, f64::ceil);
                (needed <= room(out, offers, i)).then_some((i, needed))
            });
            let cost = |&(i, needed): &(usize, u32)| f64::from(needed) * offers[i].cost();
            if let Some((i, needed)) = covering.min_by(|a, b| cost(a).total_cmp(&cost(b))) {
                out[i].replicas += needed;
                return 0.0;
            }
            // Nothing covers the rest alone: fill up the best of what is open and look again.
            let Some(&i) = self.order.iter().find(|&&i| room(out, offers, i) > 0) else {
                return rest;
            };
            let added = room(out, offers, i);
            out[i].replicas += added;
            rest -= f64::from(added) * offers[i].usable().unwrap_or(0.0);
        }
        0.0
    }

    fn remove(&self, out: &mut [Plan], rule: Rule, spare: f64, offers: &[Offer]) {
        let with_entry = (0..offers.len()).filter(|&i| offers[i].capacity.is_some());
        let cheapest = with_entry.min_by(|&a, &b| offers[a].cost().total_cmp(&offers[b].cost()));
        let mut running: u64 = out.iter().map(|p| u64::from(p.replicas)).sum();
        let mut rest = spare;
        for &i in &self.order {
            let Some(capacity) = offers[i].usable() else { continue };
            let has = out[i].replicas;
            let is_last = running == u64::from(has);
            let floor = match rule {
                Rule::Reference => u32::from(is_last && cheapest == Some(i)),
                Rule::Guarded => offers[i].min.max(u32::from(is_last)),
            };
            let removed = replicas(rest, capacity, f64::floor).min(has.saturating_sub(floor));
            out[i].replicas -= removed;
            running -= u64::from(removed);
            rest -= f64::from(removed) * capacity;
            if rest <= 0.0 {
                break;
            }
        }
    }
}

/// Replicas that the offer's maximum still allows.
fn room(out: &[Plan], offers: &[Offer], i: usize) -> u32 {
    offers[i].max.saturating_sub(out[i].replicas)
}

/// Replicas in `amount`; the conversion saturates, and a negative amount is none.
fn replicas(amount: f64, capacity: f64, round: fn(f64) -> f64) -> u32 {
    round(amount / capacity) as u32
}

#[cfg(test)]
mod tests;
