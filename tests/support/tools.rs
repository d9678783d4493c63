//! Programs that tests run against: those on the path, and those that `tests/tools/build` builds.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set to any value to skip the tests that need a Prometheus.
const SKIP: &str = "INFERNO_TEST_SKIP_PROMETHEUS";

/// The Prometheus on the path; `None` if there is none and skipping was asked for.
pub fn packaged_prometheus() -> Option<PathBuf> {
    let found = Command::new("prometheus").arg("--version").output().is_ok();
    if !found && std::env::var_os(SKIP).is_some() {
        eprintln!("skipped: there is no prometheus on the PATH and {SKIP} is set");
        return None;
    }
    assert!(found, "no prometheus on the PATH; tests/run installs it, {SKIP}=1 skips this test");
    Some("prometheus".into())
}

/// Prometheus 3, built from its module; `None` if it cannot be built and skipping was asked for.
pub fn prometheus() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/build");
    let built = Command::new(script).arg("prometheus").output().expect("the script can be run");
    if !built.status.success() && std::env::var_os(SKIP).is_some() {
        eprintln!("skipped: Prometheus 3 cannot be built and {SKIP} is set");
        return None;
    }
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "Prometheus 3 cannot be built; {SKIP}=1 skips this test: {said}");
    Some(Path::new(String::from_utf8_lossy(&built.stdout).trim()).join("prometheus"))
}
