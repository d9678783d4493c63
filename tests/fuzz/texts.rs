//! Configuration and queries, sound and damaged.

use crate::attempts;
use crate::mutate::damage;
use crate::support::{Pod, Scrape, World, at, inventory, scale_to_zero, thresholds, variant};
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::publish::promql::{Moment, Query};
use inferno_sidecar::publish::select::View;
use rand::RngExt;

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
    let mut world = World::new(&variant("a", "m", ""));
    let mut previous = Resolved::default();
    attempts("configuration", |random| {
        let mut text = sound.clone().into_bytes();
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
