//! Runs the golden inputs under the guarded rule, which is the default: every decision that differs from
//! the reference's has a stated reason.

use serde_json::Value;

use crate::report::{Report, golden_dir, read_jsonl};
use crate::{limiter, optimizer, saturation};

/// Runs the records of one file.
type Runner = fn(&mut Report, &[Value]);

/// File-name prefix and what runs its records.
const KINDS: &[(&str, Runner)] = &[
    ("cost_aware_optimizer", optimizer::run_guarded),
    ("gpu_limiter", limiter::run_guarded),
    ("saturation_v1", saturation::run_guarded),
];

#[test]
fn guarded_rule_differs_from_the_reference_only_for_stated_reasons() {
    let Some(dir) = golden_dir() else {
        println!("golden vectors were SKIPPED");
        return;
    };
    let mut failed = 0;
    for entry in std::fs::read_dir(&dir).expect("golden folder is readable") {
        let path = entry.expect("golden folder is readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((prefix, run)) = KINDS.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            let mut report = Report::new(&format!("{prefix} (guarded)"));
            run(&mut report, &read_jsonl(&path));
            println!("{report}");
            failed += report.failed.len();
        }
    }
    assert_eq!(failed, 0, "decisions differ without a reason; the table above names them");
}
