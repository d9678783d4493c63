//! Places of a listener: so many connections are served, and some beyond them are answered that there is no place,
//! so that their owner knows why and when to try again. Whoever comes beyond these waits in the backlog.

use super::connection::drain;
use crate::limits::{RETRY_AFTER_S, TURNED_AWAY_MAX};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The places of one listener.
pub struct Places {
    served: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    /// Served ones when nobody is connected.
    all: usize,
    /// It was logged that all are taken.
    is_full: AtomicBool,
}

/// The place of one connection, given back when it is dropped.
pub struct Place {
    /// Whether it is served, or turned away.
    pub is_served: bool,
    // The semaphores are never closed.
    _permit: Result<OwnedSemaphorePermit, AcquireError>,
}

impl Places {
    /// Places for as many served connections as `served` has permits.
    pub fn new(served: Arc<Semaphore>) -> Self {
        let all = served.available_permits();
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
        Places { served, turned_away, all, is_full: AtomicBool::new(false) }
    }

    /// A place for the next connection, as soon as there is one of either kind.
    pub async fn next(&self) -> Place {
        let place = tokio::select! {
            biased;
            permit = self.served.clone().acquire_owned() => Place { is_served: true, _permit: permit },
            permit = self.turned_away.clone().acquire_owned() => Place { is_served: false, _permit: permit },
        };
        if !place.is_served && !self.is_full.swap(true, Ordering::Relaxed) {
            let limit = self.all;
            tracing::warn!(
                limit,
                "all connections are in use (--max-connections); further ones are answered 503"
            );
        } else if self.served.available_permits() > self.all / 4 {
            // Not at the first one that is free, or every connection at the limit would be a line.
            self.is_full.store(false, Ordering::Relaxed);
        }
        place
    }
}

/// What those hear who are turned away. Probes hear that the process lives, or it would be restarted for being busy.
pub fn turned_away() -> Router {
    Router::new().fallback(answer)
}

async fn answer(request: Request) -> Response {
    let (head, body) = request.into_parts();
    drain(body).await;
    let mut response = match head.uri.path() {
        "/-/healthy" | "/healthz" | "/livez" => "ok\n".into_response(),
        _ => {
            let why = "all connections are in use (--max-connections); try again\n";
            let mut refusal = (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
            refusal.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
            refusal
        }
    };
    // HTTP/2 has no such header; its connections end by their time.
    if head.version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
