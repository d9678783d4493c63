//! What was learned survives a restart of the real server, by the file of `--state`.

use crate::client;
use crate::closed_loop::{START, configuration, model, variant};
use crate::process::Process;
use axum::body::Body;
use axum::http::Request;
use inferno_sidecar::emulate::Collector;
use inferno_sidecar::emulate::fleet::Fleet;
use inferno_sidecar::emulate::load::Scenario;
use inferno_sidecar::emulate::spec::FleetSpec;
use inferno_sidecar::proto::WriteRequest;
use inferno_sidecar::replay::play;
use prost::Message;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// A fleet and the scrapes of it.
struct Scraped {
    fleet: Fleet,
    collector: Collector,
    yaml: String,
}

impl Scraped {
    fn new() -> Self {
        let models = || vec![model("a", 4.0, Scenario::Steady, vec![variant("llama", "L40S", 60_000, 2)])];
        Scraped {
            yaml: configuration(&models(), ""),
            fleet: Fleet::new(FleetSpec { start: START, seed: 5, models: models(), nodes: Vec::new() }),
            collector: Collector::new(),
        }
    }

    async fn feed(&mut self, address: SocketAddr, until_s: i64) {
        while self.fleet.now() < START + until_s * 1000 {
            let now = self.fleet.now() + 5_000;
            self.fleet.advance_to(now);
            let timeseries = self.collector.collect(&self.fleet, now);
            let message = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
            let body = snap::raw::Encoder::new().compress_vec(&message).expect("the message is small");
            let request = Request::post("/api/v1/write")
                .header("content-type", "application/x-protobuf")
                .header("content-encoding", "snappy");
            let request = request.body(Body::from(body)).expect("the request is valid");
            let answer = client::send(address, request).await.expect("an answer");
            assert!(answer.status.is_success(), "{} {}", answer.status, answer.text());
        }
    }
}

/// The server over that configuration, with the state and a recording in the same folder.
async fn serve(dir: &Path, yaml: &str) -> (Process, SocketAddr) {
    let config = dir.join("config");
    fs::create_dir_all(&config).expect("a folder can be made");
    fs::write(config.join("all.yaml"), yaml).expect("a file can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
    command.args(["serve", "--clock", "samples", "--listen", "127.0.0.1:0", "--config-dir"]).arg(config);
    command.arg("--state").arg(dir.join("state.json")).arg("--record").arg(dir.join("recording"));
    let server = Process::start("the sidecar", &mut command);
    let line = server.line("listening;").await;
    server.line("configuration in force").await;
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    (server, address.and_then(|text| text.parse().ok()).expect("an address in the log"))
}

async fn learned(address: SocketAddr) -> Value {
    let answer = client::get(address, "/api/v1/variants").await.expect("an answer");
    answer.json()["variants"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learned_survives_a_restart_and_both_runs_can_be_replayed() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut scraped = Scraped::new();
    let yaml = scraped.yaml.clone();
    let (mut server, address) = serve(dir.path(), &yaml).await;
    scraped.feed(address, 600).await;
    let before = learned(address).await;
    server.terminate();
    let text = fs::read_to_string(dir.path().join("state.json")).expect("the state was written at the end");
    let state: Value = serde_json::from_str(&text).expect("the state is JSON");
    assert_eq!(state["variants"][0]["id"], "a/llama", "{state}");

    let (mut server, address) = serve(dir.path(), &yaml).await;
    scraped.feed(address, 640).await;
    let after = learned(address).await;
    let number = |of: &Value, name: &str| of["learned"][name].as_f64().unwrap_or(f64::NAN);
    assert_eq!((&after["learned"]["start"], &after["learned"]["isLearned"]), (&"own".into(), &true.into()));
    for name in ["capacityPerReplicaPerSecond", "observations", "kvCacheTokens"] {
        let ratio = number(&after, name) / number(&before, name);
        assert!((ratio - 1.0).abs() < 0.05, "{name}: {before} {after}");
    }
    assert!(after["decision"]["fallback"].is_null(), "it need not learn anew: {after}");
    server.terminate();

    let outcome = play(&dir.path().join("recording"), None).expect("the recording can be read");
    assert_eq!((outcome.runs, outcome.missing), (2, 0));
    assert_eq!(outcome.exact, outcome.publications, "{:?}", outcome.first_difference);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_state_is_named_and_replaced() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("state.json");
    fs::write(&path, "{\"variants\": [{\"id\": \"a/llama\"").expect("a file can be written");
    let mut scraped = Scraped::new();
    let yaml = scraped.yaml.clone();
    let (mut server, address) = serve(dir.path(), &yaml).await;
    assert!(server.line("state.json line 1").await.contains("EOF"));
    scraped.feed(address, 300).await;
    assert_eq!(learned(address).await["learned"]["start"], "prior");
    server.terminate();
    let text = fs::read_to_string(path).expect("the state was written at the end");
    assert!(serde_json::from_str::<Value>(&text).is_ok_and(|state| state["variants"][0]["gpu"] == "L40S"));
}
