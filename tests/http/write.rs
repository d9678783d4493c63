//! `POST /api/v1/write`: what is taken, what is refused, and with which words.

use crate::client::{get, send};
use crate::server::*;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request};
use inferno_sidecar::limits::{LABEL_MAX_BYTES, WRITE_COMPRESSED_MAX_BYTES};
use inferno_sidecar::proto::{Label, TimeSeries, WriteRequest};
use inferno_sidecar::wire::STALE_MARKER_BITS;
use proptest::prelude::*;
use prost::Message;
use std::time::{Duration, Instant};

const WAITING: &str = "inferno_requests_waiting{variant_name=\"qwen-14b-h100\"}";

fn body_of(series: Vec<TimeSeries>) -> Vec<u8> {
    compress(&WriteRequest { timeseries: series, ..WriteRequest::default() }.encode_to_vec())
}

/// Fields of a message written by hand: number, bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128);
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

fn written_headers(headers: &HeaderMap) -> usize {
    headers.keys().filter(|name| name.as_str().starts_with("x-prometheus-remote-write")).count()
}

#[tokio::test]
async fn type_and_encoding_are_checked_before_the_body() {
    let server = Server::ready().await;
    let proto = "application/x-protobuf";
    let v3 = "application/x-protobuf;proto=io.prometheus.write.v3.Request";
    for (headers, code, said) in [
        (vec![("content-type", "application/json")], 415, "send application/x-protobuf"),
        (vec![("content-type", "image/png")], 415, "image/png"),
        (vec![("content-type", proto), ("content-encoding", "gzip")], 415, "send snappy"),
        (vec![("content-type", proto), ("content-encoding", "zstd")], 415, "zstd"),
        (vec![("content-type", v3)], 415, "protobuf_message: io.prometheus.write.v2.Request"),
        (vec![("content-type", "application/x-protobuf;proto=other")], 415, "other"),
        (vec![("content-type", "application/x-protobuf;proto")], 415, "parameter without a value"),
        (vec![("content-type", "application/x-protobuf; proto=prometheus.WriteRequest")], 204, ""),
        (vec![("content-type", "application/x-protobuf;proto=prometheus.WriteRequest")], 204, ""),
        (vec![("content-type", "Application/X-Protobuf")], 204, ""),
        (vec![("content-type", proto), ("content-encoding", "")], 204, ""),
        (vec![("content-type", proto)], 204, ""),
        (vec![("content-encoding", "snappy")], 204, ""),
        (vec![], 204, ""),
        (PROMETHEUS.to_vec(), 204, ""),
    ] {
        let answer = server.post(&headers, body_of(vec![waiting(now_ms(), 1.0)])).await;
        assert_eq!(answer.status.as_u16(), code, "{headers:?}: {}", answer.text());
        assert!(answer.text().contains(said), "{headers:?}: {}", answer.text());
        assert_eq!(written_headers(&answer.headers), 0, "version 1 answers do not count");
        if code == 204 {
            assert!(answer.body.is_empty());
        } else {
            // Refused although the body is broken, because it was not looked at.
            assert_eq!(server.post(&headers, vec![0xff; 10]).await.status.as_u16(), code);
        }
    }
}

#[tokio::test]
async fn other_methods_are_refused() {
    let server = Server::ready().await;
    assert_eq!(get(server.address, "/api/v1/write").await.unwrap().status, 405);
    let put = Request::builder().method(Method::PUT).uri("/api/v1/write").body(Body::empty()).unwrap();
    let answer = send(server.address, put).await.unwrap();
    assert_eq!(answer.status, 405);
    assert!(answer.header("allow").contains("POST"));
}

#[tokio::test]
async fn broken_compression_is_a_bad_request() {
    let server = Server::ready().await;
    let body = body_of(vec![waiting(now_ms(), 7.0); 3]);
    for cut in 1..body.len() {
        let answer = server.post(&PROMETHEUS, body[..cut].to_vec()).await;
        assert_eq!(answer.status, 400, "cut at {cut}: {}", answer.text());
        assert!(answer.text().contains("snappy"), "{}", answer.text());
    }
    let answer = server.post(&PROMETHEUS, vec![0xff; 64]).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    // The framed format and an empty body are no blocks either.
    let framed = [b"\xff\x06\x00\x00sNaPpY".as_slice(), &[0; 20]].concat();
    assert_eq!(server.post(&PROMETHEUS, framed).await.status, 400);
    assert_eq!(server.post(&PROMETHEUS, Vec::new()).await.status, 400);
    assert_eq!(server.value(WAITING).await, "0", "nothing of it was used");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_decompression_bomb_costs_neither_time_nor_memory() {
    let server = Server::ready().await;
    let (begun, before) = (Instant::now(), resident_kib());
    // 4 GiB - 1, 32 MiB + 1, and 32 MiB that seven bytes cannot hold.
    for (bomb, said) in [
        (vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00], "over the limit"),
        (vec![0x81, 0x80, 0x80, 0x10, 0xfe, 0x01, 0x00], "over the limit"),
        (vec![0x80, 0x80, 0x80, 0x10, 0xfe, 0x01, 0x00], "cannot hold"),
    ] {
        for _ in 0..20 {
            let answer = server.post(&PROMETHEUS, bomb.clone()).await;
            assert_eq!(answer.status, 400);
            assert!(answer.text().contains(said), "{}", answer.text());
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Other tests run beside this one, so only gigabytes would show.
    assert!(resident_kib() < before + (1 << 20), "{} KiB after, {before} before", resident_kib());
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large_announced_or_not() {
    let server = Server::ready().await;
    let over = (WRITE_COMPRESSED_MAX_BYTES + 1).to_string();
    let announced = [&PROMETHEUS[..], &[("content-length", &*over)]].concat();
    let answer = server.post(&announced, crate::overload::never_ending()).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("max_samples_per_send"), "{}", answer.text());
    let answer =
        server.post(&[("transfer-encoding", "chunked")], vec![0; WRITE_COMPRESSED_MAX_BYTES + 1]).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
}

#[tokio::test]
async fn broken_protobuf_is_a_bad_request_with_its_place() {
    let server = Server::ready().await;
    let good = WriteRequest { timeseries: vec![waiting(now_ms(), 7.0)], ..WriteRequest::default() };
    let message = [good.encode_to_vec(), vec![0x0a, 0x7f, 0x00]].concat();
    let answer = server.post(&PROMETHEUS, compress(&message)).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("invalid protobuf at byte"), "{}", answer.text());
    assert_eq!(server.value(WAITING).await, "0", "nothing of it was used");
}

#[tokio::test]
async fn a_refused_series_does_not_take_the_others_with_it() {
    let server = Server::ready().await;
    let base = now_ms() - 30_000;
    let own = [("__name__", "vllm:num_requests_waiting"), ("namespace", "llm"), ("pod", "x")];
    let long = "x".repeat(LABEL_MAX_BYTES + 1);
    let cases = [
        (one(&[&own[..], &[("pod", "y")]].concat(), base, 1.0), "label pod occurs twice"),
        (one(&[("__name__", ""), ("namespace", "llm")], base, 1.0), "without a metric name"),
        (one(&[("namespace", "llm")], base, 1.0), "without a metric name"),
        (one(&[], base, 1.0), "without a metric name"),
        (one(&[&own[..], &[("", "y")]].concat(), base, 1.0), "empty name"),
        (one(&[&own[..], &[("a", &long)]].concat(), base, 1.0), "over the limit"),
        (waiting(base + 700_000, 1.0), "ahead of the clock"),
    ];
    for (index, (bad, said)) in cases.into_iter().enumerate() {
        let (time, value) = (base + index as i64, index as f64 + 10.0);
        let answer = server.write(vec![bad, waiting(time, value)]).await;
        assert_eq!(answer.status, 400, "{said}");
        assert!(answer.text().contains(said), "{said}: {}", answer.text());
        assert!(answer.text().len() < 1024, "Prometheus logs the first 1024 bytes");
        assert_eq!(server.value(WAITING).await, format!("{value}"), "{said}: the rest is kept");
        assert_eq!(written_headers(&answer.headers), 0);
    }
}

#[tokio::test]
async fn what_is_valid_but_says_nothing_is_taken() {
    let server = Server::ready().await;
    let labels: Vec<Label> = waiting(0, 0.0).labels;
    let series = |fields: &[Vec<u8>]| {
        let labels = labels.iter().flat_map(|label| {
            field(1, &[field(1, label.name.as_bytes()), field(2, label.value.as_bytes())].concat())
        });
        let message = [labels.collect::<Vec<u8>>(), fields.concat()].concat();
        let mut length = Vec::new();
        prost::encoding::encode_varint(message.len() as u64, &mut length);
        [vec![0x0a], length, message].concat()
    };
    let exemplar = field(3, &field(1, &[field(1, b"trace_id"), field(2, b"abc")].concat()));
    let histogram = field(4, &[0x08, 0x00]);
    let metadata = field(3, &[vec![0x08, 0x02], field(2, b"vllm:num_requests_waiting")].concat());
    for (what, message) in [
        ("nothing", Vec::new()),
        ("metadata", metadata),
        ("an exemplar", series(&[exemplar])),
        ("a native histogram", series(&[histogram])),
        ("a series without samples", series(&[])),
        ("an unknown field", field(15, b"later")),
    ] {
        let answer = server.post(&PROMETHEUS, compress(&message)).await;
        assert_eq!(answer.status, 204, "{what}: {}", answer.text());
        assert!(answer.body.is_empty());
    }
    assert_eq!(server.value(WAITING).await, "0");
}

#[tokio::test]
async fn strange_values_do_not_become_decisions() {
    let server = Server::ready().await;
    let base = now_ms() - 30_000;
    assert_eq!(server.write(vec![waiting(base, 1.0)]).await.status, 204);
    for (index, value) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -2.0].into_iter().enumerate() {
        let answer = server.write(vec![waiting(base + 1 + index as i64, value)]).await;
        assert_eq!(answer.status, 204, "{value}: {}", answer.text());
        assert_eq!(server.value(WAITING).await, "1", "{value}");
    }
    // Going back in time, at the same time again, and a name that no relabelling let through before.
    for series in
        [waiting(base - 10_000, 2.0), waiting(base, 1.0), one(&[("__name__", "up.ütf8")], base, 1.0)]
    {
        assert_eq!(server.write(vec![series]).await.status, 204);
        assert_eq!(server.value(WAITING).await, "1");
    }
    let ended = waiting(base + 100, f64::from_bits(STALE_MARKER_BITS));
    assert_eq!(server.write(vec![ended]).await.status, 204);
    let answer = server.query(WAITING).await;
    assert_eq!(crate::client::vector(&answer).len(), 0, "an ended series has no value");
    assert_eq!(server.value("inferno_desired_replicas{variant_name=\"qwen-14b-h100\"}").await, "1");
}

#[tokio::test]
async fn large_labels_of_any_order_are_read() {
    let server = Server::ready().await;
    let large = "y".repeat(400);
    let mut series = waiting(now_ms(), 4.0);
    for index in 0..40 {
        series.labels.push(Label { name: format!("extra_{index}_{large}"), value: large.clone() });
    }
    series.labels.reverse();
    let answer = server.write(vec![series]).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
}

#[tokio::test]
async fn a_reader_after_the_answer_sees_the_new_number() {
    let server = Server::ready().await;
    let base = now_ms() - 30_000;
    for step in 0..300 {
        let answer = server.write(vec![waiting(base + step, step as f64)]).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(server.value(WAITING).await, step.to_string());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the body, the answer is a success or the sender's fault, and the server lives on.
    #[test]
    fn no_body_is_a_server_error(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 8)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let server = Server::ready().await;
            let good = WriteRequest { timeseries: vec![waiting(now_ms(), 1.0); 4], ..WriteRequest::default() };
            let good = good.encode_to_vec();
            for noise in &bodies {
                let mut damaged = good.clone();
                for pair in noise.chunks_exact(2).take(6) {
                    let place = usize::from(pair[0]) * good.len() / 256;
                    damaged[place] = pair[1];
                }
                for body in [noise.clone(), compress(noise), compress(&damaged)] {
                    let answer = server.post(&PROMETHEUS, body.clone()).await;
                    assert!([204, 400].contains(&answer.status.as_u16()), "{body:?}: {}", answer.text());
                }
            }
            assert_eq!(server.value("inferno_desired_replicas{variant_name=\"llama-8b-l40s\"}").await, "1");
        });
    }
}
