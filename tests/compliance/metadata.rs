//! Cases of the suite's `metadata` file.

use crate::server::now_ms;
use crate::suite::{Receiver, nameless, series};

#[tokio::test]
async fn metadata() {
    let mut receiver = Receiver::new().await;
    for kind in 0..8 {
        for (help, unit) in [
            ("Requests.", "requests"),
            ("", ""),
            ("With \"quotes\", a\nnewline and \\", "bytes/s"),
            ("Ünïcödé 🦙", "µs"),
        ] {
            let described = series("test_metric").sample(1.0).metadata(kind, help, unit);
            receiver.accepts("metadata", &[described]).await;
        }
    }
    let long = "long help ".repeat(1000);
    receiver.accepts("long help", &[series("test_metric").sample(1.0).metadata(1, &long, "")]).await;
    receiver.accepts("unknown type", &[series("test_metric").sample(1.0).metadata(99, "", "")]).await;
}

#[tokio::test]
async fn counter_metadata_with_created_timestamp() {
    let mut receiver = Receiver::new().await;
    let counter = series("test_counter_total").sample(1.0).metadata(1, "A counter.", "");
    receiver.accepts("created", &[counter.created(now_ms() - 60_000)]).await;
}

#[tokio::test]
async fn metadata_with_samples_of_many_and_complex_labels() {
    let mut receiver = Receiver::new().await;
    let several = (0..5).fold(series("test_metric").metadata(2, "A gauge.", ""), |series, index| {
        series.sample_at(f64::from(index), now_ms() - 1000 + i64::from(index))
    });
    receiver.accepts("five samples", &[several]).await;
    let multiple = ["a_total", "b", "c_seconds"].map(|name| series(name).sample(1.0).metadata(2, name, ""));
    receiver.accepts("three families", &multiple).await;
    let complex = series("test_metric").label("path", "/a/{b}?c=d").label("ünï", "\n\t\"");
    receiver.accepts("complex labels", &[complex.sample(1.0).metadata(2, "Complex.", "")]).await;
}

#[tokio::test]
async fn metadata_validation() {
    let mut receiver = Receiver::new().await;
    receiver.refuses("no name", &[nameless().sample(1.0).metadata(1, "x", "")], [0; 3]).await;
    receiver.refuses("empty name", &[series("").sample(1.0).metadata(1, "x", "")], [0; 3]).await;
}
