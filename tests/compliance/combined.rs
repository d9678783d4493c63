//! Cases of the suite's `combined` file: everything in one request.

use crate::server::now_ms;
use crate::suite::{Receiver, Series, basic, custom, positive_only, series};

const TRACE: [(&str, &str); 1] = [("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736")];

fn full_sample(name: &str) -> Series {
    series(name).sample(1.0).metadata(1, "Help.", "requests").exemplar(1.0, &TRACE)
}

fn full_histogram(name: &str) -> Series {
    series(name).histogram(basic()).metadata(3, "Help.", "seconds").exemplar(1.0, &TRACE)
}

#[tokio::test]
async fn samples_and_histograms_with_metadata_and_exemplars() {
    let mut receiver = Receiver::new().await;
    receiver.accepts("samples", &[full_sample("test_total")]).await;
    receiver.accepts("histograms", &[full_histogram("test_seconds")]).await;
    let created = now_ms() - 60_000;
    let complex = [
        full_sample("test_total").created(created),
        series("test_gauge").sample(-5.5).metadata(2, "", ""),
        full_sample("other_total").label("path", "/x"),
    ];
    receiver.accepts("complex samples", &complex).await;
    let complex = [
        full_histogram("test_seconds").created(created),
        series("test_custom").histogram(custom()),
        full_histogram("test_bytes").histogram(positive_only()),
    ];
    receiver.accepts("complex histograms", &complex).await;
}

#[tokio::test]
async fn multiple_metric_families() {
    let mut receiver = Receiver::new().await;
    let samples: Vec<Series> = (0..10).map(|index| full_sample(&format!("family_{index}_total"))).collect();
    receiver.accepts("samples", &samples).await;
    let histograms: Vec<Series> =
        (0..10).map(|index| full_histogram(&format!("family_{index}_seconds"))).collect();
    receiver.accepts("histograms", &histograms).await;
    receiver.accepts("both", &[samples, histograms].concat()).await;
}

#[tokio::test]
async fn edge_case_combinations() {
    let mut receiver = Receiver::new().await;
    receiver.accepts("metadata only", &[series("test_metric").metadata(2, "Help.", "")]).await;
    receiver.accepts("exemplar only", &[series("test_metric").exemplar(1.0, &TRACE)]).await;
    receiver.accepts("nothing but labels", &[series("test_metric")]).await;
    receiver.accepts("an hour ago", &[series("test_metric").sample_at(1.0, now_ms() - 3_600_000)]).await;
    receiver.accepts("no series", &[]).await;
}

#[tokio::test]
async fn many_samples_and_histograms() {
    let mut receiver = Receiver::new().await;
    let each = |make: fn(Series) -> Series| -> Vec<Series> {
        (0..50).map(|index| make(series("test_many").label("index", &index.to_string()))).collect()
    };
    let several = |make: fn(Series, i64) -> Series| {
        (0..50).fold(series("test_several"), |series, index| make(series, now_ms() - 50 + index))
    };
    let mut samples = each(|series| series.sample(1.0));
    samples.push(several(|series, time| series.sample_at(1.0, time)));
    receiver.accepts("50 and 50 samples", &samples).await;
    let mut histograms = each(|series| series.histogram(basic()));
    histograms.push(several(|series, _| series.histogram(basic())));
    receiver.accepts("50 and 50 histograms", &histograms).await;
}

#[tokio::test]
async fn special_characters_combined_and_custom_buckets_with_exemplar() {
    let mut receiver = Receiver::new().await;
    let special = series("test.metric with-all/things")
        .label("newline", "a\nb")
        .label("quote", "\"'`")
        .label("unicode", "🦙 ünï")
        .label("backslash", "\\n")
        .sample(1.0)
        .metadata(2, "Help with \n \"all\" 🦙", "µ")
        .exemplar(1.0, &[("note", "\n\"🦙\\")]);
    receiver.accepts("special", &[special]).await;
    let custom = series("test_custom").histogram(custom()).exemplar(0.7, &TRACE);
    receiver.accepts("custom buckets", &[custom]).await;
}

/// Not in the suite: what was kept of a request that is sent again changes nothing the second time, and
/// counts again.
#[tokio::test]
async fn a_retry_is_answered_like_the_first_try() {
    let mut receiver = Receiver::new().await;
    let time = now_ms() - 1000;
    let request = [series("").sample(1.0), full_sample("vllm:num_requests_waiting").sample_at(7.0, time)];
    for _ in 0..3 {
        receiver.refuses("again", &request, [2, 0, 1]).await;
    }
}
