//! The log: which lines, and in which form.

use crate::options::LogFormat;
use anyhow::Context as _;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Sends log lines that pass `filter` to standard error.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    // The watching library warns of every watch that ended with its folder, as it does whenever a
    // ConfigMap is remounted. A filter that names it comes later and so wins.
    let filter = format!("notify=error,{filter}");
    let filter =
        EnvFilter::try_new(&filter).with_context(|| format!("log filter {filter:?} is not valid"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be said on standard error, which cannot be written to then, and that panics.
        .log_internal_errors(false)
        .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Logfmt => builder.event_format(Logfmt).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// `key=value` pairs: `ts`, `level`, `msg`, then the event's own.
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(writer, "ts={:.3} level={level}", jiff::Timestamp::now())?;
        if !line.message.is_empty() {
            write!(writer, " msg={}", quoted(&line.message))?;
        }
        writeln!(writer, "{}", line.pairs)
    }
}

#[derive(Default)]
struct Line {
    message: String,
    pairs: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(self.pairs, " {}={}", field.name(), quoted(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// A value, in quotes where it could be misread without.
fn quoted(value: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) { value.to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn values_are_quoted_where_they_must_be() {
        assert_eq!(quoted("llm/a-b_1.5%"), "llm/a-b_1.5%");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a=\"b\"\n"), r#""a=\"b\"\n""#);
    }
}
