//! `POST /api/v1/read`: remote read over the record.
//!
//! The first accepted type of response that is known decides: `STREAMED_XOR_CHUNKS` sends the chunks as they are
//! recorded, one series per frame, while the client reads; `SAMPLES` makes one message. Errors are plain text,
//! as a Prometheus expects them, which adds them to its own answer as a warning.

use super::Context;
use super::form::Refusal;
use crate::limits::{FORM_BODY_MAX_S, READ_QUERIES_MAX, READ_REQUEST_MAX_BYTES, READ_SAMPLES_MAX};
use crate::proto::{
    Chunk, ChunkedReadResponse, ChunkedSeries, Label, LabelMatcher, Query, QueryResult, ReadRequest,
    ReadResponse, Sample, TimeSeries,
};
use crate::publish::history::{Recorded, Want};
use crate::publish::select::Selector;
use crate::recorder::Past;
use crate::units::TimeMs;
use crate::wire::decompress;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::{BodyExt, Limited};
use promql_parser::label::Matcher;
use promql_parser::parser::token::{T_EQL, T_EQL_REGEX, T_NEQ, T_NEQ_REGEX};
use prost::Message;
use std::convert::Infallible;
use std::time::Duration;

/// Number of `STREAMED_XOR_CHUNKS` among the types of response; `SAMPLES` is 0.
const STREAMED: i32 = 1;
/// Number of the XOR encoding among those of chunks.
const XOR: i32 = 1;

/// Handles one read request.
pub async fn read(State(context): State<Context>, request: Request) -> Response {
    context.own.query_asked();
    match answer(&context, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_text(),
    }
}

async fn answer(context: &Context, request: Request) -> Result<Response, Refusal> {
    let body = Limited::new(request.into_body(), READ_REQUEST_MAX_BYTES).collect();
    let Ok(Ok(body)) = tokio::time::timeout(Duration::from_secs(FORM_BODY_MAX_S), body).await else {
        let message = format!(
            "the body must have at most {READ_REQUEST_MAX_BYTES} bytes and arrive whole within {FORM_BODY_MAX_S} s"
        );
        return Err(Refusal::bad_data(message));
    };
    let mut buffer = Vec::new();
    let message =
        decompress(&body.to_bytes(), &mut buffer).map_err(|error| Refusal::bad_data(error.to_string()))?;
    let asked = ReadRequest::decode(message)
        .map_err(|error| Refusal::bad_data(format!("invalid ReadRequest: {error}")))?;
    if asked.queries.len() > READ_QUERIES_MAX {
        return Err(Refusal::bad_data(format!(
            "more than {READ_QUERIES_MAX} queries; send several requests"
        )));
    }
    let accepted = &asked.accepted_response_types;
    let is_streamed = match accepted.iter().find(|kind| (0..=STREAMED).contains(*kind)) {
        Some(kind) => *kind == STREAMED,
        None if accepted.is_empty() => false,
        None => return Err(Refusal::bad_data("none of the accepted response types is known".into())),
    };
    let wants = asked.queries.iter().map(|query| want(query, context.wva_aliases));
    let wants = wants.collect::<Result<Vec<Want>, Refusal>>()?;
    let _place = super::query::place(context).await?;
    let samples_max = if is_streamed { usize::MAX } else { READ_SAMPLES_MAX };
    let times: Vec<_> = wants.iter().map(|want| (want.from, want.to)).collect();
    let past = context.engine.record().ask(wants, samples_max).await?;
    if is_streamed {
        return Ok(streamed(past));
    }
    let whole = tokio::task::spawn_blocking(move || whole(&past, &times)).await;
    whole.map_err(|_| Refusal::execution("the answer could not be made"))?
}

fn want(query: &Query, aliases: bool) -> Result<Want, Refusal> {
    let matchers = query.matchers.iter().map(|LabelMatcher { r#type, name, value }| {
        let operator = match r#type {
            0 => T_EQL,
            1 => T_NEQ,
            2 => T_EQL_REGEX,
            3 => T_NEQ_REGEX,
            other => return Err(Refusal::bad_data(format!("matcher type {other} is not known"))),
        };
        Matcher::new_matcher(operator, name.clone(), value.clone()).map_err(Refusal::bad_data)
    });
    Ok(Want {
        selector: Selector::of(matchers.collect::<Result<_, _>>()?),
        from: TimeMs(query.start_timestamp_ms),
        to: TimeMs(query.end_timestamp_ms),
        aliases,
    })
}

fn labels(recorded: &Recorded) -> Vec<Label> {
    let pairs = recorded.labels().into_iter();
    pairs.map(|(name, value)| Label { name: name.to_owned(), value: value.to_owned() }).collect()
}

/// Frames as the client takes them; only one of them is in memory at a time.
fn streamed(past: Past) -> Response {
    let series = past.series.into_iter().enumerate();
    let frames = series.flat_map(|(index, series)| {
        series.into_iter().map(move |recorded| Ok::<_, Infallible>(frame(index as i64, &recorded)))
    });
    let kind = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream::iter(frames))).into_response()
}

/// One series: the message's length, its checksum, and the message.
fn frame(query_index: i64, recorded: &Recorded) -> Bytes {
    let chunks = recorded.chunks.iter().map(|chunk| Chunk {
        min_time_ms: chunk.min.0,
        max_time_ms: chunk.max.0,
        r#type: XOR,
        data: chunk.bytes.to_vec(),
    });
    let series = ChunkedSeries { labels: labels(recorded), chunks: chunks.collect() };
    let message = ChunkedReadResponse { chunked_series: vec![series], query_index }.encode_to_vec();
    let mut frame = Vec::with_capacity(message.len() + 9);
    // A vector takes whatever is written to it.
    let _ = prost::encode_length_delimiter(message.len(), &mut frame);
    frame.extend(crc32c::crc32c(&message).to_be_bytes());
    frame.extend(message);
    frame.into()
}

fn whole(past: &Past, times: &[(TimeMs, TimeMs)]) -> Result<Response, Refusal> {
    let results = past.series.iter().zip(times).map(|(series, (from, to))| {
        let timeseries = series.iter().map(|recorded| {
            let samples = recorded.points(*from, *to);
            let samples = samples.map(|(time, value)| Sample { value, timestamp: time.0 }).collect();
            TimeSeries { labels: labels(recorded), samples, ..TimeSeries::default() }
        });
        QueryResult { timeseries: timeseries.filter(|series| !series.samples.is_empty()).collect() }
    });
    let message = ReadResponse { results: results.collect() }.encode_to_vec();
    let body = snap::raw::Encoder::new().compress_vec(&message);
    let body = body.map_err(|error| Refusal::execution(&error.to_string()))?;
    let headers = [(header::CONTENT_TYPE, "application/x-protobuf"), (header::CONTENT_ENCODING, "snappy")];
    Ok((StatusCode::OK, headers, body).into_response())
}
