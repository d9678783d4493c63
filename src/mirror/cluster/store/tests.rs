//! The store on its own: what changes, what does not, and what a list that begins anew does.

use super::*;
use crate::config::TargetKind;
use crate::config::objects::DocumentContent;
use serde_json::json;

fn watch(kind: Kind) -> WatchId {
    WatchId { kind, namespace: None, name: None }
}

fn name(name: &str) -> ObjectName {
    ObjectName { namespace: "llm".into(), name: name.into() }
}

fn variant(of: &str, cost: u32, status: &str, version: u64) -> (ObjectName, Item) {
    let object = Mirrored {
        kind: Kind::VariantAutoscaling,
        name: name(of),
        document: Document { origin: of.into(), content: DocumentContent::Object(json!({"cost": cost})) },
        status: json!(status),
        version,
        uid: of.into(),
        generation: 1,
        target: None,
    };
    (name(of), Item::Object(Arc::new(object)))
}

fn target(of: &str, status: u32) -> (ObjectName, Item) {
    (name(of), Item::Target(TargetReplicas { spec: 3, status, ready: 0 }, None))
}

fn pod(of: &str, ready_ms: Option<i64>) -> (ObjectName, Item) {
    (name(of), Item::Pod(PodFact { owner: None, created_ms: Some(1_000), ready_ms }))
}

fn is(of: (ObjectName, Item)) -> Told {
    Told::Is(of.0, of.1)
}

#[test]
fn a_new_status_is_no_new_configuration() {
    let mut store = Store::default();
    let watch = watch(Kind::VariantAutoscaling);
    assert!(store.apply(&watch, is(variant("a", 1, "old", 1))));
    let taken = store.take();
    assert!(taken.config && taken.view);
    assert!(store.apply(&watch, is(variant("a", 1, "new", 2))));
    let taken = store.take();
    assert!(!taken.config && taken.view, "the writer sees it, config does not");
    assert_eq!(store.view().variants[&name("a")].status, "new");
    assert!(!store.apply(&watch, is(variant("a", 1, "new", 2))), "nothing new");
    assert!(store.apply(&watch, is(variant("a", 2, "new", 3))));
    assert!(store.take().config);
}

#[test]
fn a_list_that_begins_anew_is_one_change_of_what_differs() {
    let mut store = Store::default();
    let targets = watch(Kind::Deployment);
    store.apply(&targets, Told::All(vec![target("a", 1), target("b", 1), target("c", 1)]));
    assert_eq!(store.take().change.targets.len(), 3);
    assert!(!store.apply(&targets, Told::All(vec![target("a", 1), target("b", 1), target("c", 1)])));
    store.apply(&targets, Told::All(vec![target("a", 1), target("b", 2), target("d", 1)]));
    let mut changed: Vec<(String, Option<u32>)> = store
        .take()
        .change
        .targets
        .into_iter()
        .map(|(target, replicas)| (target.target.name.to_string(), replicas.map(|it| it.status)))
        .collect();
    changed.sort();
    assert_eq!(changed, [("b".into(), Some(2)), ("c".into(), None), ("d".into(), Some(1))]);
    let known = store.view().targets.keys().map(|it| it.target.clone()).collect::<Vec<_>>();
    let deployment = |name: &str| ScaleTarget { kind: TargetKind::Deployment, name: name.into() };
    assert_eq!(known, ["a", "b", "d"].map(deployment));
}

#[test]
fn the_end_of_a_watch_takes_its_objects_and_no_others() {
    let mut store = Store::default();
    let of = |namespace: &str| WatchId {
        kind: Kind::VariantAutoscaling,
        namespace: Some(namespace.into()),
        name: None,
    };
    store.apply(&of("x"), is(variant("a", 1, "", 1)));
    store.apply(&of("y"), is(variant("b", 1, "", 1)));
    store.take();
    store.forget(&of("x"));
    assert!(store.take().config);
    assert_eq!(store.view().variants.keys().collect::<Vec<_>>(), [&name("b")]);
    assert_eq!(store.counts()[&Kind::VariantAutoscaling], 1);
}

#[test]
fn pods_that_become_ready_tell_how_long_they_took() {
    let mut store = Store::default();
    let pods = watch(Kind::Pod);
    store.apply(&pods, Told::All(vec![pod("old", Some(5_000)), pod("new", None)]));
    assert_eq!(store.take().started_ms, Vec::<i64>::new(), "nobody saw it start");
    store.apply(&pods, is(pod("new", Some(31_000))));
    store.apply(&pods, Told::Gone(name("old")));
    let taken = store.take();
    assert_eq!(taken.started_ms, [30_000]);
    assert_eq!(taken.change.pods.len(), 2);
    assert!(!taken.config && !taken.view);
}

#[test]
fn cards_of_nodes_are_summed_by_product() {
    let mut store = Store::default();
    let nodes = watch(Kind::Node);
    let node = |at: u32, product: &str, cards: u64| {
        (name(&format!("n{at}")), Item::Node(Some((product.into(), cards))))
    };
    store.apply(&nodes, Told::All(vec![node(1, "H100", 8), node(2, "H100", 8), node(3, "L40S", 4)]));
    let cards = store.take().change.cards.unwrap();
    assert_eq!(cards, BTreeMap::from([("H100".into(), 16), ("L40S".into(), 4)]));
    store.apply(&nodes, Told::Gone(name("n1")));
    assert_eq!(store.take().change.cards.unwrap()["H100"], 8);
}
