//! What Prometheus has stored, by remote read or by its query API.

use super::Slice;
use crate::client::{Client, ClientError};
use crate::limits::{BACKFILL_ANSWER_MAX_BYTES, BACKFILL_DECODED_MAX_BYTES};
use crate::proto::{Label, LabelMatcher, Query, ReadRequest, Sample, TimeSeries};
use crate::units::TimeMs;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use prost::encoding::{encode_key, encode_varint, wire_type::WireType};
use prost::{DecodeError, Message};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Type of the matcher `=~`.
const REGEX: i32 = 2;
/// Shown of an answer that is an error, bytes.
const ERROR_SHOWN: usize = 200;

/// Why the past cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No answer, or one that may be another in a moment.
    #[error("{0}")]
    Unreachable(String),
    /// More than is read at once.
    #[error("the answer is too large even for a short time; forward or store fewer series")]
    TooLarge,
    /// More samples than a backfill takes in.
    #[error("more samples than a backfill takes in; shorten --backfill")]
    TooMany,
    /// An answer that says no, or that cannot be read.
    #[error("{0}")]
    Answer(String),
    /// The sidecar is stopping.
    #[error("the engine has ended")]
    Ended,
}

impl From<ClientError> for SourceError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::TooLarge(_) => SourceError::TooLarge,
            ClientError::Settings(why) => SourceError::Answer(why),
            ClientError::Connection(_) | ClientError::Timeout(_) => {
                SourceError::Unreachable(error.to_string())
            }
        }
    }
}

/// A stored series.
#[derive(Debug)]
pub struct Stored {
    /// Its labels, as they are encoded within a `TimeSeries`.
    pub labels: Bytes,
    /// Its samples: time, ms, and value.
    pub samples: Vec<(i64, f64)>,
}

/// The server that is asked.
pub struct Source<'a> {
    url: &'a str,
    client: &'a Client,
    /// Regular expression of the names that matter.
    names: String,
    has_remote_read: bool,
}

impl<'a> Source<'a> {
    /// Asks the server at `url` for series of these names.
    pub fn new(url: &'a str, client: &'a Client, metrics: &[String]) -> Self {
        // A dot is the only character of a name that means something in a regular expression.
        let names = metrics.iter().map(|name| name.replace('.', "\\.")).collect::<Vec<_>>().join("|");
        Source { url: url.trim_end_matches('/'), client, names, has_remote_read: true }
    }

    /// Stored samples between two times, both inclusive.
    pub async fn read(&mut self, from: TimeMs, to: TimeMs) -> Result<Vec<Stored>, SourceError> {
        let slice = Slice { from, to };
        if self.has_remote_read {
            match self.remote_read(slice).await? {
                Some(series) => return Ok(series),
                None => {
                    tracing::info!("the server has no remote read; asking its query API");
                    self.has_remote_read = false;
                }
            }
        }
        self.query(slice).await
    }

    /// By remote read; `None` when the server has none.
    async fn remote_read(&self, slice: Slice) -> Result<Option<Vec<Stored>>, SourceError> {
        let name = LabelMatcher { r#type: REGEX, name: "__name__".into(), value: self.names.clone() };
        let query =
            Query { start_timestamp_ms: slice.from.0, end_timestamp_ms: slice.to.0, matchers: vec![name] };
        let asked = ReadRequest { queries: vec![query], accepted_response_types: vec![0] }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&asked);
        let body = body.map_err(|error| SourceError::Answer(error.to_string()))?;
        let request = Request::builder()
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(CONTENT_ENCODING, "snappy")
            .header(ACCEPT_ENCODING, "snappy")
            .header("x-prometheus-remote-read-version", "0.1.0");
        let answer = self.ask("/api/v1/read", request, body).await?;
        match answer.status() {
            // Prometheus's answer to more samples than it reads at once.
            StatusCode::BAD_REQUEST if text(&answer).contains("limit") => return Err(SourceError::TooLarge),
            // Servers without remote read; VictoriaMetrics calls the path a bad request.
            StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::NOT_IMPLEMENTED => return Ok(None),
            _ => check(&answer)?,
        }
        let is_protobuf = answer
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("application/x-protobuf")));
        if !is_protobuf {
            return Ok(None);
        }
        let decoded = tokio::task::spawn_blocking(move || decode(answer.body())).await;
        decoded.map_err(|error| SourceError::Answer(error.to_string()))?.map(Some)
    }

    /// By a range selector, whose answer holds the samples as they are stored.
    async fn query(&self, slice: Slice) -> Result<Vec<Stored>, SourceError> {
        let query = format!("{{__name__=~{:?}}}[{}ms]", self.names, slice.to.since(slice.from) + 1);
        let time = format!("{}.{:03}", slice.to.0 / 1000, slice.to.0.rem_euclid(1000));
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("query", &query), ("time", &time)])
            .finish();
        let request = Request::builder().header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = self.ask("/api/v1/query", request, form.into()).await?;
        if answer.status() == StatusCode::UNPROCESSABLE_ENTITY && text(&answer).contains("too many samples") {
            return Err(SourceError::TooLarge);
        }
        check(&answer)?;
        let read = tokio::task::spawn_blocking(move || matrix(answer.body())).await;
        read.map_err(|error| SourceError::Answer(error.to_string()))?
    }

    async fn ask(
        &self,
        path: &str,
        request: hyper::http::request::Builder,
        body: Vec<u8>,
    ) -> Result<Response<Bytes>, SourceError> {
        let request = request
            .method(Method::POST)
            .uri(format!("{}{path}", self.url))
            .header(USER_AGENT, concat!("inferno-sidecar/", env!("CARGO_PKG_VERSION")))
            .body(Full::from(body))
            .map_err(|error| SourceError::Answer(format!("--prometheus-url: {error}")))?;
        Ok(self.client.fetch(request, BACKFILL_ANSWER_MAX_BYTES, ANSWER_MAX).await?)
    }
}

fn text(answer: &Response<Bytes>) -> String {
    String::from_utf8_lossy(&answer.body()[..answer.body().len().min(ERROR_SHOWN)]).into_owned()
}

fn check(answer: &Response<Bytes>) -> Result<(), SourceError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let said = format!("Prometheus answers {status}: {}", text(answer).escape_debug());
    // It may be starting, or be busy.
    Err(if status.is_server_error() { SourceError::Unreachable(said) } else { SourceError::Answer(said) })
}

/// A `ReadResponse` whose parts are left as they are: decoded whole, its labels would take several times its size.
#[derive(Clone, PartialEq, Message)]
struct Answered {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    results: Vec<Bytes>,
}

/// A `QueryResult`, likewise.
#[derive(Clone, PartialEq, Message)]
struct Found {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    series: Vec<Bytes>,
}

/// A `TimeSeries`, likewise.
#[derive(Clone, PartialEq, Message)]
struct Parts {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    labels: Vec<Bytes>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

impl Stored {
    /// The series of an encoded `TimeSeries`.
    fn decode(message: Bytes, scratch: &mut Vec<u8>) -> Result<Self, DecodeError> {
        let series = Parts::decode(message.clone())?;
        scratch.clear();
        for label in &series.labels {
            encode_key(1, WireType::LengthDelimited, scratch);
            encode_varint(label.len() as u64, scratch);
            scratch.extend_from_slice(label);
        }
        // They come first and one after the other, unless the server is an odd one: then nothing is copied.
        let labels = match message.starts_with(scratch) {
            true => message.slice(..scratch.len()),
            false => Bytes::copy_from_slice(scratch),
        };
        let samples = series.samples.iter().map(|sample| (sample.timestamp, sample.value)).collect();
        Ok(Stored { labels, samples })
    }
}

fn decode(body: &[u8]) -> Result<Vec<Stored>, SourceError> {
    let unreadable = |error: String| SourceError::Answer(format!("the answer cannot be read: {error}"));
    let length = snap::raw::decompress_len(body).map_err(|error| unreadable(error.to_string()))?;
    if length > BACKFILL_DECODED_MAX_BYTES {
        return Err(SourceError::TooLarge);
    }
    let message = snap::raw::Decoder::new().decompress_vec(body);
    let message = message.map_err(|error| unreadable(error.to_string()))?;
    parts(Bytes::from(message)).map_err(|error| unreadable(error.to_string()))
}

fn parts(message: Bytes) -> Result<Vec<Stored>, DecodeError> {
    let (mut all, mut scratch) = (Vec::new(), Vec::new());
    for result in Answered::decode(message)?.results {
        for series in Found::decode(result)?.series {
            all.push(Stored::decode(series, &mut scratch)?);
        }
    }
    Ok(all)
}

/// An answer of the query API, as far as it matters.
#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    metric: BTreeMap<String, String>,
    /// Native histograms have none.
    #[serde(default)]
    values: Vec<(f64, String)>,
}

fn matrix(body: &[u8]) -> Result<Vec<Stored>, SourceError> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| SourceError::Answer(format!("the answer cannot be read: {error}")))?;
    let series = answer.data.result.into_iter().map(|line| {
        let labels = line.metric.into_iter().map(|(name, value)| Label { name, value }).collect();
        let values = line.values.into_iter();
        Stored {
            labels: TimeSeries { labels, ..TimeSeries::default() }.encode_to_vec().into(),
            samples: values
                .filter_map(|(seconds, value)| Some(((seconds * 1000.0).round() as i64, value.parse().ok()?)))
                .collect(),
        }
    });
    Ok(series.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{QueryResult, ReadResponse};

    fn series(name: &str, times: &[i64]) -> TimeSeries {
        let label = |name: &str, value: &str| Label { name: name.into(), value: value.into() };
        TimeSeries {
            labels: vec![label("__name__", name), label("pod", "a")],
            samples: times.iter().map(|time| Sample { value: 0.5, timestamp: *time }).collect(),
            ..TimeSeries::default()
        }
    }

    #[test]
    fn an_answer_is_taken_apart_as_it_was_made() {
        let timeseries = vec![series("a", &[1_000, 16_000]), series("b", &[])];
        let result = QueryResult { timeseries: timeseries.clone() };
        let answer = ReadResponse { results: vec![result.clone(), result] }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&answer).unwrap();
        let all = decode(&body).unwrap();
        assert_eq!(all.len(), 4);
        for (stored, series) in all.iter().zip(timeseries.iter().cycle()) {
            let labels = TimeSeries { samples: Vec::new(), ..series.clone() };
            assert_eq!(TimeSeries::decode(&*stored.labels).unwrap(), labels);
            let samples: Vec<_> = series.samples.iter().map(|s| (s.timestamp, s.value)).collect();
            assert_eq!(stored.samples, samples);
        }
    }

    #[test]
    fn labels_after_samples_are_found() {
        let one = series("a", &[1_000]);
        let labels = TimeSeries { samples: Vec::new(), ..one.clone() }.encode_to_vec();
        let samples = TimeSeries { labels: Vec::new(), ..one }.encode_to_vec();
        let odd = [&samples[..], &labels].concat();
        let stored = Stored::decode(odd.into(), &mut Vec::new()).unwrap();
        assert_eq!((&*stored.labels, stored.samples), (&*labels, vec![(1_000, 0.5)]));
    }

    #[test]
    fn an_answer_that_is_cut_off_or_no_answer_is_an_error() {
        let result = QueryResult { timeseries: vec![series("a", &[1_000])] };
        let answer = ReadResponse { results: vec![result] }.encode_to_vec();
        for length in 1..answer.len() {
            let body = snap::raw::Encoder::new().compress_vec(&answer[..length]).unwrap();
            assert!(matches!(decode(&body), Err(SourceError::Answer(_))), "{length}");
        }
        assert!(matches!(decode(b"\xff\xff\xff"), Err(SourceError::Answer(_))));
    }
}
