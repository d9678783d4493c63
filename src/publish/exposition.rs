//! The board as Prometheus text or OpenMetrics.

use super::gauges::{FAMILIES, labels};
use super::{Board, Entry};
use crate::config::Variant;
use crate::units::TimeMs;
use std::fmt::Write;
use std::sync::Arc;

/// Whole numbers below this are exact.
const INTEGERS_MAX: f64 = 9_007_199_254_740_992.0;
/// Sizes of numbers whose shortest digits are written without an exponent.
const PLAIN: std::ops::Range<f64> = 1e-4..1e15;

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
        Writer::with_room(format, 0)
    }

    /// The same with room for so many bytes, which [`Writer::take`] provides for anew.
    pub fn with_room(format: Format, bytes: usize) -> Self {
        Writer { format, out: String::with_capacity(bytes) }
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

    /// Size of what was written and not taken, bytes.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether there is nothing that was not taken.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes what was written so far, with room for as much again.
    pub fn take(&mut self) -> String {
        let room = String::with_capacity(self.out.capacity());
        std::mem::replace(&mut self.out, room)
    }

    /// The finished text, as far as it was not taken.
    pub fn finish(mut self) -> String {
        self.end();
        self.out
    }

    /// Writes what ends the exposition.
    pub fn end(&mut self) {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
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
    } else if PLAIN.contains(&value.abs()) {
        out.push_str(zmij::Buffer::new().format_finite(value));
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

/// The labels under which a variant is published, as an exposition has them.
pub fn variant_labels(variant: &Variant, variant_id: &str) -> String {
    let mut text = String::new();
    labels(variant, variant_id, |name, value| write_label(&mut text, name, value));
    text
}

/// Writes the families of all variants as of `now`; `aliases` includes the `wva_*` names.
pub fn write_board(writer: &mut Writer, board: &Board, now: TimeMs, aliases: bool) {
    BoardText::new(board, now, aliases).write(writer, usize::MAX);
}

/// The families of all variants as of one moment, to be written in pieces: a large board is sent while it is
/// rendered, and takes up no more memory than a piece.
#[derive(Debug)]
pub struct BoardText {
    entries: Vec<Arc<Entry>>,
    now: TimeMs,
    aliases: bool,
    /// Numbers that an autoscaler acts on are not given out before they are of the present.
    is_ready: bool,
    /// Where to go on: the family, and the entry once it has begun.
    family: usize,
    entry: Option<usize>,
}

impl BoardText {
    /// Nothing of `board` has been written yet.
    pub fn new(board: &Board, now: TimeMs, aliases: bool) -> Self {
        let entries = board.entries.values().cloned().collect();
        BoardText { entries, now, aliases, is_ready: board.not_ready().is_none(), family: 0, entry: None }
    }

    /// Writes on until `writer` holds so many bytes, or all has been written; tells whether there is more.
    pub fn write(&mut self, writer: &mut Writer, bytes: usize) -> bool {
        let mut with_extra = String::new();
        while let Some(family) = FAMILIES.get(self.family) {
            let is_left_out = family.alias && !self.aliases;
            if self.entry.is_none() && !is_left_out {
                writer.family(family.name, family.help, family.kind.as_str());
            }
            let first = self.entry.take().unwrap_or_default();
            let is_empty = is_left_out || family.vital && !self.is_ready;
            let entries = if is_empty { &[] } else { &self.entries[first..] };
            for (index, entry) in entries.iter().enumerate() {
                if writer.len() >= bytes {
                    self.entry = Some(first + index);
                    return true;
                }
                family.samples(entry, self.now, |extra, value| {
                    if extra.is_empty() {
                        return writer.sample(family.name, &entry.labels, value);
                    }
                    with_extra.clear();
                    with_extra.push_str(&entry.labels);
                    for (name, value) in extra {
                        write_label(&mut with_extra, name, value);
                    }
                    writer.sample(family.name, &with_extra, value);
                });
            }
            self.family += 1;
        }
        false
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
