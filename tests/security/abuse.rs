//! Senders that are slow, large or broken, on each surface; a well-behaved one is served meanwhile.

use crate::pki::Authority;
use crate::sidecar::*;
use inferno_sidecar::client::ClientSettings;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far beyond every limit that is waited for here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the bytes and reads until the other end closes; what was answered.
async fn raw(sidecar: &Sidecar, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    // The other end may refuse before it has taken everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_not_begin_are_closed_and_others_are_served() {
    let sidecar = Sidecar::start(&[]).await;
    // Nothing, a part of what both versions of HTTP could begin with, and a drip of it.
    let mut open = Vec::new();
    for bytes in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET /metrics"] {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            open.push(stream);
        }
    }
    let patient = client(ClientSettings::default());
    assert_eq!(sidecar.code(&patient, READ).await, 200);
    // Headers that come letter by letter, on each surface.
    let drips = [WRITE, READ, ADMIN, "/-/healthy"].map(|path| {
        let address = sidecar.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nx: ").as_bytes()).await.unwrap();
            while stream.write_all(b"y").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    });
    for drip in drips {
        tokio::time::timeout(PATIENCE, drip).await.expect("dripping is cut off").unwrap();
    }
    for mut stream in open {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "a connection that never began is still open");
    }
    assert_eq!(sidecar.code(&patient, READ).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_of_its_answers_is_let_go() {
    let sidecar = Sidecar::start(&[]).await;
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    let asked = async {
        // Until the answers fill every buffer on the way, no more is taken in, and in the end it is cut off.
        while stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("the connection is closed");
    assert_eq!(sidecar.code(&client(ClientSettings::default()), READ).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new("ours").server(&["localhost"]).write(dir.path(), "server");
    let flags = [("tls-cert-file", text(&cert)), ("tls-private-key-file", text(&key))];
    let sidecar = Sidecar::start(&flags).await;
    let mut open = Vec::new();
    // A record that announces more than comes.
    for bytes in [&b""[..], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]] {
        let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        open.push(stream);
    }
    for mut stream in open {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "a handshake without an end is still open");
    }
    assert!(!raw(&sidecar, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.contains("200 OK"));
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_refused_on_each_surface() {
    let sidecar = Sidecar::start(&[]).await;
    for (method, path) in [("POST", WRITE), ("GET", READ), ("POST", ADMIN), ("GET", "/-/healthy")] {
        let large = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(200 << 10));
        let answer = raw(&sidecar, large.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{path}: {answer}");
        let many: String = (0..300).map(|number| format!("x-{number}: y\r\n")).collect();
        let many = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{many}\r\n");
        assert!(raw(&sidecar, many.as_bytes()).await.starts_with("HTTP/1.1 431"), "{path}");
        let long = format!("{method} {path}?{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70 << 10));
        let answer = raw(&sidecar, long.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    assert_eq!(sidecar.code(&client(ClientSettings::default()), READ).await, 200);
}

#[tokio::test]
async fn malformed_requests_are_refused_on_each_surface() {
    let sidecar = Sidecar::start(&[]).await;
    for (method, path) in [("POST", WRITE), ("GET", READ), ("POST", ADMIN), ("GET", "/api/v1/query")] {
        for rest in [
            "HTTP/1.1\r\nhost x\r\n\r\n",
            "HTTP/9.9\r\nhost: x\r\n\r\n",
            "HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1\r\nhost: x\r\nx\0y: z\r\n\r\n",
        ] {
            let answer = raw(&sidecar, format!("{method} {path} {rest}").as_bytes()).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{path} {rest}: {answer}");
        }
    }
    for (request, code) in [
        ("POST /api/v1/write HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n", "413"),
        ("DELETE /api/v1/write HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "405"),
        ("GET /-/reload HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "405"),
        ("TRACE /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "405"),
        ("GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "404"),
    ] {
        let answer = raw(&sidecar, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {answer}");
    }
    assert_eq!(sidecar.code(&client(ClientSettings::default()), READ).await, 200);
}

#[tokio::test]
async fn what_was_sent_is_never_echoed_unescaped() {
    let sidecar = Sidecar::start(&[]).await;
    let script = "%3Cscript%3Ealert(1)%3C/script%3E%1b%5b31m";
    let nobody = client(ClientSettings::default());
    for path in [
        format!("/{script}"),
        format!("/api/v1/query?query={script}"),
        format!("/api/v1/query?query=x&time={script}"),
        format!("/api/v1/series?match%5B%5D={script}"),
        format!("/api/v1/label/{script}/values"),
        format!("/api/v1/variants/{script}/{script}"),
    ] {
        let answer = sidecar.ask(&nobody, &path).await.unwrap();
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(!body.contains('\u{1b}'), "{path}: {body}");
        let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap());
        let is_page = kind.contains("html");
        assert!(!is_page || !body.contains("<script>"), "{path}: {body}");
        assert!(kind.contains("json") || kind.contains("text/plain"), "{path}: {kind}");
    }
}

/// A body that is fed piece by piece, and never ends while the sender lives.
fn fed() -> (tokio::sync::mpsc::Sender<Vec<u8>>, axum::body::Body) {
    let (sender, pieces) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async {
        pieces.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), pieces))
    });
    (sender, axum::body::Body::from_stream(pieces))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_messages_that_do_not_end_or_are_too_large_are_refused() {
    let sidecar = Sidecar::start(&[]).await;
    let stream = TcpStream::connect(sidecar.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = |body: axum::body::Body| {
        let uri = format!("http://{}/externalscaler.ExternalScaler/StreamIsActive", sidecar.address);
        hyper::Request::post(uri).header("content-type", "application/grpc").body(body).unwrap()
    };
    // A frame that announces more than ever comes, on a stream that is never closed.
    let (slow, body) = fed();
    slow.send(vec![0, 0, 0, 1, 0, 1]).await.unwrap();
    let unfinished = tokio::spawn(sender.send_request(request(body)));
    let (large, body) = fed();
    let too_large = tokio::spawn(sender.send_request(request(body)));
    for _ in 0..40 {
        if large.send(vec![0; 16 << 10]).await.is_err() {
            break;
        }
    }
    let answer = tokio::time::timeout(PATIENCE, too_large).await.expect("an answer").unwrap().unwrap();
    assert_eq!(answer.headers()["grpc-status"], "11", "out of range");
    let answer = tokio::time::timeout(PATIENCE, unfinished).await.expect("an answer").unwrap().unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4", "deadline exceeded");
    drop(slow);
}
