//! Server processes on loopback, and a plain blocking HTTP/1.1 client that knows when the last byte left.

use crate::process::Process;
use inferno_sidecar::wire::Version;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A connection that is kept for many requests.
pub struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Link {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket can be set");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket can be set");
        Link { stream, buffer: Vec::new() }
    }

    /// Sends a request; returns when its last byte was handed to the system.
    pub fn send(&mut self, request: &[u8]) -> Instant {
        self.stream.write_all(request).expect("the server takes requests");
        Instant::now()
    }

    /// Reads more of an answer.
    pub fn more(&mut self) -> &[u8] {
        let start = self.buffer.len();
        self.buffer.resize(start + (64 << 10), 0);
        let read = self.stream.read(&mut self.buffer[start..]).expect("the server answers");
        assert!(read > 0, "the server has closed the connection");
        self.buffer.truncate(start + read);
        &self.buffer
    }

    /// Forgets what was read.
    pub fn forget(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
    }

    /// Status and body of the answer to the oldest request that has none yet.
    pub fn answer(&mut self) -> (u16, Vec<u8>) {
        let head_end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more(),
            };
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        assert!(!head.contains("\r\ntransfer-encoding: chunked"), "answers have a length: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
        while self.buffer.len() < head_end + length {
            self.more();
        }
        let body = self.buffer[head_end..head_end + length].to_vec();
        self.buffer.drain(..head_end + length);
        (status, body)
    }

    /// Sends a write request and waits for its success.
    pub fn write(&mut self, request: &[u8]) {
        self.send(request);
        let (status, body) = self.answer();
        assert!(status == 200 || status == 204, "{status}: {}", String::from_utf8_lossy(&body));
    }

    /// Body of the answer to a request for reading.
    pub fn read(&mut self, request: &[u8]) -> String {
        self.send(request);
        let (status, body) = self.answer();
        let body = String::from_utf8(body).expect("answers are text");
        assert_eq!(status, 200, "{body}");
        body
    }
}

/// A write request as Prometheus sends it.
pub fn post(version: Version, message: &[u8]) -> Vec<u8> {
    let body = snap::raw::Encoder::new().compress_vec(message).expect("it fits");
    let (schema, number) = match version {
        Version::V1 => ("prometheus.WriteRequest", "0.1.0"),
        Version::V2 => ("io.prometheus.write.v2.Request", "2.0.0"),
    };
    let mut request = format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: sidecar\r\nUser-Agent: Prometheus/3.0.0\r\n\
         Content-Encoding: snappy\r\nContent-Type: application/x-protobuf;proto={schema}\r\n\
         X-Prometheus-Remote-Write-Version: {number}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// A request for reading.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: sidecar\r\n\r\n").into_bytes()
}

/// An address nobody listens on.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address")
}

/// Waits until `path` is answered 200.
pub fn await_ready(process: &mut Process, address: SocketAddr, path: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        process.assert_running();
        if TcpStream::connect(address).is_ok() {
            let mut link = Link::open(address);
            link.send(&get(path));
            if link.answer().0 == 200 {
                return;
            }
        }
        assert!(Instant::now() < until, "{path} is not answered");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The sidecar as built.
pub const SIDECAR: &str = env!("CARGO_BIN_EXE_inferno-sidecar");

/// Starts the sidecar as built with these files of configuration, all in force.
pub fn sidecar(dir: &Path, files: &[String], flags: &[&str]) -> (Process, SocketAddr) {
    started(Path::new(SIDECAR), dir, files, flags)
}

/// The same with another program.
pub fn started(program: &Path, dir: &Path, files: &[String], flags: &[&str]) -> (Process, SocketAddr) {
    for (number, file) in files.iter().enumerate() {
        std::fs::write(dir.join(format!("{number}.yaml")), file).expect("the folder is ours");
    }
    let address = free_address();
    let mut command = Command::new(program);
    command.args(["serve", "--log", "warn", "--listen", &address.to_string()]).args(flags);
    command.arg("--config-dir").arg(dir);
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("INFERNO_")) {
        command.env_remove(name);
    }
    let mut process = Process::start("the sidecar", &mut command);
    await_ready(&mut process, address, "/-/healthy");
    let reload = "POST /-/reload HTTP/1.1\r\nHost: sidecar\r\nContent-Length: 0\r\n\r\n";
    let said = Link::open(address).read(reload.as_bytes());
    assert!(said.contains(" 0 problems"), "{said}");
    (process, address)
}

/// Value of a metric without labels.
pub fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = Link::open(address).read(&get("/metrics"));
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is in /metrics"))
}
