//! Senders and the sidecar that die or are told to end.

use crate::sidecar::{Scrape, Sidecar, write};
use crate::{SOON, TURN, wait_for};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A request of which only the beginning is sent.
pub async fn half_a_request(address: SocketAddr, length: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the sidecar listens");
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nhost: x\r\ncontent-encoding: snappy\r\n\
         content-type: application/x-protobuf\r\n{length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let body = Scrape::now(2, 0.99, 50.0).body();
    let half = &body[..body.len() / 2];
    let chunk = match length.starts_with("transfer") {
        true => [format!("{:x}\r\n", half.len()).as_bytes(), half, b"\r\n"].concat(),
        false => half.to_vec(),
    };
    stream.write_all(&chunk).await.expect("it reads");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_dies_within_a_request_leaves_nothing_behind() {
    let _turn = TURN.lock().await;
    let sidecar = Sidecar::start().await;
    assert_eq!(sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status, 204);
    sidecar.until_desired(2).await;
    // Together they announce many times what may be under way: each gives back what was reserved for it.
    for round in 0..60 {
        let length = if round % 3 == 0 { "transfer-encoding: chunked" } else { "content-length: 33000000" };
        drop(half_a_request(sidecar.address, length).await);
    }
    wait_for("room for others", async || {
        (sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status == 204).then_some(())
    })
    .await;
    assert_eq!(sidecar.figure("inferno_requests_waiting").await, Some(4.0), "no half of a request counts");
    assert_eq!(sidecar.desired().await, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_end_under_load_it_answers_what_it_took_and_exits_0() {
    let _turn = TURN.lock().await;
    let mut sidecar = Sidecar::start().await;
    let (address, told) = (sidecar.address, Arc::new(AtomicBool::new(false)));
    let (taken, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let senders: Vec<_> = (0..16)
        .map(|_| {
            let (told, taken, refused) = (told.clone(), taken.clone(), refused.clone());
            tokio::spawn(async move {
                loop {
                    match write(address, Scrape::now(2, 0.5, 2.0).body()).await {
                        Ok(answer) if answer.status == 204 => taken.fetch_add(1, Ordering::Relaxed),
                        Ok(answer) => {
                            assert_eq!(answer.status, 503, "{}", answer.text());
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        // Nobody listens any more: Prometheus tries again.
                        Err(error) => {
                            assert!(told.load(Ordering::SeqCst), "{error}");
                            return;
                        }
                    };
                }
            })
        })
        .collect();
    wait_for("the load", async || (taken.load(Ordering::Relaxed) > 500).then_some(())).await;
    // One sender is slow: it does not keep the others, nor the end, waiting for ever.
    let _slow = half_a_request(address, "content-length: 33000000").await;
    told.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    sidecar.process.signal("TERM");
    let status = sidecar.process.ended(SOON).await;
    say!(
        "SIGTERM under load: exit after {:.1} s, {} requests taken, {} refused",
        begun.elapsed().as_secs_f64(),
        taken.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed)
    );
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(sidecar.process.lines("\"stopped\"").len(), 1);
    for sender in senders {
        sender.await.expect("no sender was answered otherwise");
    }
}
