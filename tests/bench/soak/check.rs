//! Looks at the sidecar during the soak: memory, latency, what it decides, what a fresh instance decides, and what
//! is decided after a restart.

use crate::Noted;
use crate::link::{Link, get, metric, started};
use crate::process::Process;
use crate::sidecar::{Sidecar, exposition, reload};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Queries whose time is taken.
const QUERIES: usize = 200;
/// Variants that are shown of those with something to see.
const SHOWN: usize = 3;

/// Fault of the input of a variant one of whose pods was replaced and has not been scraped yet.
const SILENT: &str = "replicas_silent";

/// Where an answer has what mode `slo` knows.
const KNOWN: [&str; 2] =
    ["/decision/model/demand/arriving/perSecond", "/learned/capacityPerReplicaPerSecond"];
/// Share by which two numbers that are known alike may differ.
const ALIKE: f64 = 0.01;

/// What is published of a variant.
struct Seen {
    mode: String,
    desired: u64,
    /// What is wrong with it for whoever reads it.
    wrong: Option<String>,
    explained: String,
    /// What mode `slo` knows of the load and of a replica: arrivals and capacity, per second.
    known: [Option<f64>; 2],
}

/// Names of the columns.
pub fn heading() {
    println!(
        "{:>6} {:>6} {:>8} {:>9} {:>8} {:>17} {:>17} {:>14} {:>10} {:>29}  since the check before",
        "min",
        "age",
        "RSS MB",
        "record MB",
        "series",
        "write p50/p99 ms",
        "query p50/p99 ms",
        "model differs",
        "wrong",
        "twin: model, slo, > 1, known",
    );
}

fn quantiles(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    format!("{:.2}/{:.2}", at(0.5), at(0.99))
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}

/// What the sidecar finds wrong with the input of a variant.
fn faults(entry: &Value) -> impl Iterator<Item = &str> {
    let faults = entry["input"]["faults"].as_array().into_iter().flatten();
    faults.map(|fault| fault["reason"].as_str().unwrap_or_default())
}

/// What is wrong with what is published of a variant, if anything is.
fn wrong(entry: &Value, desired: u64) -> Option<String> {
    let finite = |path: &str| entry.pointer(path).and_then(Value::as_f64).is_some_and(f64::is_finite);
    let bound = |name: &str, without: u64| entry[name].as_u64().unwrap_or(without);
    if !(bound("minReplicas", 1).max(1)..=bound("maxReplicas", u64::MAX)).contains(&desired) {
        Some(format!("{desired} is out of bounds"))
    } else if faults(entry).any(|fault| fault != SILENT) {
        Some(format!("input: {}", entry["input"]["faults"]))
    } else if !entry["decision"]["fallback"].is_null() {
        Some(format!("fallback: {}", entry["decision"]["fallback"]))
    } else if !finite("/decision/ratio") || !finite("/decision/model/demandPerSecond") {
        Some(format!("not a number in {}", entry["decision"]))
    } else if !finite("/learned/capacityPerReplicaPerSecond") && entry["decision"]["mode"] == "slo" {
        Some(format!("no capacity in {}", entry["learned"]))
    } else {
        None
    }
}

/// What is published, by variant.
fn seen(address: SocketAddr) -> BTreeMap<String, Seen> {
    let text = Link::open(address).read(&get("/api/v1/variants"));
    let board: Value = serde_json::from_str(&text).expect("answers are JSON");
    assert_eq!(board["notReady"], Value::Null, "it has decided");
    let entries = board["variants"].as_array().expect("a list").iter();
    let seen = entries.map(|entry| {
        let desired = entry["decision"]["desired"].as_u64().expect("every variant is decided");
        let seen = Seen {
            mode: entry["decision"]["mode"].as_str().unwrap_or_default().to_owned(),
            desired,
            wrong: wrong(entry, desired),
            explained: entry["decision"].to_string(),
            known: KNOWN.map(|path| entry.pointer(path).and_then(Value::as_f64)),
        };
        (entry["name"].as_str().expect("a name").to_owned(), seen)
    });
    seen.collect()
}

/// Variants of a mode whose counts are further apart than `tolerance`.
fn apart<'a>(
    mode: &'a str,
    one: &'a BTreeMap<String, Seen>,
    other: &'a BTreeMap<String, Seen>,
    tolerance: u64,
) -> Vec<&'a String> {
    let of_mode = one.iter().filter(|(_, seen)| seen.mode == mode);
    let differing = of_mode.filter(|(name, seen)| {
        other.get(*name).is_none_or(|other| other.desired.abs_diff(seen.desired) > tolerance)
    });
    differing.map(|(name, _)| name).collect()
}

/// How many counts differ: in mode `model`, in `slo`, and there by more than one; and of how many variants in mode
/// `slo` what is known differs.
fn compared(one: &BTreeMap<String, Seen>, other: &BTreeMap<String, Seen>) -> String {
    let differing =
        [("model", 0), ("slo", 0), ("slo", 1)].map(|(mode, by)| apart(mode, one, other, by).len());
    let is_alike = |a: f64, b: f64| (a - b).abs() <= ALIKE * a.abs().max(b.abs());
    let known_otherwise = one.iter().filter(|(name, seen)| {
        let pairs = other.get(*name).map(|other| seen.known.into_iter().zip(other.known));
        seen.mode == "slo"
            && !pairs
                .is_some_and(|mut pairs| pairs.all(|(a, b)| a.zip(b).is_some_and(|(a, b)| is_alike(a, b))))
    });
    format!("{}, {}, {}, {}", differing[0], differing[1], differing[2], known_otherwise.count())
}

fn show(names: &[&String], boards: [(&str, &BTreeMap<String, Seen>); 2]) {
    for name in names.iter().take(SHOWN) {
        for (which, board) in boards {
            let explained = board.get(*name).map(|seen| &*seen.explained);
            println!("       {name} {which}: {}", explained.unwrap_or("missing"));
        }
    }
}

/// Prints a line. Counts of mode `model` are those of a fresh instance; all are in order, and they are compared with
/// those of the twin to which nothing has happened.
pub fn report(
    sidecar: &Sidecar,
    twin: SocketAddr,
    elapsed: Duration,
    recent: &VecDeque<Vec<u8>>,
    mut noted: Noted,
) {
    // Before it renders answers of some megabytes.
    let resident_mb = sidecar.process.resident_kib() as f64 / 1024.0;
    let said = Link::open(sidecar.address).read(&reload());
    assert!(said.contains(" 0 problems"), "{said}");
    let (published, twin) = (seen(sidecar.address), seen(twin));
    let (_process, fresh_address) = fresh(sidecar, recent);
    let fresh = seen(fresh_address);
    let of_mode = |mode: &str| published.values().filter(|seen| seen.mode == mode).count();
    let differing = apart("model", &published, &fresh, 0);
    let wrong: Vec<_> = published.iter().filter(|(_, seen)| seen.wrong.is_some()).collect();
    let mut query_ms = queries(sidecar.address);
    println!(
        "{:>6.1} {:>6.1} {:>8.1} {:>9.1} {:>8} {:>17} {:>17} {:>14} {:>10} {:>29}  {} pods replaced, {} configurations, \
         refused {:?}, faults {}, records {}",
        minutes(elapsed),
        minutes(sidecar.age()),
        resident_mb,
        metric(sidecar.address, "inferno_sidecar_record_bytes") / 1e6,
        metric(sidecar.address, "inferno_sidecar_series"),
        quantiles(&mut noted.write_ms),
        quantiles(&mut query_ms),
        format!("{} of {}", differing.len(), of_mode("model")),
        format!("{} of {}", wrong.len(), published.len()),
        compared(&published, &twin),
        noted.replaced,
        noted.changes,
        noted.refused,
        noted.faults.values().sum::<u64>(),
        records(sidecar.address),
    );
    for (mode, board) in [("model", &published), ("slo", &published)] {
        let counts: BTreeSet<_> =
            board.values().filter(|seen| seen.mode == mode).map(|s| s.desired).collect();
        assert!(counts.len() > 1, "the load swings, so counts differ: {mode} {counts:?}");
    }
    show(&differing, [("published", &published), ("of the fresh one", &fresh)]);
    show(&apart("slo", &published, &twin, 1), [("published", &published), ("of the twin", &twin)]);
    for (name, seen) in wrong.iter().take(SHOWN) {
        println!("       {name} ({}): {}", seen.mode, seen.wrong.as_deref().unwrap_or_default());
    }
}

/// Ends the sidecar, starts it anew, and prints what differs from before.
pub fn restart(sidecar: &mut Sidecar, asked: bool, request: &[u8]) {
    let before = seen(sidecar.address);
    let restart = sidecar.restart(asked, request);
    let after = seen(sidecar.address);
    let backfilled = metric(sidecar.address, "inferno_sidecar_backfill_samples_total");
    println!(
        "{:>6} after {}: ended in {:.0} ms, {:.1} MB, taken after {:.0} ms and {} attempts with {backfilled} samples \
         of before; other counts (model, slo, slo by more than one, slo knows otherwise): {}",
        "",
        if asked { "SIGTERM" } else { "SIGKILL" },
        restart.ended_ms,
        sidecar.process.resident_kib() as f64 / 1024.0,
        restart.back_ms,
        restart.attempts,
        compared(&before, &after),
    );
    show(&apart("model", &before, &after, 0), [("before", &before), ("after", &after)]);
    show(&apart("slo", &before, &after, 1), [("before", &before), ("after", &after)]);
}

/// An instance that knows the configuration and the recent samples alone.
fn fresh(sidecar: &Sidecar, recent: &VecDeque<Vec<u8>>) -> (Process, SocketAddr) {
    let (process, address) = started(Path::new(&sidecar.program), &sidecar.config, &[], &[]);
    let mut link = Link::open(address);
    recent.iter().for_each(|request| link.write(request));
    (process, address)
}

/// What became of the records of the recording.
fn records(address: SocketAddr) -> String {
    let text = exposition(address);
    let of = text.lines().filter_map(|line| {
        let (outcome, count) =
            line.strip_prefix("inferno_sidecar_recorder_records_total{outcome=\"")?.split_once("\"} ")?;
        Some(format!("{count} {outcome}"))
    });
    of.collect::<Vec<_>>().join(", ")
}

fn queries(address: SocketAddr) -> Vec<f64> {
    let mut link = Link::open(address);
    let query = get("/api/v1/query?query=sum(inferno_desired_replicas)");
    let asked = (0..QUERIES).map(|_| {
        let start = Instant::now();
        link.read(&query);
        start.elapsed().as_secs_f64() * 1e3
    });
    asked.collect()
}
