//! What Prometheus would send of one Deployment, on the samples' own clock, so that retention periods
//! pass as fast as they are written.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use inferno_sidecar::client::{Client, ClientSettings};
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use prost::Message;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The variant, its Deployment and its model.
pub const NAME: &str = "chat";
/// Milliseconds from one scrape to the next.
const STEP_MS: i64 = 15_000;

pub struct Feed {
    client: Client,
    url: String,
    time_ms: i64,
    pods: u32,
    /// Requests that wait in the scheduler for a first replica.
    pub queued: f64,
}

impl Feed {
    pub fn new(address: SocketAddr) -> Self {
        let client = Client::new(ClientSettings::default()).expect("there are no files");
        let url = format!("http://{address}/api/v1/write");
        Feed { client, url, time_ms: 1_700_000_000_000, pods: 0, queued: 0.0 }
    }

    /// One scrape later: so many pods, ready and without load.
    pub async fn step(&mut self, pods: u32) {
        self.time_ms += STEP_MS;
        let target = [("deployment", NAME), ("namespace", "llm")];
        let replicas = f64::from(pods);
        let mut series = vec![
            self.one("kube_deployment_status_replicas", &target, replicas),
            self.one("kube_deployment_status_replicas_ready", &target, replicas),
            self.one("kube_deployment_spec_replicas", &target, replicas),
        ];
        let model = [("namespace", "llm"), ("target_model_name", NAME)];
        series.push(self.one("llm_d_epp_flow_control_queue_size", &model, self.queued));
        for pod in 0..pods.max(self.pods) {
            // Those that have gone end with a staleness marker.
            let value = if pod < pods { 0.0 } else { f64::from_bits(0x7ff0_0000_0000_0002) };
            let name = format!("{NAME}-7d9c5b8f6d-bbb{}", suffix(pod));
            let labels = [("model_name", NAME), ("namespace", "llm"), ("pod", &*name)];
            for metric in
                ["vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "vllm:num_requests_running"]
            {
                series.push(self.one(metric, &labels, value));
            }
            let done = [&labels[..], &[("finished_reason", "stop")]].concat();
            series.push(self.one("vllm:request_success_total", &done, value));
        }
        self.pods = pods;
        let message = WriteRequest { timeseries: series, ..WriteRequest::default() }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&message).expect("the message is small");
        let request = Request::post(&self.url).body(Full::new(Bytes::from(body))).expect("valid");
        let answer = self.client.fetch(request, 1 << 20, Duration::from_secs(30)).await.expect("an answer");
        assert_eq!(answer.status(), 204, "{:?}", answer.body());
    }

    fn one(&self, metric: &str, labels: &[(&str, &str)], value: f64) -> TimeSeries {
        let own = ("__name__", metric);
        let named = std::iter::once(&own).chain(labels);
        let labels = named.map(|(name, value)| Label { name: (*name).into(), value: (*value).into() });
        let samples = vec![Sample { value, timestamp: self.time_ms }];
        TimeSeries { labels: labels.collect(), samples, ..TimeSeries::default() }
    }
}

fn suffix(pod: u32) -> String {
    let letters = b"bcdfghjklmnpqrstvwxz";
    let letter = |digit: u32| char::from(letters[digit as usize % letters.len()]);
    [letter(pod / 20), letter(pod)].iter().collect()
}

/// Puts the variant into the folder, held between two counts.
pub fn configure(dir: &Path, min: u32, max: u32, retention: &str) {
    let text = format!(
        "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n\
         metadata: {{name: {NAME}, namespace: llm, labels: {{inference.optimization/acceleratorName: H100}}}}\n\
         spec: {{scaleTargetRef: {{kind: Deployment, name: {NAME}}}, modelID: {NAME}, variantCost: \"1\", \
         minReplicas: {min}, maxReplicas: {max}}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: model-scale-to-zero-config, namespace: system}}\n\
         data:\n  default: |\n    enable_scale_to_zero: true\n    retention_period: {retention}\n"
    );
    std::fs::write(dir.join(".new"), text).expect("the folder is ours");
    std::fs::rename(dir.join(".new"), dir.join("chat.yaml")).expect("the folder is ours");
}
