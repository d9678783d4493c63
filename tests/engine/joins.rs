//! Which pod belongs to which variant, how that is known, and what is said when it is not.

use crate::support::*;

fn joined_by(world: &World, name: &str) -> Vec<(&'static str, u32)> {
    world.entry(name).health.joins.iter().map(|(way, count)| (*way, *count)).collect()
}

fn unmatched(world: &World) -> Vec<(&'static str, u64)> {
    world.engine.board().unmatched.replicas.iter().map(|(reason, count)| (*reason, *count)).collect()
}

/// Two variants of one model, which only something beside the model tells apart.
fn twins() -> String {
    variant("a", "m", "") + &variant("b", "m", "")
}

fn owned(scrape: Scrape, pod: &str, kind: &str, name: &str) -> Scrape {
    let own = [("namespace", NAMESPACE), ("pod", pod), ("owner_kind", kind), ("owner_name", name)];
    scrape.with("kube_pod_owner", &own, 1.0)
}

fn set_owned(scrape: Scrape, set: &str, deployment: &str) -> Scrape {
    let own = [
        ("namespace", NAMESPACE),
        ("replicaset", set),
        ("owner_kind", "Deployment"),
        ("owner_name", deployment),
    ];
    scrape.with("kube_replicaset_owner", &own, 1.0)
}

#[test]
fn owner_series_join_a_pod_whatever_its_name_and_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut world = World::new(&twins());
        for part in order {
            let scrape = Scrape::at(0.0);
            world.write(match part {
                0 => scrape.pod(&Pod::named("odd", "m")),
                1 => owned(scrape, "odd", "ReplicaSet", "cut-set"),
                _ => set_owned(scrape, "cut-set", "b"),
            });
        }
        assert_eq!(joined_by(&world, "b"), [("owner_series", 1)]);
        assert_eq!(unmatched(&world), []);
    }
}

#[test]
fn a_replica_set_without_owner_series_is_taken_for_its_deployments() {
    let mut world = World::new(&twins());
    world.write(owned(Scrape::at(0.0).pod(&Pod::named("odd", "m")), "odd", "ReplicaSet", "b-5f7c9d"));
    assert_eq!(joined_by(&world, "b"), [("owner_series", 1)]);
}

#[test]
fn the_owner_decides_even_against_the_name() {
    let mut world = World::new(&twins());
    let pod = Pod::new("a", 0, "m");
    world.write(Scrape::at(0.0).pod(&pod));
    assert_eq!(joined_by(&world, "a"), [("pod_name", 1)]);
    world.write(set_owned(owned(Scrape::at(1.0), &pod.name, "ReplicaSet", "x"), "x", "unmanaged"));
    assert_eq!(joined_by(&world, "a"), []);
    assert_eq!(unmatched(&world), [("owner_not_managed", 1)]);
}

#[test]
fn owners_outlive_a_restart_of_their_exporter() {
    let mut world = World::new(&twins());
    let owner = |scrape: Scrape, instance: &str| {
        let own = [
            ("namespace", NAMESPACE),
            ("pod", "odd"),
            ("owner_kind", "Deployment"),
            ("owner_name", "b"),
            ("instance", instance),
        ];
        scrape.with("kube_pod_owner", &own, 1.0)
    };
    world.write(owner(Scrape::at(0.0).pod(&Pod::named("odd", "m")), "old"));
    for step in 1..100 {
        world.write(owner(Scrape::at(f64::from(step) * 10.0).pod(&Pod::named("odd", "m")), "new"));
    }
    // The old exporter's series are forgotten by now; a new configuration joins all pods again.
    world.configure(&(twins() + &variant("c", "m", "")));
    assert_eq!(joined_by(&world, "b"), [("owner_series", 1)]);
}

#[test]
fn a_variant_label_joins_a_pod() {
    let mut world = World::new(&twins());
    let own = [("model_name", "m"), ("namespace", NAMESPACE), ("pod", "odd"), ("llm_d_ai_variant", "b")];
    let scrape = Scrape::at(0.0);
    world.write(scrape.with("vllm:kv_cache_usage_perc", &own, 0.5).with(
        "vllm:num_requests_waiting",
        &own,
        0.0,
    ));
    assert_eq!(joined_by(&world, "b"), [("variant_label", 1)]);
}

#[test]
fn the_shape_of_its_name_joins_a_pod_to_each_kind_of_target() {
    let yaml = variant("a", "m", "")
        + &variant_of("s", "StatefulSet", "set", "m", "")
        + &variant_of("l", "LeaderWorkerSet", "lws", "m", "");
    let mut world = World::new(&yaml);
    let mut scrape = Scrape::at(0.0);
    for name in ["a-7d9c5b8f6d-bbbbb", "set-0", "set-11", "lws-0", "lws-0-1"] {
        scrape = scrape.pod(&Pod::named(name, "m"));
    }
    world.write(scrape);
    assert_eq!(joined_by(&world, "a"), [("pod_name", 1)]);
    assert_eq!(joined_by(&world, "s"), [("pod_name", 2)]);
    assert_eq!(joined_by(&world, "l"), [("pod_name", 1)]);
    assert_eq!(unmatched(&world), [("group_worker", 1)], "a worker is no replica of its own");
}

#[test]
fn the_only_variant_of_a_model_takes_its_pods() {
    let mut world = World::new(&(variant("a", "m", "") + &variant("b", "n", "")));
    world.write(Scrape::at(0.0).pod(&Pod::named("anything", "n")));
    assert_eq!(joined_by(&world, "b"), [("only_variant", 1)]);
}

#[test]
fn every_reason_for_belonging_nowhere_is_counted_and_exemplified() {
    let mut world = World::new(&twins());
    let elsewhere = Pod { namespace: "other".into(), ..Pod::named("p", "m") };
    let scrape = Scrape::at(0.0)
        .pod(&elsewhere)
        .pod(&Pod::named("q", "m"))
        .pod(&Pod::named("r", "unknown"))
        .pod(&Pod::named("t", "m"));
    world.write(owned(scrape, "t", "Deployment", "unmanaged"));
    let expected = [
        ("ambiguous", 1),
        ("no_variant_in_namespace", 1),
        ("no_variant_of_model", 1),
        ("owner_not_managed", 1),
    ];
    assert_eq!(unmatched(&world), expected);
    let examples = &world.engine.board().unmatched.examples;
    assert!(examples.contains(&"other/p model=m: no_variant_in_namespace".to_owned()), "{examples:?}");
    // Series without the labels that would say whose they are.
    world.write(Scrape::at(1.0).with("vllm:kv_cache_usage_perc", &[("pod", "x")], 0.5));
    world.write(Scrape::at(1.0).with("vllm:kv_cache_usage_perc", &[("namespace", "x")], 0.5));
    let series = &world.engine.board().unmatched.series;
    assert_eq!(series.get("no_namespace_label"), Some(&1));
    assert_eq!(series.get("no_subject_label"), Some(&1));
    // They are counted while they are there.
    for step in 1..100 {
        world.write(Scrape::at(f64::from(step) * 10.0).pod(&Pod::named("q", "m")));
    }
    assert!(world.engine.board().unmatched.series.is_empty());
    assert_eq!(unmatched(&world), [("ambiguous", 1)]);
}

#[test]
fn a_model_id_that_does_not_match_is_a_named_fault() {
    let mut world = World::new(&variant("a", "m", ""));
    // Joined by name: the pods say they serve something else.
    world.write(Scrape::at(0.0).deployment("a", 1, 1).pod(&Pod::new("a", 0, "mistral")));
    assert_eq!(world.faults("a"), ["model_mismatch"]);
    // Joined by nothing: the fault names what is served there.
    let mut world = World::new(&variant("a", "m", ""));
    world.write(Scrape::at(0.0).deployment("a", 1, 1).pod(&Pod::named("odd", "mistral")));
    assert_eq!(world.faults("a"), ["no_series"]);
    let entry = world.entry("a");
    let text = entry.health.faults[0].explain(&entry.variant);
    assert!(text.contains("mistral"), "{text}");
    // Once the pod has found its owner, it is no longer offered as a suspect.
    let mut world = World::new(&(variant("a", "m", "") + &variant("b", "n", "")));
    world.write(Scrape::at(0.0).deployment("a", 1, 1).pod(&Pod::named("odd", "mistral")));
    world.write(owned(Scrape::at(1.0), "odd", "Deployment", "b"));
    let entry = world.entry("a");
    assert!(!entry.health.faults[0].explain(&entry.variant).contains("mistral"));
}

#[test]
fn a_pod_name_that_comes_back_with_another_model_is_joined_anew() {
    let mut world = World::new(&(variant("a", "m", "") + &variant("b", "n", "")));
    world.write(Scrape::at(0.0).pod(&Pod::named("pod-0", "m")));
    assert_eq!(joined_by(&world, "a"), [("only_variant", 1)]);
    let scrape = Scrape::at(15.0).gone(&Pod::named("pod-0", "m")).pod(&Pod::named("pod-0", "n"));
    world.write(scrape);
    assert_eq!((joined_by(&world, "a"), joined_by(&world, "b")), (vec![], vec![("only_variant", 1)]));
}
