//! The HTTP surface: routes, connections, limits, shutdown.
//!
//! Handlers read the board and send events to the engine; they know nothing of how decisions are made.

mod admin;
mod form;
mod keda;
mod own;
mod query;
mod read;
mod series;
mod variants;
mod write;

pub use own::OwnMetrics;

use crate::limits::{CONNECTIONS_MAX, HEADER_READ_MAX_S, SHUTDOWN_GRACE_S, STREAMS_PER_CONNECTION_MAX};
use crate::runner::Handle;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// What handlers share.
#[derive(Clone)]
pub struct Context {
    /// Access to the engine.
    pub engine: Handle,
    /// Publish the `wva_*` names too.
    pub wva_aliases: bool,
    /// The sidecar's own metrics.
    pub own: Arc<OwnMetrics>,
    /// Bytes of write requests that may still be taken in.
    pub write_bytes: Arc<Semaphore>,
    /// Places for queries over the record.
    pub queries: Arc<Semaphore>,
    /// Longest time a sender may take over one request body.
    pub write_body_max: Duration,
    /// Reads the configuration again; says what went wrong.
    pub reload: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl Context {
    /// A context with its limits at their full value.
    pub fn new(
        engine: Handle,
        wva_aliases: bool,
        own: Arc<OwnMetrics>,
        reload: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    ) -> Self {
        let write_bytes = Arc::new(Semaphore::new(crate::limits::WRITE_INFLIGHT_MAX_BYTES));
        let write_body_max = Duration::from_secs(crate::limits::WRITE_BODY_MAX_S);
        let queries = Arc::new(Semaphore::new(crate::limits::QUERY_CONCURRENCY_MAX));
        Context { engine, wva_aliases, own, write_bytes, queries, write_body_max, reload }
    }
}

/// Tells an answer without an end that the server is about to close. Every request carries it as an
/// extension.
#[derive(Clone)]
pub struct Closing(watch::Receiver<()>);

impl Closing {
    /// Completes when the server begins to close.
    pub async fn closed(mut self) {
        // Nothing is ever sent: the sender is dropped.
        while self.0.changed().await.is_ok() {}
    }
}

/// All routes.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/", get(admin::index))
        .route("/api/v1/write", post(write::write))
        .route("/api/v1/read", post(read::read))
        .route("/api/v1/query", get(query::instant).post(query::instant))
        .route("/api/v1/query_range", get(query::range).post(query::range))
        .route("/api/v1/series", get(series::series).post(series::series))
        .route("/api/v1/labels", get(series::labels).post(series::labels))
        .route("/api/v1/label/{name}/values", get(series::values))
        .route("/api/v1/metadata", get(series::metadata))
        .route("/api/v1/status/buildinfo", get(series::buildinfo))
        .route("/api/v1/variants", get(variants::variants))
        .route("/api/v1/variants/{namespace}/{name}", get(variants::variant))
        .route("/metrics", get(admin::metrics))
        .route("/-/healthy", get(admin::healthy))
        .route("/-/ready", get(admin::ready))
        .route("/-/reload", post(admin::reload).put(admin::reload))
        .route_service(keda::PATH, keda::service(context.clone()))
        .fallback(admin::unknown_path)
        .with_state(context)
}

/// Serves `router` until `shutdown` completes, then lets open requests finish for a grace period.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let (open_until_dropped, closing) = watch::channel(());
    let service = router.map_request(move |mut request| {
        single_slashes(&mut request);
        request.extensions_mut().insert(Closing(closing.clone()));
        request
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_READ_MAX_S))
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(HEADER_READ_MAX_S))
        // KEDA sends everything to one address over one connection, and a push trigger keeps a stream open.
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX);
    let open = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            () = &mut shutdown => break,
            permit = connections.clone().acquire_owned() => permit,
        };
        let stream = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        // Answers are small and latency is the point.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(service.clone());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    drop(open_until_dropped);
    if tokio::time::timeout(Duration::from_secs(SHUTDOWN_GRACE_S), open.shutdown()).await.is_err() {
        tracing::warn!("requests still open after {SHUTDOWN_GRACE_S} s are cut off");
    }
}

/// KEDA joins its server address and the path, so a trailing slash there gives `//api/...`.
fn single_slashes(request: &mut Request<hyper::body::Incoming>) {
    if !request.uri().path().contains("//") {
        return;
    }
    let mut path = String::with_capacity(request.uri().path().len());
    for character in request.uri().path().chars() {
        if character != '/' || !path.ends_with('/') {
            path.push(character);
        }
    }
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    if let Ok(uri) = path.parse::<Uri>() {
        *request.uri_mut() = uri;
    }
}

/// An error in the form of the Prometheus API.
pub fn api_error(status: StatusCode, kind: &str, message: &str) -> Response {
    json_response(status, &json!({"status": "error", "errorType": kind, "error": message}))
}

/// A JSON answer.
pub fn json_response(status: StatusCode, value: &serde_json::Value) -> Response {
    json_text(status, value.to_string())
}

/// An answer that is JSON already.
pub fn json_text(status: StatusCode, text: String) -> Response {
    let mut response = (status, Body::from(text)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(crate::limits::RETRY_AFTER_S));
    }
    response
}
