//! Reading fields of golden records, in which non-finite numbers are strings.

use serde_json::Value;

/// A number; absent is 0, as the reference reads it.
pub fn number(value: &Value) -> f64 {
    match value.as_str() {
        Some("NaN") => f64::NAN,
        Some("+Inf") => f64::INFINITY,
        Some("-Inf") => f64::NEG_INFINITY,
        _ => value.as_f64().unwrap_or(0.0),
    }
}

/// A count that is not negative.
pub fn count(value: &Value) -> u32 {
    value.as_u64().map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// A text; absent is empty.
pub fn name(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether an f64 figure agrees within 1e-12, relative to values above 1.
pub fn close(got: f64, want: &Value) -> bool {
    let want = number(want);
    got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= 1e-12 * want.abs()
}
