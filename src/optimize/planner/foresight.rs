//! Wishes of the `slo` analyzer: the cheapest mix of variants whose learned capacities cover the rate to be
//! ready for.

use super::{PlanInput, Planner, Unknown, Wish};
use crate::analyze::slo::capacity::Binding;
use crate::analyze::slo::{Demand, Sized};
use crate::optimize::cause::Cause;
use crate::optimize::mix;

impl Planner {
    /// Wishes by learned capacity, one per variant, into `out`.
    ///
    /// # Errors
    /// When no variant's capacity is known yet.
    pub fn by_foresight(
        &mut self,
        out: &mut Vec<Wish>,
        input: &PlanInput<'_>,
        sized: &[Sized],
        demand: &Demand,
    ) -> Result<(), Unknown> {
        out.clear();
        self.offers.clear();
        for (variant, sized) in input.variants.iter().zip(sized) {
            let (cause, capacity) = match sized {
                Sized::Known(found) => (cause_of(found.binding), Some(found.rate_per_s)),
                Sized::Unreachable(found) => (Cause::Unreachable, Some(found.rate_per_s)),
                Sized::Unknown => (Cause::Steady, None),
            };
            let asked = variant.asked();
            out.push(Wish { replicas: asked, analyzed: asked, cause, capacity_per_s: capacity, sizing: None });
            // A variant of unknown capacity keeps what it has; nobody knows what it carries.
            let (min, max) = match capacity {
                Some(_) => (variant.state.min, variant.state.max),
                None => (asked, asked),
            };
            let capacity = capacity.unwrap_or(0.0);
            self.offers.push(mix::Offer { capacity, cost: variant.state.cost, base: variant.state.current, min, max });
        }
        if out.iter().all(|wish| wish.capacity_per_s.is_none()) {
            return Err(Unknown::Learning);
        }
        let unmet = self.mixer.solve_into(&mut self.counts, demand.ready_for_per_s, &self.offers);
        for ((wish, variant), count) in out.iter_mut().zip(input.variants).zip(&self.counts) {
            wish.analyzed = *count;
            let holds = input.is_partial || wish.cause == Cause::Unreachable;
            wish.replicas = if holds { (*count).max(variant.asked()) } else { *count };
            if unmet > 0.0 && *count == variant.state.max {
                wish.cause = Cause::AtMaximum;
            }
        }
        Ok(())
    }
}

fn cause_of(binding: Binding) -> Cause {
    match binding {
        Binding::Ttft => Cause::TtftTarget,
        Binding::Itl => Cause::ItlTarget,
        Binding::Kv => Cause::TokenCapacity,
        Binding::Sequences | Binding::Work => Cause::ServiceLimit,
    }
}
