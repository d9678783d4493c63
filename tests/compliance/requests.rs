//! Cases of the suite's `request` file: types, encodings, broken bodies.

use crate::server::compress;
use crate::suite::{Receiver, series, written};
use crate::table::PROMETHEUS_2;

#[tokio::test]
async fn bad_content_types() {
    let mut receiver = Receiver::new().await;
    let body = receiver.body_2(&[series("test_metric").sample(1.0)]);
    for kind in ["application/json", "image/png", "text/plain", "application/x-protobuf;proto=unknown"] {
        let headers = [("content-encoding", "snappy"), ("content-type", kind)];
        let answer = receiver.server.post(&headers, body.clone()).await;
        assert_eq!(answer.status, 415, "{kind}: {}", answer.text());
        assert_eq!(written(&answer), None, "{kind}");
    }
}

#[tokio::test]
async fn bad_content_encodings() {
    let mut receiver = Receiver::new().await;
    let body = receiver.body_2(&[series("test_metric").sample(1.0)]);
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        let headers = [("content-encoding", encoding), PROMETHEUS_2[1]];
        let answer = receiver.server.post(&headers, body.clone()).await;
        assert_eq!(answer.status, 415, "{encoding}: {}", answer.text());
    }
}

#[tokio::test]
async fn corrupt_request_body() {
    let receiver = Receiver::new().await;
    for body in [b"corrupted data".to_vec(), Vec::new(), compress(b"not protobuf"), compress(&[0x2a, 9])] {
        let answer = receiver.server.post(&PROMETHEUS_2, body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(written(&answer), Some([0; 3]));
    }
}
