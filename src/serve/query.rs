//! `/api/v1/query` and `/api/v1/query_range`: PromQL over the board, in the form of the Prometheus API.

use super::form::{Form, Refusal};
use super::{Context, json_response};
use crate::limits::{QUERY_NOW_MS, QUERY_POINTS_MAX, QUERY_SAMPLES_MAX};
use crate::publish::exposition::write_value;
use crate::publish::promql::{Labels, Query, Value};
use crate::publish::select::View;
use crate::runner::Clock;
use crate::units::TimeMs;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};

/// `/api/v1/query`.
pub async fn instant(State(context): State<Context>, form: Form) -> Response {
    context.own.query_asked();
    evaluate(&context, &form, Asked::instant).into_response()
}

/// `/api/v1/query_range`.
pub async fn range(State(context): State<Context>, form: Form) -> Response {
    context.own.query_asked();
    evaluate(&context, &form, Asked::range).into_response()
}

/// When a query is to be evaluated.
enum Asked {
    At(TimeMs),
    Range { start: TimeMs, step_ms: i64, points: i64 },
}

impl Asked {
    fn instant(form: &Form, now: TimeMs) -> Result<Self, Refusal> {
        Ok(Asked::At(form.time("time")?.unwrap_or(now)))
    }

    fn range(form: &Form, _: TimeMs) -> Result<Self, Refusal> {
        let start = form.time("start")?.ok_or_else(|| Refusal::missing("start"))?;
        let end = form.time("end")?.ok_or_else(|| Refusal::missing("end"))?;
        let step_ms = form.duration_ms("step")?.ok_or_else(|| Refusal::missing("step"))?;
        if end < start {
            return Err(Refusal::invalid("end", "end timestamp must not be before start timestamp"));
        }
        let points = end.since(start) / step_ms + 1;
        if points > QUERY_POINTS_MAX {
            let message = format!("more than {QUERY_POINTS_MAX} points per series; take a larger step");
            return Err(Refusal::invalid("step", &message));
        }
        Ok(Asked::Range { start, step_ms, points })
    }

    fn earliest(&self) -> TimeMs {
        match self {
            Asked::At(time) | Asked::Range { start: time, .. } => *time,
        }
    }
}

fn evaluate(
    context: &Context,
    form: &Form,
    asked: impl Fn(&Form, TimeMs) -> Result<Asked, Refusal>,
) -> Result<Response, Refusal> {
    let board = context.engine.board();
    let now = context.engine.clock.reader_now(&board);
    let text = form.text("query").ok_or_else(|| Refusal::missing("query"))?;
    let asked = asked(form, now)?;
    let limit = form.limit()?;
    if context.engine.clock == Clock::Wall && now.since(asked.earliest()) > QUERY_NOW_MS {
        let message = "history is not recorded; ask Prometheus for times more than 5 minutes ago";
        return Err(Refusal::execution(message));
    }
    let view = View { board: &board, now, aliases: context.wva_aliases };
    let value = Query::parse(text)?.evaluate(&view)?;
    let (kind, mut result) = match asked {
        Asked::At(time) => rendered(value, time),
        Asked::Range { start, step_ms, points } => {
            let times: Vec<TimeMs> = (0..points).map(|point| start + point * step_ms).collect();
            ("matrix", repeated(value, &times, limit)?)
        }
    };
    // A scalar's result is no list of series.
    let warnings = if kind == "scalar" { Vec::new() } else { truncate(&mut result, limit) };
    Ok(success_with(&json!({"resultType": kind, "result": result}), &warnings))
}

/// A result at one point in time.
fn rendered(value: Value<'_>, time: TimeMs) -> (&'static str, Vec<Json>) {
    match value {
        Value::Scalar(value) => {
            let Json::Array(pair) = point(time, &number(value)) else { return ("scalar", Vec::new()) };
            ("scalar", pair)
        }
        Value::Vector(samples) => {
            let elements = samples.iter().map(|sample| {
                json!({"metric": metric(&sample.labels), "value": point(time, &number(sample.value))})
            });
            ("vector", elements.collect())
        }
    }
}

/// The present values at every point in time: what is recorded has no other.
fn repeated(value: Value<'_>, times: &[TimeMs], limit: usize) -> Result<Vec<Json>, Refusal> {
    let series = match value {
        Value::Scalar(value) => vec![(Json::Object(serde_json::Map::new()), number(value))],
        Value::Vector(samples) => {
            samples.iter().map(|sample| (metric(&sample.labels), number(sample.value))).collect()
        }
    };
    if series.len().min(limit).saturating_mul(times.len()) > QUERY_SAMPLES_MAX {
        let message = format!("the range has more than {QUERY_SAMPLES_MAX} samples; take a larger step");
        return Err(Refusal::execution(&message));
    }
    // One more than wanted shows that there are more.
    let series = series.into_iter().take(limit.saturating_add(1)).map(|(metric, value)| {
        let values: Vec<Json> = times.iter().map(|time| point(*time, &value)).collect();
        json!({"metric": metric, "values": values})
    });
    Ok(series.collect())
}

/// Labels as an object.
pub fn metric(labels: &Labels<'_>) -> Json {
    Json::Object(labels.iter().map(|(name, value)| ((*name).to_owned(), Json::from(*value))).collect())
}

fn number(value: f64) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

/// A value is text, because a bare number makes some readers fail.
fn point(time: TimeMs, value: &str) -> Json {
    // Whole milliseconds survive in a double, and serde_json writes these without an exponent.
    json!([time.0 as f64 / 1000.0, value])
}

/// Cuts a list to its limit; gives the warning that goes with it.
pub fn truncate<T>(list: &mut Vec<T>, limit: usize) -> Vec<&'static str> {
    if list.len() <= limit {
        return Vec::new();
    }
    list.truncate(limit);
    vec!["results truncated due to limit"]
}

/// A successful answer.
pub fn success_with(data: &Json, warnings: &[&str]) -> Response {
    let mut answer = json!({"status": "success", "data": data});
    if !warnings.is_empty() {
        answer["warnings"] = json!(warnings);
    }
    json_response(StatusCode::OK, &answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_without_an_exponent() {
        let text = point(TimeMs(1_435_781_451_781), "3").to_string();
        assert_eq!(text, r#"[1435781451.781,"3"]"#);
    }
}
