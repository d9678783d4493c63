//! Replica counts up, down, to zero and back, and what holds them still.

use crate::support::*;
use inferno_sidecar::limits::TRANSITION_MAX_MS;
use inferno_sidecar::publish::Direction;

const TRANSITION_S: f64 = TRANSITION_MAX_MS as f64 / 1000.0;

fn a_pod() -> Pod {
    Pod::new("a", 0, "m")
}

fn b_pod() -> Pod {
    Pod::new("a", 1, "m")
}

/// One Deployment `a` with `pods`, all ready, under kube-state-metrics.
fn ready(seconds: f64, pods: &[Pod]) -> Scrape {
    let n = pods.len() as u32;
    pods.iter().fold(Scrape::at(seconds).deployment("a", n, n), Scrape::pod)
}

#[test]
fn saturation_asks_for_one_more_and_waits_for_it_to_come_up() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(ready(0.0, &[a_pod()]));
    assert_eq!(world.says("a"), "1 steady");
    let full = a_pod().load(0.95, 9.0);
    world.write(ready(15.0, std::slice::from_ref(&full)));
    assert_eq!(world.says("a"), "2 kv_and_queue_saturation");
    assert_eq!(world.decision("a").previous, Some((1, at(15.0))));
    // The autoscaler acts; the new pod starts and does not report yet.
    world.write(Scrape::at(30.0).deployment("a", 2, 1).pod(&full));
    assert_eq!(world.says("a"), "2 transition");
    assert_eq!(world.faults("a"), ["replicas_silent"]);
    // It reports before it is ready: more is wanted, but one is starting.
    world.write(Scrape::at(45.0).deployment("a", 2, 1).pod(&full).pod(&b_pod().load(0.9, 8.0)));
    assert_eq!(world.says("a"), "2 waiting_for_pending");
    world.write(ready(60.0, &[full.clone(), b_pod().load(0.9, 8.0)]));
    assert_eq!(world.says("a"), "3 kv_and_queue_saturation");
    let up: Vec<_> = world.engine.take_scalings().iter().map(|s| (s.direction, s.from, s.to)).collect();
    assert_eq!(up, [(Direction::Up, 1, 2), (Direction::Up, 2, 3)]);
}

#[test]
fn spare_capacity_gives_one_replica_back_from_the_most_expensive_variant() {
    let both = variant("a", "m", ", variantCost: 10") + &variant("b", "m", ", variantCost: 50");
    let mut world = World::new(&both);
    let mut scrape = Scrape::at(0.0).deployment("a", 2, 2).deployment("b", 2, 2);
    for (target, n) in [("a", 0), ("a", 1), ("b", 0), ("b", 1)] {
        scrape = scrape.pod(&Pod::new(target, n, "m").load(0.1, 0.0));
    }
    world.write(scrape);
    assert_eq!(world.says("b"), "1 spare_capacity");
    assert_eq!(world.says("a"), "2 transition");
}

#[test]
fn a_reduction_that_has_not_been_carried_out_is_withdrawn_when_load_returns() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(ready(0.0, &[a_pod().load(0.1, 0.0), b_pod().load(0.1, 0.0)]));
    assert_eq!(world.says("a"), "1 spare_capacity");
    world.write(ready(15.0, &[a_pod().load(0.9, 8.0), b_pod().load(0.9, 8.0)]));
    assert_eq!(world.says("a"), "3 kv_and_queue_saturation");
}

#[test]
fn the_model_goes_to_zero_after_the_retention_period_and_a_queued_request_wakes_it() {
    let mut world = World::new(&(variant("a", "m", "") + &scale_to_zero("m", "60s")));
    world.write(ready(0.0, &[a_pod()]).queue("m", 0.0));
    for seconds in [15.0, 30.0, 45.0, 59.0] {
        world.write(ready(seconds, &[a_pod().idle()]).queue("m", 0.0));
        assert_eq!(world.says("a"), "1 steady", "at {seconds} s");
    }
    world.write(ready(60.0, &[a_pod().idle()]).queue("m", 0.0));
    assert_eq!(world.says("a"), "0 scale_to_zero");
    world.write(Scrape::at(75.0).deployment("a", 0, 0).queue("m", 0.0).gone(&a_pod()));
    assert_eq!((world.says("a").as_str(), world.decision("a").current), ("0 scale_to_zero", 0));
    assert_eq!(world.faults("a"), [] as [&str; 0], "nothing runs and nothing is missing");
    world.write(Scrape::at(90.0).deployment("a", 0, 0).queue("m", 3.0));
    assert_eq!(world.says("a"), "1 queued_at_zero");
    // While it comes up, the reason stays the same.
    world.write(Scrape::at(105.0).deployment("a", 1, 0).queue("m", 3.0));
    assert_eq!(world.decision("a").desired, 1);
}

#[test]
fn scale_to_zero_is_withdrawn_when_requests_return_before_the_pods_are_gone() {
    let mut world = World::new(&(variant("a", "m", "") + &scale_to_zero("m", "60s")));
    world.write(ready(0.0, &[a_pod()]));
    for step in 1..=4 {
        world.write(ready(f64::from(step) * 15.0, &[a_pod().idle()]));
    }
    assert_eq!(world.says("a"), "0 scale_to_zero");
    world.write(ready(75.0, &[a_pod()]));
    assert_eq!(world.says("a"), "1 steady");
}

#[test]
fn what_is_not_watched_is_not_idle() {
    let mut world = World::new(&(variant("a", "m", "") + &scale_to_zero("m", "60s")));
    // Two pods run and only one of them reports: nobody knows what the other one serves.
    for step in 0..20 {
        let scrape = Scrape::at(f64::from(step) * 15.0).deployment("a", 2, 2).pod(&a_pod().idle());
        world.write(scrape);
        assert_eq!(world.decision("a").desired, 2, "step {step}");
    }
}

#[test]
fn a_change_that_nobody_carries_out_stops_blocking() {
    let mut world = World::new(&variant("a", "m", ""));
    let full = a_pod().load(0.95, 9.0);
    world.write(ready(0.0, std::slice::from_ref(&full)));
    assert_eq!(world.says("a"), "2 kv_and_queue_saturation");
    // Load falls, but the count never moves (a quota, say): the wish is held, then dropped.
    let mut seconds = 15.0;
    while seconds < TRANSITION_S {
        world.write(ready(seconds, &[a_pod()]));
        assert_eq!(world.decision("a").desired, 2, "at {seconds} s");
        seconds += 15.0;
    }
    world.write(ready(TRANSITION_S, &[a_pod()]));
    assert_eq!(world.says("a"), "1 steady");
}

#[test]
fn missing_replicas_never_lower_a_decision_however_long_they_are_missing() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(ready(0.0, &[a_pod(), b_pod()]));
    assert_eq!(world.decision("a").desired, 2);
    // One of two ready pods is no longer scraped.
    let mut seconds = 15.0;
    while seconds < 3.0 * TRANSITION_S {
        world.write(Scrape::at(seconds).deployment("a", 2, 2).pod(&a_pod()));
        assert_eq!(world.decision("a").desired, 2, "at {seconds} s");
        seconds += 15.0;
    }
}

#[test]
fn slow_starting_replicas_are_not_given_up_under_saturation() {
    let mut world = World::new(&variant("a", "m", ""));
    let full = a_pod().load(0.95, 9.0);
    world.write(ready(0.0, std::slice::from_ref(&full)));
    let mut seconds = 15.0;
    while seconds < 2.0 * TRANSITION_S {
        world.write(Scrape::at(seconds).deployment("a", 2, 1).pod(&full));
        assert!(world.decision("a").desired >= 2, "{} at {seconds} s", world.says("a"));
        seconds += 15.0;
    }
}

#[test]
fn bounds_hold_in_both_directions() {
    let mut world = World::new(&variant("a", "m", ", minReplicas: 2, maxReplicas: 3"));
    world.write(ready(0.0, &[a_pod()]));
    assert_eq!(world.says("a"), "2 min_replicas");
    let full: Vec<Pod> = (0..3).map(|n| Pod::new("a", n, "m").load(0.95, 9.0)).collect();
    world.write(ready(15.0, &full));
    assert_eq!(world.decision("a").desired, 3);
    world.write(ready(30.0, &full));
    assert_eq!(world.says("a"), "3 at_maximum");
    // Bounds below what runs.
    world.configure(&variant("a", "m", ", minReplicas: 1, maxReplicas: 2"));
    assert_eq!(world.says("a"), "2 max_replicas");
}

#[test]
fn without_scale_to_zero_the_cheapest_variant_keeps_one_replica() {
    let both = variant("a", "m", ", variantCost: 10") + &variant("b", "m", ", variantCost: 5");
    let mut world = World::new(&both);
    world.write(Scrape::at(0.0).deployment("a", 0, 0).deployment("b", 0, 0));
    assert_eq!((world.says("b").as_str(), world.says("a").as_str()), ("1 last_replica", "0 steady"));
}

#[test]
fn more_is_given_to_the_cheapest_variant() {
    let both = variant("a", "m", ", variantCost: 10") + &variant("b", "m", ", variantCost: 50");
    let mut world = World::new(&both);
    let scrape = Scrape::at(0.0).deployment("a", 1, 1).deployment("b", 1, 1);
    world.write(scrape.pod(&a_pod().load(0.9, 9.0)).pod(&Pod::new("b", 0, "m").load(0.9, 9.0)));
    assert_eq!(world.says("a"), "2 kv_and_queue_saturation");
    assert_eq!(world.decision("b").desired, 1);
}

#[test]
fn under_saturation_an_expired_change_never_asks_for_fewer_than_there_are() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(ready(0.0, &[a_pod()]));
    // Two more pods are made by hand and never report; then the one that does is full.
    for step in 1..=(TRANSITION_S as u32 / 10 + 3) {
        world.write(Scrape::at(f64::from(step) * 10.0).deployment("a", 3, 3).pod(&a_pod()));
    }
    world.write(Scrape::at(TRANSITION_S + 60.0).deployment("a", 3, 3).pod(&a_pod().load(0.95, 9.0)));
    assert_eq!(world.decision("a").desired, 3);
}

#[test]
fn a_silent_variant_held_by_a_window_has_one_cause_however_often_it_is_looked_at() {
    let window = thresholds("m", "scaleUpStabilization: 20s");
    let mut world = World::new(&(variant("a", "m", "") + &variant("b", "m", "") + &window));
    let pods = |seconds: f64, name: &str, pods: u32| Scrape::at(seconds).deployment(name, pods, 0);
    world.write(pods(0.0, "b", 1));
    world.write(pods(1.0, "b", 2));
    // The change of b is given up just when a becomes known, which is waited for anew.
    world.write(pods(TRANSITION_S + 2.0, "a", 1));
    assert_eq!(world.says("b"), "1 hold_input");
}
