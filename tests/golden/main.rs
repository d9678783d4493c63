//! Runs every golden record through the public library and prints a table per file.
//!
//! The folder is `INFERNO_GOLDEN_DIR`, by default `../shared/golden` beside the repository. A kind of
//! record is chosen by the prefix of its file name; files of an unknown kind are named and left alone.

mod enforcer;
mod field;
mod guarded;
mod limiter;
mod optimizer;
mod queue;
mod report;
mod saturation;
mod solver;
mod tokens;

use report::{Report, golden_dir, read_jsonl};
use serde_json::Value;

/// Runs the records of one file.
type Runner = fn(&mut Report, &[Value]);

/// File-name prefix and what runs its records.
const KINDS: &[(&str, Runner)] = &[
    ("cost_aware_optimizer", optimizer::run),
    ("enforcer", enforcer::run),
    ("gpu_limiter", limiter::run),
    ("queue_a", queue::run),
    ("queue_b", queue::run),
    ("queue_c", queue::run),
    ("saturation_v1", saturation::run),
    ("saturation_v2", tokens::run),
    ("solver", solver::run),
];

#[test]
fn every_golden_record_agrees_or_deviates_for_a_stated_reason() {
    let Some(dir) = golden_dir() else {
        println!("golden vectors were SKIPPED: neither INFERNO_GOLDEN_DIR nor ../shared/golden is a folder");
        return;
    };
    let mut paths: Vec<_> = std::fs::read_dir(&dir)
        .expect("golden folder is readable")
        .map(|entry| entry.expect("golden folder is readable").path())
        .collect();
    paths.sort();
    let mut failed = 0;
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !(name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")) {
            continue;
        }
        let Some((_, run)) = KINDS.iter().find(|(prefix, _)| name.starts_with(prefix)) else {
            println!("{name:<34} unknown kind, not run");
            continue;
        };
        let mut report = Report::new(&name);
        run(&mut report, &read_jsonl(&path));
        println!("{report}");
        failed += report.failed.len();
    }
    assert_eq!(failed, 0, "golden records failed; the table above names them (cargo test -- --nocapture)");
}
