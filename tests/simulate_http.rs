//! A simulation through the real interface: a running `serve --clock samples` gets the emulated fleet's series
//! by remote-write and is asked for its decision right after the 2xx, as fast as it answers. What comes of it
//! is what comes of the engine inside `simulate`.

#[path = "support/client.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod client;
#[path = "support/process.rs"]
mod process;

use axum::body::Body;
use axum::http::Request;
use inferno_sidecar::config::{Mode, SloTargets};
use inferno_sidecar::emulate::Collector;
use inferno_sidecar::emulate::fleet::Fleet;
use inferno_sidecar::emulate::profile::Batch;
use inferno_sidecar::proto::{TimeSeries, WriteRequest};
use inferno_sidecar::simulate::PolicyName;
use inferno_sidecar::simulate::pattern::Pattern;
use inferno_sidecar::simulate::policy::Policy;
use inferno_sidecar::simulate::profiles::{self, built_in};
use inferno_sidecar::simulate::run::{Outcome, run};
use inferno_sidecar::simulate::scenario::{NAMESPACE, Scenario, VARIANT};
use inferno_sidecar::simulate::sidecar::objects;
use inferno_sidecar::simulate::suite::{Common, scenario};
use inferno_sidecar::units::TimeMs;
use process::Process;
use prost::Message;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The sidecar behind its interface, as a policy.
struct Served {
    runtime: Runtime,
    address: SocketAddr,
    collector: Collector,
    scrape_ms: i64,
    /// Series per request; a sender splits what it has as it likes.
    series_max: usize,
    _server: Process,
    _config: TempDir,
}

impl Served {
    fn new(scenario: &Scenario, mode: Mode, series_max: usize) -> Self {
        Self::with(scenario, series_max, objects(scenario, mode).iter().map(ToString::to_string))
    }

    fn with(scenario: &Scenario, series_max: usize, objects: impl Iterator<Item = String>) -> Self {
        let config = tempfile::tempdir().unwrap();
        for (index, object) in objects.enumerate() {
            fs::write(config.path().join(format!("{index}.yaml")), object).unwrap();
        }
        let runtime = Runtime::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
        command.args(["serve", "--clock", "samples", "--listen", "127.0.0.1:0", "--config-dir"]);
        let server = Process::start("the sidecar", command.arg(config.path()));
        let line = runtime.block_on(server.line("listening;"));
        // Until then it answers that it is not ready, as its /-/ready does.
        runtime.block_on(server.line("configuration in force"));
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.and_then(|address| address.parse().ok()).expect("an address in the log");
        Served {
            runtime,
            address,
            collector: Collector::new(),
            scrape_ms: scenario.scrape_ms,
            series_max,
            _server: server,
            _config: config,
        }
    }

    fn write(&self, timeseries: &[TimeSeries]) {
        let message = WriteRequest { timeseries: timeseries.to_vec(), ..WriteRequest::default() };
        let body = snap::raw::Encoder::new().compress_vec(&message.encode_to_vec()).unwrap();
        let request = Request::post("/api/v1/write")
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .body(Body::from(body))
            .unwrap();
        let answer = self.runtime.block_on(client::send(self.address, request)).unwrap();
        assert!(answer.status.is_success(), "{} {}", answer.status, answer.text());
    }
}

impl Served {
    /// What it has learned is the engine that was emulated, in the form that a simulation reads.
    fn has_learned(&self, scenario: &Scenario) {
        let answer = self.runtime.block_on(client::get(self.address, "/api/v1/profiles")).unwrap();
        let (learned, problems) = profiles::read("/api/v1/profiles", answer.text());
        assert!(problems.is_empty(), "{problems:?}");
        let (learned, true_one) = (&learned[0].engine, &scenario.profile.engine);
        let kv = f64::from(learned.num_gpu_blocks) / f64::from(true_one.num_gpu_blocks);
        assert!((kv - 1.0).abs() < 0.01, "{kv} of the KV cache");
        // Eight sequences with a prompt of 800 tokens in every tenth step.
        let batch =
            Batch { decode_seqs: 8, prefill_tokens: 80, decode_kv_tokens: 8 * 900, prefill_context: 0.0 };
        let (found, known) = (learned.iteration.of_ms(&batch), true_one.iteration.of_ms(&batch));
        assert!((found / known - 1.0).abs() < 0.15, "{found} ms for {known} ms");
        let answer = self.runtime.block_on(client::get(self.address, "/api/v1/variants")).unwrap();
        let shown = answer.json()["variants"][0]["learned"].clone();
        assert_eq!(shown["startupIsMeasured"], true, "{shown}");
        let apart_s = shown["startupSeconds"].as_f64().unwrap() - scenario.startup_ms as f64 / 1000.0;
        assert!((0.0..=2.0 * scenario.scrape_ms as f64 / 1000.0).contains(&apart_s), "{shown}");
    }
}

impl Policy for Served {
    fn name(&self) -> String {
        "slo".to_owned()
    }

    fn interval_ms(&self) -> i64 {
        self.scrape_ms
    }

    fn decide(&mut self, now: TimeMs, fleet: &Fleet) -> Option<u32> {
        let series = self.collector.collect(fleet, now);
        series.chunks(self.series_max).for_each(|part| self.write(part));
        let query = format!(
            "inferno_desired_replicas{{variant_name=\"{VARIANT}\",exported_namespace=\"{NAMESPACE}\"}}"
        );
        let path = format!("/api/v1/query?{}", client::form(&[("query", &query)]));
        let answer = self.runtime.block_on(client::get(self.address, &path)).unwrap();
        let found = client::vector(&answer);
        let element = found.first()?;
        // The decision is that of the samples that were written just before.
        let at_s = element["value"][0].as_f64().unwrap();
        assert!((at_s - now.0 as f64 / 1000.0).abs() < 0.01, "{at_s} at {now:?}");
        element["value"][1].as_str()?.parse().ok()
    }
}

fn short(load: &str) -> Scenario {
    let trace = Pattern::parse(load).unwrap().trace("short", 3);
    let profile = built_in().into_iter().find(|one| one.id == "llama-3.1-8b_rtx4090").unwrap();
    let slo = SloTargets { ttft_ms: 3000.0, itl_ms: 80.0, tps: 0.0 };
    let common =
        Common { attainment: 0.99, startup_ms: 60_000, scrape_ms: 5_000, replicas: (1, 20), seed: 1 };
    scenario(&Arc::new(trace), &profile, slo, common)
}

fn inside(scenario: &Scenario, mode: Mode) -> Outcome {
    PolicyName::Sidecar(mode).run(scenario, &mut |_| {}).unwrap()
}

#[test]
fn over_http_every_count_is_that_of_the_engine_inside() {
    let scenario = short("rate=1,peak=12,shape=step,duration=20m,prompt=800,output=150");
    for mode in [Mode::parse("slo").unwrap(), Mode::SATURATION] {
        let expected = inside(&scenario, mode);
        let served = run(&scenario, &mut Served::new(&scenario, mode, usize::MAX), &mut |_| {});
        assert!(expected.changes_per_hour > 3.0, "the policy acts: {expected:?}");
        for (one, other) in served.course.iter().zip(&expected.course) {
            assert_eq!(one, other, "mode {}", mode.as_str());
        }
        assert_eq!(Outcome { policy: expected.policy.clone(), ..served }, expected);
    }
}

/// A Prometheus sends what it scraped in parts, so that counters and gauges of one moment arrive apart; that
/// may cost a little, and never the targets.
#[test]
fn a_scrape_in_many_requests_holds_as_well() {
    let scenario = short("rate=1,peak=12,shape=step,duration=20m,prompt=800,output=150");
    let mode = Mode::parse("slo").unwrap();
    let expected = inside(&scenario, mode);
    let mut server = Served::new(&scenario, mode, 150);
    let served = run(&scenario, &mut server, &mut |_| {});
    server.has_learned(&scenario);
    println!(
        "in one request {:.4} at {:.3} h, in many {:.4} at {:.3} h",
        expected.attainment(),
        expected.replica_hours,
        served.attainment(),
        served.replica_hours
    );
    assert!((served.attainment() - expected.attainment()).abs() < 0.01);
    assert!((served.replica_hours / expected.replica_hours - 1.0).abs() < 0.02);
}

#[test]
fn a_mode_that_advises_says_what_it_would_do_and_changes_nothing() {
    let scenario = short("rate=1,peak=12,shape=step,duration=20m,prompt=800,output=150");
    let expected = inside(&scenario, Mode::SATURATION);
    let advised = |object: &serde_json::Value| {
        object
            .to_string()
            .replace(r#"{\"mode\":\"saturation\"}"#, r#"{\"mode\":\"saturation\",\"advisory\":\"slo\"}"#)
    };
    let objects = objects(&scenario, Mode::SATURATION);
    let mut server = Served::with(&scenario, usize::MAX, objects.iter().map(advised));
    let served = run(&scenario, &mut server, &mut |_| {});
    assert_eq!(Outcome { policy: expected.policy.clone(), ..served }, expected);
    let answer = server.runtime.block_on(client::get(server.address, "/api/v1/variants")).unwrap();
    let variant = answer.json()["variants"][0].clone();
    assert_eq!(variant["decision"]["mode"], "saturation");
    assert_eq!(variant["advice"]["mode"], "slo", "{variant}");
    let path = format!("/api/v1/query?{}", client::form(&[("query", "inferno_advised_replicas")]));
    let answer = server.runtime.block_on(client::get(server.address, &path)).unwrap();
    assert_eq!(client::vector(&answer)[0]["value"][1], variant["advice"]["replicas"].to_string());
}
