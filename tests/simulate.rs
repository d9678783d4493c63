//! `simulate` as a user meets it: what it says about bad input, what it reads, and what it prints.

use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_inferno-sidecar");
const HEADER: &str = "arrival_s,input_tokens,output_tokens\n";
/// A load that takes no time to simulate.
const SHORT: &str = "pattern:rate=2,duration=5m,prompt=500,output=50";

fn simulate(arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("simulate").args(arguments).output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The result of a run of which nothing was left out.
fn result(arguments: &[&str]) -> Value {
    let output = simulate(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// The result of a run of which something was left out, and what was said about it.
fn partial(arguments: &[&str]) -> (Value, String) {
    let output = simulate(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
    (serde_json::from_slice(&output.stdout).expect("one JSON object"), said(&output))
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// 200 requests, one every two seconds.
fn rows() -> String {
    (0..200).map(|index| format!("{},500,50\n", 2 * index)).collect()
}

fn policies(scenario: &Value) -> Vec<&str> {
    scenario["policies"].as_array().unwrap().iter().map(|one| one["policy"].as_str().unwrap()).collect()
}

#[test]
fn odd_rows_are_named_counted_and_left_out() {
    let files = Files::new();
    let odd = "-1,5,5\nNaN,5,5\nx,y,z\n7\n400,500,50\n390,500,50\n";
    let path = files.write("odd.csv", &format!("{HEADER}{}{odd}", rows()));
    let output = simulate(&[&path, "--policy", "static-2", "--json"]);
    let said = said(&output);
    assert!(output.status.success(), "rows are not runs: {said}");
    for (line, what) in [
        (202, "arrival_s is \"-1\", and 1 more"),
        (204, "\"x,y,z\" is no request, and 1 more"),
        (207, "is earlier than the row before"),
    ] {
        assert!(said.contains(&format!("odd.csv line {line}: {what}")), "{said}");
    }
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let scenario = &result["scenarios"][0];
    assert_eq!(scenario["left_out"]["bad_times"], 2);
    assert_eq!(scenario["left_out"]["garbled"], 2);
    assert_eq!((&scenario["unsorted"], &scenario["requests"]), (&1.into(), &202.into()));
    assert_eq!(scenario["policies"][0]["arrived"], 202);
}

#[test]
fn prompts_beyond_the_context_are_rejected_alike_for_every_policy_and_counted() {
    let files = Files::new();
    let path = files.write("long.csv", &format!("{HEADER}{}399,41000,500\n399.5,99999,1\n", rows()));
    let arguments =
        [&*path, "--profile", "llama-3.1-8b_rtx4090", "--policy", "static-1,keda,slo", "--ttft-ms", "4000"];
    let result = result(&arguments);
    let scenario = &result["scenarios"][0];
    assert_eq!(scenario["left_out"]["too_long"], 2);
    for policy in scenario["policies"].as_array().unwrap() {
        assert_eq!(policy["arrived"], 200, "{}", policy["policy"]);
    }
    let text = String::from_utf8(simulate(&arguments).stdout).unwrap();
    assert!(text.contains("2 requests beyond the context, rejected alike for every policy"), "{text}");

    let path = files.write("all.csv", &format!("{HEADER}1,99999,1\n"));
    let (result, said) =
        partial(&[&path, SHORT, "--profile", "llama-3.1-8b_rtx4090", "--policy", "static-1"]);
    assert!(said.contains("all 1 requests exceed its 41408 tokens of context"), "{said}");
    assert_eq!(result["scenarios"].as_array().unwrap().len(), 1);
}

#[test]
fn a_file_that_is_no_trace_does_not_stop_the_others() {
    let files = Files::new();
    let good = files.write("good.csv", &format!("{HEADER}{}", rows()));
    let missing = files.write("missing.csv", "arrival_s,tokens\n1,2\n");
    let empty = files.write("empty.csv", HEADER);
    let nothing = files.write("nothing.csv", "");
    let cut = files.0.path().join("cut.csv.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(format!("{HEADER}{}", rows()).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    fs::write(&cut, &packed[..packed.len() / 2]).unwrap();
    let cut = cut.to_str().unwrap();
    let absent = "/nowhere/at-all.csv";
    let (result, said) = partial(&[&missing, &empty, &nothing, cut, absent, &good, "--policy", "static-2"]);
    for expected in [
        "missing.csv line 1: there is no column input_tokens; the header has: arrival_s, tokens",
        "empty.csv: there is no usable request in it",
        "nothing.csv line 1: there is no column arrival_s",
        "cut.csv.gz line ",
        "/nowhere/at-all.csv: cannot be read: No such file",
    ] {
        assert!(said.contains(expected), "{expected:?} in\n{said}");
    }
    let scenarios = result["scenarios"].as_array().unwrap();
    assert_eq!((scenarios.len(), &scenarios[0]["trace"]), (1, &"good".into()));
    let left_out = result["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), 5);
    assert!(left_out.iter().all(|one| !one["fix"].as_str().unwrap().is_empty()));

    // A file that unpacks is read whatever its name.
    let whole = files.0.path().join("whole.csv");
    fs::write(&whole, packed).unwrap();
    let read = self::result(&[whole.to_str().unwrap(), "--policy", "static-2"]);
    assert_eq!(read["scenarios"][0]["requests"], 200);
}

#[test]
fn a_target_that_nothing_can_meet_is_named_and_the_other_profiles_are_run() {
    // A step takes 23.6 ms with the one profile, 6.8 ms with the other.
    let profiles = ["--profile", "qwen3-32b_rtxpro6000x2,llama-3.1-8b_h100", "--policy", "static-2"];
    let (result, said) = partial(&[&[SHORT, "--itl-ms", "10"], &profiles[..]].concat());
    assert!(
        said.contains("on qwen3-32b_rtxpro6000x2: the ITL target of 10 ms is below the 23.6 ms"),
        "{said}"
    );
    assert!(said.contains("aim at 29 ms or more"), "{said}");
    let scenarios = result["scenarios"].as_array().unwrap();
    assert_eq!((scenarios.len(), &scenarios[0]["profile"]), (1, &"llama-3.1-8b_h100".into()));

    let (_, said) = partial(&[&[SHORT, "--ttft-ms", "20"], &profiles[..]].concat());
    assert!(
        said.contains("the TTFT target of 20 ms is below the 28.6 ms of a prompt of one token"),
        "{said}"
    );

    // Prompts that take longer than the target, though a prompt of one token would not.
    let long = "pattern:rate=1,duration=5m,prompt=20000,output=50,spread=0";
    let (_, said) = partial(&[&[long, "--ttft-ms", "1000"], &profiles[..]].concat());
    assert!(said.contains("none of the requests can be served within TTFT 1000 ms"), "{said}");
    assert!(said.contains("even with a replica for itself"), "{said}");
}

#[test]
fn requests_that_nothing_can_help_are_counted() {
    let files = Files::new();
    let path = files.write("some.csv", &format!("{HEADER}{}401,200000,50\n", rows()));
    let result = result(&[&path, "--policy", "static-4"]);
    let scenario = &result["scenarios"][0];
    assert_eq!(scenario["hopeless"], 1);
    assert!(
        scenario["remarks"].to_string().contains("at most 99.50 % can be attained"),
        "{}",
        scenario["remarks"]
    );
    assert_eq!(scenario["policies"][0]["met"], 200);
}

#[test]
fn unknown_names_list_those_there_are_and_the_rest_is_run() {
    let (result, said) =
        partial(&[SHORT, "--profile", "h100,llama-3.1-8b_h100", "--policy", "static-1,sol,hpa-queue"]);
    assert!(
        said.contains("--profile h100: there is no such profile; there are llama-3.1-8b_h100, "),
        "{said}"
    );
    assert!(said.contains("--policy sol: there is no such policy; there are oracle, best-static"), "{said}");
    assert_eq!(policies(&result["scenarios"][0]), ["static-1", "hpa-queue"]);

    let output = simulate(&[SHORT, "--policy", "sol"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(said_of(&output).contains("nothing is left to simulate"), "{}", said_of(&output));
}

fn said_of(output: &Output) -> String {
    said(output)
}

#[test]
fn a_profile_that_is_wrong_is_named_and_the_others_of_its_file_are_used() {
    let files = Files::new();
    let path = files.write(
        "profiles.json",
        r#"{"variants": [
            {"id": "bad", "model": "m", "gpu": "g", "iteration_ms": {"a": -5}, "kv_tokens": 100000},
            {"id": "mine", "model": "m", "gpu": "g", "iteration_ms": {"a": 5, "c": 0.02}, "kv_tokens": 100000}
        ]}"#,
    );
    let (result, said) = partial(&[SHORT, "--profiles", &path, "--profile", "mine", "--policy", "static-1"]);
    assert!(said.contains("profiles.json variant 1 (\"bad\"): iteration_ms.a is -5"), "{said}");
    assert_eq!(result["scenarios"][0]["policies"][0]["attainment_ratio"], 1.0);

    let broken = files.write("broken.json", "{\"variants\": [\n{\"id\": }]}");
    let (_, said) = partial(&[SHORT, "--profiles", &broken, "--policy", "static-1"]);
    assert!(said.contains("broken.json line 2: expected value"), "{said}");
}

#[test]
fn flags_that_make_no_sense_are_refused_before_anything_runs() {
    for (arguments, part) in [
        (&["--itl-ms", "-5"][..], "0 for no target"),
        (&["--min", "5", "--max", "2"], "--min must not exceed --max"),
        (&["--startup", "soon"], "must be a duration"),
        (&["--seeds", "0"], "--seeds"),
        (&["--scrape", "0s"], "--scrape must be longer"),
    ] {
        let output = simulate(&[&[SHORT], arguments].concat());
        assert!(!output.status.success());
        assert!(said(&output).contains(part), "{}", said(&output));
    }
    let (_, said) = partial(&["pattern:rate=two", SHORT, "--policy", "static-1"]);
    assert!(said.contains("pattern:rate=two: \"rate=two\" has no sensible value; give a number"), "{said}");
}

#[test]
fn every_start_up_time_and_seed_is_run_and_the_seed_decides_everything() {
    let arguments =
        [SHORT, "--policy", "static-2,slo", "--startup", "45s,600s", "--seeds", "2", "--seed", "7"];
    let result = result(&arguments);
    let scenarios = result["scenarios"].as_array().unwrap();
    let seen: Vec<(f64, u64)> = scenarios
        .iter()
        .map(|one| (one["startup_s"].as_f64().unwrap(), one["seed"].as_u64().unwrap()))
        .collect();
    assert_eq!(seen, [(45.0, 7), (45.0, 8), (600.0, 7), (600.0, 8)]);
    assert_ne!(scenarios[0]["policies"][0], scenarios[1]["policies"][0]);
    assert_eq!(scenarios[0]["policies"][0], scenarios[2]["policies"][0], "a static fleet starts nothing");
    assert_eq!(result, self::result(&arguments), "the same seed gives the same run");
    let text = String::from_utf8(simulate(&arguments).stdout).unwrap();
    for part in
        ["4 scenarios, all start-up times", "2 scenarios, start-up 45 s", "2 scenarios, start-up 600 s"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn every_request_is_accounted_for_under_every_policy() {
    let names = "static-1,static-4,slo,keda,hpa-queue,wva-0.9,oracle,best-static";
    let load = "pattern:rate=1,peak=40,shape=spikes,duration=20m,prompt=2000,output=200";
    let result = result(&[load, "--policy", names, "--profile", "llama-3.1-8b_rtx4090", "--startup", "60s"]);
    let scenario = &result["scenarios"][0];
    assert_eq!(policies(scenario).join(","), names);
    for policy in scenario["policies"].as_array().unwrap() {
        let count = |key: &str| policy[key].as_u64().unwrap();
        assert_eq!(policy["arrived"], scenario["requests"], "{}", policy["policy"]);
        assert_eq!(
            count("arrived"),
            count("finished") + count("lost") + count("unfinished"),
            "{}",
            policy["policy"]
        );
        assert!(count("met") <= count("finished"));
    }
    let lost = |policy: usize| scenario["policies"][policy]["unfinished"].as_u64().unwrap();
    assert_eq!(lost(1), 0, "four replicas finish within half an hour");
}

/// Little's law, on a steady run: what is in the system is what arrives times how long it stays.
#[test]
fn a_steady_run_holds_as_many_requests_as_arrive_in_the_time_that_one_stays() {
    use inferno_sidecar::config::SloTargets;
    use inferno_sidecar::emulate::fleet::Fleet;
    use inferno_sidecar::simulate::pattern::Pattern;
    use inferno_sidecar::simulate::profiles::built_in;
    use inferno_sidecar::simulate::scenario::START;
    use inferno_sidecar::simulate::suite::{Common, scenario};
    use std::sync::Arc;

    let trace = Pattern::parse("rate=20,duration=1h,prompt=800,output=200").unwrap().trace("steady", 1);
    let arrived = trace.requests.len() as f64;
    let profile = built_in().remove(0);
    let common = Common { attainment: 0.99, startup_ms: 60_000, scrape_ms: 5_000, replicas: (4, 4), seed: 1 };
    let scenario = scenario(&Arc::new(trace), &profile, SloTargets::default(), common);
    let mut fleet = Fleet::new(scenario.fleet());
    let (mut area_s, mut stayed_s, mut at_ms) = (0.0, 0.0, 0);
    while at_ms < scenario.trace.duration_ms() || fleet.models()[0].in_flight() > 0 {
        at_ms += 100;
        fleet.advance_to(START + at_ms);
        area_s += fleet.models()[0].in_flight() as f64 * 0.1;
        for served in fleet.take_finished() {
            stayed_s += (served.finished.finish_us - served.finished.request.arrival_us) as f64 / 1e6;
        }
    }
    // Over a run that begins and ends empty both are the sum of all stays, but for the 100 ms between looks.
    assert!((area_s / stayed_s - 1.0).abs() < 0.02, "{area_s} {stayed_s}");
    let (rate_per_s, inside) = (arrived / 3600.0, area_s / 3600.0);
    assert!((inside / (rate_per_s * stayed_s / arrived) - 1.0).abs() < 0.02, "{inside}");
    assert!(inside > 10.0, "the fleet is busy: {inside}");
}

#[test]
fn the_picture_shows_every_policy_with_load_replicas_queue_and_attainment() {
    let files = Files::new();
    let plot = files.0.path().join("plot.svg");
    let names = ["static-1", "slo", "keda"];
    let output = simulate(&[SHORT, "--policy", &names.join(","), "--plot", plot.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(!svg.contains("href") && !svg.contains("NaN"), "self-contained");
    for text in ["requests per second", "existing", "ready", "desired", "filled by the load", "missed"] {
        assert!(svg.contains(text), "{text}");
    }
    for name in names {
        assert!(svg.contains(&format!("\n{name}\n")), "{name}");
    }
    assert_eq!(svg.matches("requests waiting").count(), 3);
    assert_eq!(svg.matches("finished within both targets, %").count(), 3);
}

#[test]
fn a_folder_of_traces_and_a_recording_are_read() {
    let files = Files::new();
    files.write("b.csv", &format!("{HEADER}{}", rows()));
    files.write("a.csv", &format!("{HEADER}{}", rows()));
    files.write("notes.txt", "not a trace");
    let dir = files.0.path().to_str().unwrap();
    let result = result(&[dir, "--policy", "static-1"]);
    let names: Vec<&str> =
        result["scenarios"].as_array().unwrap().iter().map(|one| one["trace"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);

    let empty = Files::new();
    let (_, said) = partial(&[empty.0.path().to_str().unwrap(), SHORT, "--policy", "static-1"]);
    assert!(said.contains("there is no trace in it (*.csv, *.csv.gz), and no recording"), "{said}");
}

/// Arrivals and token means of the demo's recording are those of the demo.
#[test]
fn a_recording_gives_back_the_load_that_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = dir.path();
    let demo = ["demo", "--json", "--speed", "500", "--duration", "10m", "--record"];
    let output = Command::new(BINARY).args(demo).arg(path).output().expect("the binary runs");
    assert!(output.status.success(), "{}", said(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let served: f64 = summary["requests"]["arrived"].as_f64().unwrap_or_else(|| panic!("{summary}"));
    let path: PathBuf = path.to_owned();
    let result = result(&[path.to_str().unwrap(), "--policy", "static-4"]);
    let scenarios = result["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 2, "one per model");
    let requests: f64 = scenarios.iter().map(|one| one["requests"].as_f64().unwrap()).sum();
    assert!((requests / served - 1.0).abs() < 0.03, "{requests} of {served} requests");
    for (model, prompt, output) in [("Qwen3-14B", 600.0, 400.0), ("Llama-3.1-8B", 1200.0, 250.0)] {
        let is_it = |one: &&Value| one["trace"].as_str().unwrap().contains(model);
        let found = scenarios.iter().find(is_it).expect(model);
        for (key, expected) in [("mean_prompt_tokens", prompt), ("mean_output_tokens", output)] {
            let mean = found[key].as_f64().unwrap();
            assert!((mean / expected - 1.0).abs() < 0.1, "{model}: {key} {mean}, {expected} in the demo");
        }
    }
}
