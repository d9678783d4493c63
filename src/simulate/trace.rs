//! Request traces: CSV files of arrivals, prompt and generated tokens, plain or gzip.
//!
//! Input: bytes. Output: a [`Trace`] in order of time, and what was wrong with the rows that are left out.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use super::problem::Problem;
use csv::ByteRecord;
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// First bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Longest trace that is read, rows: a bound on memory (16 bytes a row).
pub const ROWS_MAX: usize = 50_000_000;
/// Columns that a trace needs, in the order in which they are read.
const COLUMNS: [&str; 3] = ["arrival_s", "input_tokens", "output_tokens"];
/// What to do about rows that are left out.
const FIX_ROW: &str = "the row is left out; a row needs arrival_s from 0 on and two counts of tokens";

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
    /// The first row of each kind, by its line.
    pub remarks: Vec<Problem>,
}

/// Rows that were not as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Left out: a time that is negative or no number.
    pub bad_times: u64,
    /// Left out: columns are missing or are no counts of tokens.
    pub garbled: u64,
    /// Left out: prompt and generation are longer than the profile's context.
    pub too_long: u64,
    /// Kept, but earlier than the row before; the trace was sorted.
    pub unsorted: u64,
}

/// Kinds of [`Skipped`] that are found while a file is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    BadTime,
    Garbled,
    Unsorted,
}

/// Reads one file.
struct Rows<'a> {
    file: &'a str,
    columns: [usize; 3],
    trace: Trace,
    /// Line of the first row of each kind, what is wrong with it, and how many there are.
    seen: BTreeMap<Kind, (u64, String, u64)>,
}

impl Trace {
    /// Reads the CSV of a trace: a header with `arrival_s`, `input_tokens` and `output_tokens` (other columns
    /// are ignored), then one request per row. `file` is its name in messages.
    ///
    /// # Errors
    /// When the bytes are no such CSV, or no usable row is left.
    pub fn read(name: &str, file: &str, bytes: &[u8]) -> Result<Trace, Problem> {
        let reader: Box<dyn Read + '_> = match bytes.starts_with(&GZIP_MAGIC) {
            true => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            false => Box::new(bytes),
        };
        let mut rows = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(reader);
        let broken = |line: u64, error: &csv::Error| {
            let reason = format!("cannot be read: {error}");
            Problem::new(
                format!("{file} line {line}"),
                reason,
                "the file is damaged or cut off; copy it again",
            )
        };
        let header = rows.byte_headers().map_err(|error| broken(1, &error))?.clone();
        let trace = Trace { name: name.to_owned(), ..Trace::default() };
        let mut found = Rows { file, columns: columns(file, &header)?, trace, seen: BTreeMap::new() };
        let mut record = ByteRecord::new();
        loop {
            let line = rows.position().line();
            match rows.read_byte_record(&mut record) {
                Ok(true) => found.take(record.position().map_or(line, csv::Position::line), &record),
                Ok(false) => break,
                Err(error) => return Err(broken(line, &error)),
            }
            if found.trace.requests.len() > ROWS_MAX {
                let reason = format!("has more than {ROWS_MAX} requests");
                return Err(Problem::new(file, reason, "split it"));
            }
        }
        found.finish()
    }

    /// The trace without the requests that exceed a context of `max_tokens`, alike for every policy.
    pub fn within(&self, max_tokens: u32) -> Trace {
        let fits = |request: &&TraceRequest| {
            u64::from(request.prompt_tokens) + u64::from(request.output_tokens) <= u64::from(max_tokens)
        };
        let requests: Vec<TraceRequest> = self.requests.iter().filter(fits).copied().collect();
        let too_long = (self.requests.len() - requests.len()) as u64;
        let skipped = Skipped { too_long, ..self.skipped };
        Trace { name: self.name.clone(), requests, skipped, remarks: self.remarks.clone() }
    }

    /// As [`Trace::within`], without a copy where everything fits.
    pub fn fitting(trace: &Arc<Trace>, max_tokens: u32) -> Arc<Trace> {
        let within = trace.within(max_tokens);
        if within.skipped.too_long == 0 { trace.clone() } else { Arc::new(within) }
    }

    /// A trace like this one: each request a little earlier or later, and the sizes exchanged among those of
    /// the same minute. What a seed changes about a recorded trace.
    pub fn varied(&self, seed: u64) -> Trace {
        const MINUTE_MS: f64 = 60_000.0;
        const DISPLACEMENT_MS: f64 = 1000.0;
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut trace = self.clone();
        let same = |a: &TraceRequest, b: &TraceRequest| {
            (a.arrival_ms / MINUTE_MS).floor() == (b.arrival_ms / MINUTE_MS).floor()
        };
        for minute in trace.requests.chunk_by_mut(same) {
            let mut sizes: Vec<(u32, u32)> =
                minute.iter().map(|r| (r.prompt_tokens, r.output_tokens)).collect();
            sizes.shuffle(&mut random);
            for (request, (prompt_tokens, output_tokens)) in minute.iter_mut().zip(sizes) {
                let moved = request.arrival_ms + random.random_range(-DISPLACEMENT_MS..=DISPLACEMENT_MS);
                *request = TraceRequest { arrival_ms: moved.max(0.0), prompt_tokens, output_tokens };
            }
        }
        trace.requests.sort_by(|a, b| a.arrival_ms.total_cmp(&b.arrival_ms));
        trace
    }

    /// Mean prompt and generated length, tokens; 0 without requests.
    pub fn mean_tokens(&self) -> (f64, f64) {
        let mean = |tokens: fn(&TraceRequest) -> u32| {
            self.requests.iter().map(|request| f64::from(tokens(request))).sum::<f64>()
                / self.requests.len().max(1) as f64
        };
        (mean(|request| request.prompt_tokens), mean(|request| request.output_tokens))
    }

    /// Time of the last arrival, ms.
    pub fn duration_ms(&self) -> i64 {
        self.requests.last().map_or(0, |last| last.arrival_ms as i64)
    }
}

/// Where the columns are.
fn columns(file: &str, header: &ByteRecord) -> Result<[usize; 3], Problem> {
    let names: Vec<String> = header.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let mut places = [0; 3];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = names.iter().position(|name| name == column).ok_or_else(|| {
            let there = names.join(", ").chars().take(200).collect::<String>();
            Problem::new(
                format!("{file} line 1"),
                format!("there is no column {column}; the header has: {there}"),
                format!("a trace begins with a header that names {}", COLUMNS.join(", ")),
            )
        })?;
    }
    Ok(places)
}

impl Rows<'_> {
    fn take(&mut self, line: u64, record: &ByteRecord) {
        let [time, prompt, output] = self.columns;
        let arrival_s = number(record, time);
        let (prompt, output) = (tokens(record, prompt), tokens(record, output));
        let (Some(prompt_tokens), Some(output_tokens)) = (prompt, output) else {
            self.skip(Kind::Garbled, line, format!("{:?} is no request", shown(record)));
            return;
        };
        let Some(arrival_ms) = arrival_s.filter(|at| at.is_finite() && *at >= 0.0).map(|at| at * 1000.0)
        else {
            let text = record.get(time).map(String::from_utf8_lossy).unwrap_or_default();
            self.skip(Kind::BadTime, line, format!("arrival_s is {text:?}"));
            return;
        };
        if self.trace.requests.last().is_some_and(|last| arrival_ms < last.arrival_ms) {
            self.skip(Kind::Unsorted, line, "is earlier than the row before".to_owned());
        }
        // An engine gets at least one token and gives at least one.
        let (prompt_tokens, output_tokens) = (prompt_tokens.max(1), output_tokens.max(1));
        self.trace.requests.push(TraceRequest { arrival_ms, prompt_tokens, output_tokens });
    }

    fn skip(&mut self, kind: Kind, line: u64, what: String) {
        self.seen.entry(kind).or_insert((line, what, 0)).2 += 1;
    }

    fn finish(self) -> Result<Trace, Problem> {
        let Rows { file, mut trace, seen, .. } = self;
        for (kind, (line, what, count)) in seen {
            let fix = match kind {
                Kind::BadTime | Kind::Garbled => FIX_ROW,
                Kind::Unsorted => "the trace was sorted; nothing is left out",
            };
            match kind {
                Kind::BadTime => trace.skipped.bad_times = count,
                Kind::Garbled => trace.skipped.garbled = count,
                Kind::Unsorted => trace.skipped.unsorted = count,
            }
            let more = if count > 1 { format!(", and {} more like it", count - 1) } else { String::new() };
            trace.remarks.push(Problem::new(format!("{file} line {line}"), what + &more, fix));
        }
        if trace.requests.is_empty() {
            let why = trace.remarks.first().map(|first| format!("; {}: {}", first.subject, first.reason));
            let reason = format!("there is no usable request in it{}", why.unwrap_or_default());
            return Err(Problem::new(
                file,
                reason,
                "a row needs arrival_s from 0 on and two counts of tokens",
            ));
        }
        trace.requests.sort_by(|a, b| a.arrival_ms.total_cmp(&b.arrival_ms));
        Ok(trace)
    }
}

fn number(record: &ByteRecord, column: usize) -> Option<f64> {
    std::str::from_utf8(record.get(column)?).ok()?.parse().ok()
}

/// A count of tokens; tables made by other programs often have them as 12.0.
fn tokens(record: &ByteRecord, column: usize) -> Option<u32> {
    let value = number(record, column)?;
    (0.0..=f64::from(u32::MAX)).contains(&value).then_some(value.round() as u32)
}

fn shown(record: &ByteRecord) -> String {
    let fields: Vec<_> = record.iter().map(String::from_utf8_lossy).collect();
    fields.join(",").chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "arrival_s,input_tokens,output_tokens\n";

    fn read(rows: &str) -> Result<Trace, Problem> {
        Trace::read("t", "t.csv", format!("{HEADER}{rows}").as_bytes())
    }

    #[test]
    fn rows_are_sorted_and_senseless_ones_are_left_out_counted_and_named() {
        let trace = read("2.5,10,3\n1.25,20,1\n-1,5,5\nNaN,5,5\n3,0,0\n4,x,1\n5,9\n6,7.0,1e1\n").unwrap();
        let seen: Vec<(f64, u32, u32)> =
            trace.requests.iter().map(|r| (r.arrival_ms, r.prompt_tokens, r.output_tokens)).collect();
        assert_eq!(seen, [(1250.0, 20, 1), (2500.0, 10, 3), (3000.0, 1, 1), (6000.0, 7, 10)]);
        assert_eq!(trace.skipped, Skipped { bad_times: 2, garbled: 2, too_long: 0, unsorted: 1 });
        let remarks: Vec<String> = trace.remarks.iter().map(Problem::to_string).collect();
        assert!(remarks[0].starts_with("t.csv line 4: arrival_s is \"-1\", and 1 more"), "{remarks:?}");
        assert!(remarks[1].starts_with("t.csv line 7: \"4,x,1\" is no request"), "{remarks:?}");
        assert!(remarks[2].starts_with("t.csv line 3: is earlier"), "{remarks:?}");
    }

    #[test]
    fn prompts_beyond_the_context_are_left_out_alike_for_everybody() {
        let trace = read("0,10,3\n1,100,1\n").unwrap().within(50);
        assert_eq!((trace.requests.len(), trace.skipped.too_long), (1, 1));
    }

    #[test]
    fn a_file_that_is_no_trace_says_what_is_missing() {
        let wrong = Trace::read("t", "t.csv", b"time,tokens\n1,2\n").unwrap_err().to_string();
        assert!(wrong.contains("t.csv line 1") && wrong.contains("no column arrival_s"), "{wrong}");
        assert!(read("").unwrap_err().to_string().contains("no usable request"));
        let wrong = Trace::read("t", "t.csv", b"\x1f\x8b\x08broken").unwrap_err().to_string();
        assert!(wrong.contains("copy it again"), "{wrong}");
    }

    #[test]
    fn a_variation_has_the_same_requests_a_little_apart() {
        let rows: String =
            (0..500).map(|i| format!("{},{},{}\n", f64::from(i) * 0.5, i + 1, 2 * i + 1)).collect();
        let trace = read(&rows).unwrap();
        let other = trace.varied(7);
        assert_eq!(other, trace.varied(7));
        assert_ne!(other.requests, trace.requests);
        let sum = |trace: &Trace| trace.requests.iter().map(|r| u64::from(r.prompt_tokens)).sum::<u64>();
        assert_eq!((other.requests.len(), sum(&other)), (500, sum(&trace)));
        assert!(other.requests.is_sorted_by(|a, b| a.arrival_ms <= b.arrival_ms));
    }
}
