//! Live output: a table redrawn in place on a terminal, plain lines elsewhere.

use super::plan::{Plan, clock, span};
use super::tally::{Frame, RECENT_MS, Row};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Shortest virtual time between two plain lines, ms.
const LINE_MS: i64 = 10_000;
/// About as many plain lines a run has.
const LINES: i64 = 60;
/// Widest line of events, columns.
const EVENT_MAX_COLUMNS: usize = 100;
/// Where the text of an event begins, columns.
const EVENT_INDENT: usize = 17;
/// Shortest real time between two drawings of the table.
const DRAW_MIN: Duration = Duration::from_millis(80);
/// Narrowest terminal that gets a table, columns.
const TABLE_MIN_COLUMNS: usize = 60;
/// Lowest terminal that gets a table, rows.
const TABLE_MIN_ROWS: usize = 12;
/// Widest line of a table, columns.
const TABLE_MAX_COLUMNS: usize = 110;
/// Width of the progress bar, columns.
const BAR_COLUMNS: usize = 20;

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error: standard output is for the JSON object.
    Stderr,
}

impl Output {
    /// Size of the terminal there, (columns, rows); `None` when there is none that can draw.
    fn terminal(self) -> Option<(usize, usize)> {
        if std::env::var_os("TERM").is_none_or(|term| term == "dumb") {
            return None;
        }
        let size = match self {
            Output::Stdout => terminal_size::terminal_size_of(io::stdout()),
            Output::Stderr => terminal_size::terminal_size_of(io::stderr()),
        };
        let (columns, rows) = size.map(|(columns, rows)| (usize::from(columns.0), usize::from(rows.0)))?;
        (columns >= TABLE_MIN_COLUMNS && rows >= TABLE_MIN_ROWS).then_some((columns, rows))
    }

    fn write(self, text: &str) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()
            }
            Output::Stderr => {
                // Nobody has to watch: the JSON object on standard output is what was asked for.
                let _ = io::stderr().lock().write_all(text.as_bytes());
                Ok(())
            }
        }
    }
}

/// Shows a run.
pub struct Screen {
    plan: Plan,
    output: Output,
    /// On a terminal.
    table: bool,
    color: bool,
    /// Lines of the table that are on the screen.
    drawn: usize,
    drawn_at: Option<Instant>,
    last_line_ms: Option<i64>,
    /// Event lines not shown yet.
    events: Vec<String>,
}

impl Screen {
    /// A screen on `output`.
    pub fn new(plan: Plan, output: Output) -> Self {
        let table = output.terminal().is_some();
        Screen {
            plan,
            output,
            table,
            color: table && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            drawn: 0,
            drawn_at: None,
            last_line_ms: None,
            events: Vec::new(),
        }
    }

    /// Prints lines at once.
    pub fn print(&mut self, text: &str) -> io::Result<()> {
        self.output.write(text)
    }

    /// Says how to read what follows.
    pub fn legend(&mut self) -> io::Result<()> {
        if self.table {
            return Ok(());
        }
        let every = span(self.line_ms());
        self.print(&format!(
            "Every {every}: requests/s, requests waiting, share of requests within their targets,\n\
             and per variant ready/existing > wanted replicas.\n\n",
        ))
    }

    /// Notes something that happened at `at_ms`; it is shown with the next frame.
    pub fn event(&mut self, at_ms: i64, kind: &str, text: &str) {
        self.events.push(format!("{:>7}  {kind:<7} {text}", clock(at_ms)));
    }

    /// Shows a moment.
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        if self.table { self.draw(frame, false) } else { self.line(frame) }
    }

    /// Shows the last moment for good.
    pub fn finish(&mut self, frame: &Frame) -> io::Result<()> {
        if self.table {
            self.draw(frame, true)?;
        } else if self.last_line_ms != Some(frame.at_ms) {
            self.last_line_ms = None;
            self.line(frame)?;
        }
        self.drawn = 0;
        Ok(())
    }

    /// Virtual time between two plain lines, in whole tens of seconds.
    fn line_ms(&self) -> i64 {
        ((self.plan.duration_ms / LINES + LINE_MS - 1) / LINE_MS * LINE_MS).max(LINE_MS)
    }

    fn line(&mut self, frame: &Frame) -> io::Result<()> {
        let mut text = String::new();
        for event in self.events.drain(..) {
            text += &wrap(&event, EVENT_MAX_COLUMNS, EVENT_INDENT);
            text.push('\n');
        }
        if self.last_line_ms.is_none_or(|last_ms| frame.at_ms - last_ms >= self.line_ms()) {
            self.last_line_ms = Some(frame.at_ms);
            let rate: f64 = frame.rows.iter().map(|row| row.arrivals_per_s).sum();
            let met = frame.met_share.map_or("   -".to_owned(), percent);
            // Writing to a string cannot fail.
            let _ = write!(text, "{:>6} {rate:5.1}/s {:>4} wait {met} ok", clock(frame.at_ms), frame.waiting);
            for row in &frame.rows {
                let _ = write!(text, "  {} {}/{}>{}", row.name, row.ready, row.current, wanted(row));
            }
            text.push('\n');
        }
        if text.is_empty() { Ok(()) } else { self.output.write(&text) }
    }

    fn draw(&mut self, frame: &Frame, last: bool) -> io::Result<()> {
        let due = self.drawn_at.is_none_or(|at| at.elapsed() >= DRAW_MIN);
        if !due && self.events.is_empty() && !last {
            return Ok(());
        }
        self.drawn_at = Some(Instant::now());
        let columns = self.output.terminal().map_or(TABLE_MIN_COLUMNS, |(columns, _)| columns);
        // One column less: a line that fills the last one would wrap on some terminals.
        let width = columns.min(TABLE_MAX_COLUMNS) - 1;
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A\r", self.drawn);
        }
        for event in self.events.drain(..) {
            for line in wrap(&event, EVENT_MAX_COLUMNS.min(columns - 1), EVENT_INDENT).lines() {
                let _ = writeln!(text, "{line}\x1b[K");
            }
        }
        let lines = self.lines(frame, width);
        for line in &lines {
            let _ = writeln!(text, "{line}\x1b[K");
        }
        text += "\x1b[J";
        self.drawn = lines.len();
        self.output.write(&text)
    }

    fn lines(&self, frame: &Frame, width: usize) -> Vec<String> {
        let plan = &self.plan;
        let done = (frame.at_ms as f64 / plan.duration_ms as f64).clamp(0.0, 1.0);
        let filled = (done * BAR_COLUMNS as f64).round() as usize;
        let bar = "#".repeat(filled) + &"-".repeat(BAR_COLUMNS - filled);
        let head = format!(
            "{:>7} / {} [{bar}] {}",
            clock(frame.at_ms),
            clock(plan.duration_ms),
            plan.phase(frame.at_ms),
        );
        let rate: f64 = frame.rows.iter().map(|row| row.arrivals_per_s).sum();
        let met = frame.met_share.map_or("-".to_owned(), percent);
        let sums = format!(
            "          {rate:.1} requests/s, {} waiting; of the last {} s {} met their targets",
            frame.waiting,
            RECENT_MS / 1000,
            met.trim(),
        );
        let title = "  variant        req/s   run  wait   KV  ready want   TTFT/SLO  why";
        let mut lines = vec![
            String::new(),
            self.style("1", &cut(&head, width)),
            cut(&sums, width),
            self.style("2", &cut(title, width)),
        ];
        lines.extend(frame.rows.iter().map(|row| self.row(row, width)));
        lines
    }

    fn row(&self, row: &Row, width: usize) -> String {
        let ttft = row.ttft_p95_ms.map_or("-".to_owned(), seconds);
        let text = format!(
            "  {:<14} {:>5.1} {:>5} {:>5} {:>4} {:>6} {:>4} {:>10}  {}",
            cut(&row.name, 14),
            row.arrivals_per_s,
            row.running,
            row.waiting,
            percent(row.kv_usage),
            format!("{}/{}", row.ready, row.current),
            wanted(row),
            format!("{ttft}/{}", seconds(row.ttft_slo_ms)),
            row.why,
        );
        let text = cut(&text, width);
        if row.ttft_p95_ms.is_some_and(|ttft_ms| ttft_ms > row.ttft_slo_ms) {
            self.style("31", &text)
        } else if row.desired.is_some_and(|desired| desired != row.ready) {
            self.style("33", &text)
        } else {
            text
        }
    }

    fn style(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn wanted(row: &Row) -> String {
    row.desired.map_or("?".to_owned(), |desired| desired.to_string())
}

/// A share as four characters.
pub fn percent(share: f64) -> String {
    format!("{:>3.0}%", share * 100.0)
}

/// Milliseconds as seconds with a unit, short.
pub fn seconds(ms: f64) -> String {
    match ms {
        ms if ms < 1000.0 => format!("{ms:.0}ms"),
        ms if ms < 10_000.0 => format!("{:.1}s", ms / 1000.0),
        ms => format!("{:.0}s", ms / 1000.0),
    }
}

/// The text in lines of at most `width` characters, all but the first indented.
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    // Spaces that align the beginning are kept.
    let (head, tail) = text.split_at(text.len() - text.trim_start().len());
    out += head;
    column += head.len();
    for (index, word) in tail.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > width {
            out.push('\n');
            out += &" ".repeat(indent);
            column = indent;
        } else if index > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
    }
    out
}

/// The text, cut to `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(2)).collect();
    kept + ".."
}
