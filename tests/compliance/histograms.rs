//! Cases of the suite's `histogram` file.

use crate::server::now_ms;
use crate::suite::{Histogram, Receiver, basic, custom, nameless, positive_only, series, span};
use inferno_sidecar::proto::v2::histogram::{Count, ZeroCount};
use inferno_sidecar::wire::STALE_MARKER_BITS;

const HISTOGRAM: i32 = 3;

#[tokio::test]
async fn histograms() {
    let mut receiver = Receiver::new().await;
    let negative_only = Histogram {
        negative_spans: vec![span(0, 3)],
        negative_deltas: vec![1, 1, 1],
        positive_spans: vec![],
        positive_deltas: vec![],
        ..positive_only()
    };
    let minimal = Histogram {
        count: Some(Count::CountInt(1)),
        zero_count: Some(ZeroCount::ZeroCountInt(1)),
        ..Histogram::default()
    };
    let float = Histogram {
        count: Some(Count::CountFloat(2.5)),
        positive_spans: vec![span(0, 1)],
        positive_counts: vec![2.5],
        ..Histogram::default()
    };
    let ended = Histogram { sum: f64::from_bits(STALE_MARKER_BITS), ..Histogram::default() };
    for (what, histogram) in [
        ("basic", basic()),
        ("custom buckets", custom()),
        ("positive only", positive_only()),
        ("negative only", negative_only),
        ("minimal", minimal),
        ("floats", float),
        ("staleness marker", ended),
    ] {
        receiver.accepts(what, &[series("test_histogram").histogram(histogram)]).await;
    }
    let bad = || Histogram { count: Some(Count::CountInt(100)), ..basic() };
    receiver.refuses("bad count", &[series("test_histogram").histogram(bad())], [0; 3]).await;
    let mixed = series("test_histogram").histogram(basic()).histogram(bad()).sample(1.0);
    receiver.refuses("one of two", &[mixed], [1, 1, 0]).await;
    receiver.refuses("no name", &[nameless().histogram(basic())], [0; 3]).await;
    let twice = [nameless().histogram(bad()), series("test_histogram").histogram(bad()).sample(2.0)];
    receiver.refuses("bad in every way", &twice, [1, 0, 0]).await;
    // A relevant series that is refused takes its good histogram with it.
    let relevant = series("vllm:num_requests_waiting").label("x", "1").label("x", "2");
    receiver.refuses("twice the label", &[relevant.histogram(basic()).histogram(bad())], [0; 3]).await;
}

#[tokio::test]
async fn histogram_with_created_timestamp() {
    let mut receiver = Receiver::new().await;
    let created = series("test_histogram").histogram(basic()).created(now_ms() - 60_000);
    receiver.accepts("created", &[created]).await;
}

#[tokio::test]
async fn multiple_histograms() {
    let mut receiver = Receiver::new().await;
    let all = [basic(), custom(), positive_only()].map(|h| series("test_histogram").histogram(h));
    receiver.accepts("three series", &all).await;
    let one = series("test_histogram").histogram(basic()).histogram(basic()).histogram(basic());
    receiver.accepts("three of one series", &[one]).await;
}

#[tokio::test]
async fn empty_histogram() {
    let mut receiver = Receiver::new().await;
    let empty = Histogram { count: Some(Count::CountInt(0)), ..Histogram::default() };
    receiver.accepts("empty", &[series("test_histogram").histogram(empty)]).await;
}

#[tokio::test]
async fn histograms_with_metadata_and_exemplars() {
    let mut receiver = Receiver::new().await;
    let histogram = || series("test_histogram").histogram(basic());
    let described = || histogram().metadata(HISTOGRAM, "Request duration.", "seconds");
    let trace = [("trace_id", "abc")];
    receiver.accepts("metadata", &[described()]).await;
    receiver.accepts("exemplar", &[histogram().exemplar(0.5, &trace)]).await;
    receiver.accepts("both", &[described().exemplar(0.5, &trace)]).await;
    receiver.accepts("several", &[described(), described(), described()]).await;
}
