//! Recording and replay as an operator uses them: a run is recorded, reproduced, cut off, and decided anew
//! under another configuration.

#[path = "support/client.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod client;

use axum::body::Body;
use axum::http::Request;
use inferno_sidecar::config::Variant;
use inferno_sidecar::config::cluster::{ClusterChange, TargetName, TargetReplicas};
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::emulate::Collector;
use inferno_sidecar::emulate::fleet::Fleet;
use inferno_sidecar::emulate::standard::{self, CONFIG_YAML, StandardOptions};
use inferno_sidecar::engine::Engine;
use inferno_sidecar::limits::SERIES_MAX;
use inferno_sidecar::proto::WriteRequest;
use inferno_sidecar::recorder::RecordSettings;
use inferno_sidecar::replay::{Outcome, play};
use inferno_sidecar::runner::{self, Clock, wall_now};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::tape::{Recorder, Setup};
use inferno_sidecar::units::TimeMs;
use inferno_sidecar::wire::Version;
use prost::Message;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_inferno-sidecar");
const DEMO: [&str; 6] = ["demo", "--json", "--speed", "200", "--duration", "3m"];

fn run(arguments: &[&str]) -> Output {
    let output = Command::new(BINARY).args(arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// A recorded run of the demo.
fn demo() -> (TempDir, Value) {
    let dir = tempfile::tempdir().unwrap();
    let summary = run(&[&DEMO[..], &["--record", text(dir.path())]].concat());
    (dir, json(&summary))
}

fn replay(dir: &Path, more: &[&str]) -> Value {
    json(&run(&[&["replay", text(dir), "--json"], more].concat()))
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "inferno-recording")).collect();
    segments.sort();
    segments
}

#[test]
fn a_run_is_reproduced_bit_for_bit_and_another_configuration_is_compared() {
    let (dir, _) = demo();
    let before = replay(dir.path(), &[]);
    let reproduced = &before["reproduced"];
    assert!(reproduced["publications"].as_u64() > Some(150), "{before}");
    assert_eq!(reproduced["exact"], reproduced["publications"], "{reproduced}");
    assert_eq!(before["recording"]["missingRecords"], 0);

    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let cautious =
        CONFIG_YAML.replace("mode: hybrid", "mode: saturation").replace("maxReplicas: 10", "maxReplicas: 2");
    fs::write(other.join("config.yaml"), cautious).unwrap();
    let plot = dir.path().join("plot.svg");
    let compared = replay(dir.path(), &["--with", text(&other), "--plot", text(&plot)]);
    let variants = compared["variants"].as_array().unwrap();
    let l40s = variants.iter().find(|variant| variant["name"] == "llama-8b-l40s").unwrap();
    assert!(l40s["recorded"]["max"].as_u64() > Some(2), "{l40s}");
    assert_eq!(l40s["with"]["max"], 2);
    let cost = |who: &str| compared["total"][who]["cost"].as_f64().unwrap();
    assert!(0.0 < cost("with") && cost("with") < cost("recorded"), "{}", compared["total"]);
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("class=\"with\" d=").count(), 3, "a line per variant");

    let report = run(&["replay", text(dir.path()), "--with", text(&other)]);
    let report = String::from_utf8(report.stdout).unwrap();
    for expected in ["bit for bit", "with the other configuration", "llm/llama-8b-l40s", "1 -> 2: "] {
        assert!(report.contains(expected), "{expected:?} in\n{report}");
    }
}

#[test]
fn the_configuration_of_a_run_replayed_with_itself_decides_the_same() {
    let (dir, _) = demo();
    let config = dir.path().join("same.yaml");
    fs::write(&config, CONFIG_YAML.replace("mode: hybrid", "mode: slo")).unwrap();
    let compared = replay(dir.path(), &["--with", text(&config)]);
    for variant in compared["variants"].as_array().unwrap() {
        assert_eq!(variant["recorded"], variant["with"]);
    }
}

#[test]
fn a_truncated_or_damaged_recording_is_replayed_up_to_its_last_good_record() {
    let (dir, _) = demo();
    let whole = replay(dir.path(), &[]);
    let path = &segments(dir.path())[0];
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    let half = replay(dir.path(), &[]);
    let count = |of: &Value, key: &str| of["reproduced"][key].as_u64().unwrap();
    assert!(count(&half, "publications") > 20, "{half}");
    assert!(count(&half, "publications") < count(&whole, "publications"));
    assert_eq!(count(&half, "exact"), count(&half, "publications"));
    assert_eq!(half["recording"]["broken"][0]["end"], "cutoff");

    let mut damaged = bytes.clone();
    damaged[bytes.len() / 3] ^= 1;
    fs::write(path, damaged).unwrap();
    let third = replay(dir.path(), &[]);
    assert_eq!(third["recording"]["broken"][0]["end"], "damaged");
    assert_eq!(count(&third, "exact"), count(&third, "publications"));
    let report = run(&["replay", text(dir.path())]);
    assert!(String::from_utf8_lossy(&report.stdout).contains("read up to its last good record"));
}

#[test]
fn a_ring_that_has_lost_its_beginning_still_decides_alike() {
    let dir = tempfile::tempdir().unwrap();
    let ring = ["--record", text(dir.path()), "--record-size", "8MiB"];
    // What `slo` remembers reaches further back than the ring; the windows of the other modes do not.
    let demo = ["demo", "--mode", "hybrid", "--json", "--speed", "500", "--duration", "10m"];
    run(&[&demo[..], &ring].concat());
    let size: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(size <= 8 << 20, "{size}");
    let replayed = replay(dir.path(), &[]);
    assert_eq!(replayed["recording"]["beginningLost"], true);
    assert_eq!(replayed["recording"]["missingRecords"], 0);
    let count = |key: &str| replayed["reproduced"][key].as_u64().unwrap();
    assert!(count("publications") > 100, "{replayed}");
    // The engine starts empty, so the first ones may differ.
    assert!(count("sameDesired") > count("publications") / 2, "{}", replayed["reproduced"]);
}

#[test]
fn a_disk_without_room_costs_the_recording_and_no_decision() {
    let dir = tempfile::tempdir().unwrap();
    // No file may grow beyond 100 KiB, which is like a full disk to whoever writes.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let output = Command::new("bash")
        .args(["-c", script, BINARY])
        .args(DEMO)
        .args(["--record", text(dir.path())])
        .output()
        .expect("bash runs");
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    assert!(progress.contains("cannot record; decisions are not affected"), "{progress}");
    let (_unlimited, expected) = demo();
    let limited = json(&output);
    for key in ["requests", "response", "variants", "cost"] {
        assert_eq!(limited[key], expected[key], "{key}");
    }
    let replayed = replay(dir.path(), &[]);
    assert!(replayed["reproduced"]["publications"].as_u64() > Some(0), "{replayed}");
}

#[test]
fn a_folder_without_a_recording_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY).args(["replay", text(dir.path())]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--record DIR"));
}

/// Writes a fleet's samples to a server over HTTP, one request per second of the fleet.
async fn feed(address: SocketAddr, start: TimeMs, seconds: std::ops::Range<i64>, fleet: &mut Fleet) {
    let mut collector = Collector::new();
    for second in seconds {
        let now = start + second * 1000;
        fleet.advance_to(now);
        let timeseries = collector.collect(fleet, now);
        let message = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&message).unwrap();
        let request = Request::post("/api/v1/write")
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .body(Body::from(body))
            .unwrap();
        assert_eq!(client::send(address, request).await.unwrap().status, 204);
    }
}

#[tokio::test]
async fn what_was_answered_before_a_crash_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("demo.yaml"), CONFIG_YAML).unwrap();
    let recording = dir.path().join("recording");
    let start = TimeMs(wall_now().0 - 60_000);
    let mut fleet = Fleet::new(standard::spec(&StandardOptions { start, ..StandardOptions::default() }));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (signal, seconds) in [("KILL", 0..20), ("TERM", 20..40)] {
        let mut server = Command::new(BINARY)
            .args(["serve", "--log", "error", "--listen", &free.to_string()])
            .arg("--config-dir")
            .arg(&config)
            .arg("--record")
            .arg(&recording)
            .spawn()
            .unwrap();
        while !client::get(free, "/-/ready")
            .await
            .is_ok_and(|ready| !ready.text().contains("no configuration"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        feed(free, start, seconds, &mut fleet).await;
        let metrics = client::get(free, "/metrics").await.unwrap();
        assert!(metrics.text().contains("inferno_sidecar_recorder_records_total{outcome=\"dropped\"} 0"));
        let kill = Command::new("kill").args([&format!("-{signal}"), &server.id().to_string()]).status();
        assert!(kill.unwrap().success());
        server.wait().unwrap();
    }
    let outcome = play(&recording, None).unwrap();
    assert_eq!((outcome.runs, outcome.missing), (2, 0), "{outcome:?}");
    // The last record of the run that was killed may not have been written yet.
    assert!((38..=40).contains(&outcome.writes), "{} writes", outcome.writes);
    assert_eq!(outcome.exact, outcome.publications, "{:?}", outcome.first_difference);
}

/// A run on the machine's clock, with a configuration that changes, breaks and mends on the way. Returns how many
/// samples found no room among `series_max` series.
async fn wall_run(dir: &Path, seed: u64, series_max: usize) -> u64 {
    let setup = Setup {
        dir: dir.to_owned(),
        max_bytes: 64 << 20,
        dialects: Vec::new(),
        sample_clock: false,
        started: wall_now() + seed as i64,
        series_max,
        ..Setup::default()
    };
    let (recorder, recording) = Recorder::start(setup).unwrap();
    let engine = Engine::new(Arc::new(Dialects::built_in())).with_series_max(series_max);
    let (engine, _thread) =
        runner::spawn_recorded(engine, Clock::Wall, RecordSettings::default(), Some(recorder)).unwrap();
    let (mut resolved, mut no_room) = (Resolved::default(), 0);
    let start = TimeMs(wall_now().0 - 60_000);
    let mut fleet =
        Fleet::new(standard::spec(&StandardOptions { start, seed, ..StandardOptions::default() }));
    let mut collector = Collector::new();
    let broken = CONFIG_YAML.replace("maxReplicas: 10", "maxReplicas: ten");
    let smaller = CONFIG_YAML.replace("maxReplicas: 10", "maxReplicas: 3");
    for second in 0..60 {
        let config = match second {
            0 => Some(CONFIG_YAML),
            20 => Some(&*smaller),
            30 => Some(&*broken),
            50 => Some(CONFIG_YAML),
            _ => None,
        };
        if let Some(text) = config {
            let documents = documents("config.yaml", text);
            resolved = resolve(&documents, &resolved);
            let problems = Arc::from(resolved.problems.as_slice());
            engine.apply_resolved(resolved.snapshot.clone(), problems, Some(documents.into())).unwrap();
        }
        let now = start + second * 1000;
        fleet.advance_to(now);
        let timeseries = collector.collect(&fleet, now);
        let message = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
        let len = message.len();
        let done = engine.write(Version::V1, message, len).unwrap().await.unwrap();
        let report = done.outcome.unwrap();
        assert_eq!(report.rejected, 0);
        no_room += report.no_room;
    }
    recording.close(Duration::from_secs(10));
    no_room
}

/// A run of an engine that is filled first, whose cluster changes on the way; `cut` begins many segments.
async fn filled_run(dir: &Path, max_bytes: u64) {
    let setup = Setup {
        dir: dir.to_owned(),
        max_bytes,
        sample_clock: true,
        to_be_filled: true,
        started: TimeMs(1),
        ..Setup::default()
    };
    let (recorder, recording) = Recorder::start(setup).unwrap();
    let engine = Engine::new(Arc::new(Dialects::built_in())).to_be_filled();
    let settings = RecordSettings::default();
    let (engine, _thread) = runner::spawn_recorded(engine, Clock::Samples, settings, Some(recorder)).unwrap();
    let documents = documents("config.yaml", CONFIG_YAML);
    let resolved = resolve(&documents, &Resolved::default());
    let variants: Vec<_> = resolved.snapshot.variants.values().cloned().collect();
    engine.apply_resolved(resolved.snapshot, Arc::from([]), Some(documents.into())).unwrap();
    let start = TimeMs(1_800_000_000_000);
    let mut fleet = Fleet::new(standard::spec(&StandardOptions { start, ..StandardOptions::default() }));
    let mut collector = Collector::new();
    for second in 0..120_u32 {
        if second == 60 {
            engine.filled().unwrap();
        }
        let counts = |spec| TargetReplicas { spec, status: spec.min(3), ready: 1 };
        let replicas = match second {
            10 => Some(Some(counts(3))),
            80 => Some(Some(counts(7))),
            100 => Some(None),
            _ => None,
        };
        if let Some(replicas) = replicas {
            let name = |v: &Arc<Variant>| TargetName {
                namespace: v.key.namespace.clone(),
                target: v.target.clone(),
            };
            let targets = variants.iter().map(|variant| (name(variant), replicas)).collect();
            let cards = Some([("NVIDIA-H100-80GB-HBM3".to_owned(), u64::from(second))].into());
            engine.apply_cluster(ClusterChange { targets, cards, ..ClusterChange::default() }).unwrap();
        }
        let now = start + i64::from(second) * 1000;
        fleet.advance_to(now);
        let timeseries = collector.collect(&fleet, now);
        let message = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
        let len = message.len();
        engine.write(Version::V1, message, len).unwrap().await.unwrap().outcome.unwrap();
        let is_given_out = engine.board().entries.values().any(|entry| entry.desired().is_some());
        assert!(!engine.board().filling || second < 60);
        assert!(is_given_out || second < 60, "decisions are given out after the filling");
    }
    recording.close(Duration::from_secs(10));
}

#[tokio::test]
async fn a_backfill_and_changes_of_the_cluster_are_reproduced() {
    let dir = tempfile::tempdir().unwrap();
    filled_run(dir.path(), 64 << 20).await;
    let outcome = play(dir.path(), None).unwrap();
    assert!(outcome.is_complete(), "{outcome:?}");
    assert_eq!(outcome.exact, outcome.publications, "{:?}", outcome.first_difference);
    assert!(outcome.publications >= 120, "{}", outcome.publications);
}

#[tokio::test]
async fn a_recording_without_its_beginning_carries_the_cluster_and_the_end_of_the_backfill() {
    let dir = tempfile::tempdir().unwrap();
    filled_run(dir.path(), 1 << 20).await;
    assert!(!segments(dir.path())[0].ends_with("00000001.inferno-recording"), "the first one is gone");
    let outcome = play(dir.path(), None).unwrap();
    assert!(outcome.beginning_lost && outcome.missing == 0, "{outcome:?}");
    let last = outcome.recorded.courses.values().filter_map(|course| course.steps.last());
    assert!(last.clone().count() > 0 && last.clone().all(|step| step.desired.is_some()), "{outcome:?}");
}

#[tokio::test]
async fn reconfigurations_and_restarts_are_reproduced() {
    let dir = tempfile::tempdir().unwrap();
    wall_run(dir.path(), 1, SERIES_MAX).await;
    wall_run(dir.path(), 2, SERIES_MAX).await;
    let outcome: Outcome = play(dir.path(), None).unwrap();
    assert_eq!((outcome.runs, outcome.configurations, outcome.writes), (2, 8, 120));
    assert!(outcome.is_complete(), "{outcome:?}");
    assert_eq!(outcome.exact, outcome.publications, "{:?}", outcome.first_difference);
    assert!(outcome.publications >= 120);
}

#[tokio::test]
async fn a_run_at_its_limit_of_series_is_reproduced() {
    let dir = tempfile::tempdir().unwrap();
    assert!(wall_run(dir.path(), 1, 40).await > 0, "some series found no room");
    let outcome = play(dir.path(), None).unwrap();
    assert!(outcome.is_complete() && outcome.publications > 20, "{outcome:?}");
    assert_eq!(outcome.exact, outcome.publications, "{:?}", outcome.first_difference);
}
