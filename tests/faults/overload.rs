//! More than the sidecar can take, beside a real Prometheus that tries again until everything is delivered.
//! `INFERNO_FAULT_SECONDS` says for how long.

use crate::client::get;
use crate::fleet::Fleet;
use crate::real::Prometheus;
use crate::sidecar::{Scrape, Sidecar, write, write_request};
use crate::{TURN, all_along, now_ms, wait_for};
use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use inferno_sidecar::limits::WRITE_INFLIGHT_MAX_BYTES;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Senders at once and the series in each of their requests: the first exceed the bytes that may be under way,
/// the others the queue, which refuses Prometheus's small requests, too.
const SENDERS: [(usize, u64); 2] = [(250, 20_000), (400, 500)];

/// What became of the flood.
#[derive(Default)]
struct Flood {
    over: AtomicBool,
    /// Samples.
    taken: AtomicU64,
    /// Samples.
    refused: AtomicU64,
    /// Requests that were answered, and connections that ended without an answer.
    answers: AtomicU64,
    broken: AtomicU64,
}

impl Flood {
    fn start(self: &Arc<Self>, address: SocketAddr) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        for (senders, series) in SENDERS {
            let mut scrape = Scrape::at(now_ms(), 0, 0.0, 0.0);
            for pod in 0..series {
                let pod = format!("other-7d9c5b8f6d-{pod}");
                let pairs = [("model_name", "n"), ("namespace", "other"), ("pod", &*pod)];
                scrape.add("vllm:num_requests_running", &pairs, 1.0);
            }
            let body = scrape.body();
            tasks.extend(
                (0..senders).map(|_| tokio::spawn(send(self.clone(), address, series, body.clone()))),
            );
        }
        tasks
    }
}

/// Sends over one connection after the other, each for as long as it lives, until the flood is over.
async fn send(flood: Arc<Flood>, address: SocketAddr, series: u64, body: Vec<u8>) {
    while !flood.over.load(Ordering::Relaxed) {
        if let Err(error) = send_over_one(&flood, address, series, &body).await {
            assert!(!error.is_user(), "{error}");
            flood.broken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn send_over_one(
    flood: &Flood,
    address: SocketAddr,
    series: u64,
    body: &[u8],
) -> Result<(), hyper::Error> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut connection, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    while !flood.over.load(Ordering::Relaxed) {
        let request = write_request().header("host", address.to_string());
        let request = request.body(Body::from(body.to_vec())).expect("the request is valid");
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let (status, wait) = (answer.status(), answer.headers().get("retry-after").cloned());
        answer.into_body().collect().await?;
        flood.answers.fetch_add(1, Ordering::Relaxed);
        if status == 204 {
            flood.taken.fetch_add(series, Ordering::Relaxed);
            continue;
        }
        assert_eq!(status, 503, "never 429: Prometheus would drop the data");
        assert_eq!(wait.expect("it says when to try again"), "1");
        flood.refused.fetch_add(series, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Sum of a metric of Prometheus about its sending.
pub async fn sending(prometheus: &Prometheus, name: &str) -> f64 {
    let answer = get(prometheus.address, "/metrics").await.expect("an answer");
    let start = format!("prometheus_remote_storage_{name}{{");
    let lines = answer.text().lines().filter(|line| line.starts_with(&start));
    lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_twice_the_load_it_can_take_nothing_is_lost_and_decisions_go_on() {
    let _turn = TURN.lock().await;
    let (fleet, sidecar) = (Fleet::start().await, Sidecar::start().await);
    let settings = fleet.settings(sidecar.address, "");
    let Some(prometheus) = Prometheus::start(&settings, &[]).await else { return };
    sidecar.until_desired(2).await;
    let idle_kib = sidecar.process.resident_kib();

    let flood = Arc::new(Flood::default());
    let senders = flood.start(sidecar.address);
    let begun = Instant::now();
    wait_for("Prometheus is refused, too", async || {
        (sending(&prometheus, "samples_retried_total").await > 0.0).then_some(())
    })
    .await;
    let mut highest_kib = 0;
    let seconds = std::env::var("INFERNO_FAULT_SECONDS").map_or(10, |text| text.parse().expect("a number"));
    all_along(Duration::from_secs(seconds), async || {
        assert_eq!(sidecar.desired().await, Some(2), "readers are answered throughout");
        highest_kib = highest_kib.max(sidecar.process.resident_kib());
    })
    .await;
    fleet.set_kv(0.95);
    let raised = Instant::now();
    sidecar.until_desired(3).await;
    let reaction = raised.elapsed();
    flood.over.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.expect("no sender is answered otherwise");
    }
    let (taken, refused) = (flood.taken.load(Ordering::Relaxed), flood.refused.load(Ordering::Relaxed));
    let per_s = |samples: u64| samples as f64 / begun.elapsed().as_secs_f64();
    let (answers, broken) = (flood.answers.load(Ordering::Relaxed), flood.broken.load(Ordering::Relaxed));
    assert!(broken * 100 < answers, "{broken} connections broke, {answers} requests were answered");
    let calm = Instant::now();
    // Everything that was scraped arrives, by Prometheus's own retries and without help.
    wait_for("Prometheus's backlog worked off", async || {
        let age_s = sidecar.figure("inferno_input_age_seconds").await?;
        (age_s < 2.5 && sending(&prometheus, "samples_pending").await < 20.0).then_some(())
    })
    .await;
    let retried = sending(&prometheus, "samples_retried_total").await;
    assert_eq!(sending(&prometheus, "samples_failed_total").await, 0.0);
    assert_eq!(sending(&prometheus, "samples_dropped_total").await, 0.0);
    say!(
        "overload: {:.0} samples/s taken, {:.0} offered; {idle_kib} KiB before, {highest_kib} KiB at most; a rise \
         seen after {:.1} s; caught up {:.1} s after it; {retried} samples sent again, none lost; {answers} answers, \
         {broken} broken connections",
        per_s(taken),
        per_s(taken + refused),
        reaction.as_secs_f64(),
        calm.elapsed().as_secs_f64()
    );
    assert!(refused > taken, "{refused} refused, {taken} taken: less than twice what it takes");
    // What is under way, and twice that for all else.
    assert!(highest_kib * 1024 < 3 * WRITE_INFLIGHT_MAX_BYTES as u64, "{highest_kib} KiB");
}

/// Connections that are served in the test below.
const PLACES: &str = "8";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_told_to_try_again() {
    let _turn = TURN.lock().await;
    let sidecar = Sidecar::start_with(&[], &["--max-connections", PLACES], |_| ()).await;
    assert_eq!(sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status, 204);
    let mut held = Vec::new();
    while held.len().to_string() != PLACES {
        let mut stream = TcpStream::connect(sidecar.address).await.expect("it listens");
        stream.write_all(b"GET /-/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it reads");
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.expect("it answers");
        // The connection of the write before may still be closing.
        if &head[9..] == b"200" {
            held.push(stream);
        }
    }
    let large = vec![0xa5; 300_000];
    let senders: Vec<_> = (0..500).map(|_| tokio::spawn(write(sidecar.address, large.clone()))).collect();
    for sender in senders {
        let answer = sender.await.expect("no sender panics").expect("every sender is answered");
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"), "{}", answer.text());
        assert!(answer.text().contains("--max-connections"), "{}", answer.text());
    }
    let [healthy, ready] = ["/-/healthy", "/-/ready"].map(|path| get(sidecar.address, path));
    assert_eq!(healthy.await.expect("an answer").status, 200, "a busy process is not a dead one");
    assert_eq!(ready.await.expect("an answer").status, 503);
    sidecar.process.line("all connections are in use").await;
    drop(held);
    wait_for("a place that became free", async || {
        (write(sidecar.address, Scrape::now(2, 0.95, 9.0).body()).await.ok()?.status == 204).then_some(())
    })
    .await;
    sidecar.until_desired(3).await;
}
