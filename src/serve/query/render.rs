//! Results of queries in the form of the Prometheus API.

use crate::publish::exposition::write_value;
use crate::publish::promql::{Labels, Track, Value};
use crate::units::TimeMs;
use serde_json::{Value as Json, json};
use std::fmt::Write;

/// A result at one point in time, cut to `limit` series; says whether it was cut.
pub fn instant(value: Value<'_>, time: TimeMs, limit: usize) -> (String, bool) {
    match value {
        // A scalar's result is no list of series.
        Value::Scalar(value) => {
            (format!("{{\"resultType\":\"scalar\",\"result\":{}}}", point(time, value)), false)
        }
        Value::Vector(samples) => {
            let elements = samples.iter().take(limit).map(|sample| {
                format!("{{\"metric\":{},\"value\":{}}}", metric(&sample.labels), point(time, sample.value))
            });
            (list("vector", elements), samples.len() > limit)
        }
        Value::Matrix(tracks) => matrix(&tracks, limit),
    }
}

/// A result over a range, or the samples of a range selector.
pub fn matrix(tracks: &[Track<'_>], limit: usize) -> (String, bool) {
    let elements = tracks.iter().take(limit).map(|(labels, points)| {
        let mut text = format!("{{\"metric\":{},\"values\":[", metric(labels));
        for (index, (time, value)) in points.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            write_point(&mut text, *time, *value);
        }
        text.push_str("]}");
        text
    });
    (list("matrix", elements), tracks.len() > limit)
}

fn list(kind: &str, elements: impl Iterator<Item = String>) -> String {
    let mut text = format!("{{\"resultType\":\"{kind}\",\"result\":[");
    for (index, element) in elements.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&element);
    }
    text.push_str("]}");
    text
}

/// Labels as an object.
pub fn metric(labels: &Labels<'_>) -> Json {
    Json::Object(labels.iter().map(|(name, value)| ((*name).to_owned(), Json::from(*value))).collect())
}

fn point(time: TimeMs, value: f64) -> String {
    let mut text = String::new();
    write_point(&mut text, time, value);
    text
}

/// The time is a plain decimal without an exponent. The value is text, because a bare number makes some readers
/// fail.
fn write_point(out: &mut String, time: TimeMs, value: f64) {
    let (sign, ms) = (if time.0 < 0 { "-" } else { "" }, time.0.unsigned_abs());
    // Writing to a string cannot fail.
    let _ = write!(out, "[{sign}{}", ms / 1000);
    if ms % 1000 > 0 {
        let _ = write!(out, ".{:03}", ms % 1000);
        out.truncate(out.trim_end_matches('0').len());
    }
    out.push_str(",\"");
    write_value(out, value);
    out.push_str("\"]");
}

/// A successful answer around `data`, which is JSON already.
pub fn success_text(data: &str, warnings: &[&str]) -> String {
    match warnings {
        [] => format!("{{\"status\":\"success\",\"data\":{data}}}"),
        _ => format!("{{\"status\":\"success\",\"data\":{data},\"warnings\":{}}}", json!(warnings)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_without_an_exponent() {
        assert_eq!(point(TimeMs(1_435_781_451_781), 3.0), r#"[1435781451.781,"3"]"#);
        assert_eq!(point(TimeMs(1_435_781_451_007), f64::NAN), r#"[1435781451.007,"NaN"]"#);
        assert_eq!(point(TimeMs(-1_500), -0.5), r#"[-1.5,"-0.5"]"#);
        assert_eq!(point(TimeMs(15_000), 1.0), r#"[15,"1"]"#);
    }
}
