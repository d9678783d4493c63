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
