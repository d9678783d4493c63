//! A long run: a stream with churn, configuration changes and faults in a loop. Memory, latency and decisions are
//! reported at its start and its end. `INFERNO_SOAK_SECONDS=3600` and a release build make it the one of the README.

use crate::processes::half_a_request;
use crate::sidecar::{Scrape, Sidecar, configuration, write};
use crate::{TURN, now_ms};
use std::fs;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// Samples in each request.
const SAMPLES: usize = 2_000;
/// Requests per second.
const REQUESTS: usize = 25;
/// Series of each pod: the first four mean something to the sidecar.
const SERIES: [&str; 20] = [
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:request_success_total",
    "vllm:cache_config_info_x",
    "vllm:engine_sleep_state",
    "vllm:lora_requests_info_x",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "python_gc_collections_total",
    "python_info",
    "http_requests_total",
    "http_request_size_bytes_sum",
    "http_request_size_bytes_count",
    "http_response_size_bytes_sum",
    "http_response_size_bytes_count",
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
];
/// A tenth of the pods is replaced every so many seconds.
const CHURN_S: usize = 6;

/// What a request of pods of another model carries. Pods have new names when they were replaced.
fn foreign(request: usize, second: usize) -> Scrape {
    let mut scrape = Scrape::at(now_ms(), 0, 0.0, 0.0);
    for pod in 0..SAMPLES / SERIES.len() {
        let number = request * SAMPLES / SERIES.len() + pod;
        let generation = (second / CHURN_S + 10 - number % 10) / 10;
        let name = format!("other-7d9c5b8f6d-{number}-{generation}");
        let pairs = [("model_name", "n"), ("namespace", "other"), ("pod", &*name)];
        for (at, metric) in SERIES.iter().enumerate() {
            let value = if metric.ends_with("_total") { (second * 10 + at) as f64 } else { 0.5 };
            scrape.add(metric, &pairs, value);
        }
    }
    scrape
}

/// One fault after the other, and a changed configuration.
async fn disturb(sidecar: &Sidecar, second: usize) {
    match second % 4 {
        0 => drop(half_a_request(sidecar.address, "content-length: 33000000").await),
        1 => assert_eq!(write(sidecar.address, vec![0xff; 1000]).await.expect("an answer").status, 400),
        2 => {
            let future = Scrape::at(now_ms() + 3_600_000, 2, 0.99, 50.0);
            assert_eq!(sidecar.write(&future).await.status, 400);
        }
        _ => {
            let text = configuration(6 + second as u32 % 3);
            fs::write(sidecar.config().join("all.yaml"), text).expect("the folder is ours");
        }
    }
}

#[derive(Default)]
struct Figures {
    latencies: Vec<Duration>,
    resident_kib: u64,
}

impl Figures {
    fn text(&mut self) -> String {
        self.latencies.sort();
        let at = |share: f64| {
            let index = (self.latencies.len() as f64 * share) as usize;
            self.latencies.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        let (median, high) = (at(0.5), at(0.99));
        format!("{} KiB resident, a write takes {median:.1} ms, 99 % within {high:.1} ms", self.resident_kib)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; takes as long as it is told"]
async fn soak() {
    let _turn = TURN.lock().await;
    let seconds = std::env::var("INFERNO_SOAK_SECONDS").map_or(60, |text| text.parse().expect("a number"));
    let sidecar = Sidecar::start().await;
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut parts: Vec<Figures> = (0..4).map(|_| Figures::default()).collect();
    let (begun, mut late) = (Instant::now(), 0);
    for second in 0..seconds {
        pace.tick().await;
        let part = &mut parts[second * 4 / seconds];
        let started = Instant::now();
        let ours = Scrape::now(2, 0.5, 2.0);
        assert_eq!(sidecar.write(&ours).await.status, 204);
        for request in 0..REQUESTS {
            let body = foreign(request, second).body();
            let sent = Instant::now();
            assert_eq!(write(sidecar.address, body).await.expect("an answer").status, 204);
            part.latencies.push(sent.elapsed());
        }
        disturb(&sidecar, second).await;
        assert_eq!(sidecar.desired().await, Some(2), "after {second} s");
        part.resident_kib = sidecar.process.resident_kib();
        late += usize::from(started.elapsed() > Duration::from_secs(1));
    }
    let per_s = (seconds * REQUESTS * SAMPLES) as f64 / begun.elapsed().as_secs_f64();
    assert_eq!(sidecar.write(&Scrape::now(2, 0.95, 9.0)).await.status, 204);
    assert_eq!(sidecar.desired().await, Some(3), "a rise is decided as at the start");
    say!("soak: {seconds} s at {per_s:.0} samples/s, {late} s were late");
    for (number, part) in parts.iter_mut().enumerate() {
        say!("quarter {}: {}", number + 1, part.text());
    }
    // What has not been sent for ten minutes is forgotten: from then on memory is flat.
    if seconds >= 2400 {
        let [.., third, last] = &parts[..] else { unreachable!("there are four quarters") };
        assert!(last.resident_kib * 10 < third.resident_kib * 11, "memory grows");
    }
}
