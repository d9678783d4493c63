//! Leaves of configuration: checked readers of single values and the words for telling what is wrong
//! with one. Input: one raw value. Output: the checked value, or why not. Must not know objects.

use serde_json::Value;

use crate::limits::{CONFIG_REPLICAS_MAX, CONFIG_STRING_MAX_BYTES};

/// A checked value, or the reason why there is none, which quotes the offending value.
pub(super) type Checked<T> = Result<T, String>;

/// The value as it may stand in a message: short, on one line.
pub(in crate::config) fn show(value: &Value) -> String {
    const SHOWN_MAX_CHARS: usize = 60;
    let text = match value {
        Value::Array(_) => return "a list".into(),
        Value::Object(_) => return "a mapping".into(),
        Value::String(text) => format!("{:?}", text.chars().take(SHOWN_MAX_CHARS + 1).collect::<String>()),
        other => other.to_string(),
    };
    if text.chars().count() <= SHOWN_MAX_CHARS + 2 {
        text
    } else {
        text.chars().take(SHOWN_MAX_CHARS).chain("...\"".chars()).collect()
    }
}

/// Text of a scalar, for places where people leave out the quotes.
pub(in crate::config) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// A finite number, written as a number or as text.
pub(super) fn number(value: &Value) -> Checked<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite()).ok_or_else(|| format!("{} is not a number", show(value)))
}

/// A finite number of at least 0.
pub(super) fn not_negative(value: &Value) -> Checked<f64> {
    let number = number(value)?;
    // Adding 0 turns -0 into 0.
    if number >= 0.0 { Ok(number + 0.0) } else { Err(format!("{} is negative", show(value))) }
}

/// A share of requests that are to meet their targets.
pub(super) fn attainment(value: &Value) -> Checked<f64> {
    let number = number(value)?;
    match (0.5..=0.9999).contains(&number) {
        true => Ok(number),
        false => Err(format!("{} is not between 0.5 and 0.9999", show(value))),
    }
}

/// A number between 0 and 1.
pub(super) fn ratio(value: &Value) -> Checked<f64> {
    let number = number(value)?;
    if (0.0..=1.0).contains(&number) {
        Ok(number + 0.0)
    } else {
        Err(format!("{} is not between 0 and 1", show(value)))
    }
}

/// A whole number within bounds, written as a number or as text.
fn whole(value: &Value, low: u32, high: u32) -> Checked<u32> {
    let number = number(value)?;
    if number.fract() != 0.0 {
        return Err(format!("{} is not a whole number", show(value)));
    }
    if number < f64::from(low) || number > f64::from(high) {
        return Err(format!("{} is not between {low} and {high}", show(value)));
    }
    // The bounds above make the conversion exact.
    Ok(number as u32)
}

/// A lower bound on replicas.
pub(super) fn min_replicas(value: &Value) -> Checked<u32> {
    whole(value, 0, CONFIG_REPLICAS_MAX)
}

/// An upper bound on replicas.
pub(super) fn max_replicas(value: &Value) -> Checked<u32> {
    whole(value, 1, CONFIG_REPLICAS_MAX)
}

/// Accelerators per replica.
pub(super) fn accelerator_count(value: &Value) -> Checked<u32> {
    whole(value, 1, 100_000)
}

/// A size of a batch or of a request; 0 means not stated.
pub(super) fn size(value: &Value) -> Checked<u32> {
    whole(value, 0, 1_000_000_000)
}

/// A number of cards.
pub(super) fn cards(value: &Value) -> Checked<u64> {
    whole(value, 0, 1_000_000_000).map(u64::from)
}

/// Priority of a service class.
pub(super) fn priority(value: &Value) -> Checked<u32> {
    whole(value, 1, 100)
}

/// A truth value, also as the words that stand for one.
pub(super) fn truth(value: &Value) -> Checked<bool> {
    let word = scalar_text(value).unwrap_or_default().trim().to_ascii_lowercase();
    match word.as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{} is neither true nor false", show(value))),
    }
}

/// Text of bounded length without control characters; may be empty.
pub(super) fn text(value: &Value) -> Checked<String> {
    let text = scalar_text(value).ok_or_else(|| format!("{} is not a text", show(value)))?;
    if text.len() > CONFIG_STRING_MAX_BYTES {
        return Err(format!("{} has {} bytes, more than {CONFIG_STRING_MAX_BYTES}", show(value), text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} contains control characters", show(value)));
    }
    Ok(text.trim().into())
}

/// Text that must say something.
pub(super) fn word(value: &Value) -> Checked<String> {
    let text = text(value)?;
    if text.is_empty() { Err("the value is empty".into()) } else { Ok(text) }
}

/// A duration in Go syntax, ms; not negative.
pub(super) fn duration_ms(value: &Value) -> Checked<i64> {
    let text = scalar_text(value).ok_or_else(|| format!("{} is not a duration", show(value)))?;
    match go_duration_ms(text.trim()) {
        None => Err(format!("{} is not a duration", show(value))),
        Some(ms) if ms < 0.0 => Err(format!("{} is negative", show(value))),
        // More than 292 million years cannot be written.
        Some(ms) => Ok(ms.ceil() as i64),
    }
}

/// A duration of more than nothing in Go syntax, ms; less than a millisecond counts as one.
pub(super) fn positive_duration_ms(value: &Value) -> Checked<i64> {
    match duration_ms(value) {
        Ok(0) => Err(format!("{} is not a positive duration", show(value))),
        other => other.map_err(|error| error.replace("is negative", "is not a positive duration")),
    }
}

/// Milliseconds of a duration in Go syntax: signed sequence of decimal numbers with units, `1h30m`,
/// `500ms`, `1.5s`, or `0`. `None` when it is none or does not fit Go's 64-bit nanoseconds.
pub fn go_duration_ms(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total_ms = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_ms = match unit {
            "ns" => 1e-6,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            _ => return None,
        };
        if number.len() > 40 || !number.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        total_ms += number.parse::<f64>().ok()? * unit_ms;
        rest = next;
    }
    const GO_MAX_MS: f64 = i64::MAX as f64 / 1e6;
    (total_ms <= GO_MAX_MS).then_some(sign * total_ms)
}

/// Number of single-letter insertions, deletions, replacements and swaps of neighbours between two
/// words, without regard to letter case, `-` and `_`.
pub(in crate::config) fn distance(left: &str, right: &str) -> usize {
    let letters = |text: &str| -> Vec<char> {
        text.chars().filter(|c| *c != '-' && *c != '_').flat_map(char::to_lowercase).take(96).collect()
    };
    let (left, right) = (letters(left), letters(right));
    // Three rows of the usual table: the one before last is needed for swaps.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, &l) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &r) in right.iter().enumerate() {
            let replaced = above[column] + usize::from(l != r);
            let mut best = replaced.min(above[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && l == right[column - 1] && left[row - 1] == r {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

/// The known word that `word` was probably meant to be.
pub(super) fn meant<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|known| (distance(word, known), *known)).min()?;
    // Short words differ by two letters from too many others.
    let allowed = if near.1.len() < 6 { 1 } else { 2 };
    (near.0 <= allowed).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_follow_go() {
        for (text, want) in [
            ("0", Some(0.0)),
            ("1h30m", Some(5_400_000.0)),
            ("500ms", Some(500.0)),
            ("1.5s", Some(1500.0)),
            (".5m", Some(30_000.0)),
            ("2us", Some(0.002)),
            ("-2m", Some(-120_000.0)),
            ("+1s", Some(1000.0)),
            ("", None),
            ("-", None),
            ("10", None),
            ("10 m", None),
            ("1d", None),
            (".s", None),
            ("1.2.3s", None),
            ("5m3", None),
            ("3000000h", None),
            ("m", None),
        ] {
            assert_eq!(go_duration_ms(text), want, "{text}");
        }
        assert_eq!(positive_duration_ms(&json!("100ns")), Ok(1));
        assert!(positive_duration_ms(&json!("0")).is_err());
        assert!(positive_duration_ms(&json!(600)).is_err());
    }

    #[test]
    fn numbers_are_finite_and_may_be_text() {
        assert_eq!(number(&json!(" 20.58 ")), Ok(20.58));
        assert_eq!(number(&json!(3)), Ok(3.0));
        for bad in [json!("NaN"), json!("inf"), json!("1e999"), json!("x"), json!([]), json!(true), json!("")]
        {
            assert!(number(&bad).is_err(), "{bad}");
        }
        assert_eq!(min_replicas(&json!("2")), Ok(2));
        assert!(min_replicas(&json!(1.5)).is_err());
        assert!(min_replicas(&json!(-1)).is_err());
        assert!(max_replicas(&json!(0)).is_err());
    }

    #[test]
    fn typos_are_near_and_other_words_are_not() {
        assert_eq!(meant("modelId", &["modelID", "modelProfile"]), Some("modelID"));
        assert_eq!(meant("kvCacheTreshold", &["kvCacheThreshold"]), Some("kvCacheThreshold"));
        assert_eq!(meant("slo_ttft", &["slo-ttft", "slo-tpot"]), Some("slo-ttft"));
        assert_eq!(meant("notes", &["name", "modelID"]), None);
        assert_eq!(distance("abcd", "abdc"), 1);
    }

    #[test]
    fn messages_stay_short() {
        let long = show(&json!("x".repeat(5000)));
        assert!(long.len() < 80, "{long}");
        assert_eq!(show(&json!("a\nb")), r#""a\nb""#);
    }
}
