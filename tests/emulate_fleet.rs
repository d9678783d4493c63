//! The emulated fleet as a whole: conservation across scaling, start-up delay, determinism, what a scrape
//! shows, and how fast it runs.

use std::collections::{BTreeMap, BTreeSet};

use inferno_sidecar::config::SloTargets;
use inferno_sidecar::emulate::exposition::{cluster_text, engine_text, scheduler_text, targets};
use inferno_sidecar::emulate::fleet::{Fleet, Model, Phase};
use inferno_sidecar::emulate::load::{PoissonLoad, RequestShape, Scenario, trace};
use inferno_sidecar::emulate::spec::{EngineVersion, FleetSpec, ModelSpec, VariantSpec};
use inferno_sidecar::emulate::standard::{self, StandardOptions};
use inferno_sidecar::emulate::{Collector, STALE_NAN_BITS};
use inferno_sidecar::proto::TimeSeries;
use inferno_sidecar::units::TimeMs;

const START: TimeMs = TimeMs(1_767_225_600_000);
const LLAMA: &str = "meta-llama/Llama-3.1-8B-Instruct";

fn demo() -> Fleet {
    Fleet::new(standard::spec(&StandardOptions::default()))
}

/// One model with one variant named `one` and the given recorded requests.
fn small(requests: Vec<(f64, u32, u32)>, replicas: u32) -> Fleet {
    let variant = VariantSpec {
        name: "one".to_owned(),
        accelerator: "L40S".to_owned(),
        cost: 1.0,
        profile: standard::l40s_8b(),
        engine: EngineVersion::V0,
        startup_ms: 30_000,
        grace_ms: 5_000,
        replicas,
    };
    Fleet::new(FleetSpec {
        start: START,
        seed: 9,
        models: vec![ModelSpec {
            namespace: "ns".to_owned(),
            model_id: "a/model \"x\"".to_owned(),
            slo: SloTargets::default(),
            load: Box::new(trace(START, requests)),
            variants: vec![variant],
        }],
        nodes: Vec::new(),
    })
}

fn assert_conserved(model: &Model) {
    let totals = model.totals();
    let accounted = totals.finished + totals.rejected + totals.killed + model.in_flight();
    assert_eq!(totals.arrived, accounted, "{totals:?}, {} in flight", model.in_flight());
}

fn label<'a>(series: &'a TimeSeries, name: &str) -> &'a str {
    series.labels.iter().find(|label| label.name == name).map_or("", |label| &label.value)
}

fn is_stale(series: &TimeSeries) -> bool {
    series.samples[0].value.to_bits() == STALE_NAN_BITS
}

#[test]
fn requests_are_conserved_while_the_fleet_scales() {
    let mut fleet = demo();
    let counts = [3, 1, 6, 0, 0, 2, 5, 1];
    for second in 1..=600_i64 {
        if second % 60 == 0 {
            let replicas = counts[(second / 60) as usize % counts.len()];
            for variant in ["llama-8b-l40s", "llama-8b-h100", "qwen-14b-h100"] {
                assert!(fleet.set_replicas("llm", variant, replicas));
            }
        }
        fleet.advance_to(START + second * 1000);
        fleet.models().iter().for_each(assert_conserved);
        for replica in fleet.models().iter().flat_map(Model::replicas) {
            assert!(replica.kv_usage() <= 1.0);
        }
    }
    let finished = fleet.take_finished().len() as u64;
    assert_eq!(finished, fleet.models().iter().map(|model| model.totals().finished).sum::<u64>());
    assert!(
        fleet.models().iter().all(|model| model.totals().killed > 0),
        "some were caught by the grace period"
    );
    assert!(fleet.take_finished().is_empty());
}

#[test]
fn a_new_replica_serves_only_after_its_startup_time() {
    let mut fleet = small(vec![(1000.0, 100, 10)], 0);
    fleet.set_replicas("ns", "one", 1);
    let status = fleet.variants().remove(0);
    assert_eq!((status.desired, status.current, status.ready), (1, 1, 0));
    fleet.advance_to(START + 29_999);
    assert_eq!((fleet.variants()[0].ready, fleet.models()[0].queued()), (0, 1));
    assert_eq!(engine_text(&fleet, &fleet.pods()[0].name), None);
    assert!(scheduler_text(&fleet.models()[0]).contains("flow_control_queue_size{"));
    fleet.advance_to(START + 30_000);
    assert_eq!((fleet.variants()[0].ready, fleet.models()[0].queued()), (1, 0));
    fleet.advance_to(START + 60_000);
    let served = fleet.take_finished();
    // Waiting for the start, then one prefill of 15 + 100 x 0.05, plus 8 outside the engine.
    assert_eq!(served[0].finished.ttft_ms, 29_000.0 + 20.0 + 8.0);
    assert!((fleet.variants()[0].replica_hours - 60.0 / 3600.0).abs() < 1e-9);
}

#[test]
fn scaling_down_takes_starting_replicas_first_and_lets_the_others_finish() {
    // One request that takes about 1.6 s and one that outlives the grace period.
    let mut fleet = small(vec![(0.0, 100, 100), (1.0, 100, 2000)], 2);
    fleet.advance_to(START + 100);
    fleet.set_replicas("ns", "one", 3);
    fleet.set_replicas("ns", "one", 2);
    assert!(fleet.pods().iter().all(|pod| pod.phase == Phase::Ready), "the starting one went first");
    fleet.set_replicas("ns", "one", 0);
    assert_eq!((fleet.variants()[0].current, fleet.variants()[0].draining), (0, 2));
    fleet.advance_to(START + 3_000);
    assert_eq!((fleet.variants()[0].draining, fleet.models()[0].totals().finished), (1, 1));
    fleet.advance_to(START + 5_099);
    assert_eq!(fleet.variants()[0].draining, 1);
    fleet.advance_to(START + 5_100);
    assert_eq!((fleet.pods().len(), fleet.models()[0].totals().killed), (0, 1));
    assert_conserved(&fleet.models()[0]);
}

#[test]
fn odd_input_is_harmless() {
    let requests =
        vec![(-5.0, 0, 0), (f64::NAN, 10, 10), (500.0, 10, 10), (100.0, 10, 10), (600.0, u32::MAX, 1)];
    let mut fleet = small(requests, 1);
    assert!(!fleet.set_replicas("ns", "two", 1));
    assert!(!fleet.set_replicas("other", "one", 1));
    fleet.advance_to(START + 60_000);
    fleet.advance_to(START);
    assert_eq!(fleet.now(), START + 60_000);
    let totals = fleet.models()[0].totals();
    assert_eq!((totals.arrived, totals.finished, totals.rejected), (5, 4, 1));
    fleet.set_replicas("ns", "one", u32::MAX);
    assert_eq!(fleet.variants()[0].desired, 1000);
}

/// All that the fleet exposes, and a digest of what clients felt.
fn everything(seed: u64) -> String {
    let mut fleet = Fleet::new(standard::spec(&StandardOptions { seed, ..StandardOptions::default() }));
    fleet.advance_to(START + 100_000);
    fleet.set_replicas("llm", "llama-8b-l40s", 4);
    fleet.advance_to(START + 200_000);
    let mut out = cluster_text(&fleet);
    fleet.models().iter().for_each(|model| out += &scheduler_text(model));
    fleet.pods().iter().filter_map(|pod| engine_text(&fleet, &pod.name)).for_each(|text| out += &text);
    out + &format!("{:?}", fleet.take_finished())
}

#[test]
fn the_seed_decides_every_byte() {
    assert_eq!(everything(1), everything(1));
    assert_ne!(everything(1), everything(2));
}

#[test]
fn the_step_of_the_clock_does_not_matter() {
    let (mut coarse, mut fine) = (demo(), demo());
    coarse.advance_to(START + 150_000);
    (1..=1500).for_each(|step| fine.advance_to(START + step * 100));
    let latencies = |fleet: &mut Fleet| {
        let mut all: Vec<_> = fleet.take_finished();
        all.sort_by_key(|one| (one.model, one.finished.request.id));
        all
    };
    assert_eq!(latencies(&mut coarse), latencies(&mut fine));
    assert_eq!(coarse.variants(), fine.variants());
}

#[test]
fn engines_speak_the_names_of_their_generation() {
    let mut v1 = demo();
    v1.advance_to(START + 60_000);
    let text = engine_text(&v1, &v1.pods()[0].name).expect("a ready engine");
    for line in [
        "# TYPE vllm:num_requests_running gauge".to_owned(),
        "# TYPE vllm:inter_token_latency_seconds histogram".to_owned(),
        format!(
            "vllm:time_to_first_token_seconds_bucket{{engine=\"0\",model_name=\"{LLAMA}\",le=\"2560.0\"}}"
        ),
        format!("vllm:request_success_total{{engine=\"0\",model_name=\"{LLAMA}\",finished_reason=\"stop\"}}"),
        "vllm:cache_config_info{block_size=\"16\",".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} not in\n{text}");
    }
    assert!(
        !text.contains("gpu_cache_usage_perc")
            && !text.contains("time_per_output_token_seconds_bucket{engine=\"0\",model_name=\"x")
    );
    let mut v0 = small(vec![(0.0, 100, 10)], 1);
    v0.advance_to(START + 10_000);
    let text = engine_text(&v0, &v0.pods()[0].name).expect("a ready engine");
    assert!(text.contains("vllm:gpu_cache_usage_perc{model_name=\"a/model \\\"x\\\"\"} 0.0"), "{text}");
    assert!(
        text.contains("vllm:time_per_output_token_seconds_count{model_name=\"a/model \\\"x\\\"\"} 9.0"),
        "{text}"
    );
    assert!(
        !text.contains("engine=") && !text.contains("kv_cache_usage_perc") && !text.contains("le=\"160.0\"}")
    );
}

#[test]
fn text_and_remote_write_say_the_same() {
    let mut fleet = demo();
    fleet.advance_to(START + 150_000);
    let series = Collector::new().collect(&fleet, fleet.now());
    let mut texts = vec![cluster_text(&fleet)];
    texts.extend(fleet.models().iter().map(scheduler_text));
    texts.extend(fleet.pods().iter().filter_map(|pod| engine_text(&fleet, &pod.name)));
    let lines: Vec<&str> =
        texts.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), series.len());
    for (line, series) in lines.iter().zip(&series) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let value: f64 = line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number");
        assert_eq!((name, value), (label(series, "__name__"), series.samples[0].value), "{line}");
        assert_eq!(series.samples[0].timestamp, START.0 + 150_000);
        assert!(series.labels.windows(2).all(|pair| pair[0].name < pair[1].name), "{:?}", series.labels);
        for attached in ["namespace", "pod", "job", "instance"] {
            assert_ne!(label(series, attached), "", "{attached} of {line}");
        }
    }
    let unique: BTreeSet<_> = series.iter().map(|one| format!("{:?}", one.labels)).collect();
    assert_eq!(unique.len(), series.len());
}

#[test]
fn the_owner_chain_leads_from_each_pod_to_its_deployment() {
    let mut fleet = demo();
    fleet.set_replicas("llm", "llama-8b-l40s", 3);
    let series = Collector::new().collect(&fleet, fleet.now());
    let of = |name: &str| series.iter().filter(move |one| label(one, "__name__") == name).collect::<Vec<_>>();
    let deployments: BTreeMap<&str, &str> = of("kube_replicaset_owner")
        .into_iter()
        .map(|one| (label(one, "replicaset"), label(one, "owner_name")))
        .collect();
    for pod in fleet.pods() {
        let owner =
            of("kube_pod_owner").into_iter().find(|one| label(one, "pod") == pod.name).expect("an owner");
        assert_eq!(deployments[label(owner, "owner_name")], pod.variant);
        let shape: Vec<&str> = pod.name.rsplitn(3, '-').collect();
        assert_eq!((shape[0].len(), shape[1].len(), shape[2]), (5, 10, pod.variant.as_str()));
    }
    let counts = |name: &str| {
        let of_l40s = of(name).into_iter().find(|one| label(one, "deployment") == "llama-8b-l40s");
        of_l40s.map(|one| one.samples[0].value)
    };
    assert_eq!(counts("kube_deployment_spec_replicas"), Some(3.0));
    assert_eq!(counts("kube_deployment_status_replicas"), Some(3.0));
    assert_eq!(counts("kube_deployment_status_replicas_ready"), Some(1.0));
    assert_eq!(of("kube_node_status_allocatable").iter().map(|one| one.samples[0].value).sum::<f64>(), 24.0);
}

#[test]
fn a_vanished_pod_goes_stale_exactly_once() {
    let mut fleet = demo();
    let mut collector = Collector::new();
    fleet.set_replicas("llm", "llama-8b-l40s", 2);
    fleet.advance_to(START + 40_000);
    let newest = fleet.pods()[1].name.clone();
    let before = collector.collect(&fleet, fleet.now());
    assert!(!before.iter().any(is_stale));
    let lasting: BTreeSet<_> = before
        .iter()
        .filter(|one| label(one, "pod") == newest)
        .map(|one| format!("{:?}", one.labels))
        .collect();
    assert!(lasting.len() > 100, "engine and owner series: {}", lasting.len());
    fleet.set_replicas("llm", "llama-8b-l40s", 1);
    fleet.advance_to(START + 75_000);
    let after = collector.collect(&fleet, fleet.now());
    let stale: Vec<String> =
        after.iter().filter(|one| is_stale(one)).map(|one| format!("{:?}", one.labels)).collect();
    assert_eq!(stale.len(), lasting.len());
    assert_eq!(stale.into_iter().collect::<BTreeSet<_>>(), lasting);
    fleet.advance_to(START + 76_000);
    let later = collector.collect(&fleet, fleet.now());
    assert!(!later.iter().any(|one| is_stale(one) || label(one, "pod") == newest));
}

#[test]
fn the_sample_configuration_names_the_standard_fleet() {
    for status in demo().variants() {
        let object = standard::CONFIG_YAML
            .split("\n---\n")
            .find(|object| {
                object.contains(&format!("  name: {}\n  namespace: {}\n", status.name, status.namespace))
            })
            .unwrap_or_else(|| panic!("no object for {}", status.name));
        for expected in [
            "kind: VariantAutoscaling\n".to_owned(),
            format!("acceleratorName: {}\n", status.accelerator),
            format!("modelID: {}\n", status.model_id),
            format!("variantCost: \"{:?}\"\n", status.cost),
        ] {
            assert!(object.contains(&expected), "{expected} not in\n{object}");
        }
    }
    for model in demo().models() {
        let slo = model.slo();
        let entry = format!(
            "model: {}\n        slo-tpot: {}\n        slo-ttft: {}\n",
            model.model_id(),
            slo.itl_ms,
            slo.ttft_ms
        );
        assert!(standard::CONFIG_YAML.contains(&entry), "{entry}");
    }
    assert!(!targets(&demo()).is_empty());
}

/// Speed on one core; run it alone with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, meaningful in release mode only"]
fn ten_replicas_run_a_thousand_times_faster_than_real_time() {
    let shape = RequestShape {
        prompt_tokens: 1200.0,
        output_tokens: 250.0,
        spread: 0.6,
        max_tokens: 16_000,
        cached_share: 0.0,
    };
    for (load, rate_per_s) in [("light", 20.0), ("busy", 120.0), ("overloaded", 200.0)] {
        let mut spec = standard::spec(&StandardOptions::default());
        spec.models.truncate(1);
        spec.models[0].load = Box::new(PoissonLoad::new(START, rate_per_s, Scenario::Steady, shape, 5));
        spec.models[0].variants.remove(0);
        spec.models[0].variants[0].replicas = 10;
        let mut fleet = Fleet::new(spec);
        let started = std::time::Instant::now();
        let mut finished = 0;
        for second in 1..=3600 {
            fleet.advance_to(START + second * 1000);
            finished += fleet.take_finished().len();
        }
        let speed = 3600.0 / started.elapsed().as_secs_f64();
        let iterations: u64 = fleet.models()[0].replicas().map(|replica| replica.counters().iterations).sum();
        let mut collector = Collector::new();
        let scrape = std::time::Instant::now();
        let series = collector.collect(&fleet, fleet.now()).len();
        let status = fleet.variants().remove(0);
        println!(
            "{load}: {speed:.0} x real time; {finished} requests, {iterations} iterations, {} running, {} waiting; a scrape of {series} series takes {:?}",
            status.running,
            status.waiting,
            scrape.elapsed()
        );
        assert!(cfg!(debug_assertions) || speed > 1000.0, "only {speed:.0} x real time");
    }
}
