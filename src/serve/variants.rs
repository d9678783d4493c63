//! `/api/v1/variants` and `/api/v1/profiles`: the board for people and scripts.

use super::{Context, api_error, aside, json_response};
use crate::config::VariantKey;
use crate::publish::json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

/// `GET /api/v1/variants`: every decision with inputs and reason, and what is wrong.
pub async fn variants(State(context): State<Context>) -> Response {
    let render = move || {
        let board = context.engine.board();
        let now = context.engine.clock.reader_now(&board);
        json_response(StatusCode::OK, &json::board(&board, now))
    };
    aside(render).await
}

/// `GET /api/v1/variants/NAMESPACE/NAME`.
pub async fn variant(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let board = context.engine.board();
    let now = context.engine.clock.reader_now(&board);
    match board.entries.get(&VariantKey::new(&namespace, &name)) {
        Some(entry) => json_response(StatusCode::OK, &json::entry(entry, now)),
        None => api_error(
            StatusCode::NOT_FOUND,
            "not_found",
            &format!("no variant {namespace}/{name}; /api/v1/variants lists all"),
        ),
    }
}

/// `GET /api/v1/profiles`: what was learned, for `simulate --profiles`.
pub async fn profiles(State(context): State<Context>) -> Response {
    aside(move || json_response(StatusCode::OK, &json::profiles(&context.engine.board()))).await
}
