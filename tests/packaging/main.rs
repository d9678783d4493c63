//! What operators install: chart, manifests, dashboards, alerts, pages; each held against the real programs that
//! read it, and every object against a real API server.

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/control_plane.rs"]
mod control_plane;
#[path = "../support/process.rs"]
mod process;

mod chart;
mod cluster;
mod manifests;
mod observability;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that `tests/tools/build` makes from the Go module of that name.
fn program(module: &str, name: &str) -> PathBuf {
    let output =
        Command::new(root().join("tests/tools/build")).arg(module).output().expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Path::new(String::from_utf8(output.stdout).expect("a path").trim()).join(name)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Standard output of a command that must succeed.
fn output_of(command: &mut Command) -> String {
    let output = run(command);
    let (out, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{complaint}{out}");
    out.into_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The objects of a YAML text.
fn objects(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{error} in\n{text}")))
        .filter(|object| !object.is_null())
        .collect()
}

fn name(object: &Value) -> String {
    format!(
        "{} {}",
        object["kind"].as_str().unwrap_or("?"),
        object["metadata"]["name"].as_str().unwrap_or("?")
    )
}

/// The only object of that kind, or that kind and name.
fn find<'v>(objects: &'v [Value], wanted: &str) -> &'v Value {
    let mut found = objects.iter().filter(|object| name(object) == wanted || object["kind"] == wanted);
    let one = found
        .next()
        .unwrap_or_else(|| panic!("no {wanted} among {:?}", objects.iter().map(name).collect::<Vec<_>>()));
    assert!(found.next().is_none(), "more than one {wanted}");
    one
}

/// What `inferno-sidecar check` says of objects.
fn check(objects: &[Value]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    for (index, object) in objects.iter().enumerate() {
        fs::write(dir.path().join(format!("{index:03}.json")), object.to_string()).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
    let output = run(command.args(["check", "--json", "--config-dir"]).arg(dir.path()));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The texts in code fences of that language.
fn fences(page: &str, language: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.trim() == format!("```{language}") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
            texts.push(text.join("\n"));
        }
    }
    texts
}
