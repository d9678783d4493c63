//! Tests of the saturation analyzer and its target rule: what the guarded rule fixes, readings that are
//! not numbers, and properties that hold for any input.

use proptest::prelude::*;

use super::*;

const KV: f64 = 0.8;
const QUEUE: f64 = 5.0;

/// Replicas of one variant: `n` times the same reading.
fn load(variant: u32, n: usize, kv: f64, queue: f64) -> Vec<ReplicaLoad> {
    vec![ReplicaLoad { variant, kv_cache_usage: kv, queue_length: queue }; n]
}

fn state(current: u32, cost: f64) -> VariantState {
    VariantState { current, cost, ..VariantState::default() }
}

fn solve_with(
    config: &SaturationConfig,
    rule: Rule,
    replicas: &[ReplicaLoad],
    states: &[VariantState],
) -> (SaturationAnalysis, Vec<Target>) {
    let (mut analysis, mut targets) = (SaturationAnalysis::default(), Vec::new());
    analyze_into(&mut analysis, config, rule, states.len(), replicas);
    targets_into(&mut targets, &analysis, states, rule);
    (analysis, targets)
}

/// Replicas wanted and the first cause that is not about holding still.
fn check(
    rule: Rule,
    replicas: &[Vec<ReplicaLoad>],
    states: &[VariantState],
    want: &[u32],
    why: Cause,
) -> SaturationAnalysis {
    let (analysis, targets) = solve_with(&SaturationConfig::default(), rule, &replicas.concat(), states);
    let got: Vec<u32> = targets.iter().map(|t| t.replicas).collect();
    assert_eq!(got, want, "{rule:?} {targets:?} {analysis:?}");
    assert!(targets.iter().any(|t| t.cause == why), "{rule:?} {targets:?}");
    analysis
}

#[test]
fn idle_minority_hides_a_saturated_majority_only_from_the_reference() {
    let replicas = [load(0, 8, 0.95, 20.0), load(0, 2, 0.0, 0.0)];
    check(Rule::Reference, &replicas, &[state(10, 1.0)], &[9], Cause::ScaleDown);
    check(Rule::Guarded, &replicas, &[state(10, 1.0)], &[10], Cause::NoChange);
}

#[test]
fn all_saturated_model_grows_even_with_triggers_of_zero() {
    let config =
        SaturationConfig { kv_spare_trigger: 0.0, queue_spare_trigger: 0.0, ..SaturationConfig::default() };
    let replicas = load(0, 3, 0.95, 20.0);
    let (_, targets) = solve_with(&config, Rule::Reference, &replicas, &[state(3, 1.0)]);
    assert_eq!(targets, [Target { replicas: 3, cause: Cause::NoChange }]);
    let (analysis, targets) = solve_with(&config, Rule::Guarded, &replicas, &[state(3, 1.0)]);
    assert_eq!(analysis.scale_up, Some(Trigger::AllSaturated));
    assert_eq!(targets, [Target { replicas: 4, cause: Cause::ScaleUp }]);
}

#[test]
fn cheaper_variant_at_zero_is_used_by_the_guarded_rule() {
    let states = [state(2, 40.0), state(0, 5.0)];
    let replicas = [load(0, 2, 0.95, 20.0)];
    check(Rule::Reference, &replicas, &states, &[3, 0], Cause::ScaleUp);
    check(Rule::Guarded, &replicas, &states, &[2, 1], Cause::ScaleUp);
    // While that replica is on its way, nothing else is added.
    let asked = [state(2, 40.0), VariantState { desired: Some(1), ..state(0, 5.0) }];
    check(Rule::Guarded, &replicas, &asked, &[2, 1], Cause::InTransition);
}

#[test]
fn wanted_scale_up_says_what_it_waits_for() {
    let replicas = [load(0, 2, 0.95, 20.0)];
    let pending = [VariantState { pending: 1, ..state(2, 1.0) }];
    for rule in [Rule::Reference, Rule::Guarded] {
        check(rule, &replicas, &pending, &[2], Cause::WaitingForPending);
    }
    let full = [VariantState { max: 2, ..state(2, 1.0) }];
    check(Rule::Guarded, &replicas, &full, &[2], Cause::AtMaximum);
    check(Rule::Reference, &replicas, &full, &[3], Cause::ScaleUp);
}

#[test]
fn bounds_pass_the_step_on_to_the_next_variant() {
    let busy = [load(0, 2, 0.95, 20.0), load(1, 2, 0.95, 20.0)];
    let capped = [VariantState { max: 2, ..state(2, 1.0) }, state(2, 9.0)];
    check(Rule::Guarded, &busy, &capped, &[2, 3], Cause::ScaleUp);
    let idle = [load(0, 2, 0.0, 0.0), load(1, 2, 0.0, 0.0)];
    let kept = [state(2, 1.0), VariantState { min: 2, ..state(2, 9.0) }];
    check(Rule::Guarded, &idle, &kept, &[1, 2], Cause::ScaleDown);
}

#[test]
fn ties_go_to_the_first_for_more_and_the_last_for_less() {
    let states = [state(2, 7.0), state(2, 7.0), state(2, 7.0)];
    let at = |kv, queue| [load(0, 2, kv, queue), load(1, 2, kv, queue), load(2, 2, kv, queue)];
    check(Rule::Reference, &at(0.9, 9.0), &states, &[3, 2, 2], Cause::ScaleUp);
    check(Rule::Reference, &at(0.0, 0.0), &states, &[2, 2, 1], Cause::ScaleDown);
}

#[test]
fn transition_holds_every_variant() {
    let asked = VariantState { desired: Some(4), ..state(2, 1.0) };
    let busy = [load(0, 2, 0.95, 20.0), load(1, 1, 0.95, 20.0)];
    check(Rule::Guarded, &busy, &[asked, state(1, 1.0)], &[4, 1], Cause::InTransition);
    check(Rule::Guarded, &busy, &[state(3, 1.0), state(1, 1.0)], &[3, 1], Cause::InTransition);
}

#[test]
fn nothing_reporting_holds_what_was_asked_for() {
    let asked = VariantState { desired: Some(4), ..state(2, 1.0) };
    check(Rule::Guarded, &[], &[asked, state(3, 1.0)], &[4, 3], Cause::NoReplicas);
    check(Rule::Reference, &[], &[asked, state(3, 1.0)], &[2, 3], Cause::NoReplicas);
}

#[test]
fn readings_that_are_not_numbers_never_scale_down() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for rule in [Rule::Reference, Rule::Guarded] {
            // One unknown among idle ones, then nothing but unknown ones: hold.
            let one = [load(0, 3, 0.0, 0.0), load(0, 1, bad, 0.0)];
            let analysis = check(rule, &one, &[state(4, 1.0)], &[4], Cause::NoChange);
            assert_eq!((analysis.unknown, analysis.saturated()), (1, 0));
            check(rule, &[load(0, 4, bad, bad)], &[state(4, 1.0)], &[4], Cause::NoChange);
            // The other reading may still prove saturation.
            let half = [load(0, 4, bad, 9.0)];
            let analysis = check(rule, &half, &[state(4, 1.0)], &[5], Cause::ScaleUp);
            assert!(analysis.variants[0].max_kv.is_finite());
        }
    }
    let config = SaturationConfig { kv_cache_threshold: f64::NAN, ..SaturationConfig::default() };
    let (_, targets) = solve_with(&config, Rule::Guarded, &load(0, 4, 0.0, 0.0), &[state(4, f64::NAN)]);
    assert_eq!(targets, [Target { replicas: 4, cause: Cause::NoChange }]);
}

#[test]
fn stray_variant_index_is_left_out() {
    let replicas = [load(0, 2, 0.5, 0.0), load(7, 1, 0.9, 9.0)];
    let analysis = check(Rule::Guarded, &replicas, &[state(2, 1.0)], &[2], Cause::NoChange);
    assert_eq!(analysis.total, 2);
}

fn rules() -> impl Strategy<Value = Rule> {
    prop_oneof![Just(Rule::Reference), Just(Rule::Guarded)]
}

fn replica() -> impl Strategy<Value = ReplicaLoad> {
    let kv = prop_oneof![8 => 0.0..1.2f64, 2 => Just(0.7), 1 => Just(KV), 1 => any::<f64>()];
    let queue = prop_oneof![8 => 0.0..9.0f64, 2 => (0..9u8).prop_map(f64::from), 1 => any::<f64>()];
    (0..4u32, kv, queue).prop_map(|(variant, kv_cache_usage, queue_length)| ReplicaLoad {
        variant,
        kv_cache_usage,
        queue_length,
    })
}

fn states() -> impl Strategy<Value = Vec<VariantState>> {
    let one = (0..5u32, proptest::option::of(0..5u32), 0..2u32, 0..4u8, 0..3u32, 0..6u32).prop_map(
        |(current, desired, pending, cost, min, room)| VariantState {
            current,
            desired,
            pending,
            cost: f64::from(cost),
            min,
            max: min + room,
        },
    );
    proptest::collection::vec(one, 4)
}

/// Makes the states agree with the replicas most of the time, so that steps happen.
fn settled(mut states: Vec<VariantState>, replicas: &[ReplicaLoad], settle: bool) -> Vec<VariantState> {
    if settle {
        for (i, state) in states.iter_mut().enumerate() {
            state.current = replicas.iter().filter(|r| r.variant as usize == i).count() as u32;
            state.desired = None;
        }
    }
    states
}

proptest! {
    /// The first answer given back as `desired` is the second answer.
    #[test]
    fn targets_are_idempotent(
        replicas in proptest::collection::vec(replica(), 0..12),
        states in states(), settle: bool, rule in rules(),
    ) {
        let config = SaturationConfig::default();
        let mut states = settled(states, &replicas, settle);
        let (_, first) = solve_with(&config, rule, &replicas, &states);
        for (state, target) in states.iter_mut().zip(&first) {
            state.desired = Some(target.replicas);
        }
        let (_, second) = solve_with(&config, rule, &replicas, &states);
        let replicas = |t: &[Target]| t.iter().map(|t| t.replicas).collect::<Vec<_>>();
        prop_assert_eq!(replicas(&first), replicas(&second));
    }

    /// The order in which replicas are listed changes neither a figure nor a target.
    #[test]
    fn replica_order_changes_nothing(
        (replicas, shuffled) in proptest::collection::vec(replica(), 0..12)
            .prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle())),
        states in states(), settle: bool,
    ) {
        let config = SaturationConfig::default();
        let states = settled(states, &replicas, settle);
        prop_assert_eq!(
            solve_with(&config, Rule::Guarded, &replicas, &states),
            solve_with(&config, Rule::Guarded, &shuffled, &states)
        );
    }

    /// One step at most, and nowhere below a variant's minimum or above its maximum by that step.
    #[test]
    fn one_step_at_a_time_within_bounds(
        replicas in proptest::collection::vec(replica(), 1..12), states in states(),
    ) {
        let states = settled(states, &replicas, true);
        let (_, targets) = solve_with(&SaturationConfig::default(), Rule::Guarded, &replicas, &states);
        let moved: u32 = targets.iter().zip(&states).map(|(t, s)| t.replicas.abs_diff(s.current)).sum();
        prop_assert!(moved <= 1);
        for (target, state) in targets.iter().zip(&states) {
            match target.cause {
                Cause::ScaleUp => prop_assert!(target.replicas <= state.max),
                Cause::ScaleDown => prop_assert!(target.replicas >= state.min.max(1)),
                _ => prop_assert_eq!(target.replicas, state.current),
            }
        }
    }

    /// More load on every replica never lowers the total, as long as no replica crosses a threshold.
    /// (Crossing one takes its load out of the averages, by the reference's definition of spare.)
    #[test]
    fn more_load_below_the_thresholds_never_means_fewer_replicas(
        replicas in proptest::collection::vec((0..2u32, 0.0..0.79f64, 0.0..4.9f64), 1..12),
        more in 0.0..1.0f64, rule in rules(),
    ) {
        let at = |share: f64| -> Vec<ReplicaLoad> {
            let up = |x: f64, limit: f64| x + share * (limit - x);
            let one = |&(variant, kv, queue): &(u32, f64, f64)| ReplicaLoad {
                variant, kv_cache_usage: up(kv, 0.79), queue_length: up(queue, QUEUE - 0.1),
            };
            replicas.iter().map(one).collect()
        };
        let states = settled(vec![state(0, 1.0), state(0, 2.0)], &at(0.0), true);
        let total = |share| -> u32 {
            let (_, targets) = solve_with(&SaturationConfig::default(), rule, &at(share), &states);
            targets.iter().map(|t| t.replicas).sum()
        };
        prop_assert!(total(more) >= total(0.0));
    }
}
