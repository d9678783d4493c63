//! A fast variant helps out while a cheap one starts.

use crate::closed_loop::{Loop, MODEL, configuration, model, variant};
use inferno_sidecar::analyze::slo::fit::Coefficients;
use inferno_sidecar::analyze::slo::start::Profile;
use inferno_sidecar::emulate::load::Scenario;
use inferno_sidecar::emulate::spec::VariantSpec;
use serde_json::Value;

/// The load is five times as high from here on, s.
const STEP_S: i64 = 1800;
const END_S: i64 = 3600;

/// What is known of a variant before it has run.
fn known(of: &VariantSpec) -> Profile {
    let time = of.profile.iteration;
    Profile {
        id: format!("llm/{}", of.name).into(),
        model: MODEL.into(),
        accelerator: of.accelerator.as_str().into(),
        cards: 1,
        iteration: Coefficients { a: time.a_ms, b: time.b_ms, c: time.c_ms, d: time.d_ms },
        observations: 100.0,
        kv_tokens: of.profile.kv_tokens() as f64,
        max_seqs: 0.0,
        startup_ms: Some(of.startup_ms),
        shortfall: 0.0,
    }
}

/// A step to five times the load over a cheap variant and, where there is one, another that costs ten times as much
/// and starts in `fast_s`.
struct Run {
    /// Most replicas of the fast variant, and those at the end.
    fast: (u32, u32),
    /// Changes of the fast variant's count.
    changes: u32,
    /// Share of the requests within both targets.
    attained: f64,
    /// What the replicas cost.
    cost: f64,
    /// The first decision with a bridge.
    said: Option<Value>,
}

fn run(fast_s: Option<i64>, class: &str) -> Run {
    let cheap = || variant("cheap", "L40S", 300_000, 2);
    let fast =
        || fast_s.map(|fast_s| VariantSpec { cost: 200.0, ..variant("fast", "H100", fast_s * 1000, 0) });
    let variants = || -> Vec<VariantSpec> { [cheap()].into_iter().chain(fast()).collect() };
    let step = Scenario::Spike { from_ms: STEP_S * 1000, until_ms: i64::MAX, factor: 5.0 };
    let models = || vec![model("llm", 4.0, step, variants())];
    let profiles: Vec<Profile> = variants().iter().map(known).collect();
    let mut world = Loop::new(models(), &configuration(&models(), class), &profiles);
    let (mut most, mut before, mut changes, mut said) = (0, 0, 0, None);
    world.run(END_S, |world, second| {
        if fast_s.is_none() {
            return;
        }
        let decision = world.shown("llm/fast")["decision"].clone();
        let count = decision["desired"].as_u64().unwrap_or(0) as u32;
        changes += u32::from(count != before);
        (before, most) = (count, most.max(count));
        if decision["reason"] == "bridge" && said.is_none() {
            assert!(second >= STEP_S, "nothing is short before the step");
            said = Some(decision);
        }
    });
    let arrived = world.fleet.models()[0].totals().arrived;
    let cost = world.fleet.variants().iter().map(|one| one.cost * one.replica_hours).sum();
    let attained = world.served.1 as f64 / arrived as f64;
    println!("start-up {fast_s:?} s {class}: {:.1} % at {cost:.0}, {most} at most", 100.0 * attained);
    Run { fast: (most, before), changes, attained, cost, said }
}

#[test]
fn a_fast_variant_stands_in_until_the_cheap_ones_have_started() {
    let (with, without) = (run(Some(30), ""), run(None, ""));
    let said = with.said.expect("the fast variant stands in");
    assert_eq!(said["model"]["bridge"]["variant"], "fast", "{said}");
    assert!(
        said["message"].as_str().is_some_and(|text| text.contains("until slower ones are there")),
        "{said}"
    );
    assert!(with.fast.0 > 0 && with.fast.1 == 0, "they come and go: {:?}", with.fast);
    assert!(with.changes <= 4, "{} changes", with.changes);
    assert!(with.attained > without.attained + 0.05, "{} against {}", with.attained, without.attained);
    assert!(with.cost < 2.0 * without.cost, "{} against {}", with.cost, without.cost);
}

#[test]
fn as_slow_as_the_others_it_is_not_asked_for() {
    let equal = run(Some(300), "");
    assert_eq!((equal.fast, equal.said), ((0, 0), None));
}

#[test]
fn where_a_miss_costs_little_nobody_stands_in() {
    let cheap = run(Some(30), "missCost: 1");
    assert_eq!((cheap.fast, cheap.said), ((0, 0), None));
}
