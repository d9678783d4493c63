//! Everything that a peer can ask of the HTTP surface, damaged: whatever comes in is answered, by no panic and by
//! no 500.

use crate::attempts;
use crate::mutate::damage;
use crate::support::{NAMESPACE, Pod, START_MS, Scrape, World};
use crate::worlds;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use inferno_sidecar::proto::{LabelMatcher, Query, ReadRequest};
use inferno_sidecar::runner::{self, Clock, wall_now};
use inferno_sidecar::serve::{self, Context, OwnMetrics};
use prost::Message;
use rand::RngExt;
use rand_pcg::Pcg64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tower::ServiceExt;

/// Longest time that an answer may take.
const ANSWERED_S: u64 = 60;
/// Panics of any thread.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A request as a sender, a reader or an autoscaler makes it.
struct Asked {
    method: &'static str,
    uri: String,
    content_type: &'static str,
    body: Vec<u8>,
}

fn asked(method: &'static str, uri: &str, content_type: &'static str, body: Vec<u8>) -> Asked {
    Asked { method, uri: uri.to_owned(), content_type, body }
}

const FORM: &str = "application/x-www-form-urlencoded";
const PROTOBUF: &str = "application/x-protobuf";

fn reads(now_ms: i64) -> Vec<Asked> {
    let now_s = now_ms / 1000;
    let uris = [
        "/api/v1/query?query=inferno_desired_replicas%7Bvariant_name%3D%22a%22%7D".to_owned(),
        format!("/api/v1/query?query=sum(rate(inferno_requests_running%5B5m%5D))&time={now_s}.5&timeout=5s"),
        format!(
            "/api/v1/query_range?query=max_over_time(inferno_requests_running%5B1m%5D)&start={}&end={now_s}&step=15s",
            now_s - 600
        ),
        format!("/api/v1/series?match%5B%5D=inferno_desired_replicas&start={}&end={now_s}", now_s - 600),
        "/api/v1/labels?match%5B%5D=%7Bnamespace%3D~%22l.%2B%22%7D&limit=3".to_owned(),
        "/api/v1/label/variant_name/values?match%5B%5D=inferno_desired_replicas".to_owned(),
        "/api/v1/metadata?metric=inferno_desired_replicas&limit=2&limit_per_metric=1".to_owned(),
        "/api/v1/variants/llm/a".to_owned(),
        "/api/v1/variants?namespace=llm".to_owned(),
        "/metrics".to_owned(),
        "//-/ready".to_owned(),
    ];
    let mut all: Vec<Asked> = uris.iter().map(|uri| asked("GET", uri, FORM, Vec::new())).collect();
    let form = format!("query=avg+by+(namespace)+(inferno_desired_replicas+offset+1m)&time={now_s}");
    all.push(asked("POST", "/api/v1/query", FORM, form.into_bytes()));
    let matcher = LabelMatcher { r#type: 2, name: "__name__".into(), value: "inferno_.*".into() };
    let (start_timestamp_ms, end_timestamp_ms) = (now_ms - 600_000, now_ms);
    for accepted in [0, 1] {
        let queries = vec![Query { start_timestamp_ms, end_timestamp_ms, matchers: vec![matcher.clone()] }];
        let read = ReadRequest { queries, accepted_response_types: vec![accepted] };
        all.push(asked("POST", "/api/v1/read", PROTOBUF, read.encode_to_vec()));
    }
    all
}

/// Field numbers and texts of a message of KEDA's, which are all short texts.
fn fields(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let encoded = fields.iter().flat_map(|(number, text)| {
        let length = u8::try_from(text.len()).expect("texts are short");
        [&[number << 3 | 2, length][..], text].concat()
    });
    encoded.collect()
}

fn scaler() -> Vec<Asked> {
    let entry = |key: &str, value: &str| fields(&[(1, key.as_bytes()), (2, value.as_bytes())]);
    let [variant, target] = [entry("variantName", "a"), entry("targetValue", "1")];
    let object = fields(&[(1, b"a"), (2, NAMESPACE.as_bytes()), (3, &variant), (3, &target)]);
    let wanted = fields(&[(1, &object), (2, b"s0-inferno")]);
    let framed = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8][..], message].concat();
    let calls = [("IsActive", &object), ("GetMetricSpec", &object), ("GetMetrics", &wanted)];
    let all = calls.iter().map(|(method, message)| {
        let uri = format!("/externalscaler.ExternalScaler/{method}");
        asked("POST", &uri, "application/grpc", framed(message))
    });
    all.collect()
}

fn writes(now_ms: i64) -> Vec<Asked> {
    let seconds = (now_ms - START_MS) as f64 / 1e3;
    let scrape = || Scrape::at(seconds).pod(&Pod::new("a", 0, "m")).deployment("a", 1, 1);
    let v2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    vec![
        asked("POST", "/api/v1/write", PROTOBUF, scrape().encode()),
        asked("POST", "/api/v1/write", v2, scrape().encode_2()),
    ]
}

/// The request, damaged in its address or its body, before or after the compression.
fn damaged(random: &mut Pcg64, asked: &Asked) -> Option<Request<Body>> {
    let (mut uri, mut body) = (asked.uri.clone().into_bytes(), asked.body.clone());
    let is_compressed = asked.content_type.starts_with(PROTOBUF);
    match random.random_range(0..4) {
        0 => damage(random, &mut uri),
        1 if !body.is_empty() && !is_compressed => damage(random, &mut body),
        2 if !body.is_empty() => damage(random, &mut body),
        _ => {}
    }
    if is_compressed {
        body = snap::raw::Encoder::new().compress_vec(&body).expect("it fits");
        if random.random_ratio(1, 8) {
            damage(random, &mut body);
        }
    }
    let uri = Uri::try_from(uri).ok()?;
    let mut request =
        Request::builder().method(asked.method).uri(uri).header("content-type", asked.content_type);
    if is_compressed {
        request = request.header("content-encoding", "snappy");
    }
    if asked.content_type == "application/grpc" {
        request = request.version(Version::HTTP_2).header("te", "trailers");
    }
    request.body(Body::from(body)).ok()
}

async fn surface() -> Router {
    let world = World::new(&worlds::configuration(30));
    let (engine, _thread) = runner::spawn(world.engine, Clock::Wall).expect("threads start");
    let own = Arc::new(OwnMetrics::new().expect("the metrics are valid"));
    serve::router(Context::new(engine, true, own, Arc::new(|| Ok(()))))
}

#[test]
fn surface_of_http() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        shown(info);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("threads start");
    let router = runtime.block_on(surface());
    attempts("requests to the HTTP surface", |random| {
        let now_ms = wall_now().0;
        let all: Vec<Asked> = [reads(now_ms), scaler(), writes(now_ms)].into_iter().flatten().collect();
        let asked = &all[random.random_range(0..all.len())];
        let Some(request) = damaged(random, asked) else { return };
        let what = format!("{} {} {:?}", request.method(), request.uri(), asked.body);
        let is_endless = request.uri().path().contains("tream");
        let answer = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(ANSWERED_S), async {
                let answer = router.clone().oneshot(request).await.expect("the router always answers");
                let status = answer.status();
                if !is_endless {
                    answer.into_body().collect().await.expect("answers are whole");
                }
                status
            })
            .await
        });
        let status = answer.unwrap_or_else(|_| panic!("no answer to {what}"));
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{what}");
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{what}");
    });
}
