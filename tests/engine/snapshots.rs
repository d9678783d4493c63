//! Changes of the configuration while the stream goes on.

use crate::support::*;

fn stream(world: &mut World, seconds: f64) {
    let scrape = Scrape::at(seconds).deployment("a", 1, 1).deployment("b", 1, 1);
    world.write(scrape.pod(&Pod::new("a", 0, "m")).pod(&Pod::new("b", 0, "n")));
}

fn both() -> String {
    variant("a", "m", "") + &variant("b", "n", "")
}

/// Applies a configuration as the sidecar does and returns how many models were recomputed.
fn recomputed(world: &mut World, yaml: &str) -> u64 {
    use inferno_sidecar::config::{objects::documents, resolve};
    let resolved = resolve::resolve(&documents("test.yaml", yaml), &resolve::Resolved::default());
    let before = world.engine.stats().recomputations;
    world.engine.apply_snapshot(&resolved.snapshot, resolved.problems.into());
    world.engine.publish();
    world.engine.stats().recomputations - before
}

#[test]
fn changed_thresholds_reach_the_decision_at_once_and_touch_only_their_model() {
    let mut world = World::new(&both());
    stream(&mut world, 0.0);
    assert_eq!((world.says("a").as_str(), world.says("b").as_str()), ("1 steady", "1 steady"));
    let (b, boards) = (world.entry("b"), world.engine.board().version);
    assert_eq!(recomputed(&mut world, &(both() + &thresholds("m", "kvCacheThreshold: 0.3"))), 1);
    assert_eq!(world.decision("a").desired, 2);
    assert!(std::sync::Arc::ptr_eq(&b, &world.entry("b")), "unchanged entries are shared");
    assert_eq!(world.engine.board().version, boards + 1);
    // The same again changes nothing.
    assert_eq!(recomputed(&mut world, &(both() + &thresholds("m", "kvCacheThreshold: 0.3"))), 0);
    assert_eq!(world.engine.board().version, boards + 1);
}

#[test]
fn a_new_variant_of_one_model_does_not_touch_the_others() {
    let mut world = World::new(&both());
    stream(&mut world, 0.0);
    assert_eq!(recomputed(&mut world, &(both() + &variant("c", "m", ""))), 1);
    assert_eq!(recomputed(&mut world, &both()), 1);
}

#[test]
fn a_deleted_variant_leaves_the_board_at_once_and_can_come_back() {
    let mut world = World::new(&both());
    stream(&mut world, 0.0);
    world.configure(&variant("b", "n", ""));
    assert_eq!(world.engine.board().entries.len(), 1);
    assert_eq!(world.engine.stats().models, 1);
    stream(&mut world, 15.0);
    assert_eq!(world.engine.board().entries.len(), 1);
    world.configure(&both());
    assert_eq!(world.says("a"), "1 steady");
    assert_eq!(world.faults("a"), [] as [&str; 0]);
}

#[test]
fn an_accelerator_change_leaves_exactly_one_series() {
    let mut world = World::new(&both());
    stream(&mut world, 0.0);
    world.configure(&both().replacen("H100", "L40S", 1));
    stream(&mut world, 15.0);
    let entries = &world.engine.board().entries;
    let of_a: Vec<_> = entries.values().filter(|entry| &*entry.variant.key.name == "a").collect();
    assert_eq!(of_a.len(), 1);
    assert_eq!((&*of_a[0].variant.accelerator, &*of_a[0].variant_id), ("L40S", "m-L40S-1"));
    let text = inferno_sidecar::publish::json::board(world.engine.board(), at(15.0)).to_string();
    assert_eq!((text.matches("L40S").count() > 0, text.matches("m-H100-1").count()), (true, 0));
    assert_eq!(world.says("a"), "1 steady", "the decision is kept");
}

#[test]
fn a_variant_that_is_pointed_at_another_target_starts_afresh() {
    let mut world = World::new(&both());
    stream(&mut world, 0.0);
    world.configure(&(variant_of("a", "Deployment", "elsewhere", "m", "") + &variant("b", "n", "")));
    assert!(world.entry("a").decision.is_none() || world.decision("a").current_from != target_series());
    world.configure(&both());
    assert_eq!((world.says("a").as_str(), world.decision("a").current), ("1 steady", 1));
}

fn target_series() -> inferno_sidecar::publish::CurrentFrom {
    inferno_sidecar::publish::CurrentFrom::TargetSeries
}

#[test]
fn a_variant_that_moves_to_another_model_takes_its_pods_along() {
    let mut world = World::new(&both());
    stream(&mut world, 0.0);
    world.configure(&(variant("a", "n", "") + &variant("b", "n", "")));
    assert_eq!(world.engine.stats().models, 1);
    assert_eq!(world.decision("a").evidence.reporting, 2);
    assert_eq!(world.faults("a"), ["model_mismatch"]);
}

#[test]
fn configuration_and_samples_may_arrive_between_two_publications() {
    let mut world = World::new(&both());
    stream(&mut world, 0.0);
    let yaml = variant("b", "n", "") + &variant("c", "m", "");
    let resolved = inferno_sidecar::config::resolve::resolve(
        &inferno_sidecar::config::objects::documents("test.yaml", &yaml),
        &Default::default(),
    );
    world.engine.apply_snapshot(&resolved.snapshot, resolved.problems.into());
    stream(&mut world, 15.0);
    let names: Vec<String> = world.engine.board().entries.keys().map(|key| key.name.to_string()).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(world.says("b"), "1 steady");
}

#[test]
fn nothing_is_served_before_configuration_and_samples_are_there() {
    let mut engine = inferno_sidecar::engine::Engine::new(std::sync::Arc::new(
        inferno_sidecar::series::dialect::Dialects::built_in(),
    ));
    assert!(engine.publish().is_none());
    assert!(engine.board().not_ready().is_some());
    let scrape = Scrape::at(0.0).pod(&Pod::new("a", 0, "m"));
    engine.write_v1(&scrape.encode(), at(0.0)).unwrap();
    engine.publish();
    assert!(engine.board().not_ready().unwrap().contains("configuration"));
}
