//! Remote read: both types of response, their framing, matchers and times, and a Prometheus that reads us.

use crate::real::Prometheus;
use crate::{Sidecar, ask, data, post, seconds};
use inferno_sidecar::proto::{
    ChunkedReadResponse, LabelMatcher, Query, ReadRequest, ReadResponse, TimeSeries,
};
use inferno_sidecar::publish::history::Retention;
use inferno_sidecar::wire::xor::Decoder;
use prost::Message;
use std::net::SocketAddr;

pub fn matcher(kind: i32, name: &str, value: &str) -> LabelMatcher {
    LabelMatcher { r#type: kind, name: name.into(), value: value.into() }
}

fn query(from: i64, to: i64, matchers: Vec<LabelMatcher>) -> Query {
    Query { start_timestamp_ms: from, end_timestamp_ms: to, matchers }
}

/// Labels and samples, bit for bit.
type Line = (Vec<(String, String)>, Vec<(i64, u64)>);

fn line(series: &TimeSeries) -> Line {
    let labels = series.labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect();
    (labels, series.samples.iter().map(|sample| (sample.timestamp, sample.value.to_bits())).collect())
}

/// Reads with type SAMPLES.
pub async fn samples(address: SocketAddr, queries: Vec<Query>) -> Vec<Vec<TimeSeries>> {
    let asked = ReadRequest { queries, accepted_response_types: vec![] };
    let answer = post(address, "/api/v1/read", &asked.encode_to_vec()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.header("content-type"), "application/x-protobuf");
    assert_eq!(answer.header("content-encoding"), "snappy");
    let body = snap::raw::Decoder::new().decompress_vec(&answer.body).expect("a snappy block");
    let response = ReadResponse::decode(&*body).expect("a ReadResponse");
    response.results.into_iter().map(|result| result.timeseries).collect()
}

/// Everything that is recorded, as series of remote write.
pub async fn everything(sidecar: &Sidecar) -> Vec<TimeSeries> {
    let all = query(0, i64::MAX, vec![matcher(2, "__name__", ".+")]);
    samples(sidecar.address, vec![all]).await.remove(0)
}

/// Takes frames apart as the protocol's client does, and checks each.
fn frames(mut body: &[u8]) -> Vec<(i64, Line)> {
    let mut all = Vec::new();
    while !body.is_empty() {
        let length = prost::decode_length_delimiter(&mut body).expect("a length");
        let (sum, rest) = body.split_first_chunk::<4>().expect("a checksum");
        let (message, rest) = rest.split_at(length);
        assert_eq!(u32::from_be_bytes(*sum), crc32c::crc32c(message));
        body = rest;
        let frame = ChunkedReadResponse::decode(message).expect("a ChunkedReadResponse");
        assert_eq!(frame.chunked_series.len(), 1, "clients read the first one only");
        let series = &frame.chunked_series[0];
        let mut points = Vec::new();
        for chunk in &series.chunks {
            assert_eq!(chunk.r#type, 1);
            let samples = Decoder::new(&chunk.data).map(|sample| sample.expect("the chunk is whole"));
            let samples: Vec<(i64, u64)> = samples.map(|(time, value)| (time.0, value.to_bits())).collect();
            assert_eq!(samples.first().map(|first| first.0), Some(chunk.min_time_ms));
            assert_eq!(samples.last().map(|last| last.0), Some(chunk.max_time_ms));
            points.extend(samples);
        }
        let labels = series.labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect();
        all.push((frame.query_index, (labels, points)));
    }
    all
}

#[tokio::test]
async fn both_types_of_response_say_the_same() {
    let sidecar = Sidecar::recorded().await;
    let (from, to) = (sidecar.end - 1_200_000, sidecar.end - 300_000);
    let queries = vec![
        query(from, to, vec![matcher(0, "__name__", "inferno_desired_replicas")]),
        query(from, to, vec![matcher(0, "__name__", "none_of_ours")]),
        query(
            from,
            to,
            vec![
                matcher(2, "__name__", "inferno_.*|wva_current_replicas"),
                matcher(3, "variant_name", "llama.*"),
                matcher(1, "accelerator_type", "L40S"),
                matcher(0, "controller_instance", ""),
            ],
        ),
    ];
    let whole = samples(sidecar.address, queries.clone()).await;
    assert_eq!(whole.len(), 3, "one result per query");
    assert_eq!(whole[0].len(), 3, "the deleted variant was there at the time");
    assert!(whole[1].is_empty());
    assert!(
        whole[2]
            .iter()
            .all(|series| line(series).0.contains(&("variant_name".into(), "qwen-14b-h100".into())))
    );
    assert!(
        whole[2]
            .iter()
            .any(|series| line(series).0.contains(&("__name__".into(), "wva_current_replicas".into())))
    );
    for accepted in [vec![1, 0], vec![7, 1]] {
        let asked = ReadRequest { queries: queries.clone(), accepted_response_types: accepted };
        let answer = post(sidecar.address, "/api/v1/read", &asked.encode_to_vec()).await;
        assert_eq!(
            answer.header("content-type"),
            "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
        );
        assert_eq!(answer.header("content-encoding"), "");
        let mut streamed = frames(&answer.body);
        assert!(
            streamed.is_sorted_by(|(a, left), (b, right)| (a, &left.0) <= (b, &right.0)),
            "sorted by labels"
        );
        for (_, (_, points)) in &mut streamed {
            points.retain(|(time, _)| (from..=to).contains(time));
        }
        streamed.retain(|(_, (_, points))| !points.is_empty());
        let expected = whole.iter().enumerate();
        let expected: Vec<(i64, Line)> = expected
            .flat_map(|(index, all)| all.iter().map(move |series| (index as i64, line(series))))
            .collect();
        assert_eq!(streamed, expected);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let sidecar = Sidecar::recorded().await;
    let read = |asked: ReadRequest| async move {
        let answer = post(sidecar.address, "/api/v1/read", &asked.encode_to_vec()).await;
        (answer.status.as_u16(), answer.text().to_owned())
    };
    let one = |kind, value: &str| vec![query(0, i64::MAX, vec![matcher(kind, "a", value)])];
    for (queries, types, said) in [
        (one(0, "x"), vec![9], "response types"),
        (one(8, "x"), vec![], "matcher type 8"),
        (one(2, "("), vec![], "regex"),
        (vec![one(0, "x").remove(0); 101], vec![], "more than 100 queries"),
    ] {
        let (status, text) = read(ReadRequest { queries, accepted_response_types: types }).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(said), "{text}");
    }
    let broken = post(sidecar.address, "/api/v1/read", &[0xff; 20]).await;
    assert_eq!(broken.status, 400, "{}", broken.text());
    let answer = crate::client::get(sidecar.address, "/api/v1/read").await.expect("an answer");
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn nothing_is_recorded_when_it_is_turned_off_and_little_within_little_memory() {
    let off = Sidecar::with_a_past(Retention { ms: 0, bytes: 1 << 30 }).await;
    assert!(everything(&off).await.is_empty());
    let little = Sidecar::with_a_past(Retention { ms: 3_600_000, bytes: 22_000 }).await;
    let query = "inferno_desired_replicas offset 40m";
    let answer = ask(little.address, "/api/v1/query", &[("query", query)]).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("nothing is recorded before"), "{}", answer.text());
    let stats = little.engine.record().stats();
    assert!(stats.is_shortened && stats.bytes <= 22_000, "{stats:?}");
}

/// What Prometheus says of our past is what we say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_reads_the_record() {
    let sidecar = Sidecar::recorded().await;
    let settings = format!(
        "remote_read:\n  - url: http://{}/api/v1/read\n    read_recent: true\n    \
         filter_external_labels: false\nglobal:\n  external_labels: {{cluster: a}}\n",
        sidecar.address
    );
    let Some(prometheus) = Prometheus::start(&settings, &[]).await else { return };
    let time = seconds(sidecar.end - 60_000);
    for query in [
        "inferno_desired_replicas[45m]",
        "{__name__=~\"inferno_(kv|ttft|input).*\"}[30m]",
        "inferno_replica_scaling_total{variant_name!~\"llama.*\"}[30m]",
        "sum by (variant_name) (max_over_time(wva_desired_replicas{exported_namespace=\"llm\"}[20m] offset 10m))",
    ] {
        let pairs = [("query", query), ("time", &*time)];
        let (ours, theirs) = (
            ask(sidecar.address, "/api/v1/query", &pairs).await,
            ask(prometheus.address, "/api/v1/query", &pairs).await,
        );
        let (ours, theirs) = (data(&ours), data(&theirs));
        assert!(!theirs["result"].as_array().expect("a list").is_empty(), "{query}");
        crate::differential::same(query, &ours, &theirs);
    }
}
