//! Cases of the suite's `exemplar` file.

use crate::server::now_ms;
use crate::suite::{Receiver, Series, nameless, series};

const TRACE: (&str, &str) = ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736");
const SPAN: (&str, &str) = ("span_id", "00f067aa0ba902b7");

fn counter() -> Series {
    series("test_requests_total").sample(100.0)
}

#[tokio::test]
async fn exemplars() {
    let mut receiver = Receiver::new().await;
    for (what, labels) in [
        ("a trace", &[TRACE][..]),
        ("a trace and a span", &[TRACE, SPAN]),
        ("no trace", &[("user", "a"), ("path", "/x")]),
        ("many labels", &[TRACE, SPAN, ("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]),
        ("no labels", &[]),
        ("special characters", &[("path", "/a?b=c&d=\"e\"\n\\")]),
        ("unicode", &[("ville", "Zürich 🦙")]),
    ] {
        receiver.accepts(what, &[counter().exemplar(1.5, labels)]).await;
    }
}

#[tokio::test]
async fn exemplar_with_created_timestamp() {
    let mut receiver = Receiver::new().await;
    let counter = counter().exemplar(1.0, &[TRACE]).created(now_ms() - 60_000);
    receiver.accepts("created", &[counter]).await;
}

#[tokio::test]
async fn multiple_exemplars() {
    let mut receiver = Receiver::new().await;
    let several = (0..5).fold(counter(), |series, index| series.exemplar(f64::from(index), &[TRACE]));
    receiver.accepts("five of one series", &[several]).await;
}

#[tokio::test]
async fn exemplar_timestamps() {
    let mut receiver = Receiver::new().await;
    // Twice, so that the second run is older than the first one's newest.
    for _ in 0..2 {
        for ago in [3_600_000, 60_000, 0] {
            let series = counter().exemplar_at(1.0, &[TRACE], now_ms() - ago);
            receiver.accepts("exemplar of the past", &[series]).await;
        }
    }
}

#[tokio::test]
async fn exemplar_validation() {
    let mut receiver = Receiver::new().await;
    let unnamed = nameless().sample(1.0).exemplar(1.0, &[TRACE]);
    receiver.refuses("no name", &[unnamed], [0; 3]).await;
    let empty = series("").sample(1.0).exemplar(1.0, &[TRACE]);
    receiver.refuses("an empty name", std::slice::from_ref(&empty), [0; 3]).await;
    receiver.refuses("one of two", &[empty, counter().exemplar(1.0, &[TRACE])], [1, 0, 1]).await;
}

#[tokio::test]
async fn exemplar_special_values() {
    let mut receiver = Receiver::new().await;
    for value in [0.0, -1.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        receiver.accepts("value", &[counter().exemplar(value, &[TRACE])]).await;
    }
}

/// Not in the suite: references of an exemplar that lead nowhere take only the exemplar with them.
#[tokio::test]
async fn exemplar_references() {
    use crate::server::compress;
    use crate::suite::written;
    use crate::table::{PROMETHEUS_2, Table};
    use inferno_sidecar::proto::v2;
    use prost::Message;
    let receiver = Receiver::new().await;
    for (refs, code, exemplars) in
        [(vec![], 204, 2), (vec![0, 0], 204, 2), (vec![1], 400, 1), (vec![1, 99], 400, 1)]
    {
        let mut table = Table::default();
        let labels_refs = table.labels([("__name__", "test_requests_total")]);
        let good = v2::Exemplar { labels_refs: labels_refs.clone(), ..Default::default() };
        let series = v2::TimeSeries {
            labels_refs,
            samples: vec![v2::Sample::default()],
            exemplars: vec![good, v2::Exemplar { labels_refs: refs, ..Default::default() }],
            ..Default::default()
        };
        let body = compress(&table.request(vec![series]).encode_to_vec());
        let answer = receiver.server.post(&PROMETHEUS_2, body).await;
        assert_eq!(answer.status.as_u16(), code, "{}", answer.text());
        assert_eq!(written(&answer), Some([1, 0, exemplars]));
    }
}
