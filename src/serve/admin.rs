//! Health, readiness, reload, metrics and the index of paths.

use super::exposition::Exposition;
use super::{Context, api_error, aside, page};
use crate::publish::exposition::Format;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// `GET /`: the status page for browsers, for others where to find what.
pub async fn index(State(context): State<Context>, headers: HeaderMap) -> Response {
    if page::is_wanted(&headers) {
        return page::page();
    }
    let board = context.engine.board();
    let state = board.not_ready().unwrap_or_else(|| "ready".into());
    let text = format!(
        "inferno-sidecar {}: {} variants, {} configuration problems; {state}\n\n\
         POST /api/v1/write           remote-write 1.0 and 2.0\n\
         GET  /api/v1/query           PromQL over the gauges; also query_range, series, labels,\n\
         \x20                            label/NAME/values, metadata, status/buildinfo\n\
         GET  /api/v1/variants        decisions with inputs and reasons\n\
         GET  /api/v1/variants/NS/NAME\n\
         GET  /api/v1/profiles        what was learned, for simulate --profiles\n\
         GET  /api/v1/stream          the same as server-sent events\n\
         GET  /metrics                gauges to scrape\n\
         GET  /-/healthy  /-/ready    probes\n\
         POST /-/reload               read the configuration now\n\
         gRPC externalscaler.ExternalScaler, for KEDA\n",
        env!("CARGO_PKG_VERSION"),
        board.entries.len(),
        board.problems.len(),
    );
    text.into_response()
}

/// Any other path.
pub async fn unknown_path(uri: Uri) -> Response {
    let message = format!("no such path: {}; GET / lists the paths", uri.path().escape_debug());
    api_error(StatusCode::NOT_FOUND, "not_found", &message)
}

/// `GET /-/healthy`: the process answers.
pub async fn healthy() -> &'static str {
    "inferno-sidecar is healthy.\n"
}

/// `GET /-/ready`: a reader gets numbers.
pub async fn ready(State(context): State<Context>) -> Response {
    match context.engine.board().not_ready() {
        None => "inferno-sidecar is ready.\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// `POST /-/reload`: answers when the configuration has been read and is in force.
pub async fn reload(State(context): State<Context>) -> Response {
    let reload = context.reload.clone();
    match tokio::task::spawn_blocking(move || reload()).await {
        Ok(Ok(())) => {
            let problems = context.engine.board().problems.len();
            format!("configuration read, {problems} problems\n").into_response()
        }
        Ok(Err(why)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the reload was cut off\n").into_response(),
    }
}

/// `GET /metrics`.
pub async fn metrics(State(context): State<Context>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::negotiate(accept);
    aside(move || Exposition::new(context, format).answer()).await
}
