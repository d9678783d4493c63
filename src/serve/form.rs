//! Parameters of the query API, from a URL's query, a form body, or both.

use super::api_error;
use crate::limits::{FORM_BODY_MAX_S, QUERY_MAX_BYTES};
use crate::publish::promql::QueryError;
use crate::recorder::PastError;
use crate::units::TimeMs;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use std::time::Duration;

/// Far beyond any sensible time and far within an i64 of milliseconds.
const SECONDS_MAX: f64 = 1e12;

/// The parameters of one request. An empty one counts as absent, as `time=` and `timeout=` of some
/// clients are.
pub struct Form(Vec<(String, String)>);

impl<S: Sync> FromRequest<S> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let mut text = Vec::new();
        if request.method() == Method::POST {
            let body: Body = request.into_body();
            let body = Limited::new(body, QUERY_MAX_BYTES).collect();
            let Ok(Ok(body)) = tokio::time::timeout(Duration::from_secs(FORM_BODY_MAX_S), body).await else {
                let message = format!(
                    "the form body must have at most {QUERY_MAX_BYTES} bytes and arrive whole within \
                     {FORM_BODY_MAX_S} s"
                );
                return Err(api_error(StatusCode::PAYLOAD_TOO_LARGE, "bad_data", &message));
            };
            text.extend_from_slice(&body.to_bytes());
            text.push(b'&');
        }
        text.extend_from_slice(query.as_bytes());
        Ok(Form::parse(&text))
    }
}

impl Form {
    fn parse(text: &[u8]) -> Self {
        Form(form_urlencoded::parse(text).into_owned().collect())
    }

    /// Every value of a parameter.
    pub fn all<'f>(&'f self, name: &str) -> impl Iterator<Item = &'f str> {
        let same = move |pair: &&(String, String)| pair.0 == name;
        let values: Vec<&str> = self.0.iter().filter(same).map(|(_, value)| &**value).collect();
        values.into_iter()
    }

    /// The first value of a parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// A time: seconds since the epoch with fraction, or RFC 3339.
    pub fn time(&self, name: &str) -> Result<Option<TimeMs>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let time = match text.parse::<f64>() {
            Ok(seconds) => (seconds.abs() <= SECONDS_MAX).then(|| TimeMs((seconds * 1000.0).round() as i64)),
            Err(_) => text.parse::<jiff::Timestamp>().ok().map(|time| TimeMs(time.as_millisecond())),
        };
        let message = "give seconds since the epoch or RFC 3339";
        time.map(Some).ok_or_else(|| Refusal::invalid(name, message))
    }

    /// A positive duration in milliseconds: seconds with fraction, or as in PromQL.
    pub fn duration_ms(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let seconds = match text.parse::<f64>() {
            Ok(seconds) => Some(seconds),
            Err(_) => promql_parser::util::parse_duration(text).ok().map(|duration| duration.as_secs_f64()),
        };
        let ms = seconds.filter(|seconds| *seconds <= SECONDS_MAX).map(|seconds| (seconds * 1000.0) as i64);
        let message = "give a duration above zero, in seconds or such as 15s";
        ms.filter(|ms| *ms > 0).map(Some).ok_or_else(|| Refusal::invalid(name, message))
    }

    /// Most results wanted; 0 and none mean all.
    pub fn limit(&self) -> Result<usize, Refusal> {
        match self.text("limit").map(str::parse::<usize>) {
            None | Some(Ok(0)) => Ok(usize::MAX),
            Some(Ok(limit)) => Ok(limit),
            Some(Err(_)) => Err(Refusal::invalid("limit", "give a number from 0 up")),
        }
    }
}

/// Why a request is not answered, in the words of the Prometheus API.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Refusal {
    /// The request is not what it should be.
    pub fn bad_data(message: String) -> Self {
        Refusal { status: StatusCode::BAD_REQUEST, kind: "bad_data", message }
    }

    /// A parameter is not what it should be.
    pub fn invalid(name: &str, message: &str) -> Self {
        Refusal::bad_data(format!("invalid parameter \"{name}\": {message}"))
    }

    /// A parameter is not there.
    pub fn missing(name: &str) -> Self {
        Refusal::bad_data(format!("parameter \"{name}\" is missing"))
    }

    /// The request is understood and cannot be carried out.
    pub fn execution(message: &str) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Refusal { status, kind: "execution", message: message.to_owned() }
    }

    /// The same request may be answered in a moment.
    pub fn busy(message: &str) -> Self {
        Refusal { status: StatusCode::SERVICE_UNAVAILABLE, kind: "unavailable", message: message.to_owned() }
    }
}

impl Refusal {
    /// As plain text, for clients that do not read JSON. What cannot be carried out is a bad request to them.
    pub fn into_text(self) -> Response {
        let is_refused = self.status == StatusCode::UNPROCESSABLE_ENTITY;
        let status = if is_refused { StatusCode::BAD_REQUEST } else { self.status };
        (status, format!("{}\n", self.message)).into_response()
    }
}

impl From<PastError> for Refusal {
    fn from(error: PastError) -> Self {
        match error {
            PastError::TooMuch(_) => Refusal::execution(&error.to_string()),
            PastError::Busy | PastError::Ended => Refusal::busy(&error.to_string()),
        }
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        let message = error.to_string();
        match error {
            QueryError::BadData(_) => Refusal::bad_data(message),
            QueryError::Unsupported(_) | QueryError::Failed(_) => Refusal::execution(&message),
            QueryError::NotReady(_) => Refusal::busy(&message),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        api_error(self.status, self.kind, &self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Option<TimeMs> {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("time", text).finish();
        Form::parse(form.as_bytes()).time("time").ok().flatten()
    }

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(time("1435781451.781"), Some(TimeMs(1_435_781_451_781)));
        assert_eq!(time("2015-07-01T20:10:51Z"), Some(TimeMs(1_435_781_451_000)));
        assert_eq!(time("1e300"), None);
        assert_eq!(time("NaN"), None);
        assert_eq!(time("yesterday"), None);
    }

    #[test]
    fn durations_are_above_zero() {
        for (text, expected) in [
            ("15", Some(15_000)),
            ("0.5", Some(500)),
            ("15s", Some(15_000)),
            ("1m30s", Some(90_000)),
            ("0", None),
            ("-5", None),
            ("NaN", None),
            ("inf", None),
            ("soon", None),
        ] {
            let form = Form(vec![("step".into(), text.into())]);
            assert_eq!(form.duration_ms("step").ok().flatten(), expected, "{text}");
        }
    }
}
