//! Configuration and queries, sound and damaged.

use crate::attempts;
use crate::mutate::damage;
use crate::support::{Pod, Scrape, World, at, inventory, scale_to_zero, thresholds, variant};
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::publish::promql::{Moment, Query};
use inferno_sidecar::publish::select::View;
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::simulate::pattern::Pattern;
use inferno_sidecar::simulate::profiles;
use inferno_sidecar::simulate::trace::Trace;
use rand::RngExt;

/// Every shape of object that is read, and mistakes that people make.
const SHAPES: [&str; 6] = [
    include_str!("../config/shapes.yaml"),
    include_str!("../config/targets.yaml"),
    include_str!("../config/policies.yaml"),
    include_str!("../config/roles.yaml"),
    include_str!("../config/inventory.yaml"),
    include_str!("../config/mistakes.yaml"),
];

#[test]
fn configuration() {
    let sound = [
        variant("a", "m", ", variantCost: \"10.5\", minReplicas: 1, maxReplicas: 4"),
        variant("b", "m", ""),
        thresholds("m", "kvCacheThreshold: 0.7"),
        scale_to_zero("m", "5m"),
        inventory("capacity: {H100: 4}"),
    ]
    .concat();
    let sound: Vec<String> = SHAPES.iter().map(|shape| (*shape).to_owned()).chain([sound]).collect();
    let mut world = World::new(&variant("a", "m", ""));
    let mut previous = Resolved::default();
    attempts("configuration", |random| {
        let mut text = sound[random.random_range(0..sound.len())].clone().into_bytes();
        damage(random, &mut text);
        let text = String::from_utf8_lossy(&text);
        let resolved = resolve(&documents("fuzz.yaml", &text), &previous);
        let again = resolve(&documents("fuzz.yaml", &text), &previous);
        assert_eq!(resolved.problems, again.problems);
        assert!(resolved.problems.len() < 100, "{text}");
        world.engine.apply_snapshot(&resolved.snapshot, resolved.problems.clone().into());
        world.publish();
        let known = &resolved.snapshot;
        let same = resolve(&documents("fuzz.yaml", &text), &resolved);
        assert_eq!(format!("{:?}", same.snapshot), format!("{known:?}"), "resolving once more");
        previous = if random.random_ratio(1, 8) { Resolved::default() } else { resolved };
    });
}

#[test]
fn queries() {
    let mut world = World::new(&variant("a", "m", ""));
    world.write(Scrape::at(0.0).deployment("a", 1, 1).pod(&Pod::new("a", 0, "m")));
    world.write(Scrape::at(15.0).deployment("a", 1, 1).pod(&Pod::new("a", 0, "m").load(0.95, 9.0)));
    let sound = [
        "inferno_desired_replicas{variant_name=\"a\",exported_namespace=~\"l.+\"}",
        "sum by (exported_namespace) (inferno_desired_replicas) / 2 + 1",
        "max(inferno_desired_ratio{variant_name!=\"b\"}) > 0.5 or vector(0)",
        "round(avg without (accelerator_type) (inferno_current_replicas), 0.5)",
        "inferno_desired_replicas - on (variant_name) inferno_current_replicas",
        "clamp_max(-inferno_desired_replicas[5m], 3) unless absent(up)",
    ];
    let moment = Moment { time: at(16.0), start: at(1.0), end: at(16.0) };
    let view = View { board: world.engine.board(), now: at(16.0), aliases: true };
    attempts("queries", |random| {
        let mut text = sound[random.random_range(0..sound.len())].as_bytes().to_vec();
        damage(random, &mut text);
        let text = String::from_utf8_lossy(&text);
        if let Ok(query) = Query::parse(&text) {
            let once = format!("{:?}", query.evaluate(&view, moment));
            assert_eq!(once, format!("{:?}", query.evaluate(&view, moment)), "{text}");
        }
    });
}

/// What an operator gives to `--dialect` and to `simulate`.
#[test]
fn files_of_the_command_line() {
    let table = "name: mine\nsubject: replica\nlabels: {namespace: [namespace], name: [pod], model: [model]}\n\
                 series:\n  - {metric: mine_running, signal: RequestsRunning, scale: 0.5}\n";
    let trace = "arrival_s,input_tokens,output_tokens\n0,100,20\n15.5,2000,1\n1e3,7,300\n";
    let profiles = serde_json::to_string(&serde_json::json!({"variants": [{
        "id": "a", "model": "m", "gpu": "H100", "gpus_per_replica": 1, "cost_per_hour": 2.0, "kv_tokens": 400000,
        "max_num_seqs": 256, "iteration_ms": {"a": 8.0, "b": 0.05, "c": 0.02, "d": 0.00003, "q": 0.0},
    }]}));
    let profiles = profiles.expect("it is text");
    let pattern = "rate=20,duration=20m,prompt=1200,output=250";
    assert!(
        Dialects::with_extra(&[table]).is_ok() && Trace::read("fuzz", "fuzz.csv", trace.as_bytes()).is_ok()
    );
    assert!(Pattern::parse(pattern).is_ok() && profiles::read("fuzz.json", &profiles).1.is_empty());
    attempts("files of the command line", |random| {
        let mut damaged = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            damage(random, &mut bytes);
            bytes
        };
        let _ = Dialects::with_extra(&[&String::from_utf8_lossy(&damaged(table))]);
        if let Ok(trace) = Trace::read("fuzz", "fuzz.csv", &damaged(trace)) {
            assert!(trace.mean_tokens().0.is_finite() && trace.duration_ms() >= 0, "{trace:?}");
        }
        let (found, _) = profiles::read("fuzz.json", &String::from_utf8_lossy(&damaged(&profiles)));
        assert!(found.len() <= 1);
        if let Ok(pattern) = Pattern::parse(&String::from_utf8_lossy(&damaged(pattern))) {
            assert!(pattern.rate_per_s(1e6).is_finite(), "{pattern:?}");
        }
    });
}
