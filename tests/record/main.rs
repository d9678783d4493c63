//! What is recorded, beside the real Prometheus 3: it reads the record by remote read, and given the same samples
//! it gives the same answers to queries.

#[path = "../support/client.rs"]
#[allow(dead_code, reason = "shared")]
mod client;
mod differential;
mod past;
#[path = "../support/process.rs"]
mod process;
mod real;
mod remote;
#[path = "../support/stream.rs"]
mod stream;
#[path = "../support/tools.rs"]
#[allow(dead_code, reason = "shared")]
mod tools;

use axum::body::Body;
use axum::http::{Method, Request};
use client::{Answer, form};
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::emulate::standard::CONFIG_YAML;
use inferno_sidecar::engine::Engine;
use inferno_sidecar::proto::WriteRequest;
use inferno_sidecar::publish::history::Retention;
use inferno_sidecar::recorder::RecordSettings;
use inferno_sidecar::runner::{self, Clock, Handle};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::serve::{self, Context, OwnMetrics};
use inferno_sidecar::wire::Version;
use prost::Message;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use stream::SCRAPE_MS;
use tokio::net::TcpListener;

/// Scrapes of the stream: 50 minutes.
const STEPS: usize = 200;
/// The scrape before which a variant is deleted.
const DELETED_AT: usize = 120;

/// A sidecar whose clock is the stream, with all of it behind it.
struct Sidecar {
    address: SocketAddr,
    engine: Handle,
    /// Time of the last scrape, ms.
    end: i64,
}

fn configure(engine: &Handle, yaml: &str) {
    let resolved = resolve(&documents("demo.yaml", yaml), &Resolved::default());
    engine.apply(resolved.snapshot, Arc::from(resolved.problems)).expect("the engine runs");
}

impl Sidecar {
    /// Plays the stream so that it ends about now.
    async fn with_a_past(retention: Retention) -> Self {
        let settings = RecordSettings { retention, ..RecordSettings::default() };
        let engine = Engine::new(Arc::new(Dialects::built_in()));
        let (engine, _thread) =
            runner::spawn_recorded(engine, Clock::Samples, settings, None).expect("threads start");
        configure(&engine, CONFIG_YAML);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        let end = now.as_millis() as i64 / SCRAPE_MS * SCRAPE_MS + 4_321;
        for step in 0..STEPS {
            if step == DELETED_AT {
                let kept: Vec<&str> = CONFIG_YAML
                    .split("\n---\n")
                    .filter(|text| !text.contains("name: llama-8b-h100\n"))
                    .collect();
                configure(&engine, &kept.join("\n---\n"));
            }
            let time = end - (STEPS - 1 - step) as i64 * SCRAPE_MS;
            let request = WriteRequest { timeseries: stream::scrape(step, time), ..WriteRequest::default() };
            let request = request.encode_to_vec();
            let length = request.len();
            let answer = engine.write(Version::V1, request, length).expect("there is room");
            answer.await.expect("an answer").outcome.expect("the request is sound");
        }
        let own = Arc::new(OwnMetrics::new().expect("the metrics are valid"));
        let context = Context::new(engine.clone(), true, own, Arc::new(|| Ok(())));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        tokio::spawn(serve::serve(listener, serve::router(context), std::future::pending()));
        Sidecar { address, engine, end }
    }

    async fn recorded() -> Self {
        Self::with_a_past(RecordSettings::default().retention).await
    }
}

/// `GET` of a path with parameters.
async fn ask(address: SocketAddr, path: &str, pairs: &[(&str, &str)]) -> Answer {
    client::get(address, &format!("{path}?{}", form(pairs))).await.expect("an answer")
}

/// The data of a successful answer.
fn data(answer: &Answer) -> Value {
    let json = answer.json();
    assert_eq!(json["status"], "success", "{json}");
    json["data"].clone()
}

/// Posts a snappy-compressed message.
async fn post(address: SocketAddr, path: &str, message: &[u8]) -> Answer {
    let body = snap::raw::Encoder::new().compress_vec(message).expect("the message is small");
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-encoding", "snappy")
        .header("content-type", "application/x-protobuf")
        .header("x-prometheus-remote-write-version", "0.1.0");
    client::send(address, request.body(Body::from(body)).expect("the request is valid"))
        .await
        .expect("an answer")
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}
