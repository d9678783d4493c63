//! The configurations among which the oracle's random histories change.

use crate::support::{config_entry, inventory, scale_to_zero, thresholds, variant, variant_of};

/// How many there are.
pub const CONFIGURATIONS: usize = 33;

/// Two variants of model m and one of n that can be sized, under a mode.
pub fn sized(mode: &str) -> String {
    let profile = |alpha: &str| {
        format!(
            ", modelProfile: {{accelerators: [{{acc: H100, accCount: 1, maxBatchSize: 8, perfParms: \
             {{decodeParms: {{alpha: \"{alpha}\", beta: \"2\"}}, prefillParms: {{gamma: \"5\", delta: \"0.1\"}}}}}}]}}"
        )
    };
    let class = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: service-classes-config}\n\
                 data:\n  gold.yaml: |\n    name: gold\n    priority: 1\n    \
                 data: [{model: m, slo-tpot: 60, slo-ttft: 900}, {model: n, slo-tpot: 10, slo-ttft: 1}]\n---\n";
    [
        variant("a", "m", &(profile("20") + ", variantCost: 5")),
        variant("b", "m", &(profile("10") + ", maxReplicas: 4")),
        variant("c", "n", &profile("20")),
        thresholds("m", &format!("mode: {mode}")),
        class.to_owned(),
    ]
    .concat()
}

/// The same with the iteration time stated in the way that `slo` begins with.
fn iteration(text: String) -> String {
    text.replace(
        "beta: \"2\"}, prefillParms: {gamma: \"5\", delta: \"0.1\"}",
        "beta: \"0.2\", gamma: \"0.0001\"}",
    )
}

/// Several models and namespaces that compete for two kinds of cards.
fn scarce(number: usize) -> String {
    const POLICIES: [&str; 4] = ["None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin"];
    let far = |text: String| text.replace("namespace: llm", "namespace: far");
    let a100 = |text: String| text.replace("acceleratorName: H100", "acceleratorName: A100");
    let all = [
        variant("a", "m", ", variantCost: 5, acceleratorCount: 2"),
        a100(variant("b", "m", ", minReplicas: 1")),
        variant("c", "n", ""),
        far(variant("d", "o", ", maxReplicas: 3")),
    ]
    .concat();
    let class = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: service-classes-config}\n\
                 data:\n  gold.yaml: |\n    name: gold\n    priority: 1\n    \
                 data: [{model: n, slo-tpot: 60, slo-ttft: 900}]\n---\n";
    let limits = |text: &str| inventory(&format!("saturationPolicy: {}\n    {text}", POLICIES[number % 4]));
    match number {
        0..4 => all + class + &limits("capacity: {H100: 4, A100: 1}"),
        4..6 => all + &limits("capacity: {H100: 3}\n    quotas: [{namespace: llm, cards: 2}]"),
        6 => all + class + &limits("quotas: [{accelerator: H100, cards: 3}, {namespace: far, cards: 0}]"),
        7 => {
            all + &config_entry("inventory-config", "capacity: {H100: 2}")
                + &thresholds("n", "enableLimiter: true")
        }
        8 => sized("hybrid") + &limits("capacity: {H100: 3}"),
        9 => sized("model") + &limits("capacity: {H100: 2}"),
        10 => sized("tokens") + &limits("capacity: {H100: 3}"),
        11 => sized("hybrid\n    scaleUpStabilization: 20s") + &limits("capacity: {H100: 4}"),
        13 => {
            let role = |text: String, role: &str| {
                text.replace("labels: {", &format!("labels: {{llm-d.ai/role: {role}, "))
            };
            let split = role(variant("a", "m", ""), "prefill") + &role(variant("b", "m", ""), "decode");
            split + &variant("c", "m", "") + &scale_to_zero("m", "40s") + &limits("capacity: {H100: 3}")
        }
        12 => all + &scale_to_zero("m", "40s") + &limits("capacity: {H100: 2, A100: 1}"),
        _ => all + &limits(""),
    }
}

/// One of [`CONFIGURATIONS`] configurations.
pub fn configuration(number: usize) -> String {
    let zero = scale_to_zero("m", "40s");
    let all: String =
        [variant("a", "m", ", variantCost: 5"), variant("b", "m", ""), variant("c", "n", "")].concat();
    match number {
        0 => variant("a", "m", ""),
        1 => all,
        2 => all + &zero,
        3 => all + &thresholds("m", "kvCacheThreshold: 0.5"),
        4 => variant("a", "n", "") + &variant("b", "m", ", minReplicas: 2, maxReplicas: 3"),
        5 => variant_of("a", "Deployment", "d", "m", "") + &variant("c", "o", "") + &zero,
        6 => all + &variant("d", "o", "").replace("namespace: llm", "namespace: far"),
        // The same model in two namespaces: a scheduler's queue elsewhere becomes ambiguous.
        7 => variant("a", "m", "") + &variant("d", "m", "").replace("namespace: llm", "namespace: far"),
        8 => sized("model"),
        9 => sized("hybrid"),
        10 => sized("tokens"),
        11 => sized("hybrid\n    scaleDownStabilization: 0s"),
        12 => sized("model\n    scaleUpStabilization: 20s"),
        13..28 => scarce(number - 13),
        28 => sized("model+tokens+saturation"),
        29 => sized("tokens+saturation"),
        30 => iteration(sized("slo")),
        31 => iteration(sized("slo+saturation")),
        _ => String::new(),
    }
}
