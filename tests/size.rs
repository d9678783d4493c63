//! `inferno-sidecar size`, run as a command.

use serde_json::Value;
use std::process::{Command, Output};

/// The published example, without its load and targets.
const PROFILE: &str = "--alpha 20.58 --beta 0.41 --max-batch 4 --output-tokens 178";

fn run(arguments: &str) -> Output {
    run_with(arguments, &[])
}

fn run_with(arguments: &str, variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"))
        .env_clear()
        .envs(variables.iter().copied())
        .arg("size")
        .args(arguments.split_whitespace())
        .output()
        .expect("the command runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json(arguments: &str) -> Value {
    let output = run(&format!("{arguments} --json"));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Asserts agreement within the digits that were published.
fn near(found: &Value, published: f64) {
    let found = found.as_f64().unwrap_or(f64::NAN);
    assert!((found - published).abs() <= 2e-7 * published, "{found} instead of {published}");
}

#[test]
fn the_published_example_comes_out() {
    let question = format!("{PROFILE} --rate 41.32/min --slo-itl 24 --slo-ttft 500 --cost 40");
    let answer = json(&question);
    assert_eq!((&answer["replicas"], &answer["binds"]), (&2.into(), &"ttft".into()));
    near(&answer["predicted"]["itl_ms"], 21.509005);
    near(&answer["predicted"]["wait_ms"], 78.63574);
    near(&answer["predicted"]["rho"], 0.72974753);
    near(&answer["max_rate_per_replica_per_min"], 25.31145);
    assert_eq!(answer["predicted"]["cost"], 80.0);
    let output = run(&question);
    assert!(output.status.success());
    for part in [
        "2 replicas: the load is worth 1.6324626 replicas",
        "max rate per replica   0.42185755 requests/s (25.311453/min)",
        "21.509005 ms/token",
        "78.635731 ms",
        "0.72974758",
        "80 (40 each)",
    ] {
        assert!(text(&output).contains(part), "{part} is missing in\n{}", text(&output));
    }
}

#[test]
fn a_replica_fewer_misses_and_a_replica_more_costs() {
    let answer = json(&format!("{PROFILE} --rate 41.32/min --slo-itl 24 --slo-ttft 0.5s --cost 40"));
    let replicas = |step: &str| answer[step]["replicas"].as_u64();
    assert_eq!((replicas("fewer"), replicas("predicted"), replicas("more")), (Some(1), Some(2), Some(3)));
    assert_eq!(answer["fewer"]["misses"], serde_json::json!(["ttft"]));
    assert_eq!(answer["more"]["misses"], serde_json::json!([]));
    let wait = |step: &str| answer[step]["wait_ms"].as_f64().unwrap();
    assert!(wait("fewer") > wait("predicted") && wait("predicted") > wait("more"));
    assert_eq!(answer["more"]["cost"], 120.0);
}

#[test]
fn every_kind_of_binding_is_named() {
    let binds = |more: &str| json(&format!("{PROFILE} {more}"))["binds"].clone();
    assert_eq!(binds("--rate 41.32/min --slo-ttft 500"), "ttft");
    assert_eq!(binds("--rate 41.32/min --slo-itl 21.5"), "itl");
    assert_eq!(binds("--rate 41.32/min --slo-tps 900"), "tps");
    assert_eq!(binds("--rate 410.32/min"), "service_limit");
    assert_eq!(binds("--rate 41.32/min --min-replicas 9"), "min");
    assert_eq!(binds("--rate 410/min --max-replicas 2"), "max");
    assert_eq!(binds("--rate 0 --slo-itl 1"), "min");
    assert_eq!(json(&format!("{PROFILE} --rate 0 --min-replicas 0"))["replicas"], 0);
}

#[test]
fn the_status_says_whether_the_targets_are_met() {
    let unreachable = format!("{PROFILE} --rate 41.32/min --slo-itl 20");
    let output = run(&unreachable);
    assert_eq!(output.status.code(), Some(1));
    let wanted = "unreachable: itl target 20 ms; the best possible is 20.99041 ms";
    assert!(text(&output).starts_with(wanted), "{}", text(&output));
    let answer = json(&unreachable);
    assert_eq!((&answer["replicas"], &answer["targets_met"]), (&Value::Null, &false.into()));
    assert_eq!(answer["unreachable"]["target"], "itl");
    near(&answer["unreachable"]["best_ms"], 20.99041);
    assert!(answer["unreachable"]["without"]["replicas"].as_u64().is_some());
    let capped = run(&format!("{PROFILE} --rate 410/min --slo-ttft 500 --max-replicas 2"));
    assert_eq!(capped.status.code(), Some(1));
    assert!(text(&capped).contains("the maximum of replicas binds"), "{}", text(&capped));
    assert!(text(&capped).contains("missed: ttft, load"), "{}", text(&capped));
}

#[test]
fn the_parameters_choose_the_generation() {
    let base = "--rate 2 --input-tokens 512 --output-tokens 128 --alpha 8 --beta 0.016 --max-batch 64";
    let generation = |more: &str| json(&format!("{base} {more}"))["profile"]["generation"].clone();
    assert_eq!(generation(""), "decode");
    assert_eq!(generation("--gamma 0.0001"), "iteration");
    assert_eq!(generation("--gamma 10 --delta 0.01"), "prefill");
    assert_eq!(generation("--gamma 0.0001 --model-generation iteration"), "iteration");
    let scaled = json(&format!("{base} --at-tokens 64"));
    assert_eq!(scaled["profile"]["batch"], 32);
}

#[test]
fn bad_input_names_the_flag_and_the_fix() {
    let base = format!("{PROFILE} --rate 1");
    let cases = [
        ("--rate -1", "--rate <RATE>", "write requests per second"),
        ("--rate 5/day", "--rate <RATE>", "/s, /min or /h"),
        ("--alpha -1", "--alpha <MS>", "write a number from 0"),
        ("--beta NaN", "--beta <MS>", "write a number from 0"),
        ("--gamma inf", "--gamma <MS>", "write a number from 0"),
        ("--delta x", "--delta <MS>", "write a number from 0"),
        ("--max-batch 0", "--max-batch <REQUESTS>", "whole number from 1 to 65536"),
        ("--max-batch 1.5", "--max-batch <REQUESTS>", "whole number"),
        ("--at-tokens 0", "--at-tokens <TOKENS>", "whole number from 1"),
        ("--input-tokens -5", "--input-tokens <TOKENS>", "write a number from 0"),
        ("--output-tokens 0", "--output-tokens <TOKENS>", "write a number above 0"),
        ("--slo-itl -1ms", "--slo-itl <TIME>", "write milliseconds"),
        ("--rate=-1/min", "--rate <RATE>", "write requests per second"),
        ("--slo-ttft soon", "--slo-ttft <TIME>", "e.g. 500ms or 0.5s"),
        ("--slo-tps -1", "--slo-tps <TOKENS_PER_S>", "write a number from 0"),
        ("--cost NaN", "--cost <COST>", "write a number from 0"),
        ("--min-replicas -1", "--min-replicas <REPLICAS>", "whole number from 0"),
        ("--max-replicas 0", "--max-replicas <REPLICAS>", "whole number from 1"),
        ("--min-replicas 3 --max-replicas 2", "--min-replicas 3 is above --max-replicas 2", "lower"),
        ("--model-generation best", "--model-generation <MODEL_GENERATION>", "iteration"),
        ("--model-generation prefill", "--gamma is missing", "milliseconds"),
        ("--model-generation decode --gamma 1", "--gamma has no meaning", "leave it out"),
        ("--gamma 1", "--input-tokens is missing", "or 0"),
        ("--alpha 0 --beta 0", "--alpha: service time", "measured parameters"),
    ];
    for (more, flag, fix) in cases {
        // A flag replaces the same flag of the base, which would be there twice otherwise.
        let replaced: Vec<&str> = more.split_whitespace().filter(|word| word.starts_with("--")).collect();
        let words: Vec<&str> = base.split_whitespace().collect();
        let kept: Vec<&str> = words
            .chunks(2)
            .filter(|pair| !replaced.iter().any(|flag| flag.split('=').next() == Some(pair[0])))
            .flatten()
            .copied()
            .collect();
        refused(&format!("{} {more}", kept.join(" ")), flag, fix);
    }
    refused("--output-tokens 1 --alpha 1 --beta 1 --max-batch 1", "--rate is missing", "--rate 120/min");
    refused("--rate 1 --alpha 1 --beta 1 --max-batch 1", "--output-tokens is missing", "average");
    refused("--rate 1 --output-tokens 1 --max-batch 1", "--alpha is missing", "--variant");
    refused("--rate 1 --output-tokens 1 --alpha 1 --max-batch 1", "--beta is missing", "milliseconds");
    refused("--rate 1 --output-tokens 1 --alpha 1 --beta 1", "--max-batch is missing", "runs together");
}

fn refused(arguments: &str, flag: &str, fix: &str) {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments}");
    assert!(error.contains(flag) && error.contains(fix), "{arguments}: {error}");
}

#[test]
fn variables_stand_for_flags_and_flags_win() {
    let variables = [("INFERNO_RATE", "41.32/min"), ("INFERNO_SLO_TTFT", "500"), ("INFERNO_JSON", "true")];
    let replicas = |more: &str| {
        let output = run_with(&format!("{PROFILE} {more}"), &variables);
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        answer["replicas"].clone()
    };
    assert_eq!(replicas(""), 2);
    assert_eq!(replicas("--rate 82.64/min"), 4);
}

const VARIANTS: &str = r#"
apiVersion: llmd.ai/v1alpha1
kind: VariantAutoscaling
metadata: {name: small, namespace: llm, labels: {inference.optimization/acceleratorName: A100}}
spec:
  modelID: m
  variantCost: "40"
  maxReplicas: 20
  modelProfile:
    accelerators:
      - acc: A100
        accCount: 1
        perfParms: {decodeParms: {alpha: 20.58, beta: 0.41}}
        maxBatchSize: 4
---
apiVersion: llmd.ai/v1alpha1
kind: VariantAutoscaling
metadata: {name: large, namespace: llm, labels: {inference.optimization/acceleratorName: H100}}
spec:
  modelID: m
  variantCost: "100"
  modelProfile:
    accelerators:
      - acc: H100
        accCount: 1
        perfParms: {decodeParms: {alpha: 10, beta: 0.2}}
        maxBatchSize: 8
---
apiVersion: llmd.ai/v1alpha1
kind: VariantAutoscaling
metadata: {name: bare, namespace: llm}
spec: {modelID: m}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: service-classes-config, namespace: system}
data:
  premium.yaml: |
    name: Premium
    priority: 1
    data:
      - {model: m, slo-tpot: 24, slo-ttft: 500}
"#;

#[test]
fn a_configured_variant_brings_its_profile_and_is_compared_with_its_peers() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("all.yaml"), VARIANTS).expect("written");
    let ask = |more: &str| format!("--config-dir {} --output-tokens 178 {more}", folder.path().display());
    let question = ask("--variant llm/small --rate 41.32/min");
    let answer = json(&question);
    assert_eq!((&answer["replicas"], &answer["variant"]), (&2.into(), &"llm/small".into()));
    near(&answer["predicted"]["wait_ms"], 78.63574);
    assert_eq!(answer["max_replicas"], 20);
    assert_eq!(answer["predicted"]["cost"], 80.0);
    assert_eq!(answer["runner_up"], "llm/large");
    let others = answer["others"].as_array().expect("others");
    assert_eq!((others.len(), &others[0]["replicas"], &others[0]["cost"]), (2, &1.into(), &100.0.into()));
    assert!(others[1]["reason"].as_str().is_some_and(|reason| reason.contains("no performance profile")));
    let said = text(&run(&question));
    assert!(said.contains("llm/small is 20 cheaper than llm/large"), "{said}");
    // Flags override one by one, and only for the variant asked about.
    let overridden = json(&ask("--variant llm/small --rate 41.32/min --cost 90 --min-replicas 3"));
    assert_eq!((&overridden["replicas"], &overridden["predicted"]["cost"]), (&3.into(), &270.0.into()));
    assert_eq!(overridden["others"][0]["cost"], 100.0);
    refused(&ask("--variant llm/bare --rate 1"), "llm/bare has no performance profile", "perfParms");
    refused(&ask("--variant llm/smal --rate 1"), "--variant \"llm/smal\" is not configured", "llm/small");
    refused(&ask("--variant small --rate 1"), "--variant \"small\"", "write NAMESPACE/NAME");
    refused("--config-dir /nowhere --variant a/b --rate 1 --output-tokens 1", "--variant", "--config-dir");
}
