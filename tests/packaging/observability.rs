//! Alerts and the dashboard against the metrics that there are.

use super::*;
use inferno_sidecar::publish::gauges::FAMILIES;
use regex::Regex;
use std::collections::BTreeSet;

const RULES: &str = "deploy/observability/rules.yaml";
const DASHBOARD: &str = "deploy/observability/grafana-dashboard.json";

fn promtool(arguments: &[&str]) -> String {
    let promtool = program("prometheus", "promtool");
    output_of(Command::new(promtool).args(arguments).current_dir(root().join("deploy/observability")))
}

fn alerts() -> Vec<Value> {
    let rules = objects(&read(RULES)).remove(0);
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn alerts_are_valid_and_fire_when_they_should() {
    promtool(&["check", "rules", "rules.yaml"]);
    promtool(&["test", "rules", "rules.test.yaml"]);
    let tests = read("deploy/observability/rules.test.yaml");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("name: {name} fires")), "no test of {name}");
    }
}

#[test]
fn every_alert_has_its_runbook() {
    let runbook = read("deploy/observability/README.md");
    for alert in alerts() {
        let link = alert["annotations"]["runbook"].as_str().unwrap_or_else(|| panic!("{alert}"));
        let anchor = link.strip_prefix("deploy/observability/README.md#").unwrap_or_else(|| panic!("{link}"));
        let heading = runbook.lines().filter_map(|line| line.strip_prefix("## "));
        assert!(heading.map(str::to_lowercase).any(|heading| heading == anchor), "no section {anchor}");
    }
}

/// Names of our metrics in a query.
fn names(query: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\binferno_[a-z_]+").unwrap();
    name.find_iter(query).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn queries_are_valid_and_ask_for_metrics_that_exist() {
    let own = read("src/serve/own.rs") + &read("src/serve/bounds.rs");
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut queries: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(queries.len() > 20);
    queries.extend(alerts().iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()));
    for query in queries {
        let query = query.replace("$__rate_interval", "1m").replace("$variant", ".+");
        promql_parser::parser::parse(&query).unwrap_or_else(|error| panic!("{query}: {error}"));
        for name in names(&query) {
            let base = name.trim_end_matches("_bucket");
            let is_known =
                FAMILIES.iter().any(|family| family.name == name) || own.contains(&format!("\"{base}\""));
            assert!(is_known, "{query} asks for {name}");
        }
    }
}

#[test]
fn what_another_mode_advises_stands_beside_what_is_wanted() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let asked = panels.map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.flat_map(|target| names(target["expr"].as_str().unwrap())).collect::<BTreeSet<_>>()
    });
    let both = ["inferno_desired_replicas", "inferno_advised_replicas"].map(str::to_owned);
    assert!(asked.into_iter().any(|names| both.iter().all(|name| names.contains(name))));
}

#[test]
fn copies_are_the_same() {
    assert_eq!(read("charts/inferno-sidecar/files/rules.yaml"), read(RULES));
    assert_eq!(read("charts/inferno-sidecar/files/grafana-dashboard.json"), read(DASHBOARD));
    let operator = objects(&read("deploy/prometheus-operator/rules.yaml")).remove(0);
    assert_eq!(operator["spec"]["groups"], objects(&read(RULES)).remove(0)["groups"]);
}
