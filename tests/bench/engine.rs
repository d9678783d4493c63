//! Benchmark of the engine: `cargo bench --bench engine`.
//!
//! Time per event on warmed-up fleets of several sizes, rendering, and the cost of taking in samples beside the
//! snappy decompression of the same bytes. One part alone: `cargo bench --bench engine -- ingest` (or `batches`,
//! `everything`, `record`, `memory`, `churn`, `phases`, `simulate`). One batch: what one pod reports in a scrape, written and
//! published; pods take turns as they would in a fleet of that size that is scraped every 15 s.

mod churn;
mod fleet;
mod phases;
#[path = "../support/table.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod table;

use fleet::{Fleet, INTERVAL_MS, at, encode};
use inferno_sidecar::config::SloTargets;
use inferno_sidecar::limits::HISTORY_MAX_BYTES;
use inferno_sidecar::proto::v2;
use inferno_sidecar::publish::exposition::{BoardText, Format, Writer};
use inferno_sidecar::publish::history::{History, Retention, Selected, Table, Want};
use inferno_sidecar::publish::promql::{Moment, Query, Value};
use inferno_sidecar::publish::select::View;
use inferno_sidecar::simulate::PolicyName;
use inferno_sidecar::simulate::pattern::Pattern;
use inferno_sidecar::simulate::profiles::built_in;
use inferno_sidecar::simulate::suite::{Common, scenario};
use inferno_sidecar::wire::Version;
use prost::Message;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Size of the pieces in which the exposition is sent.
const PIECE_BYTES: usize = 128 << 10;
/// Batches per size.
const BATCHES: usize = 3_000;

fn line(what: &str, value: f64, unit: &str, target: &str, note: &str) {
    println!("{what:<58} {value:>9.3} {unit:<3} {target:<12} {note}");
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

/// Median seconds of `times` runs.
fn median_s(times: usize, mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..times)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    quantile(&mut seconds, 0.5)
}

/// One batch of one pod at a time; returns the median in us, after reporting it beside that of 10 variants.
fn batches(fleet: &mut Fleet, mode: &str, smallest: Option<f64>) -> f64 {
    let pods = fleet.pods();
    let (mut write_us, mut publish_us, mut both_us) = (Vec::new(), Vec::new(), Vec::new());
    let before = fleet.engine.stats();
    for batch in 0..BATCHES {
        let scrape = fleet.next_scrape() + (batch / pods) as i64;
        let pod = batch % pods;
        let time = at(scrape) + INTERVAL_MS * pod as i64 / pods as i64;
        let request = encode(fleet.pod(pod, scrape, time, true));
        let start = Instant::now();
        let report = fleet.engine.write_v1(black_box(&request), time).expect("the request is sound");
        let written = start.elapsed().as_secs_f64() * 1e6;
        black_box(fleet.engine.publish());
        let both = start.elapsed().as_secs_f64() * 1e6;
        assert_eq!(report.used, report.counts.samples);
        write_us.push(written);
        publish_us.push(both - written);
        both_us.push(both);
    }
    let after = fleet.engine.stats();
    let us = quantile(&mut both_us, 0.5);
    let models = (after.recomputations - before.recomputations) as f64 / BATCHES as f64;
    line(
        &format!("batch of 1 pod, {} variants, mode {mode}", fleet.models * fleet.kinds),
        us,
        "us",
        "< 50",
        &format!(
            "write {:.1}, publish {:.1}, p99 {:.1}; {models:.2} models/batch; {:.2} x that of 10",
            quantile(&mut write_us, 0.5),
            quantile(&mut publish_us, 0.5),
            quantile(&mut both_us, 0.99),
            us / smallest.unwrap_or(us),
        ),
    );
    us
}

/// Recomputation of everything.
fn everything(fleet: &mut Fleet, mode: &str) {
    let seconds = median_s(5, || {
        fleet.engine.touch_all();
        black_box(fleet.engine.publish());
    });
    let (models, kinds) = (fleet.models, fleet.kinds);
    line(
        &format!("everything, {models} models x {kinds} accelerators, mode {mode}"),
        seconds,
        "s",
        "< 1",
        &format!("{:.1} us per model", seconds * 1e6 / models as f64),
    );
}

/// What readers pay.
fn rendering(fleet: &Fleet) {
    let board = fleet.engine.board().clone();
    let now = fleet.engine.stream_time().expect("there were samples");
    const SCRAPES: usize = 40;
    let (mut bytes, mut pieces) = (0, 0);
    // The system counts in steps of some milliseconds, so that one scrape alone would say little.
    let start = cpu_s();
    for _ in 0..SCRAPES {
        let mut writer = Writer::with_room(Format::Text, PIECE_BYTES);
        let mut text = BoardText::new(&board, now, true);
        (bytes, pieces) = (0, 0);
        let mut is_more = true;
        while is_more {
            is_more = text.write(&mut writer, PIECE_BYTES);
            bytes += black_box(writer.take()).len();
            pieces += 1;
        }
    }
    let seconds = (cpu_s() - start) / SCRAPES as f64;
    let note = format!("{:.1} MB in {pieces} pieces, mean processor time", bytes as f64 / 1e6);
    line(&format!("/metrics, {} variants", board.entries.len()), seconds * 1e3, "ms", "< 20", &note);
    let text = "inferno_desired_replicas{variant_name=\"variant-77\",exported_namespace=\"team-1\"}";
    let view = View { board: &board, now, aliases: false };
    let Ok(Value::Vector(found)) =
        Query::parse(text).and_then(|query| query.evaluate(&view, Moment::at(now)))
    else {
        panic!("the query gives a vector");
    };
    assert_eq!(found.len(), 1, "one variant");
    let seconds = median_s(200, || {
        let query = Query::parse(black_box(text)).expect("the query is sound");
        black_box(query.evaluate(&view, Moment::at(now)).expect("the board is ready"));
    });
    line("query for one variant, by name and exported_namespace", seconds * 1e6, "us", "< 200", "");
}

/// The encoded request, with the empty metadata that Prometheus writes for every series.
fn as_prometheus_sends(mut request: v2::Request) -> Vec<u8> {
    request.timeseries.iter_mut().for_each(|series| series.metadata = Some(v2::Metadata::default()));
    request.encode_to_vec()
}

/// Taking in samples beside the decompression of the same bytes. Of each request the fastest round counts, for either:
/// neighbours on the machine only add to it.
fn ingest(fleet: &mut Fleet, version: Version, relevant_only: bool, first: i64) -> i64 {
    const ROUNDS: i64 = 40;
    let (mut plain_s, mut ours_s, mut samples) = (Vec::new(), Vec::new(), 0);
    let mut compressor = snap::raw::Encoder::new();
    let mut decompressor = snap::raw::Decoder::new();
    let mut buffer = vec![0; 16 << 20];
    for round in first..first + ROUNDS {
        let scrape = fleet.scrape(round, false, relevant_only);
        samples = scrape.iter().map(Vec::len).sum();
        let encoded = scrape.into_iter().map(|series| match version {
            Version::V1 => encode(series),
            Version::V2 => as_prometheus_sends(table::request_of(&series)),
        });
        let compressed: Vec<Vec<u8>> =
            encoded.map(|bytes| compressor.compress_vec(&bytes).expect("it fits")).collect();
        plain_s.resize(compressed.len(), f64::INFINITY);
        ours_s.resize(compressed.len(), f64::INFINITY);
        for (number, request) in compressed.iter().enumerate() {
            let start = Instant::now();
            let length = decompressor.decompress(request, &mut buffer).expect("it is sound");
            let plain = start.elapsed().as_secs_f64();
            let start = Instant::now();
            let report = fleet.engine.write(version, &buffer[..length], at(round));
            let ours = start.elapsed().as_secs_f64();
            assert_eq!(black_box(report).expect("the request is sound").rejected, 0);
            // The first round meets series that are new to the engine.
            if round > first {
                plain_s[number] = plain.min(plain_s[number]);
                ours_s[number] = ours.min(ours_s[number]);
            }
        }
        fleet.engine.publish();
    }
    let per_sample_ns = |seconds: &[f64]| seconds.iter().sum::<f64>() * 1e9 / samples as f64;
    let (plain_ns, ours_ns) = (per_sample_ns(&plain_s), per_sample_ns(&ours_s));
    let what = if relevant_only { "relevant only" } else { "all series" };
    let target = match (version, relevant_only) {
        (Version::V1, false) => "< 1.5",
        (Version::V1, true) | (Version::V2, false) => "< 2.5",
        (Version::V2, true) => "",
    };
    line(
        &format!("ingest / decompression, {version:?}, {what}"),
        ours_ns / plain_ns,
        "x",
        target,
        &format!("{ours_ns:.0} / {plain_ns:.0} ns per sample"),
    );
    first + ROUNDS
}

/// What a record of an hour costs: a step, memory, and a panel over all of it.
fn record(variants: usize) {
    const STEPS: i64 = 240;
    let mut fleet = Fleet::warm(variants, 1, "saturation");
    let mut history = History::new(Retention { ms: STEPS * INTERVAL_MS, bytes: HISTORY_MAX_BYTES });
    let mut step_ms = Vec::new();
    let first = fleet.next_scrape();
    for round in first..first + STEPS {
        for series in fleet.scrape(round, false, true) {
            fleet.engine.write_v1(&encode(series), at(round)).expect("the request is sound");
        }
        fleet.engine.publish();
        let start = Instant::now();
        history.step(fleet.engine.board(), at(round));
        step_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let stats = history.stats();
    line(
        &format!("step of the record, {variants} variants"),
        quantile(&mut step_ms, 0.5),
        "ms",
        "",
        &format!(
            "after {STEPS} steps {:.1} MB in {} series, {:.2} bytes per sample{}",
            stats.bytes as f64 / 1e6,
            stats.series,
            stats.bytes as f64 / (stats.series as i64 * STEPS) as f64,
            if stats.is_shortened { ", shortened" } else { "" },
        ),
    );
    let (start, end) = (at(first), at(first + STEPS - 1));
    for text in [
        "max_over_time(inferno_utilization_ratio{variant_name=\"variant-7\",exported_namespace=\"team-0\"}[5m])",
        "sum(inferno_requests_running)",
    ] {
        let milliseconds = 1e3
            * median_s(5, || {
                let query = Query::parse(text).expect("the query is sound");
                let moment = |time| Moment { time, start, end };
                let used = query.uses(moment(start), moment(end)).expect("the query is sound").remove(0);
                let (from, to) = (used.from, used.times.1);
                let want = Want { selector: used.selector, from, to, aliases: false };
                let series = history.select(&want, usize::MAX).expect("there is no bound");
                assert!(!series.is_empty());
                let present = View { board: fleet.engine.board(), now: end, aliases: false };
                let selected = Selected { id: used.id, from, to, is_range: used.is_range, series: &series };
                let table = Table::new(present, history.since(), false, [selected]);
                for step in 0..STEPS {
                    black_box(
                        query.evaluate(&table, moment(start + step * INTERVAL_MS)).expect("it is evaluated"),
                    );
                }
            });
        let what = text.split(['{', ')']).next().unwrap_or(text);
        line(&format!("{what}...: {STEPS} points, {variants} variants recorded"), milliseconds, "ms", "", "");
    }
}

/// Resident memory of this process, bytes.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim_end_matches("kB").trim().parse::<f64>().unwrap_or(f64::NAN) * 1024.0
}

/// Memory of 10,000 pods: with their relevant series, and with all that they report forwarded.
fn memory() {
    let mut fleet = Fleet::cold(5_000, 1, "saturation");
    let warm = fleet.next_scrape();
    (0..warm).for_each(|scrape| fleet.report(scrape, true));
    let (relevant, series) = (resident_bytes(), fleet.engine.stats().series);
    line(
        &format!("resident, {series} relevant series of {} pods", fleet.pods()),
        relevant / 1e6,
        "MB",
        "< 250",
        &format!("{:.0} bytes per series, configuration and all", relevant / series as f64),
    );
    (0..2).for_each(|scrape| fleet.report(warm + scrape, false));
    let foreign = 280 * fleet.pods();
    assert_eq!(fleet.engine.stats().series, series, "what is not relevant is not remembered");
    let growth = 100.0 * (resident_bytes() / relevant - 1.0);
    line(&format!("growth with {foreign} irrelevant series on top"), growth, "%", "< 10", "");
}

/// Models whose memory is compared between modes.
const LEARNING_MODELS: usize = 500;

/// Resident memory of a process of its own that has seen more in a mode than that looks back on.
fn resident_after(mode: &str) -> f64 {
    let itself = std::env::current_exe().expect("it runs");
    let output = std::process::Command::new(itself).args(["learning", mode]).output().expect("it runs again");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of bytes")
}

/// The process that [`resident_after`] starts.
fn learn(mode: &str) {
    // 15 s each, and so over two hours.
    const SCRAPES: i64 = 560;
    let mut fleet = Fleet::cold(LEARNING_MODELS, 1, mode);
    (0..SCRAPES).for_each(|scrape| fleet.report(scrape, true));
    println!("{}", resident_bytes());
}

/// What mode `slo` remembers beside what every mode does.
fn learning() {
    let kilobytes = |mode| resident_after(mode) / LEARNING_MODELS as f64 / 1e3;
    let (slo, saturation) = (kilobytes("slo"), kilobytes("saturation"));
    let note = format!("{slo:.1} kB in all; one variant of {} replicas each", fleet::PODS);
    line("memory of a model for mode slo, two hours seen", slo - saturation, "kB", "", &note);
}

/// On-CPU time of this thread, s: what others do on the machine does not count.
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

/// How fast `simulate` runs a fleet of ten replicas: alone, and with the engine that is fed its scrapes.
fn simulation() {
    let profile = built_in().remove(0);
    let slo = SloTargets { ttft_ms: 2000.0, itl_ms: 50.0, tps: 0.0 };
    let common =
        Common { attainment: 0.99, startup_ms: 110_000, scrape_ms: 5_000, replicas: (10, 10), seed: 1 };
    for (load, rate) in [("light", 20), ("busy", 120)] {
        let pattern = format!("rate={rate},duration=20m,prompt=1200,output=250");
        let trace = Pattern::parse(&pattern).expect("the pattern is sound").trace("bench", 1);
        let scenario = scenario(&Arc::new(trace), &profile, slo, common);
        for policy in ["static-10", "slo"] {
            let policy = PolicyName::parse(policy).expect("there is such a policy");
            let start = cpu_s();
            let outcome = policy.run(&scenario, &mut |_| {}).expect("the scenario is sound");
            let speed = scenario.trace.duration_ms() as f64 / 1000.0 / (cpu_s() - start);
            let note = format!("{} requests on {}", outcome.arrived, profile.id);
            line(
                &format!("simulated s per CPU s, 10 replicas, {load}, {}", policy.name()),
                speed,
                "x",
                "> 1000",
                &note,
            );
        }
    }
}

fn main() {
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let is_asked = |name: &str| part.as_ref().is_none_or(|part| part == name);
    if part.as_deref() == Some("learning") {
        return learn(&std::env::args().next_back().expect("a mode"));
    }
    println!("{:<58} {:>9}     {:<12} note", "what", "measured", "target");
    // First, because a process does not give back all that it once needed.
    if is_asked("memory") {
        memory();
        learning();
    }
    if is_asked("churn") {
        churn::churn();
    }
    if is_asked("phases") {
        phases::phases();
    }
    for mode in ["saturation", "model", "hybrid", "slo"].into_iter().filter(|_| is_asked("batches")) {
        let mut smallest = None;
        for variants in [10, 1_000, 10_000] {
            let mut fleet = Fleet::warm(variants, 1, mode);
            let us = batches(&mut fleet, mode, smallest);
            smallest = smallest.or(Some(us));
            if variants == 10_000 && mode == "saturation" {
                rendering(&fleet);
            }
        }
    }
    if is_asked("everything") {
        everything(&mut Fleet::warm(1_000, 3, "model"), "model");
        everything(&mut Fleet::warm(10_000, 3, "model"), "model");
    }
    if is_asked("record") {
        record(1_000);
        record(10_000);
    }
    if is_asked("simulate") {
        simulation();
    }
    if is_asked("ingest") {
        let mut fleet = Fleet::warm(100, 1, "saturation");
        let mut scrape = fleet.next_scrape();
        for version in [Version::V1, Version::V2] {
            for relevant_only in [false, true] {
                scrape = ingest(&mut fleet, version, relevant_only, scrape);
            }
        }
    }
}
