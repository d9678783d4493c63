//! Bad, odd and repeated input.

use crate::support::*;
use inferno_sidecar::engine::Rejection;
use inferno_sidecar::limits::FUTURE_MAX_MS;
use inferno_sidecar::proto::TimeSeries;
use inferno_sidecar::series::labels::LabelError;
use inferno_sidecar::wire::Version;

fn pod() -> Pod {
    Pod::new("a", 0, "m")
}

fn world() -> World {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(Scrape::at(0.0).deployment("a", 1, 1).pod(&pod()));
    world
}

fn own(name: &str) -> [(&str, &str); 3] {
    [("model_name", "m"), ("namespace", NAMESPACE), ("pod", name)]
}

#[test]
fn resending_a_request_changes_nothing() {
    let mut world = world();
    let scrape = Scrape::at(15.0).deployment("a", 1, 1).pod(&pod().load(0.95, 9.0)).queue("m", 2.0);
    world.write(scrape.clone());
    let (before, boards) = (world.engine.board().clone(), world.boards());
    let report = world.write(scrape.clone());
    assert_eq!((report.late, report.rejected), (8, 0));
    world.write_at(&scrape, at(100.0));
    assert_eq!(world.boards(), boards);
    assert_same(&before, world.engine.board(), "after resending");
}

#[test]
fn resending_a_request_in_the_other_version_changes_nothing() {
    let mut world = world();
    let scrape = Scrape::at(15.0).deployment("a", 1, 1).pod(&pod().load(0.95, 9.0)).queue("m", 2.0);
    let first = world.engine.write_v2(&scrape.encode_2(), at(15.0)).expect("the request is sound");
    world.publish();
    assert_eq!((first.used, first.late, first.rejected), (8, 0, 0));
    let (before, boards, series) =
        (world.engine.board().clone(), world.boards(), world.engine.stats().series);
    for version in [Version::V1, Version::V2, Version::V2, Version::V1] {
        let bytes = if version == Version::V1 { scrape.encode() } else { scrape.encode_2() };
        let report = world.engine.write(version, &bytes, at(16.0)).expect("the request is sound");
        world.publish();
        assert_eq!((report.late, report.rejected, report.written.samples), (8, 0, 8));
    }
    assert_eq!((world.boards(), world.engine.stats().series), (boards, series));
    assert_same(&before, world.engine.board(), "after resending");
}

#[test]
fn noise_in_a_request_of_2_0_does_no_harm() {
    let mut world = world();
    let good = Scrape::at(15.0).deployment("a", 1, 1).pod(&pod()).encode_2();
    for at_byte in 0..good.len() {
        for bits in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at_byte] ^= bits;
            // Structure or content is wrong, or another series was meant; nothing panics.
            if let Ok(report) = world.engine.write_v2(&bytes, at(15.0)) {
                assert!(report.written.samples <= report.counts.samples, "{report:?}");
            }
        }
        let _ = world.engine.write_v2(&good[..at_byte], at(15.0));
    }
    world.publish();
}

#[test]
fn unsorted_labels_are_the_same_series() {
    let mut world = world();
    let series = world.engine.stats().series;
    let mut labels = labels("vllm:kv_cache_usage_perc", &own(&pod().name));
    for turn in 0..6 {
        labels.rotate_left(1);
        if turn % 2 == 0 {
            labels.swap(0, 1);
        }
        let time = at(15.0 + f64::from(turn));
        world.write_at(&Scrape::default().raw(one(labels.clone(), 0.6, time)), time);
    }
    assert_eq!(world.engine.stats().series, series);
    assert_eq!(world.entry("a").load.kv_usage_ratio, Some(0.6));
}

#[test]
fn broken_label_sets_are_refused_and_the_rest_of_the_request_is_used() {
    let mut world = world();
    let name = pod().name;
    let twice = [&own(&name)[..], &[("pod", "other")]].concat();
    let unnamed = one(labels("", &own(&pod().name)), 1.0, at(15.0));
    let nameless = TimeSeries { labels: unnamed.labels[1..].to_vec(), ..unnamed.clone() };
    let scrape = Scrape::at(15.0)
        .with("vllm:kv_cache_usage_perc", &twice, 0.99)
        .raw(unnamed)
        .raw(nameless)
        .with("vllm:num_requests_waiting", &[&own(&pod().name)[..], &[("", "x")]].concat(), 50.0)
        .with(
            "vllm:num_requests_waiting",
            &[&own(&pod().name)[..], &[("x", &"y".repeat(5000))]].concat(),
            9.0,
        )
        .pod(&pod().load(0.5, 1.0));
    let report = world.write(scrape);
    assert_eq!((report.rejected, report.used), (5, 4));
    let kinds: Vec<bool> = report
        .rejections
        .iter()
        .map(|rejection| match rejection {
            Rejection::Labels(LabelError::Duplicate { label, .. }) => label == "pod",
            Rejection::Labels(LabelError::TooLong { bytes, .. }) => *bytes == 5000,
            Rejection::Labels(error) => {
                matches!(error, LabelError::NoMetricName | LabelError::EmptyName { .. })
            }
            _ => false,
        })
        .collect();
    assert_eq!(kinds, [true; 5], "{:?}", report.rejections);
    assert_eq!(world.entry("a").load.kv_usage_ratio, Some(0.5));
    assert_eq!(world.entry("a").load.waiting, Some(1.0));
}

#[test]
fn values_that_say_nothing_are_counted_and_left_out() {
    let mut world = world();
    let before = world.entry("a").load.clone();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        let report = world.write(Scrape::at(15.0).pod(&pod().load(value, value)));
        assert_eq!((report.meaningless, report.used), (2, 2), "{value}");
        assert_eq!(world.entry("a").load.kv_usage_ratio, before.kv_usage_ratio);
        assert_eq!(world.says("a"), "1 steady");
    }
}

#[test]
fn samples_far_in_the_future_are_refused_and_near_ones_do_not_move_the_stream() {
    let mut world = world();
    let far = FUTURE_MAX_MS as f64 / 1000.0 + 1.0;
    let report = world.write_at(&Scrape::at(far).pod(&pod().load(0.99, 50.0)), at(0.0));
    assert_eq!((report.rejected, report.used), (4, 0));
    assert!(report.rejections[0].to_string().contains("601000 ms ahead"), "{}", report.rejections[0]);
    assert_eq!(world.says("a"), "1 steady");
    world.write_at(&Scrape::at(60.0).pod(&pod()), at(1.0));
    assert_eq!(world.engine.stream_time(), Some(at(1.0)));
}

#[test]
fn times_at_the_ends_of_the_scale_do_no_harm() {
    let mut world = world();
    for time in [i64::MIN, i64::MIN + 1, -1, 0] {
        let mut labels = labels("vllm:kv_cache_usage_perc", &own(&pod().name));
        world.write_at(&Scrape::default().raw(one(labels.clone(), 0.99, time.into_time())), at(1.0));
        labels[0].value = "vllm:request_success_total".into();
        world.write_at(&Scrape::default().raw(one(labels, 1e9, time.into_time())), at(1.0));
        assert_eq!(world.says("a"), "1 steady");
    }
    world.write(Scrape::at(15.0).deployment("a", 1, 1).pod(&pod()));
    assert_eq!(world.says("a"), "1 steady");
}

trait IntoTime {
    fn into_time(self) -> inferno_sidecar::units::TimeMs;
}

impl IntoTime for i64 {
    fn into_time(self) -> inferno_sidecar::units::TimeMs {
        inferno_sidecar::units::TimeMs(self)
    }
}

#[test]
fn time_that_goes_backwards_never_replaces_the_newest_value() {
    let mut world = world();
    world.write(Scrape::at(30.0).pod(&pod().load(0.5, 1.0)));
    let report = world.write_at(&Scrape::at(20.0).pod(&pod().load(0.2, 0.0)), at(30.0));
    assert_eq!(report.late, 4);
    assert_eq!(world.entry("a").load.kv_usage_ratio, Some(0.5));
    assert_eq!(world.engine.stream_time(), Some(at(30.0)));
}

#[test]
fn the_names_of_both_engine_generations_are_never_added_up() {
    let mut world = world();
    let name = pod().name;
    let scrape =
        Scrape::at(15.0).pod(&pod().load(0.4, 1.0)).with("vllm:gpu_cache_usage_perc", &own(&name), 0.9);
    world.write(scrape);
    assert_eq!(world.entry("a").load.kv_usage_ratio, Some(0.4), "the newer name counts");
    let tokens = |seconds: f64, count: f64| {
        Scrape::at(seconds)
            .pod(&pod())
            .with("vllm:time_per_output_token_seconds_sum", &own(&name), count * 0.5)
            .with("vllm:time_per_output_token_seconds_count", &own(&name), count)
            .with("vllm:inter_token_latency_seconds_sum", &own(&name), count * 0.02)
            .with("vllm:inter_token_latency_seconds_count", &own(&name), count)
    };
    world.write(tokens(30.0, 100.0));
    world.write(tokens(45.0, 200.0));
    assert_eq!(world.entry("a").load.itl_ms, Some(20.0));
}

#[test]
fn an_engine_of_the_old_generation_alone_is_understood() {
    let mut world = World::new(&variant("a", "m", ""));
    let name = pod().name;
    let scrape = Scrape::at(0.0)
        .deployment("a", 1, 1)
        .with("vllm:gpu_cache_usage_perc", &own(&name), 0.95)
        .with("vllm:num_requests_waiting", &own(&name), 9.0);
    world.write(scrape);
    assert_eq!(world.says("a"), "2 kv_and_queue_saturation");
}

#[test]
fn the_names_of_both_scheduler_generations_are_never_added_up() {
    let mut world = world();
    let queue = |seconds: f64, names: &[(&str, f64)]| {
        let scrape = Scrape::at(seconds).pod(&pod());
        names.iter().fold(scrape, |scrape, (name, size)| {
            let name = format!("{name}_flow_control_queue_size");
            let pairs = [("namespace", NAMESPACE), ("target_model_name", "m")];
            // Two priorities of one queue do add up.
            scrape.with(&name, &[&pairs[..], &[("priority", "0")]].concat(), *size).with(
                &name,
                &[&pairs[..], &[("priority", "1")]].concat(),
                *size,
            )
        })
    };
    let seen = |world: &World| world.decision("a").evidence.scheduler_queue;
    world.write(queue(15.0, &[("inference_extension", 4.0)]));
    assert_eq!(seen(&world), Some(8.0));
    world.write(queue(30.0, &[("inference_extension", 4.0), ("llm_d_epp", 5.0), ("llm_d_router_epp", 6.0)]));
    assert_eq!(seen(&world), Some(10.0));
}

#[test]
fn data_parallel_ranks_of_a_pod_combine() {
    let mut world = World::new(&variant("a", "m", ""));
    let name = pod().name;
    let mut scrape = Scrape::at(0.0).deployment("a", 1, 1);
    for (rank, kv, waiting) in [("0", 0.3, 1.0), ("1", 0.7, 0.5)] {
        let labels = [&own(&name)[..], &[("engine", rank)]].concat();
        scrape = scrape.with("vllm:kv_cache_usage_perc", &labels, kv).with(
            "vllm:num_requests_waiting",
            &labels,
            waiting,
        );
    }
    world.write(scrape);
    let load = &world.entry("a").load;
    assert_eq!((load.kv_usage_ratio, load.waiting), (Some(0.7), Some(1.5)));
}

#[test]
fn the_arrival_rate_counts_what_piles_up() {
    let mut world = world();
    for step in 0..5 {
        let seconds = f64::from(step) * 15.0;
        let pod = Pod { done: seconds * 2.0, waiting: seconds, running: 4.0, ..pod() };
        world.write(Scrape::at(seconds).deployment("a", 1, 1).pod(&pod));
    }
    // Two a second are completed and one a second is added to the queue.
    let rate = world.entry("a").load.arrival_rate_per_s.unwrap();
    assert!((rate - 3.0).abs() < 1e-9, "{rate}");
}

#[test]
fn a_missing_signal_is_named() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(Scrape::at(0.0).deployment("a", 1, 1).with(
        "vllm:kv_cache_usage_perc",
        &own(&pod().name),
        0.5,
    ));
    assert_eq!(world.faults("a"), ["no_replica_reports", "missing_signal"]);
    assert_eq!(world.says("a"), "1 hold_input");
}

#[test]
fn a_structurally_broken_request_is_refused_untouched() {
    let mut world = world();
    let before = world.engine.stats();
    let mut bytes = Scrape::at(15.0).pod(&Pod::new("a", 3, "m").load(0.99, 50.0)).encode();
    bytes.extend_from_slice(&[0x0a, 0x7f]);
    assert!(world.engine.write_v1(&bytes, at(15.0)).is_err());
    world.publish();
    assert_eq!((world.engine.stats().series, world.engine.stream_time()), (before.series, Some(at(0.0))));
}

#[test]
fn a_target_whose_first_samples_are_refused_is_waited_for_all_the_same() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(Scrape::at(0.0).queue("m", 1.0));
    // Publishing compares with a recomputation of everything.
    let report = world.write_at(&Scrape::at(1_000.0).deployment("a", 1, 1), at(1.0));
    assert_eq!((report.rejected, report.used), (3, 0));
}

#[test]
fn a_pod_that_names_another_model_says_so_even_without_a_sample_that_counts() {
    let mut world = World::new(&variant("a", "m", ""));
    let named = |model| [("model_name", model), ("namespace", NAMESPACE), ("pod", "a-7d9c5b8f6d-bbbbb")];
    world.write(Scrape::at(0.0).deployment("a", 1, 1).with("vllm:kv_cache_usage_perc", &named("x"), 0.5));
    assert!(format!("{:?}", world.entry("a").health.faults).contains("\"x\""));
    world.write(Scrape::at(0.0).with("vllm:num_requests_waiting", &named("y"), f64::NAN));
    assert!(format!("{:?}", world.entry("a").health.faults).contains("\"y\""));
}
