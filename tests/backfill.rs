//! The windows filled at the start: from the real Prometheus 3 and VictoriaMetrics, and from servers that misbehave.

#[path = "support/client.rs"]
#[allow(dead_code, reason = "shared")]
mod client;
#[path = "support/process.rs"]
mod process;
#[path = "record/real.rs"]
mod real;
#[path = "support/stream.rs"]
mod stream;
#[path = "support/tools.rs"]
#[allow(dead_code, reason = "shared")]
mod tools;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use client::Answer;
use inferno_sidecar::backfill::Backfill;
use inferno_sidecar::client::{Client, ClientSettings};
use inferno_sidecar::config::Mode;
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::emulate::Collector;
use inferno_sidecar::emulate::fleet::Fleet;
use inferno_sidecar::emulate::standard::{self, CONFIG_YAML, ScenarioKind, StandardOptions, config_yaml};
use inferno_sidecar::engine::Engine;
use inferno_sidecar::proto::{TimeSeries, WriteRequest};
use inferno_sidecar::publish::{Board, Load};
use inferno_sidecar::runner::{self, Clock, Handle, wall_now};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::serve::{self, Context, OwnMetrics};
use inferno_sidecar::units::TimeMs;
use process::Process;
use prost::Message;
use real::Prometheus;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::SCRAPE_MS;
use tokio::net::TcpListener;

/// Scrapes that are stored: 20 minutes.
const STEPS: usize = 80;
/// How far back the windows are filled: less than is stored.
const SPAN_MS: i64 = 15 * 60_000;

/// What is stored: each scrape, the last one now.
fn stored() -> Vec<(i64, Vec<TimeSeries>)> {
    let end = wall_now().0;
    let time = |step: usize| end - (STEPS - 1 - step) as i64 * SCRAPE_MS;
    (0..STEPS).map(|step| (time(step), stream::scrape(step, time(step)))).collect()
}

fn request(timeseries: Vec<TimeSeries>) -> Vec<u8> {
    WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec()
}

async fn write(address: SocketAddr, timeseries: Vec<TimeSeries>) -> Answer {
    let body = snap::raw::Encoder::new().compress_vec(&request(timeseries)).expect("the message is small");
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/write")
        .header("content-encoding", "snappy")
        .header("content-type", "application/x-protobuf")
        .header("x-prometheus-remote-write-version", "0.1.0");
    client::send(address, request.body(Body::from(body)).expect("the request is valid"))
        .await
        .expect("an answer")
}

/// Name, desired and current replicas, and load of a variant.
type Numbers = (String, Option<(u32, u32)>, Load);

/// The numbers of every variant.
fn numbers(board: &Board) -> Vec<Numbers> {
    let entries = board.entries.values().map(|entry| {
        let counts = entry.decision.as_ref().map(|plan| (plan.desired, plan.current));
        (entry.variant.key.to_string(), counts, entry.load.clone())
    });
    entries.collect()
}

/// The numbers of an engine that has heard the whole stream.
fn heard(stored: &[(i64, Vec<TimeSeries>)]) -> Vec<Numbers> {
    let mut engine = Engine::new(Arc::new(Dialects::built_in()));
    let resolved = resolve(&documents("demo.yaml", CONFIG_YAML), &Resolved::default());
    engine.apply_snapshot(&resolved.snapshot, Arc::from([]));
    for (_, scrape) in stored {
        engine.write_v1(&request(scrape.clone()), wall_now()).expect("the request is sound");
        engine.publish();
    }
    numbers(engine.board())
}

/// A sidecar that fills its windows.
struct Sidecar {
    address: SocketAddr,
    engine: Handle,
    own: Arc<OwnMetrics>,
}

impl Sidecar {
    async fn start() -> Self {
        Self::with(CONFIG_YAML).await
    }

    async fn with(config: &str) -> Self {
        let engine = Engine::new(Arc::new(Dialects::built_in())).to_be_filled();
        let (engine, _thread) = runner::spawn(engine, Clock::Wall).expect("threads start");
        let resolved = resolve(&documents("demo.yaml", config), &Resolved::default());
        engine.apply(resolved.snapshot, Arc::from([])).expect("the engine runs");
        let own = Arc::new(OwnMetrics::new().expect("the metrics are valid"));
        let context = Context::new(engine.clone(), true, own.clone(), Arc::new(|| Ok(())));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        tokio::spawn(serve::serve(listener, serve::router(context), std::future::pending()));
        Sidecar { address, engine, own }
    }

    /// Fills the windows from the server at `url`.
    async fn fill(&self, url: &str, wait: Duration) {
        self.fill_span(url, SPAN_MS, wait).await;
    }

    async fn fill_span(&self, url: &str, span_ms: i64, wait: Duration) {
        let backfill = Backfill {
            url: url.into(),
            client: Client::new(ClientSettings::default()).expect("nothing is set"),
            metrics: Dialects::built_in().rows().iter().map(|row| row.metric.clone()).collect(),
            span_ms,
            wait,
        };
        backfill.run(self.engine.clone(), self.own.clone()).await;
    }

    async fn metric(&self, name: &str) -> String {
        let answer = client::get(self.address, "/metrics").await.expect("an answer");
        let line = answer.text().lines().find(|line| line.starts_with(name)).expect("the metric is there");
        line.rsplit(' ').next().expect("a value").to_owned()
    }

    /// Waits for the board after the end of the filling.
    async fn board(&self) -> Arc<Board> {
        let mut versions = self.engine.versions();
        while self.engine.board().filling {
            versions.changed().await.expect("the engine runs");
        }
        self.engine.board()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filled_from_prometheus_it_decides_like_one_that_heard_the_stream() {
    let Some(prometheus) = Prometheus::start("", &["--web.enable-remote-write-receiver"]).await else {
        return;
    };
    let stored = stored();
    for (_, scrape) in &stored {
        let answer = write(prometheus.address, scrape.clone()).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }
    let sidecar = Sidecar::start().await;
    let early = write(sidecar.address, stored[STEPS - 1].1.clone()).await;
    assert_eq!(early.status, 503, "the present waits for the past");
    assert_eq!(early.header("retry-after"), "1");
    let ready = client::get(sidecar.address, "/-/ready").await.expect("an answer");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("being filled from Prometheus"), "{}", ready.text());
    sidecar.fill(&format!("http://{}/", prometheus.address), Duration::from_secs(30)).await;
    assert_eq!(numbers(&*sidecar.board().await), heard(&stored));
    assert_eq!(sidecar.metric("inferno_sidecar_backfill_progress_ratio ").await, "1");
    // What is sent again changes nothing.
    for (_, scrape) in &stored[STEPS - 3..] {
        assert_eq!(write(sidecar.address, scrape.clone()).await.status, 204);
    }
    assert_eq!(numbers(&sidecar.engine.board()), heard(&stored));
    let scalings = client::get(sidecar.address, "/metrics").await.expect("an answer");
    assert!(!scalings.text().contains("inferno_replica_scaling_total{"), "the past is not counted again");
}

/// Two hours and twenty minutes of the demo's fleet under `slo`, a crest of the load every forty minutes, scraped every
/// 15 s; each scrape with its time, and the engine that heard it all.
fn under_slo() -> (Engine, Vec<(i64, Vec<TimeSeries>)>) {
    const STEPS: i64 = 140 * 4;
    let begin = TimeMs(wall_now().0 - STEPS * SCRAPE_MS);
    let options = StandardOptions {
        start: begin,
        scenario: ScenarioKind::Diurnal,
        duration_ms: 40 * 60_000,
        ..StandardOptions::default()
    };
    let (mut fleet, mut collector) = (Fleet::new(standard::spec(&options)), Collector::new());
    let mut engine = Engine::new(Arc::new(Dialects::built_in()));
    let resolved = resolve(&documents("demo.yaml", &slo_yaml()), &Resolved::default());
    engine.apply_snapshot(&resolved.snapshot, Arc::from([]));
    let mut stored = Vec::new();
    for step in 1..=STEPS {
        let now = begin + step * SCRAPE_MS;
        fleet.advance_to(now);
        let scrape = collector.collect(&fleet, now);
        engine.write_v1(&request(scrape.clone()), now).expect("the request is sound");
        engine.publish();
        stored.push((now.0, scrape));
        let entries = engine.board().entries.values();
        let wanted = entries.filter_map(|entry| Some((entry.variant.key.clone(), entry.desired()?)));
        for (key, desired) in wanted.collect::<Vec<_>>() {
            fleet.set_replicas(&key.namespace, &key.name, desired);
        }
    }
    (engine, stored)
}

fn slo_yaml() -> String {
    config_yaml(Mode::parse("slo").expect("the mode exists"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filled_from_prometheus_it_knows_what_slo_had_learned() {
    let Some(prometheus) = Prometheus::start("", &["--web.enable-remote-write-receiver"]).await else {
        return;
    };
    let (heard, stored) = under_slo();
    for (_, scrape) in &stored {
        let answer = write(prometheus.address, scrape.clone()).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }
    let sidecar = Sidecar::with(&slo_yaml()).await;
    let url = format!("http://{}/", prometheus.address);
    sidecar.fill_span(&url, 2 * 3_600_000, Duration::from_secs(30)).await;
    let board = sidecar.board().await;
    for (key, before) in &heard.board().entries {
        let after = &board.entries[key];
        let (known, learned) = (before.learned.as_ref(), after.learned.as_ref());
        let (known, learned) = (known.expect("mode slo"), learned.expect("mode slo"));
        println!(
            "{key}: desired {:?}, then {:?}\n  {known:?}\n  {learned:?}",
            before.desired(),
            after.desired()
        );
        assert_eq!(after.desired(), before.desired(), "{key}");
        assert_eq!(learned.is_learned, known.is_learned, "{key}");
        let apart_ms = learned.startup_ms - known.startup_ms;
        assert!(!learned.startup_is_measured || apart_ms.abs() <= SCRAPE_MS, "{key}: {apart_ms} ms apart");
        let fallback = after.decision.as_ref().and_then(|decision| decision.evidence.fallback);
        assert_eq!(fallback, None, "{key} need not learn anew");
        let capacities = known.capacity_per_s.zip(learned.capacity_per_s);
        let ratio = capacities.map_or(1.0, |(known, learned)| learned / known);
        assert!((ratio - 1.0).abs() < 0.05, "{key}: {known:?} {learned:?}");
    }
}

/// VictoriaMetrics has no remote read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_remote_read_is_asked_by_queries() {
    if Command::new("victoria-metrics").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("INFERNO_TEST_SKIP_PROMETHEUS").is_some(),
            "no victoria-metrics; see tests/run"
        );
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let free = TcpListener::bind("127.0.0.1:0").await.and_then(|free| free.local_addr());
    let address = free.expect("loopback has free ports");
    let mut command = Command::new("victoria-metrics");
    command.arg(format!("-httpListenAddr={address}"));
    command.arg(format!("-storageDataPath={}", folder.path().display()));
    command.args(["-search.latencyOffset=0s", "-retentionPeriod=1d"]);
    let _process = Process::start("VictoriaMetrics", &mut command);
    let until = Instant::now() + Duration::from_secs(20);
    while client::get(address, "/health").await.is_err() {
        assert!(Instant::now() < until, "VictoriaMetrics does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stored = stored();
    for (_, scrape) in &stored {
        assert!(write(address, scrape.clone()).await.status.is_success());
    }
    client::get(address, "/internal/force_flush").await.expect("an answer");
    let sidecar = Sidecar::start().await;
    sidecar.fill(&format!("http://{address}"), Duration::from_secs(30)).await;
    // VictoriaMetrics keeps some 12 digits of a number.
    let rounded = |numbers: Vec<_>| format!("{numbers:.6?}");
    assert_eq!(rounded(numbers(&*sidecar.board().await)), rounded(heard(&stored)));
}

/// A server that answers every request with `answer`.
async fn server<R>(answer: impl Fn() -> R + Clone + Send + Sync + 'static) -> String
where
    R: IntoResponse + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    let router = Router::new().fallback(any(move || std::future::ready(answer())));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// However the filling ends, the sidecar takes in the present afterwards.
async fn starts_without(url: &str, wait: Duration) {
    let sidecar = Sidecar::start().await;
    sidecar.fill(url, wait).await;
    sidecar.board().await;
    let stored = stored();
    assert_eq!(write(sidecar.address, stored[STEPS - 1].1.clone()).await.status, 204);
    let answer = client::get(sidecar.address, "/api/v1/query?query=inferno_desired_replicas").await;
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(sidecar.metric("inferno_sidecar_backfill_samples_total ").await, "0");
}

#[tokio::test]
async fn a_server_that_cannot_be_read_does_not_keep_the_sidecar_from_starting() {
    let long = Duration::from_secs(60);
    let begun = Instant::now();
    starts_without(&server(|| (StatusCode::UNAUTHORIZED, "who are you?")).await, long).await;
    starts_without(&server(|| ([("content-type", "application/x-protobuf")], "no snappy")).await, long).await;
    // No remote read, and no JSON either.
    starts_without(&server(|| (StatusCode::OK, "hello")).await, long).await;
    // A bomb: 4 GiB announced.
    let bomb = || ([("content-type", "application/x-protobuf")], [0xff_u8, 0xff, 0xff, 0xff, 0x0f, 0]);
    starts_without(&server(bomb).await, long).await;
    assert!(begun.elapsed() < long, "none of these is waited for");
    // One that may come yet is waited for, but not for ever.
    starts_without("http://127.0.0.1:1", Duration::from_millis(600)).await;
    starts_without(&server(|| StatusCode::SERVICE_UNAVAILABLE).await, Duration::from_millis(600)).await;
}

/// Time that a slow server takes for an answer: longer than what counts as the present.
const SLOW: Duration = Duration::from_millis(700);

/// The address of a server that answers every remote read with nothing, late.
async fn slow_server() -> String {
    let answer = || async {
        tokio::time::sleep(SLOW).await;
        // An empty message.
        ([("content-type", "application/x-protobuf")], [0_u8])
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(answer))).await });
    format!("http://{address}")
}

#[tokio::test]
async fn a_server_that_is_slow_is_not_chased_until_the_wait_is_over() {
    let sidecar = Sidecar::start().await;
    sidecar.fill_span(&slow_server().await, 30_000, Duration::from_secs(600)).await;
    assert_eq!(sidecar.metric("inferno_sidecar_backfill_progress_ratio ").await, "1");
}

#[tokio::test]
async fn of_more_than_can_be_read_in_time_the_newest_is_read() {
    let sidecar = Sidecar::start().await;
    // An hour would take 42 s.
    sidecar.fill_span(&slow_server().await, 3_600_000, Duration::from_secs(15)).await;
    assert_eq!(sidecar.metric("inferno_sidecar_backfill_progress_ratio ").await, "1");
}
