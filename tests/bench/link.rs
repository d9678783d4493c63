//! Server processes on loopback, and a plain blocking HTTP/1.1 client that knows when the last byte left.

use crate::process::Process;
use inferno_sidecar::wire::Version;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Most that is asked for at once, bytes.
const READ_BYTES: usize = 1 << 20;

/// A connection that is kept for many requests. What it reads goes into one buffer that only grows, as that of a
/// scraper does.
pub struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer was read.
    filled: usize,
}

/// Where an answer is in the buffer.
struct Answer {
    status: u16,
    /// Its pieces, one behind the other.
    pieces: Vec<std::ops::Range<usize>>,
    end: usize,
}

impl Link {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket can be set");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket can be set");
        Link { stream, buffer: vec![0; 64 << 10], filled: 0 }
    }

    /// Sends a request; returns when its last byte was handed to the system.
    pub fn send(&mut self, request: &[u8]) -> Instant {
        self.stream.write_all(request).expect("the server takes requests");
        Instant::now()
    }

    /// Reads more of an answer.
    pub fn more(&mut self) -> &[u8] {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        let end = self.buffer.len().min(self.filled + READ_BYTES);
        let read = self.stream.read(&mut self.buffer[self.filled..end]).expect("the server answers");
        assert!(read > 0, "the server has closed the connection");
        self.filled += read;
        &self.buffer[..self.filled]
    }

    /// Forgets what was read.
    pub fn forget(&mut self, bytes: usize) {
        self.buffer.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
    }

    /// Reads until the next line from `from` on is complete; its end, without the line break.
    fn line_end(&mut self, from: usize) -> usize {
        loop {
            let rest = self.buffer[..self.filled].get(from..).unwrap_or_default();
            match rest.windows(2).position(|window| window == b"\r\n") {
                Some(at) => return from + at,
                None => drop(self.more()),
            }
        }
    }

    fn text(&self, range: std::ops::Range<usize>) -> String {
        String::from_utf8_lossy(&self.buffer[range]).to_ascii_lowercase()
    }

    /// Reads the answer to the oldest request that has none yet.
    fn next_answer(&mut self) -> Answer {
        let (mut lines, mut at) = (Vec::new(), 0);
        loop {
            let end = self.line_end(at);
            let line = self.text(at..end);
            at = end + 2;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let status = lines[0].split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let mut answer = Answer { status, pieces: Vec::new(), end: at };
        if lines.iter().any(|line| line == "transfer-encoding: chunked") {
            loop {
                let end = self.line_end(answer.end);
                let size =
                    usize::from_str_radix(&self.text(answer.end..end), 16).expect("the size of a piece");
                answer.pieces.push(end + 2..end + 2 + size);
                answer.end = end + 2 + size + 2;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = lines.iter().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
            answer.pieces.push(at..at + length);
            answer.end = at + length;
        }
        while self.filled < answer.end {
            self.more();
        }
        answer
    }

    /// Status and body of the answer to the oldest request that has none yet.
    pub fn answer(&mut self) -> (u16, Vec<u8>) {
        let answer = self.next_answer();
        let body = answer.pieces.into_iter().flat_map(|piece| &self.buffer[piece]).copied().collect();
        self.forget(answer.end);
        (answer.status, body)
    }

    /// Size of the body of the answer to a request for reading, which is not looked at.
    pub fn skim(&mut self, request: &[u8]) -> usize {
        self.send(request);
        let answer = self.next_answer();
        assert_eq!(answer.status, 200);
        self.forget(answer.end);
        answer.pieces.into_iter().map(|piece| piece.len()).sum()
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
