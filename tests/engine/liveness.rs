//! Who is there, who is gone, and what silence means.

use crate::support::*;
use inferno_sidecar::publish::Fault;
use inferno_sidecar::units::TimeMs;

fn pods(n: usize) -> Vec<Pod> {
    (0..n).map(|n| Pod::new("a", n, "m")).collect()
}

fn reports(seconds: f64, pods: &[Pod]) -> Scrape {
    pods.iter().fold(Scrape::at(seconds), Scrape::pod)
}

#[test]
fn without_kube_state_metrics_the_first_decision_waits_for_the_warm_up() {
    let mut world = World::new(&variant("a", "m", ""));
    assert!(world.engine.board().not_ready().is_some());
    for seconds in [0.0, 10.0, 20.0, 29.0] {
        world.write(reports(seconds, &pods(2)));
        assert_eq!(world.faults("a"), ["warming_up"]);
        assert!(world.engine.board().not_ready().is_some(), "at {seconds} s");
    }
    world.write(reports(30.0, &pods(2)));
    assert_eq!(world.says("a"), "2 steady");
    assert_eq!(world.engine.board().not_ready(), None);
}

#[test]
fn kube_state_metrics_make_the_warm_up_unnecessary() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(reports(0.0, &pods(2)).deployment("a", 2, 2));
    assert_eq!(world.says("a"), "2 steady");
}

#[test]
fn a_staleness_marker_means_gone_now() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(reports(0.0, &pods(2)).deployment("a", 2, 2));
    world.write(reports(15.0, &pods(1)).deployment("a", 1, 1).gone(&pods(2)[1]));
    assert_eq!(world.decision("a").reporting, 1);
    // A sample from before the end does not bring it back; one from after it does.
    world.write(reports(14.0, &pods(2)[1..]));
    assert_eq!(world.decision("a").reporting, 1);
    world.write(reports(16.0, &pods(2)[1..]));
    assert_eq!(world.decision("a").reporting, 2);
}

#[test]
fn silence_means_gone_after_a_few_intervals_of_the_stream() {
    let mut world = World::new(&variant("a", "m", ""));
    for step in 0..10 {
        world.write(reports(f64::from(step) * 10.0, &pods(2)).deployment("a", 2, 2));
    }
    // From 90 s on only one pod reports. Its interval is 10 s, so at 130 s the other one is gone.
    for (seconds, reporting) in [(100.0, 2), (120.0, 2), (129.0, 2), (130.0, 1)] {
        world.write(reports(seconds, &pods(1)).deployment("a", 2, 2));
        assert_eq!(world.decision("a").reporting, reporting, "at {seconds} s");
    }
    assert_eq!(world.faults("a"), ["replicas_silent"]);
    assert_eq!(world.says("a"), "2 transition");
}

#[test]
fn silence_is_noticed_through_the_samples_of_another_model() {
    let mut world = World::new(&(variant("a", "m", "") + &variant("b", "n", "")));
    for step in 0..5 {
        let other = Pod::new("b", 0, "n");
        world.write(reports(f64::from(step) * 10.0, &pods(1)).deployment("a", 1, 1).pod(&other));
    }
    world.write(Scrape::at(79.0).pod(&Pod::new("b", 0, "n")));
    assert_eq!(world.faults("a"), [] as [&str; 0]);
    world.write(Scrape::at(80.0).pod(&Pod::new("b", 0, "n")));
    assert_eq!(world.faults("a"), ["no_replica_reports"]);
    assert_eq!(world.says("a"), "1 hold_input");
}

#[test]
fn when_the_whole_stream_stops_nothing_changes() {
    let mut world = World::new(&variant("a", "m", ""));
    for step in 0..5 {
        world.write(reports(f64::from(step) * 10.0, &pods(2)).deployment("a", 2, 2));
    }
    let (before, boards) = (world.engine.board().clone(), world.boards());
    for hours in 1..50 {
        world.engine.tick(at(f64::from(hours) * 3600.0));
        world.publish();
    }
    assert_eq!(world.boards(), boards);
    assert_same(&before, world.engine.board(), "after silence");
    assert_eq!(world.engine.board().not_ready(), None);
    // Only the reader's clock tells that the input is old.
    let entry = world.entry("a");
    assert!(entry.health.at(at(40.0)).is_empty());
    assert_eq!(entry.health.worst_at(at(400.0)).unwrap().as_str(), "stale");
}

#[test]
fn a_variant_at_zero_is_judged_by_the_interval_of_its_target() {
    let mut world = World::new(&variant("a", "m", ", minReplicas: 0"));
    for step in 0..4 {
        world.write(Scrape::at(f64::from(step) * 30.0).deployment("a", 0, 0));
    }
    let health = world.entry("a").health.clone();
    assert!(health.at(at(119.0)).is_empty(), "kube-state-metrics are scraped every 30 s");
    assert!(!health.at(at(300.0)).is_empty());
}

#[test]
fn two_exporters_of_one_target_are_not_added_up() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(reports(0.0, &pods(2)).deployment("a", 2, 2));
    // kube-state-metrics is restarted: new instance label, and no staleness marker for the old one.
    let own = [("deployment", "a"), ("namespace", NAMESPACE), ("instance", "new:8080")];
    let scrape = reports(15.0, &pods(2)).with("kube_deployment_status_replicas", &own, 2.0).with(
        "kube_deployment_status_replicas_ready",
        &own,
        2.0,
    );
    world.write(scrape);
    assert_eq!((world.decision("a").current, world.decision("a").pending), (2, 0));
    // The newest word counts.
    world.write(reports(30.0, &pods(1)).with("kube_deployment_status_replicas", &own, 1.0).gone(&pods(2)[1]));
    assert_eq!(world.decision("a").current, 1);
}

#[test]
fn a_clock_that_was_set_back_does_not_keep_the_dead_alive() {
    let mut world = World::new(&variant("a", "m", ""));
    for step in 0..5 {
        world.write(reports(7200.0 + f64::from(step) * 10.0, &pods(2)).deployment("a", 2, 2));
    }
    // Two hours back: the same pods go on, one of them stops later.
    world.engine.tick(at(0.0));
    world.publish();
    assert_eq!(world.decision("a").desired, 2);
    for step in 0..5 {
        world.write(reports(f64::from(step) * 10.0, &pods(2)).deployment("a", 2, 2));
        assert_eq!(world.decision("a").desired, 2);
    }
    assert_eq!(world.engine.stream_time(), Some(at(40.0)));
    for step in 5..12 {
        world.write(reports(f64::from(step) * 10.0, &pods(1)).deployment("a", 2, 2));
    }
    assert_eq!(world.decision("a").reporting, 1);
    assert_eq!(world.entry("a").health.newest_sample, Some(at(110.0)));
}

#[test]
fn after_a_clock_was_set_back_a_sample_that_says_nothing_ends_what_its_series_said() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(reports(5_000.0, &pods(1)).deployment("a", 1, 1));
    assert_eq!(world.entry("a").load.kv_usage_ratio, Some(0.4));
    // Publishing compares with a recomputation of everything.
    let own = [("model_name", "m"), ("namespace", NAMESPACE), ("pod", &*pods(1)[0].name)];
    world.write(Scrape::at(0.0).with("vllm:kv_cache_usage_perc", &own, f64::NAN));
    assert_eq!(world.entry("a").load.kv_usage_ratio, None);
    world.write(reports(1.0, &pods(1)).deployment("a", 1, 1));
    assert_eq!(world.entry("a").load.kv_usage_ratio, Some(0.4));
}

#[test]
fn series_that_ended_long_ago_are_forgotten() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(reports(0.0, &pods(3)).deployment("a", 3, 3));
    let full = world.engine.stats();
    world.write(reports(10.0, &pods(1)).deployment("a", 1, 1).gone(&pods(3)[1]).gone(&pods(3)[2]));
    for step in 1..100 {
        world.write(reports(10.0 + f64::from(step) * 10.0, &pods(1)).deployment("a", 1, 1));
    }
    assert_eq!(world.engine.stats().replicas, 1);
    assert_eq!(world.engine.stats().series, full.series - 8);
    assert_eq!(world.says("a"), "1 steady");
}

#[test]
fn a_target_that_is_no_longer_reported_is_forgotten_visibly() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(reports(0.0, &pods(1)).deployment("a", 4, 1));
    assert_eq!(world.decision("a").current, 4);
    for step in 1..100 {
        world.write(reports(f64::from(step) * 10.0, &pods(1)));
    }
    assert_eq!(world.decision("a").current, 1);
}

#[test]
fn replaying_with_an_unbounded_clock_uses_the_samples_own_time() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write_at(&reports(0.0, &pods(1)), TimeMs::MAX);
    world.engine.tick(TimeMs::MAX);
    assert_eq!(world.engine.stream_time(), Some(at(0.0)));
    world.write_at(&reports(30.0, &pods(1)), TimeMs::MAX);
    assert_eq!(world.says("a"), "1 steady");
}

#[test]
fn without_kube_state_metrics_silence_of_all_pods_holds_the_count() {
    for zero in [String::new(), scale_to_zero("m", "60s")] {
        let mut world = World::new(&(variant("a", "m", "") + &variant("b", "n", "") + &zero));
        let other = Pod::new("b", 0, "n");
        for step in 0..5 {
            world.write(reports(f64::from(step) * 10.0, &pods(2)).pod(&other));
        }
        // The pods' scrape job breaks; the rest of the stream goes on for an hour.
        for step in 5..360 {
            world.write(Scrape::at(f64::from(step) * 10.0).pod(&other));
            let decision = world.decision("a");
            assert_eq!((decision.desired, decision.current), (2, 2), "step {step}");
        }
        assert_ne!(world.faults("a"), [] as [&str; 0]);
    }
}

#[test]
fn without_kube_state_metrics_pods_that_leave_after_scale_to_zero_are_gone() {
    let mut world = World::new(&(variant("a", "m", "") + &scale_to_zero("m", "60s")));
    let idle = [pods(1)[0].clone().idle()];
    for step in 0..10 {
        world.write(reports(f64::from(step) * 10.0, &idle));
    }
    assert_eq!(world.says("a"), "0 scale_to_zero");
    world.write(Scrape::at(100.0).queue("m", 0.0).gone(&idle[0]));
    assert_eq!((world.decision("a").desired, world.decision("a").current), (0, 0));
    world.write(Scrape::at(110.0).queue("m", 2.0));
    assert_eq!(world.says("a"), "1 queued_at_zero");
}

#[test]
fn series_that_never_said_anything_are_forgotten_too() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(reports(0.0, &pods(1)).pod(&pods(2)[1].clone().load(f64::NAN, f64::NAN)));
    let own = [("namespace", NAMESPACE), ("pod", "nothing"), ("model_name", "m")];
    world.write(Scrape::at(1.0).with("vllm:kv_cache_usage_perc", &own, f64::NAN));
    assert_eq!(world.engine.stats().series, 9);
    for step in 1..150 {
        world.write(reports(f64::from(step) * 10.0, &pods(1)));
    }
    assert_eq!((world.engine.stats().series, world.engine.stats().replicas), (4, 1));
}

#[test]
fn a_pod_with_a_single_sample_is_expected_as_often_as_the_others() {
    let mut world = World::new(&variant("a", "m", ""));
    for step in 0..5 {
        world.write(reports(f64::from(step), &pods(1)).deployment("a", 2, 1));
    }
    world.write(reports(5.0, &pods(2)).deployment("a", 2, 2));
    assert_eq!(world.decision("a").reporting, 2);
    let health = &world.entry("a").health;
    assert_eq!(health.worst_at(at(20.0)), None);
    assert_eq!(health.worst_at(at(21.0)), Some(&Fault::Stale));
}

#[test]
fn prompt_lengths_are_right_while_few_requests_have_finished() {
    let mut world = World::new(&variant("a", "m", ""));
    let own = [("model_name", "m"), ("namespace", NAMESPACE), ("pod", &*pods(1)[0].name)];
    for (seconds, prefilled) in [(0.0, 0.0), (10.0, 50.0)] {
        let scrape = reports(seconds, &pods(1)).deployment("a", 1, 1);
        let scrape = scrape.with("vllm:prompt_tokens_total", &own, prefilled * 1000.0);
        world.write(scrape.with("vllm:time_to_first_token_seconds_count", &own, prefilled));
    }
    assert_eq!(world.entry("a").load.avg_prompt_tokens, Some(1000.0));
}

#[test]
fn a_backlog_is_worked_off_before_decisions_are_given_out() {
    let mut world = World::new(&variant("a", "m", ""));
    let scrape = |seconds| reports(seconds, &pods(1)).deployment("a", 1, 1);
    // Ten minutes old when it arrives, as after an outage of the sidecar.
    world.write_at(&scrape(0.0), at(600.0));
    assert!(world.engine.board().not_ready().is_some_and(|why| why.contains("backlog")));
    world.write_at(&scrape(590.0), at(601.0));
    assert_eq!(world.engine.board().not_ready(), None);
    // Later silence is no backlog: the last decision stays readable.
    world.write_at(&scrape(591.0), at(9_000.0));
    assert_eq!(world.engine.board().not_ready(), None);
}

#[test]
fn a_stream_that_never_catches_up_is_taken_as_it_is() {
    let mut world = World::new(&variant("a", "m", ""));
    let scrape = |seconds| reports(seconds, &pods(1)).deployment("a", 1, 1);
    world.write_at(&scrape(0.0), at(120.0));
    world.write_at(&scrape(200.0), at(320.0));
    assert!(world.engine.board().not_ready().is_some());
    world.write_at(&scrape(310.0), at(430.0));
    assert_eq!(world.engine.board().not_ready(), None);
}
