//! `GET /api/v1/stream`: decisions as server-sent events, for the status page and for scripts.
//!
//! One task looks at each new board, renders what changed once, and hands the same bytes to all readers,
//! so a reader costs a copy of a pointer. A reader that falls behind gets the whole board instead of what
//! it missed; nothing is kept for it. Figures that move with every sample are sent together, a few times a
//! second; a changed decision goes out at once.
//!
//! | event | data |
//! | --- | --- |
//! | `board` | everything, as `/api/v1/variants`, and the latest changes of desired counts as `recent` |
//! | `update` | the variants that changed, those removed, and what changed around them |
//! | `scaling` | one changed desired count with its reason |
//! | `status` | figures of the sidecar; also the sign of life |

use super::{Closing, Context, OwnMetrics, api_error};
use crate::config::VariantKey;
use crate::config::check::problem_json;
use crate::limits::{STREAM_BACKLOG, STREAM_RECENT_MAX};
use crate::publish::{Board, Entry, json};
use crate::runner::Handle;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use imbl::ordmap::DiffItem;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Figures without a changed decision are sent at most this often.
const FIGURES: Duration = Duration::from_millis(400);
/// Period of `status`.
const STATUS: Duration = Duration::from_secs(2);

/// What the readers share.
pub struct Hub {
    engine: Handle,
    own: Arc<OwnMetrics>,
    events: broadcast::Sender<Bytes>,
    readers: Arc<Semaphore>,
    /// Most readers.
    readers_max: usize,
    /// Latest changes of desired counts, oldest first.
    recent: Mutex<VecDeque<Value>>,
}

impl Hub {
    /// A hub and its task, which ends with it. Outside of a runtime there is no task and nothing is sent.
    pub fn start(engine: Handle, own: Arc<OwnMetrics>, readers_max: usize) -> Arc<Self> {
        let hub = Arc::new(Hub {
            engine,
            own,
            events: broadcast::channel(STREAM_BACKLOG).0,
            readers: Arc::new(Semaphore::new(readers_max)),
            readers_max,
            recent: Mutex::default(),
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(watch(Arc::downgrade(&hub)));
        }
        hub
    }

    /// Readers that there are, and most that there may be.
    pub fn readers(&self) -> (usize, usize) {
        (self.readers_max - self.readers.available_permits(), self.readers_max)
    }

    /// Sends the decisions that changed from one board to the next; says whether any did.
    fn send_scalings(&self, before: &Board, now: &Board) -> bool {
        let scalings = scalings(before, now);
        for scaling in &scalings {
            self.send(|| event("scaling", scaling));
        }
        let is_any = !scalings.is_empty();
        if let Ok(mut recent) = self.recent.lock() {
            recent.extend(scalings);
            let excess = recent.len().saturating_sub(STREAM_RECENT_MAX);
            recent.drain(..excess);
        }
        is_any
    }

    /// Renders only when somebody listens.
    fn send(&self, render: impl FnOnce() -> Bytes) {
        if self.events.receiver_count() > 0 {
            // The last reader may leave in between.
            let _ = self.events.send(render());
        }
    }

    fn update(&self, before: &Board, now: &Board) -> Value {
        let at = self.engine.clock.reader_now(now);
        let (mut variants, mut removed) = (Vec::new(), Vec::new());
        for change in before.entries.diff(&now.entries) {
            match change {
                DiffItem::Add(_, entry) | DiffItem::Update { new: (_, entry), .. } => {
                    variants.push(json::entry(entry, at));
                }
                DiffItem::Remove(key, _) => {
                    removed.push(json!({"namespace": &*key.namespace, "name": &*key.name}));
                }
            }
        }
        let mut update = json!({
            "version": now.version,
            "streamTimeMs": now.stream_time.map(|time| time.0),
            "notReady": now.not_ready(),
            "variants": variants,
            "removed": removed,
        });
        if before.problems != now.problems {
            update["problems"] = now.problems.iter().map(problem_json).collect();
        }
        if before.unmatched != now.unmatched {
            update["unmatched"] = json::unmatched(now);
        }
        update
    }

    fn whole(&self, board: &Board) -> Bytes {
        let mut whole = json::board(board, self.engine.clock.reader_now(board));
        whole["recent"] = match self.recent.lock() {
            Ok(recent) => recent.iter().cloned().collect(),
            Err(_) => Value::Array(Vec::new()),
        };
        event("board", &whole)
    }

    fn status(&self) -> Bytes {
        let (stats, board) = (self.engine.stats(), self.engine.board());
        let now = self.engine.clock.reader_now(&board);
        event(
            "status",
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "series": stats.series,
                "replicas": stats.replicas,
                "variants": stats.variants,
                "models": stats.models,
                "newestSampleAgeSeconds": board.stream_time.map(|at| now.since(at).max(0) as f64 / 1000.0),
                "writes": self.own.write_counts(),
                "samples": self.own.sample_counts(),
                "notReady": board.not_ready(),
            }),
        )
    }
}

/// Follows the boards as long as the hub is there.
async fn watch(hub: Weak<Hub>) {
    // A board in which nothing has moved wakes nobody: its figures are sent with the next ones.
    let Some(mut moves) = hub.upgrade().map(|hub| hub.engine.moves()) else { return };
    // The last board looked at, and the last one whose figures were sent.
    let (mut seen, mut sent): (Arc<Board>, Arc<Board>) = Default::default();
    let (mut figures_at, mut status_at) = (Instant::now(), Instant::now());
    loop {
        let ended = tokio::select! {
            changed = moves.changed() => changed.is_err(),
            () = tokio::time::sleep_until(figures_at) => false,
            () = tokio::time::sleep_until(status_at) => false,
        };
        let Some(hub) = hub.upgrade().filter(|_| !ended) else { return };
        let now = hub.engine.board();
        let decided = now.moved > seen.version && hub.send_scalings(&seen, &now);
        seen = now;
        if decided || Instant::now() >= figures_at {
            if seen.version != sent.version {
                hub.send(|| event("update", &hub.update(&sent, &seen)));
                sent = seen.clone();
            }
            figures_at = Instant::now() + FIGURES;
        }
        if Instant::now() >= status_at {
            hub.send(|| hub.status());
            status_at = Instant::now() + STATUS;
        }
    }
}

/// Changed desired counts.
fn scalings(before: &Board, now: &Board) -> Vec<Value> {
    let changes = before.entries.diff(&now.entries).filter_map(|change| match change {
        DiffItem::Update { old: (_, old), new: (key, new) } => scaling(key, old, new, now),
        DiffItem::Add(..) | DiffItem::Remove(..) => None,
    });
    changes.collect()
}

fn scaling(key: &VariantKey, old: &Entry, new: &Entry, now: &Board) -> Option<Value> {
    let (from, decision) = (old.desired()?, new.decision.as_ref()?);
    (from != decision.desired).then(|| {
        json!({
            "namespace": &*key.namespace,
            "name": &*key.name,
            "from": from,
            "to": decision.desired,
            "current": decision.current,
            "reason": decision.cause.as_str(),
            "message": decision.explain(),
            "atMs": now.stream_time.map(|time| time.0),
        })
    })
}

/// One event. JSON has no line breaks, so it is one line of data.
fn event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// `GET /api/v1/stream`.
pub async fn stream(State(context): State<Context>, closing: Option<Extension<Closing>>) -> Response {
    let hub = context.stream.clone();
    let Ok(permit) = hub.readers.clone().try_acquire_owned() else {
        let message = format!("{} readers follow the stream already; try again later", hub.readers_max);
        return api_error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message);
    };
    let events = hub.events.subscribe();
    let closing = closing.map(|Extension(closing)| closing);
    let reader = Reader { hub, events, closing, begun: Begun::No, _permit: permit };
    let mut response = Body::from_stream(reader.into_stream()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx and those after its model would hold the events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// How far a reader has got.
enum Begun {
    No,
    Board,
    Status,
}

struct Reader {
    hub: Arc<Hub>,
    events: broadcast::Receiver<Bytes>,
    closing: Option<Closing>,
    begun: Begun,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        unfold(self, |mut reader| async move {
            let bytes = reader.next().await?;
            Some((Ok(bytes), reader))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        match self.begun {
            Begun::No => {
                self.begun = Begun::Board;
                return Some(self.hub.whole(&self.hub.engine.board()));
            }
            Begun::Board => {
                self.begun = Begun::Status;
                return Some(self.hub.status());
            }
            Begun::Status => {}
        }
        let closing = self.closing.clone();
        let closed = async move {
            match closing {
                Some(closing) => closing.closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = self.events.recv() => match received {
                Ok(bytes) => Some(bytes),
                Err(RecvError::Lagged(_)) => {
                    // What waits is older than the board that is sent instead.
                    self.events = self.events.resubscribe();
                    Some(self.hub.whole(&self.hub.engine.board()))
                }
                Err(RecvError::Closed) => None,
            },
            () = closed => None,
        }
    }
}
