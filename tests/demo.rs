//! The demo as its user runs it: the built binary, its JSON, its exit status, and how it stops.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
    command.arg("demo").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    demo(arguments).output().expect("the binary runs")
}

/// Standard output as exactly one JSON object.
fn summary(output: &Output) -> Value {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON object")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

fn assert_sane(summary: &Value) {
    let share = |value: &Value| assert!((0.0..=1.0).contains(&number(value)), "{value} is a share");
    share(&summary["requests"]["attainment"]);
    let models = summary["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    models.iter().for_each(|model| share(&model["attainment"]));
    let requests = &summary["requests"];
    let ended = ["served", "lost", "refused", "in_flight"].map(|key| requests[key].as_u64().unwrap());
    assert_eq!(requests["arrived"].as_u64().unwrap(), ended.iter().sum::<u64>(), "{requests}");
    assert!(number(&summary["replica_hours"]) > 0.0 && number(&summary["cost"]) > 0.0);
    assert_eq!(summary["completed"], true);
    assert_eq!(summary["wall"]["retries"], 0);
}

#[test]
fn a_spike_is_answered_by_a_raised_decision_and_more_replicas() {
    let output = run(&["--json", "--duration", "3m", "--speed", "60"]);
    let summary = summary(&output);
    assert_sane(&summary);
    let response = &summary["response"];
    let decision_s = number(&response["decision_after_s"]);
    assert!((1.0..=30.0).contains(&decision_s), "{response}");
    assert!(response["to"].as_u64() > response["from"].as_u64(), "{response}");
    assert!(number(&response["applied_after_s"]) >= decision_s);
    let first = &summary["wall"]["first_raise"];
    assert!(number(&first["published_ms"]) <= number(&first["visible_ms"]));
    assert!(number(&first["visible_ms"]) < 1000.0, "{first}");
    let variants = summary["variants"].as_array().unwrap();
    assert!(variants.iter().any(|variant| variant["ready_max"].as_u64() > Some(1)), "replicas grew");
    assert!(number(&summary["pushed"]["samples"]) > 10_000.0);

    let progress = String::from_utf8(output.stderr).unwrap();
    for expected in ["the spike begins", "decided", "scaled", "ready", "Summary: spike, 3m"] {
        assert!(progress.contains(expected), "{expected:?} is shown in:\n{progress}");
    }
    assert!(!progress.contains('\x1b'), "no escape codes without a terminal");
    assert!(progress.lines().all(|line| line.chars().count() <= 100), "{progress}");
    let summary = progress.split("Summary:").nth(1).unwrap();
    assert!(summary.lines().all(|line| line.chars().count() <= 80), "{summary}");
}

#[test]
fn the_same_flags_give_the_same_run_at_any_speed() {
    let flags = ["--json", "--duration", "150s", "--seed", "7", "--speed"];
    let played = |speed: &str| {
        let mut summary = summary(&run(&[&flags[..], &[speed]].concat()));
        summary["wall"].take();
        summary
    };
    let one = played("100");
    assert!(!one["decisions"].as_array().unwrap().is_empty());
    assert_eq!(one, played("1000"));
    let other = summary(&run(&["--json", "--duration", "150s", "--seed", "8", "--speed", "1000"]));
    assert_ne!(one["requests"], other["requests"], "the seed matters");
}

#[test]
fn the_other_scenarios_run_and_are_answered() {
    for scenario in ["ramp", "diurnal"] {
        let flags = ["--json", "--scenario", scenario, "--duration", "4m", "--startup", "20s", "--speed"];
        let summary = summary(&run(&[&flags[..], &["200"]].concat()));
        assert_sane(&summary);
        assert_eq!(summary["scenario"], scenario);
        assert!(summary["scale_events"]["decided_up"].as_u64() > Some(0), "{scenario}: {summary}");
    }
}

#[test]
fn text_output_ends_with_the_summary() {
    let output = run(&["--duration", "150s", "--speed", "1000"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Summary: spike") && text.contains("first raised decision"), "{text}");
    assert!(text.trim_end().ends_with("replica-hours."), "{text}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nonsense_is_refused_with_advice() {
    for (flags, expected) in [
        (&["--duration", "1m"][..], "use --duration 2m"),
        (&["--duration", "10s"], "use at least 1m"),
        (&["--startup", "10m"], "or a shorter --startup"),
        (&["--speed", "0"], "from 0.1 to 1000"),
        (&["--scenario", "storm"], "possible values: spike, ramp, diurnal"),
        (&["--duration", "soon"], "must be a duration"),
    ] {
        let output = run(flags);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
}

/// Starts a slow run, sends `signal` once it is under way, and returns what it says until it ends.
fn stopped_by(signal: &str, flags: &[&str]) -> (ExitStatus, Duration, String) {
    let mut child = demo(&[flags, &["--speed", "5"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let json = flags.contains(&"--json");
    let mut progress: Box<dyn BufRead> = match json {
        true => Box::new(BufReader::new(child.stderr.take().unwrap())),
        false => Box::new(BufReader::new(child.stdout.take().unwrap())),
    };
    let mut text = String::new();
    while !text.contains("0:10") {
        assert!(progress.read_line(&mut text).unwrap() > 0, "ended early: {text}");
    }
    let sent = Instant::now();
    let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let status = child.wait().unwrap();
    let took = sent.elapsed();
    if json {
        text.clear();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    } else {
        progress.read_to_string(&mut text).unwrap();
    }
    (status, took, text)
}

#[test]
fn an_interrupt_ends_the_run_with_the_summary_so_far() {
    let (status, took, text) = stopped_by("-INT", &[]);
    assert_eq!(status.code(), Some(130));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(text.contains("stopped early") && text.contains("ended before the load rose"), "{text}");
}

#[test]
fn termination_ends_it_too_and_the_object_is_whole() {
    let (status, took, text) = stopped_by("-TERM", &["--json"]);
    assert_eq!(status.code(), Some(130));
    assert!(took < Duration::from_secs(2), "{took:?}");
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["completed"], false);
    assert!(number(&summary["played_s"]) >= 10.0);
}
