//! Limited inventory: who gets the cards, who waits for them, and what a reader is told.

use crate::support::*;
use inferno_sidecar::publish::Cause;

/// The classes gold (priority 1, models g and h) and bronze (priority 50, model b).
const CLASSES: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: service-classes-config, namespace: system}\n\
     data:\n  gold.yaml: |\n    name: gold\n    priority: 1\n    \
     data: [{model: g, slo-tpot: 60, slo-ttft: 900}, {model: h, slo-tpot: 60, slo-ttft: 900}]\n  bronze.yaml: |\n    \
     name: bronze\n    priority: 50\n    data: [{model: b, slo-tpot: 60, slo-ttft: 900}]\n---\n";

fn gold_and_bronze(inventory: &str) -> String {
    let stepwise = config_entry("saturation-scaling-config", "mode: saturation");
    variant("gold", "g", "") + &variant("bronze", "b", "") + CLASSES + &stepwise + inventory
}

/// Ready pods of a Deployment, all under one load.
fn fleet(scrape: Scrape, target: &str, model: &str, pods: usize, kv: f64) -> Scrape {
    let scrape = scrape.deployment(target, pods as u32, pods as u32);
    (0..pods).fold(scrape, |scrape, n| scrape.pod(&Pod::new(target, n, model).load(kv, 0.0)))
}

const FULL: f64 = 0.75;
const FINE: f64 = 0.5;

#[test]
fn scarce_cards_go_to_the_higher_priority_and_the_other_says_what_it_lacks() {
    let mut world = World::new(&gold_and_bronze(&inventory("capacity: {H100: 3}")));
    let scrape = fleet(Scrape::at(0.0), "bronze", "b", 1, FULL);
    world.write(fleet(scrape, "gold", "g", 1, FULL));
    assert_eq!(world.says("gold"), "2 kv_saturation");
    assert_eq!(world.says("bronze"), "1 inventory");
    let decision = world.decision("bronze");
    assert_eq!((decision.wanted, decision.transition_since), (2, None));
    let message = decision.explain();
    assert!(message.starts_with("1 of 2 wanted replicas: there are 3 H100 cards; wanted because: one more"));
    assert_eq!(world.faults("bronze"), [] as [&str; 0]);
}

#[test]
fn freed_cards_reach_a_waiting_variant_of_another_model_in_the_same_publication() {
    let mut world = World::new(&gold_and_bronze(&inventory("capacity: {H100: 3}")));
    let scrape = fleet(Scrape::at(0.0), "bronze", "b", 1, FULL);
    world.write(fleet(scrape, "gold", "g", 2, FINE));
    assert_eq!(world.says("bronze"), "1 inventory");
    let before = world.engine.stats();
    // Only gold reports, and gives one replica back.
    let ended = Pod::new("gold", 1, "g");
    world.write_quietly(
        Scrape::at(5.0).deployment("gold", 1, 1).pod(&Pod::new("gold", 0, "g").load(FINE, 0.0)).gone(&ended),
    );
    let after = world.engine.stats();
    assert_eq!(world.says("bronze"), "2 kv_saturation");
    assert_eq!(world.decision("bronze").previous, Some((1, at(5.0))));
    assert_eq!(after.recomputations - before.recomputations, 1, "bronze is not planned anew");
}

#[test]
fn with_enough_cards_only_the_touched_model_is_looked_at() {
    let names: Vec<String> = (0..50).map(|n| format!("v{n}")).collect();
    let all: String = names.iter().map(|name| variant(name, &format!("m-{name}"), "")).collect();
    let mut world = World::new(&(all + &inventory("capacity: {H100: 1000}")));
    let all = |scrape: Scrape| names.iter().fold(scrape, |s, n| fleet(s, n, &format!("m-{n}"), 2, FINE));
    world.write(all(Scrape::at(0.0)));
    let before = world.engine.stats();
    world.write_quietly(fleet(Scrape::at(5.0), "v7", "m-v7", 2, FULL));
    let after = world.engine.stats();
    assert_eq!(world.says("v7"), "3 kv_saturation");
    assert_eq!(after.recomputations - before.recomputations, 1);
    assert!(after.entries - before.entries <= 2, "one entry, planned and granted");
}

#[test]
fn a_quota_holds_its_namespace_and_is_named() {
    let quota = inventory("quotas: [{namespace: llm, cards: 2}]");
    let mut world = World::new(&(variant("gold", "g", "") + &quota));
    world.write(fleet(Scrape::at(0.0), "gold", "g", 2, FULL));
    assert_eq!(world.says("gold"), "2 quota");
    let message = world.decision("gold").explain();
    assert!(message.starts_with("2 of 3 wanted replicas: namespace llm may have 2 cards;"), "{message}");
}

#[test]
fn a_limit_below_what_runs_keeps_what_runs_until_it_is_not_wanted() {
    let mut world = World::new(&gold_and_bronze(&inventory("capacity: {H100: 8}")));
    world.write(fleet(Scrape::at(0.0), "gold", "g", 3, FULL));
    assert_eq!(world.says("gold"), "4 kv_saturation");
    world.configure(&gold_and_bronze(&inventory("capacity: {H100: 1}")));
    assert_eq!(world.says("gold"), "3 inventory");
    world.configure(&gold_and_bronze(""));
    assert_eq!(world.says("gold"), "4 kv_saturation");
    world.configure(&gold_and_bronze(&inventory("capacity: {H100: 1}")));
    world.write(fleet(Scrape::at(120.0), "gold", "g", 3, 0.05));
    world.write(fleet(Scrape::at(185.0), "gold", "g", 3, 0.05));
    assert_eq!(world.says("gold"), "2 spare_capacity");
}

#[test]
fn a_growth_that_waited_in_vain_ends_with_its_ground() {
    let mut world = World::new(&gold_and_bronze(&inventory("capacity: {H100: 1}")));
    world.write(fleet(Scrape::at(0.0), "gold", "g", 1, FULL));
    assert_eq!(world.says("gold"), "1 inventory");
    world.write(fleet(Scrape::at(61.0), "gold", "g", 1, FINE));
    world.write(fleet(Scrape::at(122.0), "gold", "g", 1, FINE));
    assert_eq!((world.says("gold").as_str(), world.decision("gold").wanted), ("1 steady", 1));
}

#[test]
fn only_models_that_ask_for_it_are_limited_and_the_others_hold_the_cards_they_run_on() {
    let capacity = config_entry("inventory-config", "capacity: {H100: 3}");
    let yaml =
        variant("gold", "g", "") + &variant("bronze", "b", "") + &thresholds("b", "enableLimiter: true");
    let mut world = World::new(&(yaml + &capacity));
    let scrape = fleet(Scrape::at(0.0), "bronze", "b", 1, FULL);
    world.write(fleet(scrape, "gold", "g", 2, FULL));
    assert_eq!(world.says("gold"), "3 kv_saturation");
    assert_eq!(world.says("bronze"), "1 inventory");
    world.write(fleet(Scrape::at(120.0), "gold", "g", 1, FINE).gone(&Pod::new("gold", 1, "g")));
    assert_eq!(world.says("bronze"), "2 kv_saturation");
}

#[test]
fn a_removed_variant_releases_its_cards() {
    let limit = inventory("capacity: {H100: 3}");
    let mut world = World::new(&gold_and_bronze(&limit));
    let scrape = fleet(Scrape::at(0.0), "bronze", "b", 1, FULL);
    world.write(fleet(scrape, "gold", "g", 2, FINE));
    assert_eq!(world.says("bronze"), "1 inventory");
    world.configure(&(variant("bronze", "b", "") + CLASSES + &limit));
    assert_eq!(world.says("bronze"), "2 kv_saturation");
}

#[test]
fn an_accelerator_that_the_capacity_does_not_list_has_no_cards_and_an_unknown_inventory_no_limit() {
    let mut world = World::new(&(variant("gold", "g", "") + &inventory("capacity: {A100: 3}")));
    world.write(fleet(Scrape::at(0.0), "gold", "g", 1, FULL));
    assert_eq!(world.says("gold"), "1 inventory");
    world.configure(&(variant("gold", "g", "") + &inventory("capacity: {nvidia-h100-80gb: 3}")));
    assert_eq!(world.says("gold"), "2 kv_saturation");
    world.configure(&(variant("gold", "g", "") + &inventory("")));
    assert_eq!(world.says("gold"), "2 kv_saturation");
    assert_eq!(world.faults("gold"), ["inventory_unknown"]);
    assert_eq!(world.decision("gold").cause, Cause::KvSaturation);
}

/// What kube-state-metrics says of a node.
fn node(scrape: Scrape, name: &str, product: &str, cards: u32) -> Scrape {
    let own = [("node", name), ("resource", "nvidia_com_gpu"), ("unit", "integer")];
    scrape.with("kube_node_status_allocatable", &own, f64::from(cards)).with(
        "kube_node_labels",
        &[("node", name), ("label_nvidia_com_gpu_product", product)],
        1.0,
    )
}

#[test]
fn without_a_stated_capacity_the_nodes_say_what_there_is() {
    let mut world = World::new(&(variant("gold", "g", "") + &inventory("")));
    world.write(fleet(Scrape::at(0.0), "gold", "g", 2, FULL));
    assert_eq!(world.says("gold"), "3 kv_saturation");
    let scrape = node(Scrape::at(1.0), "n1", "NVIDIA-H100-80GB-HBM3", 1);
    world.write(node(scrape, "n2", "NVIDIA-A100-SXM4-80GB", 8));
    assert_eq!(world.says("gold"), "2 inventory");
    assert_eq!(world.faults("gold"), [] as [&str; 0]);
    world.write(node(Scrape::at(2.0), "n3", "nvidia-h100-80gb", 2));
    assert_eq!(world.says("gold"), "3 kv_saturation");
    // A node without a product, and one that leaves.
    world.write(Scrape::at(3.0).with("kube_node_labels", &[("node", "n4"), ("label_zone", "z")], 1.0));
    let own = [("node", "n3"), ("resource", "nvidia_com_gpu"), ("unit", "integer")];
    world.write(Scrape::at(4.0).with("kube_node_status_allocatable", &own, stale()));
    assert_eq!(world.says("gold"), "2 inventory");
    let own = [("node", "n1"), ("resource", "nvidia_com_gpu"), ("unit", "integer")];
    world.write(Scrape::at(5.0).with("kube_node_status_allocatable", &own, stale()));
    assert_eq!(
        (world.says("gold").as_str(), world.faults("gold")),
        ("3 kv_saturation", vec!["inventory_unknown"])
    );
}

/// A variant with a role.
fn with_role(name: &str, role: &str, spec: &str) -> String {
    variant(name, "m", spec).replace("labels: {", &format!("labels: {{llm-d.ai/role: {role}, "))
}

#[test]
fn prefill_and_decode_are_planned_apart() {
    let mut world =
        World::new(&(with_role("p", "prefill", "") + &with_role("d", "decode", ", variantCost: 50")));
    world.write(fleet(fleet(Scrape::at(0.0), "p", "m", 1, FULL), "d", "m", 3, 0.1));
    assert_eq!((world.says("p").as_str(), world.says("d").as_str()), ("2 kv_saturation", "2 spare_capacity"));
    assert_eq!(world.decision("p").evidence.reporting, 1);
    // Each keeps its last replica, and a queued request wakes both.
    let zero = with_role("p", "prefill", "") + &with_role("d", "decode", "") + &scale_to_zero("m", "60s");
    world.configure(&zero);
    let idle = |scrape: Scrape, target: &str| {
        let scrape = scrape.deployment(target, 0, 0);
        (0..3).fold(scrape, |scrape, n| scrape.gone(&Pod::new(target, n, "m")))
    };
    world.write(idle(idle(Scrape::at(5.0), "p"), "d").queue("m", 0.0));
    for seconds in [30.0, 60.0, 90.0, 150.0] {
        world.write(Scrape::at(seconds).deployment("p", 0, 0).deployment("d", 0, 0).queue("m", 0.0));
    }
    assert_eq!((world.decision("p").desired, world.decision("d").desired), (0, 0));
    world.write(Scrape::at(160.0).queue("m", 2.0));
    assert_eq!(
        (world.says("p").as_str(), world.says("d").as_str()),
        ("1 queued_at_zero", "1 queued_at_zero")
    );
}

#[test]
fn the_next_replica_and_the_runner_up_are_named() {
    let dear =
        variant("a", "m", ", variantCost: 50") + &variant("b", "m", ", variantCost: 5, maxReplicas: 1");
    let mut world = World::new(&(dear + &variant("c", "m", ", variantCost: 20")));
    let scrape = fleet(Scrape::at(0.0), "a", "m", 1, FINE);
    world.write(fleet(fleet(scrape, "b", "m", 1, FINE), "c", "m", 1, FINE));
    let evidence = world.decision("a").evidence;
    let [next, runner_up] = evidence.next_replica.each_ref().map(|next| next.as_ref().unwrap());
    assert_eq!((&*next.variant, next.cost), ("c", 20.0), "b is at its maximum");
    assert_eq!((&*runner_up.variant, runner_up.cost), ("a", 50.0));
}
