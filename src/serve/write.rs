//! `POST /api/v1/write`: remote-write 1.0 and 2.0, told apart by the content type alone.
//!
//! Encoding and type are checked before the body is read, sizes before anything is allocated. 2xx means:
//! the samples are in the windows and the decisions that they cause are on the board. Overload is 503
//! with `Retry-After`, because Prometheus drops data on 429.
//!
//! Answers to 2.0 say how much was accepted, also with 400. With 5xx they say 0, because the sender sends
//! everything again; what was kept of it changes nothing the second time. Answers to 1.0 never say it: a
//! sender of 1.0 would believe the numbers of things it did not send.

use super::Context;
use super::connection::drain;
use crate::engine::{WriteReport, Written};
use crate::limits::RETRY_AFTER_S;
use crate::runner::RunnerError;
use crate::wire::{Version, WireError, decompress_within};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use std::sync::Mutex;
use std::time::Instant;
use tokio::sync::SemaphorePermit;

/// Buffers for decompressed requests, kept for reuse.
static BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// Most buffers kept.
const BUFFERS_MAX: usize = 8;
/// Larger buffers are given back to the system.
const BUFFER_KEPT_MAX_BYTES: usize = 8 << 20;

/// Handles one write request.
pub async fn write(State(context): State<Context>, request: Request) -> Response {
    let started = Instant::now();
    let (head, mut body) = request.into_parts();
    let version = check_headers(&head.headers);
    let taken = match &version {
        Ok(version) => take(&context, *version, &head.headers, &mut body).await,
        Err(refusal) => Err(refusal.clone()),
    };
    let (mut response, written) = match taken {
        Ok(written) => (StatusCode::NO_CONTENT.into_response(), written),
        Err(refusal) => {
            if refusal.status != StatusCode::REQUEST_TIMEOUT {
                // Closed while it still sends, the sender would never read when to try again.
                drain(body).await;
            }
            (refusal.response(), refusal.written)
        }
    };
    if version.is_ok_and(|version| version == Version::V2) {
        tell(response.headers_mut(), written);
    }
    context.own.write_answered(response.status(), started.elapsed());
    response
}

/// An answer other than success.
#[derive(Clone, Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
    /// What was accepted all the same.
    written: Written,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal { status, message: message.into(), written: Written::default() }
    }

    fn busy(message: &str) -> Self {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    fn response(&self) -> Response {
        let mut response = (self.status, format!("{}\n", self.message)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        let status = match error {
            WireError::CompressedTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, error.to_string())
    }
}

/// Says how much was accepted.
fn tell(headers: &mut HeaderMap, written: Written) {
    for (name, count) in [
        ("x-prometheus-remote-write-samples-written", written.samples),
        ("x-prometheus-remote-write-histograms-written", written.histograms),
        ("x-prometheus-remote-write-exemplars-written", written.exemplars),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(count));
    }
}

async fn take(
    context: &Context,
    version: Version,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Written, Refusal> {
    if context.engine.board().filling {
        // The sender tries again, so the present comes after the past, whole and in order.
        return Err(Refusal::busy("the windows are being filled from Prometheus; try again"));
    }
    let (body, mut reserved) = read_body(context, headers, body).await?;
    let limit = context.limits.request_bytes;
    let announced = snap::raw::decompress_len(&body).unwrap_or(0);
    context.own.request_announced(announced.max(body.len()));
    let announced = announced.min(limit);
    reserved.merge(reserve(context, announced)?);

    let mut buffer = BUFFERS.lock().map(|mut kept| kept.pop()).ok().flatten().unwrap_or_default();
    let len = match decompress_within(&body, &mut buffer, limit) {
        Ok(message) => message.len(),
        Err(error) => {
            keep(buffer);
            return Err(error.into());
        }
    };
    let received = context.engine.tape.is_some().then_some(body);
    let answer =
        context.engine.write_received(version, buffer, len, received).map_err(|error| match error {
            RunnerError::Busy => Refusal::busy("the queue of write requests is full; try again"),
            RunnerError::Ended => Refusal::busy("shutting down; try again"),
        })?;
    let done = answer.await.map_err(|_| Refusal::busy("shutting down; try again"))?;
    keep(done.buffer);
    let report = done.outcome?;
    context.own.write_taken(&report);
    match complaint(&report) {
        None => Ok(report.written),
        Some(message) => {
            Err(Refusal { written: report.written, ..Refusal::new(StatusCode::BAD_REQUEST, message) })
        }
    }
}

/// What was refused for good, and why.
fn complaint(report: &WriteReport) -> Option<String> {
    let refused = report.rejected + report.no_room;
    if refused == 0 {
        return None;
    }
    let mut reasons: Vec<String> = report.rejections.iter().map(ToString::to_string).collect();
    let more = report.rejected - report.rejections.len() as u64;
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    if report.no_room > 0 {
        reasons.push(format!(
            "{} new series found no room: the limit of live series (--max-series) is reached; forward fewer \
             (write_relabel_configs) or raise it",
            report.no_room
        ));
    }
    Some(format!("{refused} rejected, the rest was kept: {}", reasons.join("; ")))
}

fn keep(buffer: Vec<u8>) {
    if let Ok(mut kept) = BUFFERS.lock()
        && kept.len() < BUFFERS_MAX
        && buffer.capacity() <= BUFFER_KEPT_MAX_BYTES
    {
        kept.push(buffer);
    }
}

/// The schema is chosen by `Content-Type` alone; the version header is informative.
fn check_headers(headers: &HeaderMap) -> Result<Version, Refusal> {
    let unsupported = |message: String| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?").trim());
    match text(header::CONTENT_ENCODING) {
        None | Some("" | "snappy") => {}
        Some(other) => {
            return unsupported(format!(
                "content encoding {} is not supported; send snappy",
                other.escape_debug()
            ));
        }
    }
    let mut version = Version::V1;
    let Some(content_type) = text(header::CONTENT_TYPE) else { return Ok(version) };
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    if !media_type.eq_ignore_ascii_case("application/x-protobuf") {
        return unsupported(format!(
            "content type {} is not supported; send application/x-protobuf",
            media_type.escape_debug()
        ));
    }
    for parameter in parts.filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=').map(|(key, value)| (key.trim(), value.trim().trim_matches('"'))) {
            Some(("proto", "prometheus.WriteRequest")) => version = Version::V1,
            Some(("proto", "io.prometheus.write.v2.Request")) => version = Version::V2,
            Some(("proto", other)) => {
                return unsupported(format!(
                    "message {} is not supported; set protobuf_message: io.prometheus.write.v2.Request \
                     or prometheus.WriteRequest",
                    other.escape_debug()
                ));
            }
            Some(_) => {}
            None => return unsupported("content type has a parameter without a value".into()),
        }
    }
    Ok(version)
}

fn reserve(context: &Context, bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    context
        .write_bytes
        .try_acquire_many(bytes)
        .map_err(|_| Refusal::busy("too many bytes of write requests are under way; try again"))
}

/// Reads the body within its size and time limits; its size is reserved before it is read.
async fn read_body<'c>(
    context: &'c Context,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<(Vec<u8>, SemaphorePermit<'c>), Refusal> {
    let limit = context.limits.request_bytes;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
        return Err(WireError::CompressedTooLarge { bytes, limit }.into());
    }
    let mut reserved = reserve(context, announced.unwrap_or(0))?;
    let mut collected = Vec::with_capacity(announced.unwrap_or(0));
    let deadline = tokio::time::Instant::now() + context.write_body_max;
    loop {
        let frame = tokio::time::timeout_at(deadline, next_data(body)).await.map_err(|_| {
            Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not arrive within {:?}", context.write_body_max),
            )
        })?;
        let Some(data) = frame? else { return Ok((collected, reserved)) };
        let bytes = collected.len() + data.len();
        if bytes > limit {
            return Err(WireError::CompressedTooLarge { bytes, limit }.into());
        }
        if announced.is_none() {
            reserved.merge(reserve(context, data.len())?);
        }
        collected.extend_from_slice(&data);
    }
}

async fn next_data(body: &mut Body) -> Result<Option<bytes::Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("body cut off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
