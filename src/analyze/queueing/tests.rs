//! Unit tests of the queueing model: the published example, limits of the formulas, bad input.

use super::*;
use crate::config::{PerfParms, SloTargets};

fn published_example() -> AllocationInput {
    AllocationInput {
        parms: PerfParms::Decode { alpha: 20.58, beta: 0.41 },
        revision: Revision::default(),
        tokens: Tokens { input: 0.0, output: 178.0 },
        rate_per_s: 41.32 / 60.0,
        targets: SloTargets { ttft_ms: 500.0, itl_ms: 24.0, tps: 0.0 },
        batch: BatchSource { stated: 4, ..BatchSource::default() },
        min_replicas: 1,
        max_replicas: None,
        cost_per_replica: 40.0,
    }
}

#[track_caller]
fn near(got: f64, want: f64, relative: f64) {
    assert!((got - want).abs() <= relative * want.abs(), "got {got}, want {want}");
}

/// The log lines that the reference controller's documentation publishes (single precision there).
#[test]
fn published_example_comes_out() {
    let answer = allocate(&published_example()).unwrap();
    assert_eq!(answer.replicas, 2);
    assert_eq!(answer.cost, 80.0);
    near(answer.itl_ms, 21.509005, 1e-6);
    near(answer.wait_ms, 78.63574, 1e-6);
    near(answer.rho, 0.72974753, 1e-6);
    near(answer.max_rate_per_replica_per_ms * 60_000.0, 25.31145, 1e-6);
    assert_eq!(answer.binding(), Some(Binding::Target(Target::Ttft)));
}

fn queue(parms: PerfParms, input: f64, output: f64, batch: u32) -> Queue {
    let service = ServiceTimes::new(&parms, Tokens { input, output }).unwrap();
    Queue::new(service, batch, 10 * batch).unwrap()
}

fn itl(itl_ms: f64) -> SloTargets {
    SloTargets { itl_ms, ..SloTargets::default() }
}

/// Where rounding noise decides in the reference: a decode step that cannot depend on the load is met
/// at its exact value and missed just below.
#[test]
fn flat_metrics_are_decided_exactly() {
    let flat = [
        (queue(PerfParms::Decode { alpha: 14.094, beta: 0.0 }, 0.0, 37.0, 32), 14.094),
        (queue(PerfParms::Decode { alpha: 4.9748, beta: 0.0054147 }, 0.0, 26.0, 1), 4.9748 + 0.0054147),
        (queue(PerfParms::Iteration { alpha: 3.6574, beta: 0.0, gamma: 0.0 }, 1880.0, 15.0, 24), 3.6574),
        (
            queue(PerfParms::DecodePrefill { alpha: 40.7, beta: 0.0, gamma: 8.6, delta: 0.0 }, 9.0, 7.0, 96),
            40.7,
        ),
        (
            queue(PerfParms::DecodePrefill { alpha: 40.7, beta: 0.3, gamma: 8.6, delta: 0.1 }, 9.0, 7.0, 1),
            40.7 + 0.3,
        ),
    ];
    for (queue, value) in flat {
        let met = queue.size(&itl(value)).unwrap();
        assert_eq!(met.binding, Binding::ServiceLimit);
        assert_eq!(met.rate_per_ms, queue.max_rate_per_ms());
        assert_eq!(met.metrics.itl_ms, value);
        let missed = queue.size(&itl(value.next_down())).unwrap_err();
        let want = Unreachable { target: Target::Itl, wanted_ms: value.next_down(), best_ms: value };
        assert_eq!(missed, SizeError::Unreachable(want));
    }
}

/// Without input tokens nothing is spent on prefill, and a lone decode step takes its own time.
#[test]
fn gamma_is_no_prefill_without_input() {
    let parms = PerfParms::DecodePrefill { alpha: 10.0, beta: 1.0, gamma: 40.0, delta: 0.1 };
    let queue = queue(parms, 0.0, 1.0, 8);
    let light = queue.metrics_at(queue.min_rate_per_ms()).unwrap();
    near(light.itl_ms, 11.0, 1e-3);
    assert_eq!(light.prefill_ms, 0.0);
    near(light.itl_ms, light.service_ms, 1e-12);
}

/// A queue of one state above empty, which the reference calls invalid, is the Erlang loss system.
#[test]
fn one_state_is_a_loss_system() {
    let parms = PerfParms::Decode { alpha: 20.0, beta: 0.4 };
    let service = ServiceTimes::new(&parms, Tokens { input: 0.0, output: 100.0 }).unwrap();
    let at = Queue::new(service, 1, 0).unwrap().metrics_at(1.0 / 6000.0).unwrap();
    let load = 2040.0 / 6000.0;
    near(at.rho, load / (1.0 + load), 1e-14);
    near(at.throughput_per_ms, 1.0 / 6000.0 / (1.0 + load), 1e-14);
    assert_eq!(at.wait_ms, 0.0);
}

/// Ratio 1 above the batch limit: all queue states are equally likely.
#[test]
fn the_tail_is_exact_at_ratio_one() {
    let parms = PerfParms::Decode { alpha: 10.0, beta: 0.0 };
    let queue = queue(parms, 0.0, 1.0, 1);
    let at = queue.metrics_at(0.1).unwrap();
    near(at.in_system, 5.5, 1e-13);
    near(at.busy_ratio, 11.0 / 12.0, 1e-13);
    for rate in [0.1_f64.next_down(), 0.1_f64.next_up(), 0.1 * (1.0 + 1e-9)] {
        near(queue.metrics_at(rate).unwrap().in_system, 5.5, 1e-7);
    }
}

#[test]
fn bad_input_names_the_value() {
    let tokens = Tokens { input: 10.0, output: 10.0 };
    let service = |alpha, beta| ServiceTimes::new(&PerfParms::Decode { alpha, beta }, tokens);
    let text = |error: QueueError| error.to_string();
    assert_eq!(
        text(service(5.0, -1.0).unwrap_err()),
        "parameter beta must be finite and not negative, not -1"
    );
    assert_eq!(service(0.0, 0.0).unwrap_err(), QueueError::ServiceTime(0.0));
    assert!(matches!(service(f64::NAN, 0.0).unwrap_err(), QueueError::Parameter { name: "alpha", .. }));
    let fine = service(5.0, 0.1).unwrap();
    assert_eq!(Queue::new(fine, 0, 0).unwrap_err(), QueueError::Batch(0));
    let queue = Queue::new(fine, 4, 40).unwrap();
    assert_eq!(queue.metrics_at(0.0).unwrap_err(), QueueError::Rate(0.0));
    assert!(queue.metrics_at(f64::NAN).is_err() && queue.check_rate(1.0).is_err());
    assert!(queue.size(&itl(-1.0)).is_err() && queue.size(&itl(f64::NAN)).is_err());
    let mut silent = published_example();
    silent.tokens.output = 0.0;
    let error = allocate(&silent).unwrap_err();
    assert_eq!(error.to_string(), "average output tokens must be positive, not 0");
    silent.rate_per_s = 0.0;
    assert_eq!(allocate(&silent).unwrap().replicas, 1);
}

/// Fewer replicas than needed show what happens then, instead of the figures of the full grant.
#[test]
fn a_reduced_allocation_is_evaluated_again() {
    let input = published_example();
    let full = allocate(&input).unwrap();
    let reduced = full.with_replicas(&input, 1).unwrap();
    assert_eq!((reduced.replicas, reduced.cost, reduced.set_by), (1, 40.0, SetBy::Maximum));
    assert!(reduced.wait_ms > full.wait_ms && reduced.itl_ms > full.itl_ms && reduced.rho > full.rho);
    let capped = allocate(&AllocationInput { max_replicas: Some(1), ..input }).unwrap();
    assert_eq!((capped.replicas, capped.set_by, capped.wait_ms), (1, SetBy::Maximum, reduced.wait_ms));
    let more = allocate(&AllocationInput { min_replicas: 5, ..input }).unwrap();
    assert_eq!((more.replicas, more.set_by), (5, SetBy::Minimum));
}

/// A throughput target asks for capacity, but never for less than the measured load.
#[test]
fn measured_load_counts_beside_a_throughput_target() {
    let mut input = published_example();
    input.targets.tps = 1.0;
    assert_eq!(allocate(&input).unwrap().replicas, 2);
    input.targets.tps = 1000.0;
    assert!(allocate(&input).unwrap().replicas > 2);
}
