//! The command line beside its jobs: help, completions, manual pages, and the log in its forms.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_inferno-sidecar");
const COMMANDS: [&str; 9] =
    ["serve", "demo", "check", "size", "replay", "simulate", "relabel", "completions", "man"];

fn output(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn help_names_every_command_and_every_flag_says_what_it_does() {
    let help = output(&["--help"]);
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in\n{help}");
        let help = output(&[command, "--help"]);
        let mut lines = help.lines().peekable();
        while let Some(line) = lines.next() {
            // Flags stand further left than what is said about them, which may name others.
            if line.strip_prefix("      ").is_some_and(|flag| flag.starts_with("--")) {
                let says = line.trim().split_once("  ").is_some()
                    || lines.peek().is_some_and(|next| !next.trim().is_empty());
                assert!(says, "{command}: {line}");
            }
        }
    }
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = output(&["completions", shell]);
        assert!(script.contains("replay") && script.contains("record-size"), "{shell}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().expect("bash runs");
    bash.stdin.take().unwrap().write_all(output(&["completions", "bash"]).as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
}

#[test]
fn there_is_a_manual_page_per_command() {
    let page = output(&["man"]);
    assert!(page.contains(".TH inferno-sidecar 1") && page.contains("SUBCOMMANDS"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    output(&["man", "--dir", dir.path().to_str().unwrap()]);
    for command in COMMANDS {
        let page = fs::read_to_string(dir.path().join(format!("inferno-sidecar-{command}.1"))).unwrap();
        assert!(page.starts_with(".ie") || page.contains(".TH"), "{command}");
    }
}

/// The first lines of a server's log.
fn log(format: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", format, "--config-dir"])
        .arg(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let lines = lines.take(2).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    lines
}

#[test]
fn log_lines_have_the_form_that_is_asked_for() {
    for line in log("logfmt") {
        assert!(line.starts_with("ts=20") && line.contains(" level=info msg=\""), "{line}");
    }
    for line in log("json") {
        let object: Value = serde_json::from_str(&line).expect("JSON");
        assert!(object["level"] == "INFO" && object["timestamp"].is_string(), "{line}");
        assert!(object["fields"]["message"].is_string(), "{line}");
    }
    assert!(log("text").iter().all(|line| line.contains(" INFO ")));
}
