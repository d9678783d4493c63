//! Objects of the Kubernetes API that answers are made of.

use super::review::Asked;
use super::{GROUP, VERSION};
use crate::units::TimeMs;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value as Json, json};

/// Values beyond this many milli units are cut to it, as the HPA would.
const MILLI_MAX: f64 = i64::MAX as f64;
/// Rounding noise below this many milli units is no reason to round up.
const MILLI_NOISE: f64 = 1e-6;

/// A JSON answer; also where protobuf was asked for, which every client accepts.
pub fn json_answer(status: StatusCode, body: &Json) -> Response {
    let mut response = (status, Body::from(body.to_string())).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The group with its one version.
pub fn group() -> Json {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

/// The metrics as resources of the group.
pub fn resources<'a>(names: impl Iterator<Item = &'a str>) -> Json {
    let resources: Vec<Json> = names
        .map(|name| {
            json!({
                "name": name,
                "singularName": "",
                "namespaced": true,
                "kind": "ExternalMetricValueList",
                "verbs": ["get"],
            })
        })
        .collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": resources,
    })
}

/// One value.
pub struct Item(Json);

impl Item {
    /// A value with its labels; none where it is not a number or infinite, which no quantity can say.
    pub fn new(metric: &str, labels: &[(&str, &str)], at: TimeMs, value: f64) -> Option<Self> {
        let labels: Map<String, Json> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), Json::from(*value))).collect();
        let timestamp = jiff::Timestamp::from_second(at.0.div_euclid(1000)).ok()?;
        Some(Item(json!({
            "metricName": metric,
            "metricLabels": labels,
            "timestamp": timestamp.to_string(),
            "value": quantity(value)?,
        })))
    }
}

/// The list of values.
pub fn list(items: &[Item]) -> Json {
    json!({
        "kind": "ExternalMetricValueList",
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {},
        "items": items.iter().map(|item| &item.0).collect::<Vec<_>>(),
    })
}

/// A number as a Kubernetes quantity, in whole units or in milli units rounded up, as the HPA rounds.
fn quantity(value: f64) -> Option<String> {
    let milli = (value * 1000.0 - MILLI_NOISE).ceil();
    if !milli.is_finite() {
        return None;
    }
    let milli = milli.clamp(-MILLI_MAX, MILLI_MAX) as i64;
    Some(if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") })
}

/// An answer other than success: a `Status` object.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    reason: &'static str,
    message: String,
    details: Json,
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, message: String) -> Self {
        Refusal { status, reason, message, details: json!({}) }
    }

    /// The request makes no sense.
    pub fn bad_request(message: String) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// Credentials that are not valid.
    pub fn unauthorized() -> Self {
        Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".into())
    }

    /// The user may not do this.
    pub fn forbidden(user: &str, asked: &Asked<'_>, reason: &str) -> Self {
        let user = user.escape_debug();
        let (what, details) = match asked {
            Asked::Path(path) => (format!("get path \"{}\"", path.escape_debug()), json!({})),
            Asked::Metric { namespace, metric, .. } => (
                format!(
                    "list resource \"{}\" in API group \"{GROUP}\" in the namespace \"{}\"",
                    metric.escape_debug(),
                    namespace.escape_debug()
                ),
                json!({"group": GROUP, "kind": metric}),
            ),
        };
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let message = format!("forbidden: user \"{user}\" cannot {what}{because}");
        Refusal { details, ..Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message) }
    }

    /// Nothing is at this path.
    pub fn not_found(message: String) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// There is no metric of this name.
    pub fn no_such_metric(metric: &str) -> Self {
        let message = format!(
            "the external metric \"{}\" does not exist; GET /apis/{GROUP}/{VERSION}",
            metric.escape_debug()
        );
        Refusal { details: json!({"group": GROUP, "kind": metric}), ..Refusal::not_found(message) }
    }

    /// Only reading is possible.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource".into();
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// No answer can be given now.
    pub fn unavailable(message: String) -> Self {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.status.as_u16(),
        });
        let mut response = json_answer(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_whole_or_in_milli_units_rounded_up() {
        for (value, text) in [
            (3.0, Some("3")),
            (0.0, Some("0")),
            (1.5, Some("1500m")),
            (0.3, Some("300m")),
            (0.1 + 0.2, Some("300m")),
            (0.0001, Some("1m")),
            (2.0 / 3.0, Some("667m")),
            (-0.5, Some("-500m")),
            (1e300, Some("9223372036854775807m")),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(quantity(value).as_deref(), text, "{value}");
        }
    }
}
