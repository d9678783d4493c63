//! The Helm chart under a matrix of values.

use super::*;
use serde_json::json;

/// Values files that the chart is rendered with.
pub const VALUES: [&str; 4] = ["reference", "full", "files", "in-prometheus"];

fn helm() -> Command {
    let mut command = Command::new(program("helm", "helm"));
    command.current_dir(root().join("charts"));
    command
}

fn template(arguments: &[&str]) -> Command {
    let mut command = helm();
    command.args(["template", "r", "inferno-sidecar", "--namespace", "inferno", "--kube-version", "1.34.0"]);
    command.args(arguments);
    command
}

/// The objects of a values file; empty for the defaults.
pub fn rendered(values: &str, more: &[&str]) -> Vec<Value> {
    let file = format!("inferno-sidecar/ci/{values}-values.yaml");
    let mut arguments = if values.is_empty() { vec![] } else { vec!["--values", &*file] };
    arguments.extend(more);
    objects(&output_of(&mut template(&arguments)))
}

/// What the chart says of values that it refuses.
fn refusal(values: &[&str]) -> String {
    let arguments: Vec<&str> = values.iter().flat_map(|value| ["--set", *value]).collect();
    let output = run(&mut template(&arguments));
    assert!(!output.status.success(), "{values:?} are accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_is_linted_with_every_values_file() {
    output_of(helm().args(["lint", "--strict", "inferno-sidecar"]));
    for values in VALUES {
        let file = format!("inferno-sidecar/ci/{values}-values.yaml");
        output_of(helm().args(["lint", "--strict", "inferno-sidecar", "--values", &file]));
    }
}

#[test]
fn what_it_configures_is_accepted_by_check() {
    for (values, variants) in [("", 0), ("reference", 1), ("full", 5), ("files", 0), ("in-prometheus", 0)] {
        let report = check(&rendered(values, &[]));
        assert_eq!(report["problems"], json!([]), "{values}");
        assert_eq!(report["variants"], variants, "{values}");
    }
    let files = rendered("files", &[]);
    let text = find(&files, "ConfigMap r-inferno-sidecar-files")["data"]["variants.yaml"].as_str().unwrap();
    assert_eq!(check(&objects(text))["variants"], 1);
}

#[test]
fn the_pod_is_confined_in_every_case() {
    for values in ["", "reference", "full", "files"] {
        let objects = rendered(values, &[]);
        let workload = objects.iter().find(|one| one["spec"]["template"].is_object()).expect("a workload");
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{values}");
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
        let mounts = pod["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
        let claims = workload["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default();
        for mount in mounts {
            let volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
            let is_there = volumes.iter().any(|volume| volume["name"] == mount["name"])
                || claims.iter().any(|claim| claim["metadata"]["name"] == mount["name"]);
            assert!(is_there, "{values}: {mount} has a volume");
        }
    }
}

#[test]
fn values_of_the_reference_chart_carry_over() {
    let objects = rendered("reference", &[]);
    let variant = find(&objects, "VariantAutoscaling");
    assert_eq!(variant["metadata"]["namespace"], "llm-d");
    assert_eq!(variant["spec"]["modelID"], "Qwen/Qwen3-32B");
    assert_eq!(variant["spec"]["variantCost"], "40.0");
    assert_eq!(
        variant["spec"]["scaleTargetRef"]["name"],
        "ms-inference-scheduling-llm-d-modelservice-decode"
    );
    let labels = &variant["metadata"]["labels"];
    assert_eq!(labels["inference.optimization/acceleratorName"], "H100");
    assert_eq!(labels["wva.llmd.ai/controller-instance"], "blue");
    let hpa = find(&objects, "HorizontalPodAutoscaler");
    assert_eq!(hpa["spec"]["maxReplicas"], 10);
    assert_eq!(hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"], 240);
    let selector = &hpa["spec"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"];
    assert_eq!(selector["controller_instance"], "blue");
    let thresholds = find(&objects, "ConfigMap r-inferno-sidecar-saturation-scaling-config")["data"].clone();
    assert!(thresholds["default"].as_str().unwrap().contains("kvCacheThreshold: 0.8"));
    assert!(thresholds["llm-d"].as_str().unwrap().contains("model_id: Qwen/Qwen3-32B"));
    let classes = &find(&objects, "ConfigMap r-inferno-sidecar-service-classes-config")["data"];
    assert!(classes["premium.yaml"].as_str().unwrap().contains("slo-ttft: 1000"));
    let workload = find(&objects, "StatefulSet");
    assert_eq!(workload["spec"]["replicas"], 2);
    let arguments = workload["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(
        arguments.contains("--namespaces=inferno,llm-d") && arguments.contains("--controller-instance=blue")
    );
    assert!(!workload.to_string().contains("workload-variant-autoscaler"), "the image is not theirs");
}

#[test]
fn rights_follow_the_features() {
    let rules = |more: &[&str]| -> String {
        let objects = rendered("", more);
        let roles =
            objects.iter().filter(|one| one["kind"].as_str().is_some_and(|kind| kind.ends_with("Role")));
        roles.map(|role| role["rules"].to_string()).collect()
    };
    let all = rules(&[]);
    assert!(all.contains("variantautoscalings/status") && all.contains("leases") && all.contains("events"));
    assert!(!all.contains("deployments/scale") && !all.contains("\"*\"") && !all.contains("secrets"));
    let few = rules(&["--set", "writeStatus=false,writeEvents=false,leaderElection=false"]);
    assert!(!few.contains("status") && !few.contains("leases") && !few.contains("events"));
    assert!(!few.contains("patch") && !few.contains("create") && !few.contains("update"));
    assert!(rules(&["--set", "actuation=direct"]).contains("deployments/scale"));
    assert_eq!(rules(&["--set", "source=files"]), "");
    let scoped = rendered("", &["--set", "namespaces={llm}"]);
    let cluster = find(&scoped, "ClusterRole")["rules"].to_string();
    assert!(!cluster.contains("pods") && !cluster.contains("\"variantautoscalings\""), "{cluster}");
    assert!(find(&scoped, "Role r-inferno-sidecar")["rules"].to_string().contains("pods"));
}

#[test]
fn two_instances_are_spread_and_each_can_be_written_to() {
    let objects = rendered("", &["--set", "replicas=2"]);
    let set = find(&objects, "StatefulSet");
    let spread = set["spec"]["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap();
    assert_eq!(spread.len(), 2);
    let each = find(&objects, "Service r-inferno-sidecar-each");
    assert_eq!(
        (&each["spec"]["clusterIP"], &set["spec"]["serviceName"]),
        (&"None".into(), &each["metadata"]["name"])
    );
    find(&objects, "PodDisruptionBudget");
    assert!(rendered("", &[]).iter().all(|object| object["kind"] != "PodDisruptionBudget"));
}

#[test]
fn certificates_of_the_external_metrics_api_fit_together() {
    let on = ["--set", "externalMetrics.enabled=true"];
    let generated = rendered("", &on);
    let secret = &find(&generated, "Secret")["data"];
    assert_eq!(find(&generated, "APIService")["spec"]["caBundle"], secret["ca.crt"]);
    let managed = rendered("files", &[]);
    assert_eq!(
        find(&managed, "Certificate")["spec"]["dnsNames"][0],
        "r-inferno-sidecar-external-metrics.inferno.svc"
    );
    let inject = &find(&managed, "APIService")["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    assert_eq!(inject, "inferno/r-inferno-sidecar-external-metrics");
    let own = rendered("", &[&on[..], &["--set", "externalMetrics.certificate.mode=self"]].concat());
    assert_eq!(find(&own, "APIService")["spec"]["insecureSkipTLSVerify"], true);
    assert!(own.iter().all(|object| object["kind"] != "Secret"));
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (values, expected) in [
        (&["replicas=0"][..], "replicas"),
        (&["replica=2"], "replica"),
        (&["source=cloud"], "source"),
        (&["shard=two"], "shard"),
        (&["record.size=much"], "size"),
        (&["models[0].name=a"], "modelID"),
        (&["models[0].name=a", "models[0].modelID=m", "models[0].autoscaler=vpa"], "autoscaler"),
        (&["serviceAccount.create=false"], "serviceAccount.name must name one"),
        (
            &["externalMetrics.enabled=true", "externalMetrics.certificate.mode=secret"],
            "certificate.secretName must name it",
        ),
        (&["externalMetrics.enabled=true", "standalone=false"], "needs standalone: true"),
    ] {
        let complaint = refusal(values);
        assert!(complaint.contains(expected), "{values:?}: {complaint}");
    }
    let old = run(helm().args(["template", "r", "inferno-sidecar", "--kube-version", "1.24.0"]));
    assert!(String::from_utf8_lossy(&old.stderr).contains("kubeVersion"), "{old:?}");
}

#[test]
fn every_flag_that_it_sets_is_one_of_the_command() {
    let help = output_of(Command::new(env!("CARGO_BIN_EXE_inferno-sidecar")).args(["serve", "--help"]));
    for values in VALUES {
        for object in rendered(values, &[]) {
            let arguments = &object["spec"]["template"]["spec"]["containers"][0]["args"];
            for argument in arguments.as_array().into_iter().flatten().filter_map(Value::as_str) {
                let Some(flag) = argument.strip_prefix("--").and_then(|flag| flag.split('=').next()) else {
                    continue;
                };
                assert!(help.contains(&format!("--{flag} ")), "--{flag}");
            }
        }
    }
}
