//! The shared reporter of the golden test: where the vectors are, how a file is read, and the count of
//! agreed, deviating and failed records per file. Knows nothing about any kind of record.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Outcome of one file of golden records.
pub struct Report {
    /// File name without its folder.
    pub file: String,
    /// Records seen so far: agreed, deviating and failed together.
    pub records: usize,
    /// Records whose answers agree within the tolerances.
    pub agreed: usize,
    /// Records that differ from the peer on purpose, counted by reason.
    pub deviating: BTreeMap<String, usize>,
    /// Records that differ without a reason, as `id: why`.
    pub failed: Vec<String>,
}

impl Report {
    /// An empty report for one file.
    pub fn new(file: &str) -> Self {
        Report { file: file.into(), records: 0, agreed: 0, deviating: BTreeMap::new(), failed: Vec::new() }
    }

    /// Counts a record that agrees.
    pub fn agree(&mut self) {
        self.records += 1;
        self.agreed += 1;
    }

    /// Counts a record that differs from the peer on purpose.
    pub fn deviate(&mut self, reason: &str) {
        self.records += 1;
        *self.deviating.entry(reason.into()).or_default() += 1;
    }

    /// Counts a record that differs without a reason.
    pub fn fail(&mut self, id: &str, why: String) {
        self.records += 1;
        self.failed.push(format!("{id}: {why}"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deviating: usize = self.deviating.values().sum();
        write!(
            f,
            "{:<34} records {:>5}  agreed {:>5}  deviating {:>4}  failed {:>4}",
            self.file,
            self.records,
            self.agreed,
            deviating,
            self.failed.len()
        )?;
        for (reason, count) in &self.deviating {
            write!(f, "\n    {count:>5} deviating: {reason}")?;
        }
        for why in self.failed.iter().take(FAILURES_SHOWN) {
            write!(f, "\n    FAILED {why}")?;
        }
        if self.failed.len() > FAILURES_SHOWN {
            write!(f, "\n    ... and {} more", self.failed.len() - FAILURES_SHOWN)?;
        }
        Ok(())
    }
}

/// Failures printed per file.
const FAILURES_SHOWN: usize = 20;

/// The folder of golden vectors: `INFERNO_GOLDEN_DIR`, by default `../shared/golden` beside the
/// repository; `None` when it does not exist.
pub fn golden_dir() -> Option<PathBuf> {
    let dir = match std::env::var_os("INFERNO_GOLDEN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"),
    };
    dir.is_dir().then_some(dir)
}

/// All records of a `.jsonl` or `.jsonl.gz` file. Panics with file and line when one does not parse.
pub fn read_jsonl(path: &Path) -> Vec<serde_json::Value> {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reader: Box<dyn Read> = match path.extension().is_some_and(|e| e == "gz") {
        true => Box::new(flate2::read::MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut records = Vec::new();
    for (at, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), at + 1));
        if line.trim().is_empty() {
            continue;
        }
        let record =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), at + 1));
        records.push(record);
    }
    records
}
