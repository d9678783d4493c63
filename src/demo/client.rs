//! The demo's two HTTP clients of the sidecar: a Prometheus that remote-writes, and an autoscaler that asks.
//!
//! Everything goes over loopback TCP through the public endpoints, as from another process.

use crate::limits::RETRY_AFTER_S;
use crate::proto::{TimeSeries, WriteRequest};
use anyhow::{Context as _, bail};
use axum::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Series per write request: Prometheus's default `max_samples_per_send`.
const SERIES_PER_REQUEST: usize = 2000;
/// How often a request that is refused for now is sent again, as Prometheus does.
const RETRIES: u32 = 5;
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What was sent and how long the answer took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Push {
    /// Samples sent.
    pub samples: u64,
    /// Requests sent.
    pub requests: u64,
    /// Requests refused for now and sent again.
    pub retries: u64,
    /// Bytes sent, compressed.
    pub bytes: u64,
    /// When the first request was sent.
    pub sent: Option<Instant>,
    /// From the first request to the last answer: by then the decisions are on the board.
    pub took: Duration,
}

/// What the sidecar says of one variant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Replicas wanted.
    pub desired: Option<u32>,
    /// Why, as a code.
    pub reason: String,
    /// Why, as a sentence.
    pub message: String,
}

/// Talks to the sidecar.
pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

impl Client {
    /// A client of the sidecar at `address`.
    pub fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client { http: HttpClient::builder(TokioExecutor::new()).build(connector), address }
    }

    /// Pushes series by remote-write 1.0, in requests of Prometheus's usual size, one after another.
    pub async fn push(&self, mut series: Vec<TimeSeries>) -> anyhow::Result<Push> {
        let samples = series.iter().map(|one| one.samples.len() as u64).sum();
        let mut push = Push { samples, ..Push::default() };
        let mut bodies = Vec::new();
        while !series.is_empty() {
            let rest = series.split_off(SERIES_PER_REQUEST.min(series.len()));
            bodies.push(compressed(std::mem::replace(&mut series, rest))?);
        }
        let sent = Instant::now();
        for body in bodies {
            push.requests += 1;
            push.bytes += body.len() as u64;
            push.retries += self.write(body).await?;
        }
        push.took = sent.elapsed();
        push.sent = Some(sent);
        Ok(push)
    }

    /// Sends one write request until it is taken; returns how often it was refused before.
    async fn write(&self, body: Bytes) -> anyhow::Result<u64> {
        for refused in 0..=RETRIES {
            let request = Request::post(format!("http://{}/api/v1/write", self.address))
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .header(header::CONTENT_ENCODING, "snappy")
                .header("X-Prometheus-Remote-Write-Version", "0.1.0")
                .header(header::USER_AGENT, concat!("inferno-sidecar-demo/", env!("CARGO_PKG_VERSION")))
                .body(Full::new(body.clone()))?;
            let (status, answer) = self.send(request).await.context("remote-write")?;
            if status.is_success() {
                return Ok(u64::from(refused));
            }
            if status != StatusCode::SERVICE_UNAVAILABLE {
                bail!("remote-write was refused with {status}: {}", String::from_utf8_lossy(&answer).trim());
            }
            tokio::time::sleep(Duration::from_secs(RETRY_AFTER_S)).await;
        }
        bail!("remote-write was refused {} times: the sidecar is overloaded", RETRIES + 1)
    }

    /// The published counts of a namespace by variant, in one query; `None` while there are none.
    pub async fn desired(&self, namespace: &str) -> anyhow::Result<Option<BTreeMap<String, u32>>> {
        let query = format!("inferno_desired_replicas{{exported_namespace=\"{namespace}\"}}");
        let Some(vector) = self.query(&query).await? else { return Ok(None) };
        let read = |sample: &Value| {
            let name = sample["metric"]["variant_name"].as_str()?;
            Some((name.to_owned(), sample_value(sample)?))
        };
        Ok(Some(vector.iter().filter_map(read).collect()))
    }

    /// The published count of one variant, asked for as KEDA does; `None` while there is none.
    pub async fn desired_of(
        &self,
        namespace: &str,
        name: &str,
        accelerator: &str,
    ) -> anyhow::Result<Option<u32>> {
        let query = format!(
            "inferno_desired_replicas{{\n  variant_name=\"{name}\",\n  \
             exported_namespace=\"{namespace}\",\n  accelerator_type=\"{accelerator}\"\n}}"
        );
        let Some(vector) = self.query(&query).await? else { return Ok(None) };
        match vector.as_slice() {
            [] => Ok(None),
            [sample] => Ok(sample_value(sample)),
            more => bail!("{} series answer for variant {name}, expected one", more.len()),
        }
    }

    /// Decisions of a namespace with their reasons, by variant.
    pub async fn answers(&self, namespace: &str) -> anyhow::Result<BTreeMap<String, Answer>> {
        let (status, body) = self.get("/api/v1/variants").await?;
        if status != StatusCode::OK {
            bail!("/api/v1/variants answered {status}");
        }
        let board: Value = serde_json::from_slice(&body).context("/api/v1/variants")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let variants = board["variants"].as_array().map(Vec::as_slice).unwrap_or_default();
        let read = |variant: &Value| {
            let decision = &variant["decision"];
            let fault = &variant["input"]["faults"][0];
            let desired = decision["desired"].as_u64().and_then(|count| u32::try_from(count).ok());
            let told = if desired.is_some() { decision } else { fault };
            (
                text(&variant["name"]),
                Answer { desired, reason: text(&told["reason"]), message: text(&told["message"]) },
            )
        };
        Ok(variants.iter().filter(|variant| variant["namespace"] == namespace).map(read).collect())
    }

    /// An instant query; `None` when the sidecar is not ready to answer.
    async fn query(&self, query: &str) -> anyhow::Result<Option<Vec<Value>>> {
        let form: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
        let (status, body) = self.get(&format!("/api/v1/query?{form}")).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE => return Ok(None),
            other => bail!("query {query:?} answered {other}: {}", String::from_utf8_lossy(&body).trim()),
        }
        let mut answer: Value = serde_json::from_slice(&body).context("/api/v1/query")?;
        match answer["data"]["result"].take() {
            Value::Array(vector) => Ok(Some(vector)),
            other => bail!("query {query:?} answered no vector but {other}"),
        }
    }

    async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::get(format!("http://{}{path}", self.address)).body(Full::default())?;
        self.send(request).await.with_context(|| path.to_owned())
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let exchange = async {
            let response: Response<Incoming> = self.http.request(request).await?;
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        tokio::time::timeout(ANSWER_MAX, exchange).await.context("no answer in time")?
    }
}

fn compressed(timeseries: Vec<TimeSeries>) -> anyhow::Result<Bytes> {
    let request = WriteRequest { timeseries, ..WriteRequest::default() };
    let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).context("snappy")?;
    Ok(Bytes::from(body))
}

/// Value of an instant vector's element as a count of replicas.
fn sample_value(sample: &Value) -> Option<u32> {
    let value: f64 = sample["value"][1].as_str()?.parse().ok()?;
    // The HPA rounds up.
    (value >= 0.0).then(|| value.ceil() as u32)
}
