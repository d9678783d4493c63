//! Probes, reload, metrics, decisions as JSON, and paths that do not exist.

use crate::client::{Answer, post_form, send};
use crate::server::*;
use axum::body::Body;
use axum::http::Request;
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::publish::exposition::{BoardText, Format, Writer, write_board};
use inferno_sidecar::runner::Clock;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

async fn metrics(server: &Server, accept: &str) -> Answer {
    let request = Request::builder().uri("/metrics").header("accept", accept).body(Body::empty()).unwrap();
    send(server.address, request).await.unwrap()
}

#[tokio::test]
async fn a_reload_puts_the_configuration_in_force() {
    let server = Server::unconfigured().await;
    assert_eq!(server.get("/-/ready").await.status, 503);
    assert_eq!(server.get("/-/reload").await.status, 405);
    let answer = post_form(server.address, "/-/reload", String::new()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("0 problems"), "{}", answer.text());
    assert_eq!(server.engine.board().entries.len(), 3);
    assert_eq!(server.get("/-/healthy").await.status, 200);
}

#[tokio::test]
async fn a_reload_that_fails_says_why() {
    let server = Server::with(|context| {
        context.reload = std::sync::Arc::new(|| Err("the folder is gone".to_owned()));
    })
    .await;
    let answer = post_form(server.address, "/-/reload", String::new()).await.unwrap();
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("the folder is gone"), "{}", answer.text());
}

#[tokio::test]
async fn readiness_follows_the_first_decision() {
    let server = Server::ready().await;
    assert_eq!(server.get("/-/ready").await.status, 200);
    assert!(server.get("/").await.text().contains("3 variants"));
}

#[tokio::test]
async fn metrics_come_in_both_formats_and_pass_the_checker() {
    let server = Server::ready().await;
    server.query("inferno_desired_replicas").await;
    let text = metrics(&server, "text/plain").await;
    assert!(text.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(
        text.text().contains("\ninferno_sidecar_write_requests_total{code=\"204\"} 1\n"),
        "{}",
        text.text()
    );
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let open = metrics(&server, prometheus).await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(open.text().ends_with("# EOF\n"));
    assert!(open.text().contains("# TYPE inferno_sidecar_write_requests counter"), "{}", open.text());
    assert!(!text.text().contains("# EOF"));

    let mut names: Vec<&str> = text.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "each family occurs once");
    check(text.text());
}

/// A server of so many variants.
async fn server_of(variants: usize) -> Server {
    let server = Server::unconfigured().await;
    let variant = |number| {
        format!(
            "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n\
             metadata: {{name: variant-{number}, namespace: llm, \
             labels: {{inference.optimization/acceleratorName: H100}}}}\n\
             spec: {{scaleTargetRef: {{kind: Deployment, name: variant-{number}}}, modelID: org/model-{number}, \
             variantCost: \"40\"}}\n---\n"
        )
    };
    let yaml: String = (0..variants).map(variant).collect();
    let resolved = resolve(&documents("many.yaml", &yaml), &Resolved::default());
    assert!(resolved.problems.is_empty(), "{:?}", resolved.problems.first());
    server.engine.apply(resolved.snapshot, Arc::from([])).unwrap();
    server
}

#[tokio::test]
async fn metrics_of_many_variants_are_sent_in_pieces_and_whole() {
    const VARIANTS: usize = 1_000;
    let server = server_of(VARIANTS).await;
    let small = metrics(&Server::ready().await, "text/plain").await;
    assert_eq!(small.header("content-length"), small.body.len().to_string());
    let large = metrics(&server, "application/openmetrics-text").await;
    assert_eq!(large.header("transfer-encoding"), "chunked", "{} bytes", large.body.len());
    let count = |start: &str| large.text().lines().filter(|line| line.starts_with(start)).count();
    for family in ["inferno_input_healthy{", "inferno_replica_cost_per_hour{"] {
        assert_eq!(count(family), VARIANTS, "{family}");
    }
    assert_eq!(count("inferno_sidecar_variants 1000"), 1, "what the sidecar says of itself comes last");
    assert!(large.text().ends_with("\n# EOF\n"));
    check(metrics(&server, "text/plain").await.text());
}

#[tokio::test]
async fn an_exposition_is_the_same_in_pieces_of_any_size() {
    let server = Server::ready().await;
    let board = server.engine.board();
    let now = Clock::Wall.reader_now(&board);
    let mut whole = Writer::new(Format::Text);
    write_board(&mut whole, &board, now, true);
    let whole = whole.finish();
    for bytes in [1, 100, 1_000, usize::MAX] {
        let (mut writer, mut text) = (Writer::new(Format::Text), BoardText::new(&board, now, true));
        let mut pieces = Vec::new();
        while text.write(&mut writer, bytes) {
            pieces.push(writer.take());
        }
        pieces.push(writer.take());
        let longest = whole.lines().map(str::len).max().unwrap_or_default();
        assert!(bytes == usize::MAX || pieces.iter().all(|piece| piece.len() <= bytes + 12 * longest));
        assert_eq!(pieces.concat(), whole, "in pieces of {bytes} bytes");
    }
}

/// Has Prometheus's own checker look at the text, where it is installed.
fn check(text: &str) {
    let checker = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut checker) = checker else { return eprintln!("skipped: no promtool on the PATH") };
    checker.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = checker.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn decisions_are_explained() {
    let server = Server::ready().await;
    let board = server.get("/api/v1/variants").await.json();
    assert_eq!(board["variants"].as_array().unwrap().len(), 3);
    assert_eq!(board["notReady"], serde_json::Value::Null);
    let variant = server.get("/api/v1/variants/llm/qwen-14b-h100").await;
    assert_eq!(variant.status, 200);
    let variant = variant.json();
    assert_eq!(variant["decision"]["desired"], 1);
    assert!(!variant["decision"]["message"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_things_are_not_found_in_the_same_form() {
    let server = Server::ready().await;
    for path in ["/nothing", "/api/v1/variants/llm/nobody", "/api/v1/targets", "/%ff%00", "/api/v1/query/"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["status"], "error", "{path}");
        assert_eq!(answer.json()["errorType"], "not_found", "{path}");
    }
}
