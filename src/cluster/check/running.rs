//! What a running sidecar misses: samples that do not arrive, models that no series names.

use super::Finding;
use crate::client::{Client, ClientSettings};
use crate::config::Snapshot;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::Value;
use std::time::Duration;

/// Largest board that is read, bytes.
const BOARD_MAX_BYTES: usize = 256 << 20;
/// Longest wait for it.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Asks the sidecar at `url` for its board.
pub async fn findings(url: &str, snapshot: &Snapshot) -> Vec<Finding> {
    let board = match board(url).await {
        Ok(board) => board,
        Err(why) => {
            let fix = "check the URL; inside the cluster, kubectl port-forward leads there";
            return vec![Finding::problem("sidecar", "", format!("{url} cannot be asked: {why}"), fix)];
        }
    };
    let variants = board["variants"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let named = |variant: &Value| (text(&variant["namespace"]), text(&variant["name"]));
    let mut findings = Vec::new();
    for variant in variants {
        let (namespace, name) = named(variant);
        for fault in variant["input"]["faults"].as_array().into_iter().flatten() {
            let fix = "see input.faults in its /api/v1/variants, and remote_write of Prometheus";
            findings.push(Finding::problem(
                format!("variant {namespace}/{name}"),
                "",
                text(&fault["message"]),
                fix,
            ));
        }
    }
    for key in snapshot.variants.keys() {
        let is_known = variants
            .iter()
            .map(named)
            .any(|(namespace, name)| *key.namespace == *namespace && *key.name == *name);
        if !is_known {
            let reason = format!("the sidecar at {url} does not know it");
            let fix = "see its --source, --namespaces, --shard and --controller-instance";
            findings.push(Finding::warning(format!("variant {key}"), "", reason, fix));
        }
    }
    findings
}

async fn board(url: &str) -> Result<Value, String> {
    let client = Client::new(ClientSettings::default()).map_err(|error| error.to_string())?;
    let uri = format!("{}/api/v1/variants", url.trim_end_matches('/'));
    let request =
        Request::builder().uri(uri).body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
    let answer =
        client.fetch(request, BOARD_MAX_BYTES, ANSWER_MAX).await.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("it answers {}", answer.status()));
    }
    serde_json::from_slice(answer.body()).map_err(|error| error.to_string())
}
