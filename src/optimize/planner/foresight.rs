//! Wishes of the `slo` analyzer: the cheapest mix of variants whose learned capacities cover the rate to be
//! ready for.

use super::bridge::{Bridge, Outlook, bridge};
use super::{PlanInput, Planner, Unknown, Wish};
use crate::analyze::slo::Sized;
use crate::analyze::slo::capacity::Binding;
use crate::optimize::cause::Cause;

impl Planner {
    /// Wishes by learned capacity, one per variant, into `out`; also the bridge among them, if there is one.
    ///
    /// # Errors
    /// When no variant's capacity is known yet.
    pub fn by_foresight(
        &mut self,
        out: &mut Vec<Wish>,
        input: &PlanInput<'_>,
        sized: &[Sized],
        outlook: &Outlook<'_>,
    ) -> Result<Option<Bridge>, Unknown> {
        out.clear();
        out.extend(
            input.variants.iter().zip(sized).map(|(variant, sized)| wish(variant.state.current, sized)),
        );
        if out.iter().all(|wish| wish.capacity_per_s.is_none()) {
            return Err(Unknown::Learning);
        }
        self.cover(out, input.variants, outlook.demand.ready_for_per_s());
        if !outlook.demand.may_shrink {
            for (wish, variant) in out.iter_mut().zip(input.variants) {
                wish.replicas = wish.replicas.max(variant.state.current);
            }
        }
        Ok(bridge(out, input.variants, outlook))
    }
}

fn wish(current: u32, sized: &Sized) -> Wish {
    let nothing = Wish::keeping(current);
    match sized {
        Sized::Known(found) => {
            Wish { cause: cause_of(found.binding), capacity_per_s: Some(found.rate_per_s), ..nothing }
        }
        Sized::Unreachable(found) => Wish {
            cause: Cause::Unreachable,
            is_missed: true,
            capacity_per_s: Some(found.rate_per_s),
            ..nothing
        },
        // A variant of unknown capacity keeps what it has; nobody knows what it carries.
        Sized::Unknown => Wish { is_unsized: true, ..nothing },
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
