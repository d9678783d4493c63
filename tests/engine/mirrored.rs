//! What the cluster's objects say, beside the stream.

use crate::support::*;
use inferno_sidecar::config::cluster::{ClusterChange, ObjectName, PodFact, TargetName, TargetReplicas};
use inferno_sidecar::config::{ScaleTarget, TargetKind};
use inferno_sidecar::publish::CurrentFrom;
use proptest::prelude::*;

/// One thing that the cluster says, for the oracle.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Replicas of a Deployment and how many are ready; `None` when it is gone.
    Target(&'static str, Option<(u32, u32)>),
    /// A pod and its Deployment, if any; `None` when it is gone.
    Pod(String, String, Option<Option<&'static str>>),
    /// Cards of a product.
    Cards(&'static str, u64),
}

/// Any fact about `targets` and `pods` (namespace and name).
pub fn fact(targets: &'static [&'static str], pods: Vec<(String, String)>) -> impl Strategy<Value = Fact> {
    let target = move || (0..targets.len()).prop_map(move |at| targets[at]);
    prop_oneof![
        4 => (target(), prop::option::weighted(0.8, (0..4u32, 0..4u32)))
            .prop_map(|(target, counts)| Fact::Target(target, counts)),
        4 => (prop::sample::select(pods), prop::option::weighted(0.8, prop::option::of(target())))
            .prop_map(|((namespace, name), owner)| Fact::Pod(namespace, name, owner)),
        1 => (prop::sample::select(vec!["NVIDIA-H100-80GB-HBM3", "A100"]), 0..5u64)
            .prop_map(|(product, cards)| Fact::Cards(product, cards)),
    ]
}

/// Facts as the mirror hands them over.
pub fn change(facts: &[Fact]) -> ClusterChange {
    let mut change = ClusterChange::default();
    let deployment = |name: &str| ScaleTarget { kind: TargetKind::Deployment, name: name.into() };
    for fact in facts {
        match fact {
            Fact::Target(name, counts) => {
                let name = TargetName { namespace: NAMESPACE.into(), target: deployment(name) };
                let counts = counts.map(|(status, ready)| TargetReplicas { spec: status, status, ready });
                change.targets.push((name, counts));
            }
            Fact::Pod(namespace, name, owner) => {
                let name = ObjectName { namespace: namespace.as_str().into(), name: name.as_str().into() };
                let pod = owner.map(|owner| {
                    let owner = owner.map(deployment);
                    PodFact { owner, created_ms: Some(START_MS), ready_ms: None }
                });
                change.pods.push((name, pod));
            }
            Fact::Cards(product, cards) => {
                change.cards.get_or_insert_default().insert((*product).to_owned(), *cards);
            }
        }
    }
    change
}

fn told(world: &mut World, facts: &[Fact]) {
    world.engine.apply_cluster(change(facts));
    world.publish();
}

fn pod_of(name: &str, owner: Option<Option<&'static str>>) -> Fact {
    Fact::Pod(NAMESPACE.into(), name.into(), owner)
}

#[test]
fn replicas_of_the_object_count_before_series_of_it() {
    let mut world = World::new(&variant("a", "m", ""));
    told(&mut world, &[Fact::Target("a", Some((3, 2)))]);
    assert!(world.entry("a").decision.is_none(), "decisions begin with the stream");
    world.write(Scrape::at(0.0).pod(&Pod::new("a", 0, "m")));
    let decision = world.decision("a");
    assert_eq!((decision.current, decision.pending), (3, 1));
    assert_eq!(decision.current_from, CurrentFrom::TargetObject);
    // An exporter that is a minute behind changes nothing ...
    world.write(Scrape::at(15.0).deployment("a", 2, 2));
    assert_eq!(world.decision("a").current, 3);
    // ... until the object is gone: then it is all there is.
    told(&mut world, &[Fact::Target("a", None)]);
    assert_eq!(world.decision("a").current, 2);
    assert_eq!(world.decision("a").current_from, CurrentFrom::TargetSeries);
}

#[test]
fn the_owner_of_a_pod_joins_it_whatever_its_name() {
    let mut world = World::new(&(variant("a", "m", "") + &variant("b", "m", "")));
    let odd = Pod::named("no-name-of-a-pod", "m");
    world.write(Scrape::at(0.0).pod(&odd));
    assert_eq!(world.engine.board().unmatched.replicas["ambiguous"], 1);
    told(&mut world, &[pod_of(&odd.name, Some(Some("b")))]);
    assert_eq!(world.entry("b").health.joins["owner"], 1);
    assert!(world.engine.board().unmatched.replicas.is_empty());
    // A known owner is an answer, also when nobody manages it.
    told(&mut world, &[pod_of(&odd.name, Some(Some("somebody-else")))]);
    assert_eq!(world.engine.board().unmatched.replicas["owner_not_managed"], 1);
}

#[test]
fn a_deleted_pod_is_gone_at_once_and_its_successor_counts() {
    let mut world = World::new(&variant("a", "m", ""));
    let pods = [Pod::new("a", 0, "m"), Pod::new("a", 1, "m")];
    let facts: Vec<Fact> = pods.iter().map(|pod| pod_of(&pod.name, Some(Some("a")))).collect();
    told(&mut world, &[&facts[..], &[Fact::Target("a", Some((2, 2)))]].concat());
    world.write(Scrape::at(0.0).pod(&pods[0]).pod(&pods[1]));
    assert_eq!(world.decision("a").reporting, 2);
    told(&mut world, &[pod_of(&pods[1].name, None), Fact::Target("a", Some((1, 1)))]);
    assert_eq!((world.decision("a").current, world.decision("a").reporting), (1, 1));
    // A pod of a StatefulSet comes back under its name.
    told(&mut world, &[facts[1].clone(), Fact::Target("a", Some((2, 2)))]);
    world.write(Scrape::at(15.0).pod(&pods[0]).pod(&pods[1]));
    assert_eq!((world.decision("a").current, world.decision("a").reporting), (2, 2));
}

#[test]
fn nothing_goes_to_zero_because_the_cluster_was_known_before_the_stream() {
    let mut world = World::new(&(variant("a", "m", "") + &scale_to_zero("m", "10m")));
    told(&mut world, &[Fact::Target("a", Some((1, 1)))]);
    world.write(Scrape::at(0.0).pod(&Pod::new("a", 0, "m").idle()));
    assert_eq!(world.decision("a").desired, 1, "nobody has watched for the whole retention period");
    world.write(Scrape::at(590.0).pod(&Pod::new("a", 0, "m").idle()));
    assert_eq!(world.decision("a").desired, 1);
    world.write(Scrape::at(605.0).pod(&Pod::new("a", 0, "m").idle()));
    assert_eq!(world.decision("a").desired, 0);
}

#[test]
fn cards_of_mirrored_nodes_are_the_inventory() {
    let mut world = World::new(&(variant("a", "m", "") + &inventory("")));
    told(&mut world, &[Fact::Cards("NVIDIA-H100-80GB-HBM3", 1), Fact::Target("a", Some((1, 1)))]);
    world.write(Scrape::at(0.0).pod(&Pod::new("a", 0, "m").load(0.95, 9.0)));
    assert_eq!((world.decision("a").desired, world.decision("a").wanted), (1, 2));
    told(&mut world, &[Fact::Cards("NVIDIA-H100-80GB-HBM3", 2)]);
    assert_eq!(world.decision("a").desired, 2);
}
