//! The HTTP surface: routes, connections, limits, shutdown.
//!
//! Handlers read the board and send events to the engine; they know nothing of how decisions are made.

pub mod access;
mod admin;
mod bounds;
mod connection;
mod exposition;
pub mod external;
mod form;
mod keda;
mod own;
mod page;
mod places;
mod query;
mod read;
pub mod rotation;
mod series;
mod stream;
pub mod tls;
mod variants;
mod write;

use access::{Access, Surface, guarded};
pub use connection::{Closing, serve, serve_on};
pub use own::OwnMetrics;

use crate::limits::{Limits, RETRY_AFTER_S, STREAM_CLIENTS_MAX};
use crate::runner::Handle;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

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
    /// The limits in force.
    pub limits: Limits,
    /// Connections that may still be opened.
    pub connections: Arc<Semaphore>,
    /// Streams that external scalers may still open.
    pub scaler_streams: Arc<Semaphore>,
    /// Places for queries over the record.
    pub queries: Arc<Semaphore>,
    /// Longest time a sender may take over one request body.
    pub write_body_max: Duration,
    /// Who may use what.
    pub access: Arc<Access>,
    /// Reads the configuration again; says what went wrong.
    pub reload: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The stream of decisions.
    pub stream: Arc<stream::Hub>,
}

impl Context {
    /// A context with the usual limits, open to everybody.
    pub fn new(
        engine: Handle,
        wva_aliases: bool,
        own: Arc<OwnMetrics>,
        reload: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    ) -> Self {
        Context::limited(engine, wva_aliases, own, reload, Limits::default())
    }

    /// The same with other limits.
    pub fn limited(
        engine: Handle,
        wva_aliases: bool,
        own: Arc<OwnMetrics>,
        reload: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
        limits: Limits,
    ) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count));
        // Readers of the stream hold connections, most of which are for others.
        let readers = STREAM_CLIENTS_MAX.min(limits.connections / 4);
        Context {
            stream: stream::Hub::start(engine.clone(), own.clone(), readers),
            engine,
            wva_aliases,
            own,
            write_bytes: places(limits.inflight_bytes),
            connections: places(limits.connections),
            scaler_streams: places(limits.scaler_streams),
            queries: places(crate::limits::QUERY_CONCURRENCY_MAX),
            write_body_max: Duration::from_secs(crate::limits::WRITE_BODY_MAX_S),
            access: Arc::default(),
            reload,
            limits,
        }
    }
}

/// All routes. A path belongs to one surface, whose guard it stands behind; probes are open.
pub fn router(context: Context) -> Router {
    let behind = |surface, routes: Router<Context>| {
        routes.route_layer(from_fn_with_state((context.clone(), surface), guarded))
    };
    let write = Router::new().route("/api/v1/write", post(write::write));
    let read = Router::new()
        .route("/", get(admin::index))
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
        .route("/api/v1/profiles", get(variants::profiles))
        .route("/api/v1/stream", get(stream::stream))
        .route("/metrics", get(admin::metrics))
        .merge(keda::routes(&context));
    let admin = Router::new().route("/-/reload", post(admin::reload).put(admin::reload));
    Router::new()
        .route("/-/healthy", get(admin::healthy))
        .route("/-/ready", get(admin::ready))
        .merge(behind(Surface::Write, write))
        .merge(behind(Surface::Read, read))
        .merge(behind(Surface::Admin, admin))
        .fallback(admin::unknown_path)
        .with_state(context)
}

/// Makes a large answer on a thread of its own: those that move bytes between sockets stay free, so that a
/// scrape of many variants holds up no write.
async fn aside(render: impl FnOnce() -> Response + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(render).await {
        Ok(response) => response,
        Err(_) => {
            api_error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the answer was cut off; try again")
        }
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
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}
