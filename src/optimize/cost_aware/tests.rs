//! Tests of the cost-aware optimizer: what the guarded rule fixes, and properties for any input.

use proptest::prelude::*;

use super::*;

fn offer(capacity: f64, cost: f64, current: u32) -> Offer {
    Offer { capacity: Some(capacity), cost, current, ..Offer::default() }
}

fn solve(rule: Rule, required: f64, spare: f64, offers: &[Offer]) -> (Vec<u32>, f64) {
    let mut out = Vec::new();
    let unmet = CostAware::default().solve_into(&mut out, rule, required, spare, offers);
    (out.iter().map(|p| p.replicas).collect(), unmet)
}

#[test]
fn last_running_replica_stays_even_when_a_cheaper_variant_has_none() {
    let offers = [offer(100.0, 49.5, 0), offer(100.0, 79.5, 1)];
    assert_eq!(solve(Rule::Reference, 0.0, 100.0, &offers).0, [0, 0]);
    assert_eq!(solve(Rule::Guarded, 0.0, 100.0, &offers).0, [0, 1]);
}

#[test]
fn rest_is_covered_where_it_costs_least() {
    let offers = [offer(1000.0, 50.0, 1), offer(100.0, 10.0, 1)];
    assert_eq!(solve(Rule::Reference, 1050.0, 0.0, &offers).0, [3, 1]);
    assert_eq!(solve(Rule::Guarded, 1050.0, 0.0, &offers).0, [2, 2]);
}

#[test]
fn maximum_passes_the_deficit_on_and_reports_what_is_left() {
    let capped = |max| Offer { max, ..offer(100.0, 1.0, 1) };
    assert_eq!(solve(Rule::Guarded, 350.0, 0.0, &[capped(2), offer(100.0, 9.0, 0)]), (vec![2, 3], 0.0));
    assert_eq!(solve(Rule::Guarded, 350.0, 0.0, &[capped(2)]), (vec![2], 250.0));
    // Already above the maximum: nothing is added, and nothing is taken away either.
    assert_eq!(solve(Rule::Guarded, 350.0, 0.0, &[capped(0)]), (vec![1], 350.0));
}

#[test]
fn amounts_and_capacities_that_are_not_numbers_change_nothing() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for rule in [Rule::Reference, Rule::Guarded] {
            assert_eq!(solve(rule, bad, 0.0, &[offer(10.0, 1.0, 3)]).0, [3]);
            assert_eq!(solve(rule, 0.0, bad, &[offer(10.0, 1.0, 3)]).0, [3]);
            assert_eq!(solve(rule, bad.abs(), 99.0, &[offer(10.0, 1.0, 3)]).0, [3]);
            assert_eq!(solve(rule, 10.0, 0.0, &[offer(bad, 1.0, 3)]).0, [3]);
            assert_eq!(solve(rule, 0.0, 10.0, &[offer(bad, bad, 3), offer(0.0, bad, 3)]).0, [3, 3]);
        }
    }
}

fn offers() -> impl Strategy<Value = Vec<Offer>> {
    let one = (1..2000u32, 0..50u8, 0..6u32, 0..3u32, 3..9u32).prop_map(|(c, cost, current, min, max)| {
        Offer { capacity: Some(f64::from(c)), cost: f64::from(cost), current, min, max }
    });
    proptest::collection::vec(one, 1..6)
}

fn cost_of(replicas: &[u32], offers: &[Offer]) -> f64 {
    replicas.iter().zip(offers).map(|(&r, o)| f64::from(r) * o.cost).sum()
}

fn capacity_of(replicas: &[u32], offers: &[Offer]) -> f64 {
    replicas.iter().zip(offers).map(|(&r, o)| f64::from(r) * o.usable().unwrap_or(0.0)).sum()
}

proptest! {
    /// The plan covers what was required, up to what it reports as unmet, within the bounds.
    #[test]
    fn scale_up_covers_the_deficit(offers in offers(), required in 0.0..20_000.0f64) {
        let (plan, unmet) = solve(Rule::Guarded, required, 0.0, &offers);
        let before: Vec<u32> = offers.iter().map(|o| o.current).collect();
        let added = capacity_of(&plan, &offers) - capacity_of(&before, &offers);
        prop_assert!(added + unmet >= required * (1.0 - 1e-12));
        for (replicas, offer) in plan.iter().zip(&offers) {
            prop_assert!(*replicas >= offer.current && *replicas <= offer.max.max(offer.current));
        }
    }

    /// Applied, a plan has nothing left to add.
    #[test]
    fn scale_up_is_idempotent(offers in offers(), required in 0.0..20_000.0f64) {
        let (plan, unmet) = solve(Rule::Guarded, required, 0.0, &offers);
        let applied: Vec<Offer> =
            plan.iter().zip(&offers).map(|(&current, o)| Offer { current, ..*o }).collect();
        prop_assert_eq!(solve(Rule::Guarded, unmet, 0.0, &applied), (plan, unmet));
    }

    /// Without bounds a plan never costs more than the reference's.
    #[test]
    fn guarded_plan_is_never_dearer(offers in offers(), required in 0.0..20_000.0f64) {
        let free: Vec<Offer> = offers.iter().map(|o| Offer { min: 0, max: u32::MAX, ..*o }).collect();
        let (ours, _) = solve(Rule::Guarded, required, 0.0, &free);
        let (theirs, _) = solve(Rule::Reference, required, 0.0, &free);
        prop_assert!(cost_of(&ours, &free) <= cost_of(&theirs, &free) + 1e-9);
    }

    /// More required means no less capacity planned.
    #[test]
    fn planned_capacity_covers_more_when_more_is_required(
        offers in offers(), required in 0.0..20_000.0f64, more in 0.0..5_000.0f64,
    ) {
        let covered = |r: f64| r - solve(Rule::Guarded, r, 0.0, &offers).1;
        prop_assert!(covered(required + more) >= covered(required) - 1e-6);
    }

    /// No more than the spare goes, no variant falls below its minimum, and one replica remains.
    #[test]
    fn scale_down_keeps_enough(offers in offers(), spare in 0.0..20_000.0f64) {
        let (plan, _) = solve(Rule::Guarded, 0.0, spare, &offers);
        let before: Vec<u32> = offers.iter().map(|o| o.current).collect();
        prop_assert!(capacity_of(&before, &offers) - capacity_of(&plan, &offers) <= spare * (1.0 + 1e-12));
        for (replicas, offer) in plan.iter().zip(&offers) {
            prop_assert!(*replicas <= offer.current && *replicas >= offer.min.min(offer.current));
        }
        prop_assert!(plan.iter().sum::<u32>() > 0 || before.iter().sum::<u32>() == 0);
    }
}
