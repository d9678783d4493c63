//! The board as Prometheus text or OpenMetrics.

use super::gauges::{FAMILIES, labels};
use super::{Board, Entry};
use crate::units::TimeMs;
use std::fmt::Write;

/// Whole numbers below this are exact.
const INTEGERS_MAX: f64 = 9_007_199_254_740_992.0;
/// About what one variant takes up in an exposition, bytes.
const BYTES_PER_VARIANT: usize = 2_600;

/// Exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format a scraper asks for with its `Accept` header.
    pub fn negotiate(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Format::OpenMetrics,
            _ => Format::Text,
        }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes metric families in one of the formats.
#[derive(Debug)]
pub struct Writer {
    format: Format,
    out: String,
}

impl Writer {
    /// An empty exposition.
    pub fn new(format: Format) -> Self {
        Writer { format, out: String::new() }
    }

    /// Starts a family; `kind` is the `TYPE` word. In OpenMetrics a counter's family is named without
    /// its `_total`.
    pub fn family(&mut self, name: &str, help: &str, kind: &str) {
        let name = match self.format {
            Format::OpenMetrics if kind == "counter" => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Writes one sample with its labels already rendered, e.g. `a="b",c="d"`.
    pub fn sample(&mut self, name: &str, labels: &str, value: f64) {
        self.out.push_str(name);
        if !labels.is_empty() {
            self.out.push('{');
            self.out.push_str(labels);
            self.out.push('}');
        }
        self.out.push(' ');
        write_value(&mut self.out, value);
        self.out.push('\n');
    }

    /// The finished text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// Appends a number as Prometheus writes it: no exponent, `+Inf`, `-Inf`, `NaN`.
pub fn write_value(out: &mut String, value: f64) {
    if value == f64::INFINITY {
        out.push_str("+Inf");
    } else if value == f64::NEG_INFINITY {
        out.push_str("-Inf");
    } else if value.fract() == 0.0
        && value.abs() < INTEGERS_MAX
        && !(value == 0.0 && value.is_sign_negative())
    {
        // Most values are whole: they need no search for the shortest digits.
        out.push_str(itoa::Buffer::new().format(value as i64));
    } else {
        let _ = write!(out, "{value}");
    }
}

/// Appends one label pair with its value escaped, after a comma if needed.
pub fn write_label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Writes the families of all variants as of `now`; `aliases` includes the `wva_*` names.
pub fn write_board(writer: &mut Writer, board: &Board, now: TimeMs, aliases: bool) {
    let rendered: Vec<(String, &Entry)> = board
        .entries
        .values()
        .map(|entry| {
            let mut text = String::with_capacity(160);
            labels(&entry.variant, &entry.variant_id, |name, value| write_label(&mut text, name, value));
            (text, &**entry)
        })
        .collect();
    writer.out.reserve(rendered.len() * BYTES_PER_VARIANT);
    // Numbers that an autoscaler acts on are not given out before they are of the present.
    let not_ready = board.not_ready().is_some();
    let mut with_extra = String::new();
    for family in FAMILIES.iter().filter(|family| aliases || !family.alias) {
        writer.family(family.name, family.help, family.kind.as_str());
        if not_ready && family.vital {
            continue;
        }
        for (text, entry) in &rendered {
            family.samples(entry, now, |extra, value| {
                if extra.is_empty() {
                    return writer.sample(family.name, text, value);
                }
                with_extra.clear();
                with_extra.push_str(text);
                for (name, value) in extra {
                    write_label(&mut with_extra, name, value);
                }
                writer.sample(family.name, &with_extra, value);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        for (value, text) in [
            (3.0, "3"),
            (-0.0, "-0"),
            (-17.0, "-17"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (0.25, "0.25"),
            (1e21, "1000000000000000000000"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            let mut out = String::new();
            write_value(&mut out, value);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        write_label(&mut out, "a", "x\"y\\z\nw");
        write_label(&mut out, "b", "ü");
        assert_eq!(out, r#"a="x\"y\\z\nw",b="ü""#);
    }
}
