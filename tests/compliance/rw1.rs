//! Cases of the suite's `rw1` file: senders of 1.0.

use crate::server::{PROMETHEUS, compress};
use crate::suite::{Receiver, nameless, series, written};
use inferno_sidecar::proto::{MetricMetadata, WriteRequest};
use prost::Message;

#[tokio::test]
async fn basic_compatibility() {
    let mut receiver = Receiver::new().await;
    receiver.accepts("one sample", &[series("test_metric").sample(1.0)]).await;
    // The suite leaves out the version header, and a metadata-only request is Prometheus's every minute.
    let metadata = MetricMetadata { metric_family_name: "test_metric".into(), ..Default::default() };
    let request = WriteRequest { metadata: vec![metadata], ..Default::default() };
    let answer = receiver.server.post(&PROMETHEUS[..2], compress(&request.encode_to_vec())).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(written(&answer), None);
}

#[tokio::test]
async fn error_handling() {
    let mut receiver = Receiver::new().await;
    let bad = [nameless().sample(1.0), series("test_metric").sample(1.0)];
    receiver.refuses("one of two nameless", &bad, [1, 0, 0]).await;
    for body in [b"corrupted data".to_vec(), compress(&[0x0a, 0x7f])] {
        let answer = receiver.server.post(&PROMETHEUS, body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(written(&answer), None);
    }
}
