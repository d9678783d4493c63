//! Senders other than Prometheus, and pairs of senders: their headers, their batches, their labels.

use crate::client::vector;
use crate::server::*;
use crate::table::{PROMETHEUS_2, Table, request_of};
use inferno_sidecar::proto::v2;
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use prost::Message;

const WAITING: &str = "inferno_requests_waiting{variant_name=\"qwen-14b-h100\"}";

/// What vmagent sends; it begins with its own encoding.
fn vmagent(encoding: &'static str) -> [(&'static str, &'static str); 5] {
    [
        ("content-encoding", encoding),
        ("content-type", "application/x-protobuf"),
        ("x-prometheus-remote-write-version", "0.1.0"),
        ("x-victoriametrics-remote-write-version", "1"),
        ("user-agent", "vmagent"),
    ]
}

fn labelled(mut series: TimeSeries, name: &str, value: &str) -> TimeSeries {
    series.labels.push(Label { name: name.into(), value: value.into() });
    series
}

fn samples(mut series: TimeSeries, samples: &[(i64, f64)]) -> TimeSeries {
    series.samples = samples.iter().map(|&(timestamp, value)| Sample { value, timestamp }).collect();
    series
}

/// Live series as the sidecar counts them.
async fn live_series(server: &Server) -> u64 {
    let metrics = server.get("/metrics").await;
    let line = metrics.text().lines().find_map(|line| line.strip_prefix("inferno_sidecar_series "));
    line.expect("the metric is there").parse().expect("it is a whole number")
}

impl Server {
    /// Writes series as Prometheus does with remote-write 2.0.
    async fn write_2(&self, request: &v2::Request) -> crate::client::Answer {
        self.post(&PROMETHEUS_2, compress(&request.encode_to_vec())).await
    }
}

#[tokio::test]
async fn vmagent_falls_back_to_snappy_and_sends_several_samples_at_once() {
    let server = Server::ready().await;
    let base = now_ms() - 30_000;
    let series = samples(waiting(0, 0.0), &[(base, 1.0), (base + 1_000, 2.0), (base + 2_000, 3.0)]);
    let request = WriteRequest { timeseries: vec![series.clone()], ..WriteRequest::default() };
    let zstd = server.post(&vmagent("zstd"), vec![0x28, 0xb5, 0x2f, 0xfd]).await;
    assert_eq!(zstd.status, 415, "only 415 and 400 make it fall back: {}", zstd.text());
    let answer = server.post(&vmagent("snappy"), compress(&request.encode_to_vec())).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(server.value(WAITING).await, "3");
}

#[tokio::test]
async fn a_collector_sends_several_samples_per_series_and_target_info() {
    let server = Server::ready().await;
    let base = now_ms() - 30_000;
    let target = [("__name__", "target_info"), ("job", "vllm"), ("service_name", "vllm"), ("pod", "x")];
    let series = vec![
        one(&target, base, 1.0),
        samples(waiting(0, 0.0), &[(base, 4.0), (base + 5_000, 6.0)]),
        // Metadata in a request of its own, in 1.0 and 2.0, is no series.
    ];
    let collector = [
        ("content-encoding", "snappy"),
        ("content-type", "application/x-protobuf"),
        ("x-prometheus-remote-write-version", "0.1.0"),
        ("user-agent", "opentelemetry-collector/0.130"),
    ];
    let request = WriteRequest { timeseries: series.clone(), ..WriteRequest::default() };
    let answer = server.post(&collector, compress(&request.encode_to_vec())).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(server.value(WAITING).await, "6");

    let later: Vec<TimeSeries> = series
        .into_iter()
        .map(|mut series| {
            series.samples.iter_mut().for_each(|sample| sample.timestamp += 10_000);
            series.samples.iter_mut().for_each(|sample| sample.value += 1.0);
            series
        })
        .collect();
    let answer = server.write_2(&request_of(&later)).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "3");
    assert_eq!(server.value(WAITING).await, "7");
}

#[tokio::test]
async fn both_versions_fill_the_same_series() {
    let server = Server::ready().await;
    let (before, base) = (live_series(&server).await, now_ms() - 30_000);
    for step in 0..12 {
        let mut series = waiting(base + step * 1_000, step as f64);
        let turns = step as usize % series.labels.len();
        series.labels.rotate_left(turns);
        let answer = match step % 3 {
            0 => server.write(vec![series]).await,
            1 => server.write_2(&request_of(&[series])).await,
            // The same label twice in the table, which no rule forbids.
            _ => {
                let mut request = request_of(&[series]);
                let symbols = request.symbols.len() as u32;
                request.symbols.extend_from_within(..);
                request.timeseries[0].labels_refs.iter_mut().step_by(3).for_each(|r| *r += symbols);
                server.write_2(&request).await
            }
        };
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(server.value(WAITING).await, step.to_string());
    }
    assert_eq!(live_series(&server).await, before);
}

#[tokio::test]
async fn a_high_availability_pair_sends_one_set_of_series() {
    let server = Server::ready().await;
    let (before, base) = (live_series(&server).await, now_ms() - 30_000);
    for step in 0..16 {
        let label = ["prometheus_replica", "__replica__"][step as usize / 2 % 2];
        let replica = ["prometheus-0", "prometheus-1"][step as usize % 2];
        let series = labelled(waiting(base + step * 1_000, step as f64), label, replica);
        let answer = if step < 8 {
            server.write(vec![series]).await
        } else {
            server.write_2(&request_of(&[series])).await
        };
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(server.value(WAITING).await, step.to_string());
    }
    assert_eq!(live_series(&server).await, before, "the replica's name is no part of the identity");
    // Both send the same scrape: the second is late, and not counted twice.
    let same = labelled(waiting(base + 15_000, 15.0), "prometheus_replica", "prometheus-0");
    assert_eq!(server.write(vec![same]).await.status, 204);
    assert_eq!(vector(&server.query(WAITING).await).len(), 1);
    // Without the label, too, and any other label still tells series apart.
    assert_eq!(server.write(vec![waiting(base + 16_000, 16.0)]).await.status, 204);
    assert_eq!(live_series(&server).await, before);
    let other = labelled(waiting(base + 16_000, 16.0), "rank", "1");
    assert_eq!(server.write(vec![other]).await.status, 204);
    assert_eq!(live_series(&server).await, before + 1);
}

/// A label set of 2.0 whose references go wrong in one way each; the rest of the request is kept.
#[tokio::test]
async fn references_that_lead_nowhere_are_refused_with_their_series() {
    let server = Server::ready().await;
    let base = now_ms() - 30_000;
    let foreign = [("__name__", "up"), ("pod", "x")];
    type Change = fn(&mut v2::Request);
    let cases: [(&str, Change); 9] = [
        ("beyond the", |r| r.timeseries[0].labels_refs[3] = 4_000_000),
        ("beyond the", |r| r.timeseries[0].labels_refs[0] = r.symbols.len() as u32),
        ("not pairs", |r| r.timeseries[0].labels_refs.truncate(3)),
        ("without a metric name", |r| r.timeseries[0].labels_refs.clear()),
        ("without a metric name", |r| r.timeseries[0].labels_refs[1] = 0),
        ("empty name", |r| r.timeseries[0].labels_refs[2] = 0),
        ("occurs twice", |r| r.timeseries[0].labels_refs.extend_from_within(2..4)),
        ("beyond the", |r| {
            r.timeseries[0].metadata = Some(v2::Metadata { help_ref: 4_000_000, ..Default::default() });
        }),
        ("beyond the", |r| {
            r.timeseries[0].metadata = Some(v2::Metadata { unit_ref: 4_000_000, ..Default::default() });
        }),
    ];
    let mut step = 0;
    for (said, change) in cases {
        for ours in [true, false] {
            step += 1;
            let (time, value) = (base + step, step as f64);
            let bad = if ours { waiting(time, 99.0) } else { one(&foreign, time, 99.0) };
            let mut request = request_of(&[bad, waiting(time, value)]);
            change(&mut request);
            let answer = server.write_2(&request).await;
            assert_eq!(answer.status, 400, "{said}: {}", answer.text());
            assert!(answer.text().contains(said), "{said}: {}", answer.text());
            assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "1", "{said}");
            assert_eq!(server.value(WAITING).await, format!("{value}"), "{said}: the rest is kept");
        }
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_refused_whoever_uses_it() {
    let server = Server::ready().await;
    let time = now_ms() - 30_000;
    for own in [true, false] {
        for place in ["name", "value"] {
            let mut bad = if own { waiting(time, 9.0) } else { one(&[("__name__", "up")], time, 9.0) };
            let (name, value) = if place == "name" { ("bad", "fine") } else { ("fine", "bad") };
            bad.labels.push(Label { name: name.into(), value: value.into() });
            let mut bytes = request_of(&[bad, waiting(time, 5.0)]).encode_to_vec();
            let at = bytes.windows(3).position(|text| text == b"bad").expect("it is there");
            bytes[at] = 0xff;
            let answer = server.post(&PROMETHEUS_2, compress(&bytes)).await;
            assert_eq!(answer.status, 400, "{place}");
            assert!(answer.text().contains("not valid UTF-8"), "{}", answer.text());
            assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), "1");
            assert_eq!(server.value(WAITING).await, "5");
        }
    }
}

#[tokio::test]
async fn a_known_series_with_a_strange_twin_is_not_mistaken_for_it() {
    let server = Server::ready().await;
    let base = now_ms() - 30_000;
    assert_eq!(server.write_2(&request_of(&[waiting(base, 1.0)])).await.status, 204);
    // The same labels, one of them twice under two references.
    let mut request = request_of(&[waiting(base + 1, 2.0)]);
    let twin = request.symbols.len() as u32;
    request.symbols.extend(["pod".to_owned(), "x".to_owned()]);
    request.timeseries[0].labels_refs.extend([twin, twin + 1]);
    let answer = server.write_2(&request).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("occurs twice"), "{}", answer.text());
    assert_eq!(server.value(WAITING).await, "1");
    // An empty value is no label.
    let empty = labelled(waiting(base + 2, 3.0), "extra", "");
    let before = live_series(&server).await;
    assert_eq!(server.write_2(&request_of(&[empty])).await.status, 204);
    assert_eq!(server.value(WAITING).await, "3");
    assert_eq!(live_series(&server).await, before);
}

#[tokio::test]
async fn the_type_is_read_with_its_blanks_and_refusals_count_too() {
    let server = Server::ready().await;
    let written = |answer: &crate::client::Answer| {
        ["samples", "histograms", "exemplars"]
            .map(|what| answer.header(&format!("x-prometheus-remote-write-{what}-written")).to_owned())
    };
    let two = "application/x-protobuf ; proto=io.prometheus.write.v2.Request ; x=y";
    let body = compress(&request_of(&[waiting(now_ms(), 8.0)]).encode_to_vec());
    // The version header is informative only.
    for version in ["0.1.0", "2.0.0", "7"] {
        let headers = [("content-type", two), ("x-prometheus-remote-write-version", version)];
        let answer = server.post(&headers, body.clone()).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(written(&answer), ["1", "0", "0"]);
        assert!(answer.body.is_empty());
    }
    assert_eq!(server.value(WAITING).await, "8");
    for (body, code) in [(vec![0xff; 20], 400), (compress(&[0x2a, 0x7f, 0]), 400), (body.clone(), 503)] {
        let permits = server.write_bytes.available_permits() as u32;
        let taken = (code == 503).then(|| server.write_bytes.clone().try_acquire_many_owned(permits));
        let answer = server.post(&PROMETHEUS_2, body).await;
        assert_eq!(answer.status.as_u16(), code, "{}", answer.text());
        assert_eq!(written(&answer), ["0", "0", "0"]);
        drop(taken);
    }
    let unsupported = [("content-type", two), ("content-encoding", "zstd")];
    assert_eq!(written(&server.post(&unsupported, body).await), ["", "", ""], "nothing was agreed upon");
    let symbols = Table::default().request(Vec::new());
    let wrong = v2::Request { symbols: vec!["x".into()], ..symbols };
    let answer = server.write_2(&wrong).await;
    assert!(answer.status == 400 && answer.text().contains("first symbol"), "{}", answer.text());
}
