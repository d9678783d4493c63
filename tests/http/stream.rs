//! The stream of decisions as an EventSource sees it.

use crate::client::send;
use crate::server::*;
use axum::body::Body;
use axum::http::Request;
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::emulate::standard::CONFIG_YAML;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

struct Events {
    stream: BufReader<TcpStream>,
}

impl Events {
    async fn open(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // HTTP/1.0: the body ends with the connection and is not cut into chunks.
        stream.write_all(b"GET /api/v1/stream HTTP/1.0\r\n\r\n").await.unwrap();
        Events { stream: BufReader::new(stream) }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stream.read_line(&mut line).await.unwrap() > 0, "the stream goes on");
        line
    }

    /// The next event of that name.
    async fn next(&mut self, name: &str) -> Value {
        let found = tokio::time::timeout(Duration::from_secs(20), self.find(name));
        found.await.unwrap_or_else(|_| panic!("no event {name} in time"))
    }

    async fn find(&mut self, name: &str) -> Value {
        loop {
            if self.line().await.trim_end() == format!("event: {name}") {
                let data = self.line().await;
                return serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
            }
        }
    }
}

#[tokio::test]
async fn a_reader_gets_the_board_and_then_each_decision_with_its_reason() {
    let server = Server::ready().await;
    let mut events = Events::open(&server).await;
    let board = events.next("board").await;
    assert_eq!(board["variants"].as_array().unwrap().len(), 3);
    assert_eq!(events.next("status").await["variants"], 3);

    let more = CONFIG_YAML.replace("minReplicas: 1", "minReplicas: 2");
    let resolved = resolve(&documents("demo.yaml", &more), &Resolved::default());
    server.engine.apply(resolved.snapshot, Arc::from([])).unwrap();
    let raised = server.engine.board();
    let raised = raised.entries.values().filter(|entry| entry.desired() == Some(2)).count();
    assert!(raised >= 1, "{}", server.get("/api/v1/variants").await.text());
    let mut scalings = Vec::new();
    for _ in 0..raised {
        scalings.push(events.next("scaling").await);
    }
    let scaling = scalings.iter().find(|scaling| scaling["name"] == VARIANT).expect("it is raised");
    assert_eq!(
        (&scaling["from"], &scaling["to"], &scaling["reason"]),
        (&1.into(), &2.into(), &"min_replicas".into())
    );
    assert_eq!(scaling["message"], "the lower bound of the variant");
    let update = events.next("update").await;
    assert!(update["version"].as_u64() > board["version"].as_u64());
    let variants = update["variants"].as_array().unwrap();
    assert!(variants.iter().any(|variant| variant["name"] == VARIANT && variant["decision"]["desired"] == 2));
    assert!(update["problems"].is_null(), "what did not change is not said again");

    let late = Events::open(&server).await.next("board").await;
    assert_eq!(late["recent"].as_array().unwrap(), &scalings);
}

#[tokio::test]
async fn a_variant_that_is_removed_is_said_to_be() {
    let server = Server::ready().await;
    let mut events = Events::open(&server).await;
    events.next("board").await;
    server.engine.apply(Default::default(), Arc::from([])).unwrap();
    let update = events.next("update").await;
    assert_eq!(update["removed"].as_array().unwrap().len(), 3, "{update}");
}

#[tokio::test]
async fn browsers_get_the_page_and_others_the_list_of_paths() {
    let server = Server::ready().await;
    let request =
        Request::builder().uri("/").header("accept", "text/html,*/*;q=0.8").body(Body::empty()).unwrap();
    let page = send(server.address, request).await.unwrap();
    let policy = page.header("content-security-policy").to_owned();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.text().matches(nonce).count(), 2, "the script and the style");
    assert!(!page.text().contains("{{") && page.header("content-type").starts_with("text/html"));
    assert!(server.get("/").await.text().contains("/api/v1/stream"));
}
