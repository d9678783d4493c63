//! More than can be taken: refused so that the sender tries again, and never lost.

use crate::client::get;
use crate::server::*;
use axum::body::{Body, Bytes};
use inferno_sidecar::engine::Engine;
use inferno_sidecar::limits::{Limits, WRITE_INFLIGHT_MAX_BYTES, WRITE_QUEUE_MAX};
use inferno_sidecar::proto::{TimeSeries, WriteRequest};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::wire::Version;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn assert_busy(answer: &crate::client::Answer) {
    assert_eq!(answer.status, 503, "never 429: Prometheus would drop the data. {}", answer.text());
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.text().contains("try again"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_asks_to_try_again() {
    let server = Server::ready().await;
    // Distinct series of known names keep the engine busy for long enough to fill its queue behind it.
    let base = now_ms() - 30_000;
    let pods: Vec<String> = (0..60_000).map(|pod| format!("other-7d9c5b8f6d-{pod}")).collect();
    let timeseries = pods
        .iter()
        .map(|pod| {
            let labels = [("__name__", "vllm:num_requests_running"), ("model_name", "m"), ("namespace", "n")];
            one(&[&labels[..], &[("pod", pod)]].concat(), base, 1.0)
        })
        .collect();
    let heavy = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
    let mut heard = Vec::new();
    let mut refusal = None;
    // The engine may be done before the request arrives; then it is given the work again.
    for _ in 0..50 {
        heard.extend(server.engine.write(Version::V1, heavy.clone(), heavy.len()));
        let before = heard.len();
        while let Ok(answer) = server.engine.write(Version::V1, Vec::new(), 0) {
            heard.push(answer);
            assert!(heard.len() < before + 100_000, "the queue has an end");
        }
        let answer = server.write(vec![waiting(base, 1.0)]).await;
        if answer.status != 204 {
            refusal = Some(answer);
            break;
        }
    }
    assert!(heard.len() >= WRITE_QUEUE_MAX);
    assert_busy(&refusal.expect("a full queue is noticed"));
    for answer in heard {
        assert!(answer.await.expect("every accepted write is answered").outcome.is_ok());
    }
    let answer = server.write(vec![waiting(base, 5.0)]).await;
    assert_eq!(answer.status, 204, "and then there is room again: {}", answer.text());
}

#[tokio::test]
async fn too_many_bytes_under_way_ask_to_try_again() {
    let server = Server::ready().await;
    let all = u32::try_from(WRITE_INFLIGHT_MAX_BYTES).expect("the limit fits");
    let taken = server.write_bytes.clone().acquire_many_owned(all).await.expect("never closed");
    let answer = server.write(vec![waiting(now_ms(), 1.0)]).await;
    assert_busy(&answer);
    drop(taken);
    assert_eq!(server.write(vec![waiting(now_ms(), 1.0)]).await.status, 204);
    assert_eq!(server.write_bytes.available_permits(), WRITE_INFLIGHT_MAX_BYTES, "every byte is given back");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let server = Server::with(|context| context.write_body_max = Duration::from_millis(100)).await;
    let answer = server.post(&PROMETHEUS, never_ending()).await;
    assert_eq!(answer.status, 408, "{}", answer.text());
    assert_eq!(server.write_bytes.available_permits(), WRITE_INFLIGHT_MAX_BYTES, "every byte is given back");
}

/// Series of a pod that is new, at a time.
fn pod_number(number: usize, time: i64) -> Vec<TimeSeries> {
    let pod = format!("{VARIANT}-7d9c5b8f6d-bbbb{number}");
    let labels = [("model_name", "Qwen/Qwen3-14B"), ("namespace", "llm"), ("pod", &*pod)];
    ["vllm:num_requests_waiting", "vllm:num_requests_running"]
        .map(|name| one(&[&[("__name__", name)], &labels[..]].concat(), time, 1.0))
        .into()
}

#[tokio::test]
async fn at_the_limit_of_series_new_ones_are_refused_and_old_ones_go_on_until_there_is_room_again() {
    let engine = Engine::new(Arc::new(Dialects::built_in())).with_series_max(4);
    let server = Server::with_engine(engine, |_| {}).await;
    let start = now_ms() - 1_300_000;
    let all_of = |pods: std::ops::Range<usize>, time| pods.flat_map(|pod| pod_number(pod, time)).collect();
    assert_eq!(server.write(all_of(0..2, start)).await.status, 204);
    let answer = server.write(all_of(0..3, start + 15_000)).await;
    // Not 503: Prometheus would send this request for ever and nothing newer, and the old ones could not end.
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().starts_with("2 rejected, the rest was kept: 2 new series"), "{}", answer.text());
    assert!(answer.text().contains("--max-series"), "{}", answer.text());
    // Those that are known go on: 4 samples of the first request are used, and 4 of the second.
    let metrics = server.get("/metrics").await;
    for line in [
        "inferno_sidecar_series 4",
        "inferno_sidecar_series_limit 4",
        "inferno_sidecar_limit{limit=\"series\"} 4",
        "inferno_sidecar_limit_used{limit=\"series\"} 4",
        "inferno_sidecar_limit_used{limit=\"inflight_bytes\"} 0",
        "inferno_sidecar_rejected_total 2",
        "inferno_sidecar_samples_total{outcome=\"used\"} 8",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in {}", metrics.text());
    }
    // Pod 1 ends; ten minutes later its place is free.
    for step in 2..50 {
        assert_eq!(server.write(all_of(0..1, start + 15_000 * step)).await.status, 204);
    }
    let answer =
        server.write([pod_number(0, start + 750_000), pod_number(2, start + 750_000)].concat()).await;
    assert_eq!(answer.status, 204, "there is room again: {}", answer.text());
}

#[tokio::test]
async fn a_smaller_limit_of_requests_is_named_and_the_largest_request_is_shown() {
    let limits = Limits { request_bytes: 1 << 20, ..Limits::default() };
    let server = Server::with(|context| context.limits = limits).await;
    assert_eq!(server.write(vec![waiting(now_ms(), 1.0)]).await.status, 204);
    let answer = server.post(&PROMETHEUS, compress(&vec![0; (1 << 20) + 1])).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("over the limit of 1048576"), "{}", answer.text());
    let answer = server.post(&PROMETHEUS, vec![0; (1 << 20) + 1]).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    let metrics = server.get("/metrics").await;
    assert!(metrics.text().contains("inferno_sidecar_limit{limit=\"request_bytes\"} 1048576\n"));
    assert!(metrics.text().contains("inferno_sidecar_limit_used{limit=\"request_bytes\"} 1048577\n"));
}

/// A body of which one byte arrives.
pub fn never_ending() -> Body {
    let (sender, channel) = tokio::sync::mpsc::channel::<Bytes>(1);
    sender.try_send(Bytes::from_static(b"x")).expect("there is room");
    // Leaked, so that the channel never closes.
    std::mem::forget(sender);
    Body::new(ChannelBody(channel))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_never_disturbed_by_writers() {
    let server = Server::ready().await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (address, done) = (server.address, done.clone());
            tokio::spawn(async move {
                let mut asked = 0;
                while !done.load(Ordering::Relaxed) {
                    let answer = get(address, "/api/v1/query?query=inferno_desired_replicas").await.unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert_eq!(crate::client::vector(&answer).len(), 3);
                    let metrics = get(address, "/metrics").await.unwrap();
                    assert_eq!(metrics.text().matches("\ninferno_desired_replicas{").count(), 3);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let base = now_ms() - 30_000;
    for step in 0..200 {
        assert_eq!(server.write(vec![waiting(base + step, 1.0)]).await.status, 204);
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.expect("no reader panics") > 0);
    }
}

/// A body that ends when its channel closes.
struct ChannelBody(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for ChannelBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|data| data.map(|data| Ok(hyper::body::Frame::data(data))))
    }
}
