//! Tests of the GPU limiter: what the guarded rule fixes, and properties for any input.

use proptest::prelude::*;

use super::*;

fn request(current: u32, target: u32, gpus_per_replica: u32, spare_capacity: f64) -> Request {
    Request { pool: Some(0), current, target, gpus_per_replica, spare_capacity, cost: 1.0 }
}

fn limit(rule: Rule, pools: &mut [Pool], requests: &[Request]) -> Vec<Grant> {
    let mut out = Vec::new();
    Limiter::default().limit_into(&mut out, rule, pools, requests);
    out
}

fn targets(rule: Rule, limit_cards: u64, requests: &[Request]) -> Vec<u32> {
    let mut pools = [Pool { limit: limit_cards, used: 0 }];
    limit(rule, &mut pools, requests).iter().map(|g| g.target).collect()
}

#[test]
fn cards_of_an_incomplete_replica_are_not_lost() {
    let requests = [request(0, 2, 4, 0.1), request(0, 3, 1, 0.2)];
    assert_eq!(targets(Rule::Reference, 6, &requests), [1, 0]);
    assert_eq!(targets(Rule::Guarded, 6, &requests), [1, 2]);
}

#[test]
fn replica_of_unknown_size_counts_as_one_card_everywhere() {
    let requests = [request(4, 6, 0, 0.1)];
    assert_eq!(targets(Rule::Reference, 5, &requests), [6]);
    assert_eq!(targets(Rule::Guarded, 5, &requests), [5]);
}

#[test]
fn use_by_others_counts() {
    let mut pools = [Pool { limit: 8, used: 6 }];
    assert_eq!(limit(Rule::Guarded, &mut pools, &[request(1, 9, 1, 0.1)])[0].target, 3);
    assert_eq!(limit(Rule::Reference, &mut pools, &[request(1, 9, 1, 0.1)])[0].target, 8);
}

#[test]
fn unknown_accelerator_gets_nothing_and_scale_down_passes() {
    let unknown = Request { pool: None, ..request(1, 3, 1, 0.1) };
    let beyond = Request { pool: Some(9), ..unknown };
    assert_eq!(targets(Rule::Guarded, 8, &[unknown, beyond, request(5, 2, 1, 0.0)]), [1, 1, 2]);
}

#[test]
fn device_names_are_shortened() {
    let cases = [
        ("NVIDIA-A100-PCIE-80GB", "A100"),
        ("NVIDIA-L40S", "L40S"),
        ("Intel-Gaudi-2-96GB", "Gaudi-2"),
        ("Intel-Gaudi-2", "Gaudi-2"),
        ("Intel-Max", "Max"),
        ("H100", "H100"),
        ("", ""),
        ("-", ""),
    ];
    for (device, short) in cases {
        assert_eq!(accelerator_type(device), short, "{device}");
    }
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let spare = prop_oneof![0.0..1.0f64, Just(0.5), Just(f64::NAN)];
    let one = (proptest::option::of(0..3u32), 0..5u32, 0..9u32, 0..9u32, spare, 0.0..9.0f64);
    let one = one.prop_map(|(pool, current, target, gpus_per_replica, spare_capacity, cost)| Request {
        pool,
        current,
        target,
        gpus_per_replica,
        spare_capacity,
        cost,
    });
    proptest::collection::vec(one, 0..10)
}

proptest! {
    /// What is added fits into what was free, and no running replica is lost to the limit.
    #[test]
    fn never_above_inventory(
        requests in requests(), limits in proptest::array::uniform2((0..60u64, 0..60u64)),
    ) {
        for rule in [Rule::Reference, Rule::Guarded] {
            let mut pools = limits.map(|(limit, used)| Pool { limit, used });
            let grants = limit(rule, &mut pools, &requests);
            let mut added = [0u64; 2];
            for (grant, request) in grants.iter().zip(&requests) {
                prop_assert!(grant.target <= request.target);
                prop_assert!(grant.target >= request.current.min(request.target));
                prop_assert_eq!(grant.limited, grant.target < request.target);
                if let Some(pool) = request.pool.filter(|&p| p < 2) {
                    added[pool as usize] += grant.gpus_allocated;
                }
            }
            for (pool, added) in pools.iter().zip(added) {
                prop_assert!(added <= pool.available());
            }
        }
    }

    /// Guarded, nothing that would still fit is refused.
    #[test]
    fn nothing_that_fits_is_refused(requests in requests(), cards in 0..60u64) {
        let mut pools = [Pool { limit: cards, used: 0 }];
        let grants = limit(Rule::Guarded, &mut pools, &requests);
        let taken: u64 = grants.iter().map(|g| g.gpus_allocated).sum();
        let left = pools[0].available() - taken;
        for (grant, request) in grants.iter().zip(&requests) {
            if grant.limited && request.pool == Some(0) {
                prop_assert!(left < u64::from(request.gpus_per_replica.max(1)));
            }
        }
    }

    /// Asking for what was granted is granted.
    #[test]
    fn grants_are_idempotent(requests in requests(), cards in 0..60u64) {
        let mut pools = [Pool { limit: cards, used: 0 }];
        let grants = limit(Rule::Guarded, &mut pools, &requests);
        let again: Vec<Request> =
            requests.iter().zip(&grants).map(|(r, g)| Request { target: g.target, ..*r }).collect();
        let second = limit(Rule::Guarded, &mut [Pool { limit: cards, used: 0 }], &again);
        for (first, second) in grants.iter().zip(&second) {
            prop_assert_eq!(first.target, second.target);
            prop_assert!(!second.limited);
        }
    }
}
