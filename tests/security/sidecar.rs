//! The sidecar as built, with security flags, and clients of it.

use crate::process::Process;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use inferno_sidecar::client::{Client, ClientError, ClientSettings};
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use prost::Message;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// One path of each surface, and the probes.
pub const WRITE: &str = "/api/v1/write";
pub const READ: &str = "/metrics";
pub const ADMIN: &str = "/-/reload";

pub struct Sidecar {
    pub process: Process,
    pub address: SocketAddr,
    pub scheme: &'static str,
}

impl Sidecar {
    /// Starts it with further flags: pairs of name (without dashes) and value.
    pub async fn start(flags: &[(&str, &str)]) -> Self {
        let mut command = command(flags);
        let process = Process::start("the sidecar", &mut command);
        let line = process.line("\"listening;").await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("log lines are JSON");
        let address = line["fields"]["address"].as_str().expect("the address is logged");
        let is_tls = flags.iter().any(|(name, _)| *name == "tls-cert-file");
        let address = address.parse().expect("the address is one");
        Sidecar { process, address, scheme: if is_tls { "https" } else { "http" } }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// Sends what belongs to the path: a remote-write, a reload, or a `GET`.
    pub async fn ask(&self, client: &Client, path: &str) -> Result<Response<Bytes>, ClientError> {
        let builder = Request::builder().uri(self.url(path));
        let request = match path {
            WRITE => builder.method("POST").body(Full::from(write_body())),
            ADMIN => builder.method("POST").body(Full::default()),
            _ => builder.body(Full::default()),
        };
        client.fetch(request.expect("the request is valid"), 1 << 20, Duration::from_secs(30)).await
    }

    /// The same with an `Authorization` of one's own.
    pub async fn ask_as(&self, client: &Client, path: &str, authorization: &str) -> Response<Bytes> {
        let request = Request::builder().uri(self.url(path)).header("authorization", authorization);
        let method = if path == ADMIN || path == WRITE { "POST" } else { "GET" };
        let body = if path == WRITE { Full::from(write_body()) } else { Full::default() };
        let request = request.method(method).body(body).expect("the request is valid");
        client.fetch(request, 1 << 20, Duration::from_secs(60)).await.expect("an answer")
    }

    /// The code that a path answers.
    pub async fn code(&self, client: &Client, path: &str) -> u16 {
        let answer = self.ask(client, path).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}")).status().as_u16()
    }
}

/// The command with its flags and no settings of the environment.
pub fn command(flags: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
    command.args(["serve", "--log-format", "json", "--log", "debug", "--listen", "127.0.0.1:0"]);
    command.arg("--config-dir").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("config"));
    for (name, value) in flags {
        command.arg(format!("--{name}")).arg(value);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("INFERNO_")) {
        command.env_remove(name);
    }
    command
}

/// A client with these settings.
pub fn client(settings: ClientSettings) -> Client {
    Client::new(settings).expect("the files are there")
}

/// A remote-write request of one sample.
pub fn write_body() -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970");
    let labels = [("__name__", "vllm:num_requests_waiting"), ("namespace", "llm"), ("pod", "p")];
    let labels = labels.map(|(name, value)| Label { name: name.into(), value: value.into() });
    let samples = vec![Sample { value: 1.0, timestamp: now.as_millis() as i64 }];
    let series = TimeSeries { labels: labels.into(), samples, ..TimeSeries::default() };
    let message = WriteRequest { timeseries: vec![series], ..WriteRequest::default() }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&message).expect("the message is small")
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}
