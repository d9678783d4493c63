//! An engine that is filled with the past knows what the one before it knew.

use crate::closed_loop::{Loop, START, configuration, model, variant};
use inferno_sidecar::emulate::load::{Scenario, trace};
use inferno_sidecar::emulate::spec::ModelSpec;
use inferno_sidecar::engine::Engine;
use inferno_sidecar::publish::json;
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::simulate::pattern::Pattern;
use serde_json::Value;
use std::sync::Arc;

/// Three hours and twenty minutes of a load, and what the engine says then.
fn heard(load: &str, seed: u64) -> (Loop, Value) {
    let requests = Pattern::parse(load).expect("the pattern is valid").trace("load", seed).requests;
    let rows: Vec<_> = requests.iter().map(|r| (r.arrival_ms, r.prompt_tokens, r.output_tokens)).collect();
    let models = || {
        let one = model("llm", 1.0, Scenario::Steady, vec![variant("llama", "L40S", 110_000, 2)]);
        vec![ModelSpec { load: Box::new(trace(START, rows.clone())), ..one }]
    };
    let mut world = Loop::new(models(), &configuration(&models(), ""), &[]);
    world.recorded = Some(Vec::new());
    world.run(200 * 60, |_, _| {});
    let before = world.shown("llm/llama");
    (world, before)
}

/// What an engine says that is filled with the last `minutes`.
fn filled(world: &Loop, minutes: usize) -> Value {
    let mut engine = Engine::new(Arc::new(Dialects::built_in())).to_be_filled();
    engine.apply_snapshot(&world.resolved.snapshot, Arc::from([]));
    let recorded = world.recorded.as_deref().expect("it was recorded");
    for (now, bytes) in &recorded[recorded.len() - minutes * 12..] {
        engine.write_v1(bytes, *now).expect("the request is sound");
        engine.publish();
    }
    engine.filled();
    engine.publish();
    let entry = engine.board().entries.values().next().expect("the variant is there");
    json::entry(entry, world.fleet.now())
}

fn figures(of: &Value) -> [f64; 5] {
    let demand = &of["decision"]["model"]["demand"];
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    [
        number(&of["decision"]["desired"]),
        number(&of["learned"]["capacityPerReplicaPerSecond"]),
        number(&demand["surge"]["perSecond"]),
        number(&of["learned"]["observations"]),
        number(&of["learned"]["startupSeconds"]),
    ]
}

#[test]
fn two_hours_bring_back_count_capacity_and_headroom_and_a_quarter_of_an_hour_the_capacity() {
    for (load, seed) in [
        ("rate=6,peak=18,shape=sine,period=40m,duration=4h,prompt=1000,output=200", 1),
        ("rate=5,peak=20,shape=spikes,period=25m,duration=4h,prompt=1000,output=200", 2),
        ("rate=6,duration=4h,prompt=1000,output=200,burst=4", 3),
    ] {
        let (world, before) = heard(load, seed);
        let expected = figures(&before);
        println!("{load}: desired, capacity, surge, observations, start-up\n  before  {expected:.2?}");
        for minutes in [15, 30, 60, 120] {
            let after = filled(&world, minutes);
            let found = figures(&after);
            println!("  {minutes:3} min {found:.2?}");
            assert!(after["decision"]["fallback"].is_null(), "it need not learn anew: {after}");
            assert_eq!(after["learned"]["isLearned"], true, "{after}");
            // What measured first tokens correct is remembered for hours.
            let error = if minutes == 120 { 0.03 } else { 0.06 };
            assert!((found[1] / expected[1] - 1.0).abs() < error, "capacity: {found:?} for {expected:?}");
            if after["learned"]["startupIsMeasured"] == true {
                assert!((found[4] - expected[4]).abs() <= 5.0, "start-up: {found:?} for {expected:?}");
            }
            if minutes == 120 {
                assert_eq!(found[0], expected[0], "{after}");
                assert!((found[2] / expected[2] - 1.0).abs() < 0.1, "surges: {found:?} for {expected:?}");
            }
        }
    }
}
