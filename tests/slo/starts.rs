//! What a variant begins with before its own replicas have shown anything.

use crate::closed_loop::{Loop, configuration, model, variant};
use inferno_sidecar::analyze::slo::start::Profile;
use inferno_sidecar::emulate::load::Scenario;
use inferno_sidecar::publish::json;
use inferno_sidecar::simulate::profiles::starts;

/// Namespace `a` under load, namespace `b` with the same model and nothing to do, on its own accelerators.
fn two_namespaces(accelerator: &str, profiles: &[Profile]) -> Loop {
    let busy = model("a", 4.0, Scenario::Steady, vec![variant("llama", "L40S", 60_000, 1)]);
    let idle = model("b", 1e-6, Scenario::Steady, vec![variant("llama", accelerator, 60_000, 1)]);
    let yaml = configuration(&[busy, idle], "");
    let busy = model("a", 4.0, Scenario::Steady, vec![variant("llama", "L40S", 60_000, 1)]);
    let idle = model("b", 1e-6, Scenario::Steady, vec![variant("llama", accelerator, 60_000, 1)]);
    Loop::new(vec![busy, idle], &yaml, profiles)
}

#[test]
fn a_variant_without_load_takes_over_what_the_same_model_on_the_same_accelerator_has_learned() {
    let mut world = two_namespaces("L40S", &[]);
    world.run(60, |_, _| {});
    assert_eq!(world.shown("b/llama")["learned"]["start"], "prior");
    world.run(900, |_, _| {});
    let (lender, taker) = (world.shown("a/llama"), world.shown("b/llama"));
    assert_eq!(lender["learned"]["start"], "prior");
    let learned = &taker["learned"];
    assert_eq!(learned["start"], "profile of a/llama", "{learned}");
    assert_eq!((&learned["isLearned"], &learned["observations"]), (&false.into(), &0.0.into()));
    let base = |of: &serde_json::Value| of["learned"]["iterationMs"]["base"].as_f64().unwrap();
    assert!((base(&taker) / base(&lender) - 1.0).abs() < 0.2, "{learned}");
    // What was taken over is no news for a third instance.
    let exported = json::profiles(world.engine.board());
    let ids: Vec<_> = exported["variants"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, ["a/llama"]);
}

#[test]
fn another_accelerator_is_no_start() {
    let mut world = two_namespaces("H100", &[]);
    world.run(900, |_, _| {});
    assert_eq!(world.shown("b/llama")["learned"]["start"], "prior");
}

#[test]
fn what_was_learned_is_the_start_of_another_instance_and_of_the_variant_itself() {
    let mut world = two_namespaces("L40S", &[]);
    world.run(900, |_, _| {});
    let exported = json::profiles(world.engine.board());
    let known = starts(&[exported.to_string()]);
    let mut next = two_namespaces("L40S", &known);
    next.run(40, |_, _| {});
    let learned = |world: &Loop, name: &str| world.shown(name)["learned"].clone();
    let (own, other) = (learned(&next, "a/llama"), learned(&next, "b/llama"));
    assert_eq!((&own["start"], &own["isLearned"]), (&"own".into(), &true.into()));
    assert_eq!(other["start"], "profile of a/llama");
    assert_eq!(own["iterationMs"], learned(&world, "a/llama")["iterationMs"]);
    assert_eq!(json::profiles(next.engine.board())["variants"][0]["id"], "a/llama");
    // With nothing to start from the same half minute is too short to know what a replica carries.
    let fallback = |world: &Loop| world.shown("a/llama")["decision"]["fallback"].clone();
    assert!(fallback(&next).is_null(), "{}", fallback(&next));
    let mut fresh = two_namespaces("L40S", &[]);
    fresh.run(40, |_, _| {});
    assert!(fallback(&fresh).is_string());
}
