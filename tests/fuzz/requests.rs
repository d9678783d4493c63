//! Write requests of both versions, sound and damaged.

use crate::attempts;
use crate::mutate::damage;
use crate::support::{NAMESPACE, START_MS, World, at, stale, variant};
use crate::table::request_of;
use inferno_sidecar::engine::{Engine, WriteReport};
use inferno_sidecar::proto::{Exemplar, Label, Sample, TimeSeries, WriteRequest, v2};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::units::TimeMs;
use inferno_sidecar::wire::{Version, WireError, decompress};
use prost::Message;
use rand::RngExt;
use rand_pcg::Pcg64;
use std::sync::Arc;

const NAMES: [&str; 9] = [
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:prompt_tokens_total",
    "vllm:request_success_total",
    "kube_deployment_status_replicas",
    "vllm:e2e_request_latency_seconds_bucket",
    "go_goroutines",
    "",
];

/// A label, most of the time one that makes sense, in the pod's run of equal labels.
fn labels(random: &mut Pcg64, pod: usize) -> Vec<Label> {
    let pod = format!("a-7d9c5b8f6d-{}", ["bbbbb", "ccccc", "ddddd"][pod % 3]);
    let name = NAMES[random.random_range(0..NAMES.len())];
    let bound = ["0.1", "0.5", "+Inf", "stop"][random.random_range(0..4)];
    let mut pairs = vec![("__name__", name), ("deployment", "a"), ("namespace", NAMESPACE), ("pod", &pod)];
    if random.random_ratio(1, 3) {
        pairs.insert(random.random_range(0..=4), ("le", bound));
    }
    match random.random_range(0..16) {
        0 => pairs.push(pairs[random.random_range(0..pairs.len())]),
        1 => drop(pairs.remove(random.random_range(0..pairs.len()))),
        2 => pairs.push(("", "x")),
        3 => pairs.push(("model_name", name)),
        4 => pairs.insert(0, ("Above", name)),
        5 => pairs.push(("prometheus_replica", bound)),
        6 => pairs.swap(0, 1),
        _ => {}
    }
    pairs.into_iter().map(|(name, value)| Label { name: name.into(), value: value.into() }).collect()
}

fn series(random: &mut Pcg64, pod: usize, is_odd: bool) -> TimeSeries {
    let values = if is_odd { 7 } else { 4 };
    let sample = |random: &mut Pcg64| Sample {
        value: [0.0, 0.5, 7.0, stale(), -1.0, f64::NAN, f64::INFINITY][random.random_range(0..values)],
        // Never so far apart that series are forgotten, once in a while too far ahead.
        timestamp: START_MS
            + random.random_range(-90_000..410_000)
            + if is_odd && random.random_ratio(1, 20) { 1_000_000 } else { 0 },
    };
    let samples = (0..[1, 1, 1, 0, 3][random.random_range(0..5)]).map(|_| sample(random)).collect();
    let exemplars = match random.random_ratio(1, 12) {
        true => vec![Exemplar { value: 1.0, timestamp: START_MS, ..Exemplar::default() }],
        false => Vec::new(),
    };
    TimeSeries { labels: labels(random, pod), samples, exemplars, ..TimeSeries::default() }
}

fn all(random: &mut Pcg64) -> Vec<TimeSeries> {
    let is_odd = random.random();
    (0..random.random_range(0..30)).map(|number| series(random, number / 6, is_odd)).collect()
}

fn encoded(version: Version, series: &[TimeSeries]) -> Vec<u8> {
    match version {
        Version::V1 => {
            WriteRequest { timeseries: series.to_vec(), ..WriteRequest::default() }.encode_to_vec()
        }
        Version::V2 => request_of(series).encode_to_vec(),
    }
}

/// What does not depend on what was written before, and how many series are known after it.
type Sum = ([u64; 8], usize);

fn add(sum: &mut Sum, report: &WriteReport, engine: &Engine) {
    let (counts, written) = (report.counts, report.written);
    let figures = [
        counts.series,
        counts.samples,
        written.samples,
        written.histograms,
        written.exemplars,
        report.used,
        report.meaningless,
        report.rejected,
    ];
    sum.0.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
    sum.1 = engine.stats().series;
}

/// Writes requests in a row to an engine that knows nothing.
fn outcome<'a>(version: Version, requests: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<Sum, WireError> {
    let mut engine = Engine::new(Arc::new(Dialects::built_in()));
    let mut sum = Sum::default();
    for request in requests {
        let report = engine.write(version, request, now())?;
        add(&mut sum, &report, &engine);
    }
    Ok(sum)
}

fn now() -> TimeMs {
    at(300.0)
}

/// The request as one request per series, where the plain decoder reads it.
fn split(version: Version, request: &[u8]) -> Option<Vec<Vec<u8>>> {
    match version {
        Version::V1 => {
            let request = WriteRequest::decode(request).ok()?;
            let one = |series| WriteRequest { timeseries: vec![series], ..WriteRequest::default() };
            Some(request.timeseries.into_iter().map(|series| one(series).encode_to_vec()).collect())
        }
        Version::V2 => {
            let v2::Request { symbols, timeseries } = v2::Request::decode(request).ok()?;
            let one = |series| v2::Request { symbols: symbols.clone(), timeseries: vec![series] };
            Some(timeseries.into_iter().map(|series| one(series).encode_to_vec()).collect())
        }
    }
}

/// What is recognised by its place beside others is what it is alone.
fn holds_of_parts(version: Version, request: &[u8]) {
    let (whole, parts) = (outcome(version, [&request.to_vec()]), split(version, request));
    if let (Ok(whole), Some(parts)) = (whole, parts) {
        let parts = outcome(version, &parts).expect("a part of a sound request is sound");
        assert_eq!(whole.0, parts.0, "{version:?}: one by one");
    }
}

fn fuzz(version: Version) {
    let mut world = World::new(&variant("a", "m", ""));
    let mut inputs = 0u32;
    attempts(&format!("requests of {version:?}"), |random| {
        if inputs.is_multiple_of(512) {
            world = World::new(&variant("a", "m", ""));
        }
        inputs += 1;
        let mut request = encoded(version, &all(random));
        holds_of_parts(version, &request);
        if random.random_ratio(4, 5) {
            damage(random, &mut request);
            holds_of_parts(version, &request);
        }
        // An engine that has seen much judges the same, and refuses without a trace.
        let before = world.engine.stats();
        match (world.engine.write(version, &request, now()), outcome(version, [&request])) {
            (Ok(report), Ok(fresh)) => {
                let mut sum = Sum::default();
                add(&mut sum, &report, &world.engine);
                assert_eq!(sum.0, fresh.0, "known and new series");
            }
            (Err(known), Err(fresh)) => {
                assert_eq!((known, world.engine.stats()), (fresh, before));
            }
            (known, fresh) => panic!("{known:?} and {fresh:?}"),
        }
        world.publish();
    });
}

#[test]
fn requests_of_1_0() {
    fuzz(Version::V1);
}

#[test]
fn requests_of_2_0() {
    fuzz(Version::V2);
}

#[test]
fn both_versions_say_the_same() {
    attempts("requests of both versions", |random| {
        let series = all(random);
        let [one, two] =
            [Version::V1, Version::V2].map(|version| outcome(version, [&encoded(version, &series)]));
        // Only 2.0 judges labels of series that are not ours.
        let is_judged_alike =
            one.as_ref().is_ok_and(|one| one.0[7] == 0) && two.as_ref().is_ok_and(|two| two.0[7] == 0);
        if is_judged_alike {
            let without_exemplars =
                |sum: Result<Sum, WireError>| sum.map(|(figures, known)| (figures[5..].to_vec(), known));
            assert_eq!(without_exemplars(one), without_exemplars(two));
        }
    });
}

#[test]
fn compressed_bodies() {
    attempts("compressed bodies", |random| {
        let plain = encoded(Version::V1, &all(random));
        let mut body = snap::raw::Encoder::new().compress_vec(&plain).expect("it fits");
        let mut buffer = Vec::new();
        assert_eq!(decompress(&body, &mut buffer).map(<[u8]>::len), Ok(plain.len()));
        damage(random, &mut body);
        let _ = decompress(&body, &mut buffer);
        assert!(buffer.len() <= body.len().max(plain.len()) * 22 + 64, "{} of {}", buffer.len(), body.len());
    });
}
