//! Request traces: CSV files of arrivals, prompt and generated tokens, plain or gzip.
//!
//! Input: bytes. Output: a [`Trace`] in order of time, and what was wrong with the rows that are left out.

use std::io::Read;

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// First bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Longest trace that is read, rows: a bound on memory (16 bytes a row).
const ROWS_MAX: usize = 50_000_000;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceRequest {
    /// Time since the start of the trace, ms.
    pub arrival_ms: f64,
    /// Prompt length, tokens.
    pub prompt_tokens: u32,
    /// Generated length, tokens.
    pub output_tokens: u32,
}

/// A trace in order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// What it is called in reports.
    pub name: String,
    /// The requests, by arrival.
    pub requests: Vec<TraceRequest>,
    /// Rows that were left out, and why, each kind with its number.
    pub skipped: Skipped,
}

/// Rows that were not as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Left out: a time that is negative or no number.
    pub bad_times: u64,
    /// Left out: prompt and generation are longer than the profile's context.
    pub too_long: u64,
    /// Kept, but earlier than the row before; the trace was sorted.
    pub unsorted: u64,
}

#[derive(Deserialize)]
struct Row {
    arrival_s: f64,
    input_tokens: u32,
    output_tokens: u32,
}

impl Trace {
    /// Reads the CSV of a trace: a header with `arrival_s`, `input_tokens` and `output_tokens`, then one
    /// request per row.
    ///
    /// # Errors
    /// When the bytes are no such CSV, or no usable row is left; the message names the row.
    pub fn read(name: &str, bytes: &[u8]) -> anyhow::Result<Trace> {
        let reader: Box<dyn Read + '_> = match bytes.starts_with(&GZIP_MAGIC) {
            true => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            false => Box::new(bytes),
        };
        let mut trace = Trace { name: name.to_owned(), ..Trace::default() };
        let mut rows = csv::Reader::from_reader(reader);
        for row in rows.deserialize() {
            let row: Row = row.with_context(|| {
                format!("trace {name}: each row needs arrival_s, input_tokens and output_tokens")
            })?;
            if trace.requests.len() >= ROWS_MAX {
                bail!("trace {name} has more than {ROWS_MAX} requests; split it");
            }
            trace.take(row);
        }
        if trace.requests.is_empty() {
            bail!(
                "trace {name} has no usable request; the first column must be arrival_s, in seconds from 0"
            );
        }
        if trace.skipped.unsorted > 0 {
            trace.requests.sort_by(|a, b| a.arrival_ms.total_cmp(&b.arrival_ms));
        }
        Ok(trace)
    }

    fn take(&mut self, row: Row) {
        if !row.arrival_s.is_finite() || row.arrival_s < 0.0 {
            self.skipped.bad_times += 1;
            return;
        }
        let arrival_ms = row.arrival_s * 1000.0;
        if self.requests.last().is_some_and(|last| arrival_ms < last.arrival_ms) {
            self.skipped.unsorted += 1;
        }
        let (prompt_tokens, output_tokens) = (row.input_tokens.max(1), row.output_tokens.max(1));
        self.requests.push(TraceRequest { arrival_ms, prompt_tokens, output_tokens });
    }

    /// The trace without the requests that exceed a context of `max_tokens`, alike for every policy.
    pub fn within(&self, max_tokens: u32) -> Trace {
        let fits = |request: &&TraceRequest| {
            u64::from(request.prompt_tokens) + u64::from(request.output_tokens) <= u64::from(max_tokens)
        };
        let requests: Vec<TraceRequest> = self.requests.iter().filter(fits).copied().collect();
        let too_long = (self.requests.len() - requests.len()) as u64;
        Trace { name: self.name.clone(), requests, skipped: Skipped { too_long, ..self.skipped } }
    }

    /// Time of the last arrival, ms.
    pub fn duration_ms(&self) -> i64 {
        self.requests.last().map_or(0, |last| last.arrival_ms as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "arrival_s,input_tokens,output_tokens\n";

    #[test]
    fn rows_are_sorted_and_senseless_times_are_left_out_and_counted() {
        let text = format!("{HEADER}2.5,10,3\n1.25,20,1\n-1,5,5\nNaN,5,5\n3,0,0\n");
        let trace = Trace::read("t", text.as_bytes()).unwrap();
        let seen: Vec<(f64, u32, u32)> =
            trace.requests.iter().map(|r| (r.arrival_ms, r.prompt_tokens, r.output_tokens)).collect();
        assert_eq!(seen, [(1250.0, 20, 1), (2500.0, 10, 3), (3000.0, 1, 1)]);
        assert_eq!(trace.skipped, Skipped { bad_times: 2, too_long: 0, unsorted: 1 });
    }

    #[test]
    fn prompts_beyond_the_context_are_left_out_alike_for_everybody() {
        let trace = Trace::read("t", format!("{HEADER}0,10,3\n1,100,1\n").as_bytes()).unwrap().within(50);
        assert_eq!((trace.requests.len(), trace.skipped.too_long), (1, 1));
    }

    #[test]
    fn a_file_that_is_no_trace_says_what_is_missing() {
        let wrong = Trace::read("t", b"time,tokens\n1,2\n").unwrap_err().to_string();
        assert!(wrong.contains("arrival_s"), "{wrong}");
        let empty = Trace::read("t", HEADER.as_bytes()).unwrap_err().to_string();
        assert!(empty.contains("no usable request"), "{empty}");
    }
}
