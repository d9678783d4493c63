//! A recorded stream, replayed with `now` unbounded as `--clock samples` does, gives the same boards bit
//! for bit.

use crate::support::World;
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::emulate::Collector;
use inferno_sidecar::emulate::fleet::Fleet;
use inferno_sidecar::emulate::standard::{self, StandardOptions};
use inferno_sidecar::engine::Engine;
use inferno_sidecar::proto::WriteRequest;
use inferno_sidecar::publish::json;
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::units::TimeMs;
use prost::Message;
use std::sync::Arc;

/// Virtual length of the recording, ms, and its scrape interval.
const DURATION_MS: i64 = 300_000;
const SCRAPE_MS: i64 = 1_000;
/// Prometheus splits a scrape into batches; so does the recording.
const SERIES_PER_REQUEST: usize = 100;

fn options() -> StandardOptions {
    StandardOptions { duration_ms: DURATION_MS, ..StandardOptions::default() }
}

fn record() -> Vec<Vec<u8>> {
    let mut fleet = Fleet::new(standard::spec(&options()));
    let mut collector = Collector::new();
    let mut requests = Vec::new();
    for step in 0..DURATION_MS / SCRAPE_MS {
        let now = options().start + step * SCRAPE_MS;
        fleet.advance_to(now);
        for series in collector.collect(&fleet, now).chunks(SERIES_PER_REQUEST) {
            let request = WriteRequest { timeseries: series.to_vec(), ..WriteRequest::default() };
            requests.push(request.encode_to_vec());
        }
    }
    requests
}

/// All boards as JSON, and the stream time of the first raised decision.
fn play(requests: &[Vec<u8>]) -> (Vec<String>, Option<TimeMs>) {
    let resolved = resolve(&documents("demo.yaml", standard::CONFIG_YAML), &Resolved::default());
    let mut engine = Engine::new(Arc::new(Dialects::built_in()));
    engine.apply_snapshot(&resolved.snapshot, resolved.problems.into());
    engine.publish();
    let (mut boards, mut raised) = (Vec::new(), None);
    for request in requests {
        engine.write_v1(request, TimeMs::MAX).unwrap();
        engine.tick(TimeMs::MAX);
        let Some(board) = engine.publish() else { continue };
        let now = engine.stream_time().unwrap();
        boards.push(json::board(&board, now).to_string());
        let up = |entry: &Arc<inferno_sidecar::publish::Entry>| {
            entry.decision.as_ref().is_some_and(|decision| decision.desired > decision.current)
        };
        if raised.is_none() && board.entries.values().any(up) {
            raised = Some(now);
        }
    }
    (boards, raised)
}

#[test]
fn a_recorded_spike_gives_the_same_boards_twice_and_raises_a_decision() {
    let requests = record();
    let (first, raised) = play(&requests);
    let (second, _) = play(&requests);
    assert!(first.len() > 100, "{} boards", first.len());
    for (index, (one, other)) in first.iter().zip(&second).enumerate() {
        assert_eq!(one, other, "board {index}");
    }
    assert_eq!(first.len(), second.len());
    let spike = options().start + DURATION_MS / 5;
    let raised = raised.expect("the spike raises a decision");
    let delay_ms = raised.since(spike);
    println!("first raised decision {delay_ms} ms of virtual time after the spike's first sample");
    assert!((0..60_000).contains(&delay_ms), "{delay_ms} ms");
}

#[test]
fn the_demo_configuration_has_no_problems() {
    World::new(standard::CONFIG_YAML);
}
