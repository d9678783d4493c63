//! `/api/v1/query` and `/api/v1/variants`: the board for autoscalers and people.

use super::{Context, api_error, json_response};
use crate::config::VariantKey;
use crate::limits::{QUERY_MAX_BYTES, QUERY_NOW_MS};
use crate::publish::json;
use crate::publish::select::{QueryError, Sample, Selector};
use crate::runner::Clock;
use crate::units::TimeMs;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

/// `GET /api/v1/query`.
pub async fn query_get(State(context): State<Context>, RawQuery(query): RawQuery) -> Response {
    answer(&context, query.as_deref().unwrap_or_default().as_bytes())
}

/// `POST /api/v1/query`: parameters in a form body, in the URL, or both.
pub async fn query_post(State(context): State<Context>, RawQuery(query): RawQuery, body: Body) -> Response {
    let Ok(body) = Limited::new(body, QUERY_MAX_BYTES).collect().await else {
        let message = format!("the form body must arrive whole and have at most {QUERY_MAX_BYTES} bytes");
        return api_error(StatusCode::PAYLOAD_TOO_LARGE, "bad_data", &message);
    };
    let mut form = body.to_bytes().to_vec();
    if let Some(query) = query {
        form.push(b'&');
        form.extend_from_slice(query.as_bytes());
    }
    answer(&context, &form)
}

fn answer(context: &Context, form: &[u8]) -> Response {
    context.own.query_asked();
    let parameter = |name: &str| {
        form_urlencoded::parse(form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let board = context.engine.board();
    let now = context.engine.clock.reader_now(&board);
    let Some(query) = parameter("query") else {
        return api_error(StatusCode::BAD_REQUEST, "bad_data", "parameter \"query\" is missing");
    };
    let asked = match parameter("time").filter(|time| !time.is_empty()).map(|time| parse_time(&time)) {
        None => now,
        Some(Some(time)) => time,
        Some(None) => {
            let message = "invalid parameter \"time\": give seconds since the epoch or RFC 3339";
            return api_error(StatusCode::BAD_REQUEST, "bad_data", message);
        }
    };
    if context.engine.clock == Clock::Wall && now.since(asked) > QUERY_NOW_MS {
        let message = "only present values are served; ask Prometheus for times more than 5 minutes ago";
        return api_error(StatusCode::UNPROCESSABLE_ENTITY, "execution", message);
    }
    let result =
        Selector::parse(&query).and_then(|selector| selector.evaluate(&board, now, context.wva_aliases));
    match result {
        Ok(samples) => {
            let vector: Vec<Value> = samples.iter().map(|sample| element(sample, asked)).collect();
            let data = json!({"resultType": "vector", "result": vector});
            json_response(StatusCode::OK, &json!({"status": "success", "data": data}))
        }
        Err(error) => {
            let (status, kind) = match error {
                QueryError::BadData(_) => (StatusCode::BAD_REQUEST, "bad_data"),
                QueryError::Unsupported(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
                QueryError::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            };
            api_error(status, kind, &error.to_string())
        }
    }
}

fn element(sample: &Sample, time: TimeMs) -> Value {
    let labels: serde_json::Map<String, Value> =
        sample.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    // Whole milliseconds survive in a double, and serde_json writes these without an exponent.
    json!({"metric": labels, "value": [time.0 as f64 / 1000.0, sample.value]})
}

/// Seconds since the epoch, with fraction, or RFC 3339.
fn parse_time(text: &str) -> Option<TimeMs> {
    /// Far beyond any sensible time and far within an i64 of milliseconds.
    const SECONDS_MAX: f64 = 1e12;
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds.abs() <= SECONDS_MAX).then(|| TimeMs((seconds * 1000.0).round() as i64));
    }
    text.parse::<jiff::Timestamp>().ok().map(|time| TimeMs(time.as_millisecond()))
}

/// `GET /api/v1/variants`: every decision with inputs and reason, and what is wrong.
pub async fn variants(State(context): State<Context>) -> Response {
    let board = context.engine.board();
    let now = context.engine.clock.reader_now(&board);
    json_response(StatusCode::OK, &json::board(&board, now))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(parse_time("1435781451.781"), Some(TimeMs(1_435_781_451_781)));
        assert_eq!(parse_time("2015-07-01T20:10:51Z"), Some(TimeMs(1_435_781_451_000)));
        assert_eq!(parse_time("1e300"), None);
        assert_eq!(parse_time("NaN"), None);
        assert_eq!(parse_time("yesterday"), None);
    }

    #[test]
    fn timestamps_are_written_without_an_exponent() {
        let sample = Sample { labels: vec![("a".into(), "b".into())], value: "3".into() };
        let text = element(&sample, TimeMs(1_435_781_451_781)).to_string();
        assert_eq!(text, r#"{"metric":{"a":"b"},"value":[1435781451.781,"3"]}"#);
    }
}
