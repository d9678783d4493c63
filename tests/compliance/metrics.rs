//! Cases of the suite's `metric` file: float samples.

use crate::server::now_ms;
use crate::suite::{Receiver, nameless, series, without_labels};

/// The suite's values; its NaN and infinities are joined by real ones.
const VALUES: [f64; 8] = [0.0, 1.0, -1.0, 12345.678, 9.2e18, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

#[tokio::test]
async fn single_metric() {
    let mut receiver = Receiver::new().await;
    for value in VALUES {
        let many = (0..30).fold(series("test_many"), |series, index| {
            series.label(&format!("label_{index}"), &format!("value_{index}"))
        });
        for (what, valid) in [
            ("plain", series("test_metric")),
            ("many labels", many),
            ("newline", series("test_metric").label("note", "one\ntwo")),
            ("dots", series("test.metric.dots").label("a.b", "c")),
            ("spaces", series("test metric with spaces").label("a b", "c d")),
            ("unicode", series("test_métrique").label("région", "日本 🦙")),
        ] {
            receiver.accepts(what, &[valid.sample(value)]).await;
        }
        for (what, invalid) in
            [("no name", nameless()), ("an empty name", series("")), ("no labels", without_labels())]
        {
            receiver.refuses(what, &[invalid.sample(value)], [0; 3]).await;
        }
    }
}

#[tokio::test]
async fn counter_with_created_timestamp() {
    let mut receiver = Receiver::new().await;
    let counter = series("test_counter_total").sample(100.0).created(now_ms() - 3_600_000);
    receiver.accepts("created an hour ago", &[counter]).await;
    // In the far past and, by the bytes of a negative number, before the epoch.
    for time in [0, 1, -1, i64::MIN] {
        receiver.accepts("created", &[series("test_counter_total").sample(1.0).created(time)]).await;
    }
}

#[tokio::test]
async fn multiple_metrics() {
    let mut receiver = Receiver::new().await;
    let valid = |index: usize| series(&format!("test_metric_{index}")).sample(index as f64);
    receiver.accepts("four valid", &[valid(0), valid(1), valid(2), valid(3)]).await;
    let bad = || nameless().sample(1.0);
    receiver.refuses("four nameless", &[bad(), bad(), bad(), bad()], [0; 3]).await;
    receiver.refuses("one of four nameless", &[valid(0), bad(), valid(2), valid(3)], [3, 0, 0]).await;
}
