//! Properties of the queueing model, and its agreement with the plain method.

#[path = "bench/plain.rs"]
mod plain;

use inferno_sidecar::analyze::queueing::{
    AllocationInput, BatchSource, Binding, MAX_REPLICAS, Queue, Revision, ServiceTimes, Tokens, allocate,
    allocate_again, allocate_warm, replicas_for,
};
use inferno_sidecar::config::{PerfParms, SloTargets};
use plain::Plain;
use proptest::prelude::*;

/// Ordinary parameters of all generations.
fn parms() -> impl Strategy<Value = PerfParms> {
    prop_oneof![
        (1.0..50.0, 0.0..1.0).prop_map(|(alpha, beta)| PerfParms::Decode { alpha, beta }),
        (1.0..50.0, 0.0..1.0, 1.0..80.0, 0.0..0.01).prop_map(|(alpha, beta, gamma, delta)| {
            PerfParms::DecodePrefill { alpha, beta, gamma, delta }
        }),
        (1.0..50.0, 0.0..0.1, 0.0..0.001).prop_map(|(alpha, beta, gamma)| PerfParms::Iteration {
            alpha,
            beta,
            gamma
        }),
    ]
}

prop_compose! {
    /// Loads whose targets lie between a lone request and a few full-batch ones.
    fn load()(
        parms in parms(),
        input in prop_oneof![Just(0.0), 1.0..4000.0],
        output in 1.0..2000.0,
        batch in 2_u32..300,
        itl_share in 0.0..1.2,
        ttft_factor in 0.5..10.0,
        with in (any::<bool>(), any::<bool>(), any::<bool>()),
        rate_per_s in 0.001..200.0,
        min_replicas in 0_u32..4,
    ) -> AllocationInput {
        let tokens = Tokens { input, output };
        let service = ServiceTimes::new(&parms, tokens).unwrap();
        let full = f64::from(batch);
        let first = service.prefill_ms(full) + service.decode_ms(full);
        AllocationInput {
            parms,
            revision: Revision::default(),
            tokens,
            rate_per_s,
            targets: SloTargets {
                ttft_ms: if with.0 { first * ttft_factor } else { 0.0 },
                itl_ms: if with.1 { service.decode_ms(1.0 + itl_share * full) } else { 0.0 },
                tps: if with.2 { 1.0 } else { 0.0 },
            },
            batch: BatchSource { stated: batch, profile: 0, at_tokens: 0 },
            min_replicas,
            max_replicas: None,
            cost_per_replica: 3.5,
        }
    }
}

/// Any number at all: ordinary, extreme or not a number.
fn anything() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..1000.0,
        1 => any::<f64>(),
        1 => Just(0.0),
        1 => Just(f64::MIN_POSITIVE),
        1 => Just(1e300),
        1 => Just(-1.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever the numbers, there is an error or an answer of finite numbers.
    #[test]
    fn nonsense_gives_an_error_never_nan(
        generation in 0..3,
        p in (anything(), anything(), anything(), anything()),
        t in (anything(), anything()),
        targets in (anything(), anything(), anything()),
        rate_per_s in anything(),
        batch in prop_oneof![0_u32..64, any::<u32>()],
        at_tokens in any::<u32>(),
        derived in any::<bool>(),
        cost_per_replica in anything(),
        max_replicas in prop::option::of(any::<u32>()),
    ) {
        let (alpha, beta, gamma, delta) = p;
        let input = AllocationInput {
            parms: match generation {
                0 => PerfParms::Decode { alpha, beta },
                1 => PerfParms::DecodePrefill { alpha, beta, gamma, delta },
                _ => PerfParms::Iteration { alpha, beta, gamma },
            },
            revision: Revision::default(),
            tokens: Tokens { input: t.0, output: t.1 },
            rate_per_s,
            targets: SloTargets { ttft_ms: targets.0, itl_ms: targets.1, tps: targets.2 },
            batch: match derived {
                true => BatchSource { stated: 0, profile: batch, at_tokens },
                false => BatchSource { stated: batch, profile: 0, at_tokens: 0 },
            },
            min_replicas: 1,
            max_replicas,
            cost_per_replica,
        };
        match allocate(&input) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(answer) => {
                for value in [answer.itl_ms, answer.ttft_ms, answer.wait_ms, answer.response_ms, answer.rho,
                    answer.max_rate_per_replica_per_ms] {
                    prop_assert!(!value.is_nan() && value >= 0.0, "{input:?} gives {answer:?}");
                }
                prop_assert!(answer.cost >= 0.0 && answer.rho <= 1.0 + 1e-9, "{input:?} gives {answer:?}");
            }
        }
    }

    /// The sized rate meets the targets, and a little more would miss the binding one.
    #[test]
    fn the_sized_rate_is_the_largest(input in load()) {
        let queue = input.queue().unwrap();
        let Ok(sizing) = queue.size(&input.targets) else { return Ok(()) };
        let holds = |rate_per_ms: f64, slack: f64| {
            let at = queue.metrics_at(rate_per_ms).unwrap();
            let within = |value: f64, target: f64| target == 0.0 || value <= target * (1.0 + slack);
            within(at.ttft_ms, input.targets.ttft_ms) && within(at.itl_ms, input.targets.itl_ms)
        };
        prop_assert!(holds(sizing.rate_per_ms, 1e-8), "{sizing:?}");
        if matches!(sizing.binding, Binding::Target(target) if target != inferno_sidecar::analyze::queueing::Target::Tps) {
            prop_assert!(!holds(sizing.rate_per_ms * (1.0 + 1e-5), 0.0), "{sizing:?}");
        } else {
            prop_assert!(sizing.rate_per_ms >= 0.899 * queue.max_rate_per_ms());
        }
        prop_assert!(sizing.evaluations <= 40, "{sizing:?}");
    }

    /// More load, tighter targets: never fewer replicas, never less cost.
    #[test]
    fn replicas_and_cost_are_monotone(input in load(), more in 1.0..3.0, tighter in 0.7..1.0) {
        let Ok(base) = allocate(&input) else { return Ok(()) };
        let mut heavier = input;
        heavier.rate_per_s *= more;
        let heavier = allocate(&heavier).unwrap();
        prop_assert!(heavier.replicas >= base.replicas && heavier.cost >= base.cost);
        for target in 0..2 {
            let mut strict = input;
            let value = if target == 0 { &mut strict.targets.ttft_ms } else { &mut strict.targets.itl_ms };
            *value *= tighter;
            if let Ok(strict) = allocate(&strict) {
                prop_assert!(strict.replicas >= base.replicas && strict.cost >= base.cost);
            }
        }
    }

    /// The same question has the same answer to the last bit, and a warm start changes only rounding.
    #[test]
    fn answers_are_repeatable(input in load(), scale in 0.9..1.1) {
        let Ok(base) = allocate(&input) else { return Ok(()) };
        prop_assert_eq!(Ok(base), allocate(&input));
        let previous = base.sizing.unwrap();
        prop_assert_eq!(Ok(base), allocate_warm(&input, &previous));
        prop_assert_eq!(Ok(base), allocate_again(&input, &previous));
        let mut moved = input;
        moved.tokens.output *= scale;
        moved.tokens.input *= scale;
        prop_assert_eq!(allocate(&moved), allocate_again(&moved, &previous));
        match (allocate(&moved), allocate_warm(&moved, &previous)) {
            (Ok(cold), Ok(warm)) => {
                let (cold, warm) = (cold.sizing.unwrap(), warm.sizing.unwrap());
                prop_assert!((cold.rate_per_ms / warm.rate_per_ms - 1.0).abs() < 1e-9, "{cold:?} {warm:?}");
            }
            (cold, warm) => prop_assert_eq!(cold.is_ok(), warm.is_ok()),
        }
    }

    /// The number of replicas is the least that carries the load, without rounding errors.
    #[test]
    fn replicas_are_exact(count in 1_u32..100_000, per_replica in 1e-9..1e3_f64) {
        let total = f64::from(count) * per_replica;
        let carries = |n: u32, total: f64| f64::from(n).mul_add(per_replica, -total) >= 0.0;
        for total in [total.next_down(), total, total.next_up()] {
            let replicas = replicas_for(total, per_replica);
            prop_assert!(carries(replicas, total));
            prop_assert!(replicas == 1 || !carries(replicas - 1, total));
        }
    }

    /// Latencies of generation C at any rate are those of the plain method, overload included.
    #[test]
    fn metrics_agree_with_the_plain_method(input in load(), share in 0.01..3.0, places in 0_u32..400) {
        let PerfParms::Iteration { .. } = input.parms else { return Ok(()) };
        let service = *input.queue().unwrap().service();
        let batch = input.batch.stated;
        let queue = Queue::new(service, batch, places).unwrap();
        let mut plain = Plain::new(service, input.tokens.output, batch as usize, places as usize);
        let rate_per_ms = share * queue.max_rate_per_ms();
        let (ours, theirs) = (queue.metrics_at(rate_per_ms).unwrap(), plain.solve(rate_per_ms));
        let near = |a: f64, b: f64, noise: f64| (a - b).abs() <= 1e-9 * b.abs() + noise;
        let noise = 1e-12 * theirs.response_ms;
        prop_assert!(near(ours.throughput_per_ms, theirs.throughput_per_ms, 0.0), "{ours:?} {theirs:?}");
        prop_assert!(near(ours.in_service, theirs.in_service, 0.0), "{ours:?} {theirs:?}");
        prop_assert!(near(ours.service_ms, theirs.service_ms, 0.0), "{ours:?} {theirs:?}");
        prop_assert!(near(ours.wait_ms, theirs.wait_ms, noise), "{ours:?} {theirs:?}");
        prop_assert!(near(ours.ttft_ms, theirs.ttft_ms, noise), "{ours:?} {theirs:?}");
    }

    /// Sizing agrees with bisection.
    #[test]
    fn sizing_agrees_with_the_plain_method(input in load()) {
        let PerfParms::Iteration { .. } = input.parms else { return Ok(()) };
        let queue = input.queue().unwrap();
        let targets = SloTargets { tps: 0.0, ..input.targets };
        if targets.ttft_ms == 0.0 || targets.itl_ms == 0.0 {
            return Ok(());
        }
        let batch = input.batch.stated as usize;
        let mut plain = Plain::new(*queue.service(), input.tokens.output, batch, 10 * batch);
        match (queue.size(&targets), plain.size(targets.ttft_ms, targets.itl_ms)) {
            (Ok(ours), Some((rate, state))) => {
                // The bisection stops within 1e-6 of the target, which a flat metric reaches early.
                let hit = |value: f64, target: f64| (value / target - 1.0).abs() <= 2e-6;
                let stopped = hit(state.ttft_ms, targets.ttft_ms) || hit(state.itl_ms, targets.itl_ms);
                let near = (ours.rate_per_ms / rate - 1.0).abs() <= 1e-9;
                prop_assert!(near || stopped, "{ours:?} {rate}");
                prop_assert!((ours.rate_per_ms / rate - 1.0).abs() <= 1e-2, "{ours:?} {rate}");
            }
            (Err(_), None) => {}
            (ours, theirs) => prop_assert!(
                ours.is_err() && theirs.is_some_and(|(_, s)| s.itl_ms >= targets.itl_ms * (1.0 - 1e-6)
                    || s.ttft_ms >= targets.ttft_ms * (1.0 - 1e-6)),
                "{ours:?} {theirs:?}"
            ),
        }
    }
}

/// One replica up to its rate, two from the next number on.
#[test]
fn one_and_two_replicas_part_exactly_at_the_rate() {
    for per_replica in [0.1, 0.3, 1.0 / 3.0, 0.000_421_857_549_930_838_7, 7.1] {
        for count in [1_u32, 2, 3, 7, 49, 1000] {
            let total = f64::from(count) * per_replica;
            let exact = f64::from(count).mul_add(per_replica, -total) >= 0.0;
            assert_eq!(replicas_for(total, per_replica), if exact { count } else { count + 1 });
            assert_eq!(replicas_for(total.next_up(), per_replica), count + 1);
        }
        assert_eq!(replicas_for(per_replica.next_down(), per_replica), 1);
    }
    assert_eq!(replicas_for(1.0, 1e-30), MAX_REPLICAS);
    assert_eq!(replicas_for(1.0, 0.0), MAX_REPLICAS);
    assert_eq!(replicas_for(f64::NAN, 1.0), MAX_REPLICAS);
}
