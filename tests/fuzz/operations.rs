//! Sequences of events that an engine may meet, in an order that no sender keeps.

use crate::attempts;
use crate::support::{
    NAMESPACE, Pod, Scrape, World, at, inventory, scale_to_zero, stale, thresholds, variant,
};
use crate::worlds;
use inferno_sidecar::wire::Version;
use rand::RngExt;
use rand_pcg::Pcg64;

/// One of the oracle's configurations, of every mode, or one put together here.
fn configuration(random: &mut Pcg64) -> String {
    if random.random_bool(0.5) {
        return worlds::configuration(random.random_range(0..worlds::CONFIGURATIONS));
    }
    let mut all = variant("a", "m", "");
    let mut also = |text: String| {
        if random.random_bool(0.5) {
            all.push_str(&text);
        }
    };
    also(variant("b", "m", ", variantCost: \"5\""));
    also(variant("c", "n", ", maxReplicas: 3"));
    also(thresholds("m", "kvCacheThreshold: 0.7"));
    also(scale_to_zero("m", "5m"));
    also(inventory("capacity: {H100: 4}"));
    all
}

fn scrape(random: &mut Pcg64, seconds: f64) -> Scrape {
    let mut scrape = Scrape::at(seconds);
    for (target, model) in [("a", "m"), ("b", "m"), ("c", "n")] {
        let pods = random.random_range(0..3);
        for number in 0..pods {
            let mut pod =
                Pod::new(target, number, model).load(random.random(), random.random_range(0..20).into());
            pod.done = random.random_range(0..1000).into();
            scrape = if random.random_ratio(1, 10) { scrape.gone(&pod) } else { scrape.pod(&pod) };
        }
        if random.random_bool(0.7) {
            scrape = scrape.deployment(target, pods as u32, pods as u32);
        }
    }
    if random.random_bool(0.3) {
        scrape = scrape.queue("m", random.random_range(0..9).into());
    }
    let odd = [f64::NAN, f64::INFINITY, -1.0, 1e12, f64::MIN_POSITIVE, stale()][random.random_range(0..6)];
    let own = [("model_name", "m"), ("namespace", NAMESPACE), ("pod", "a-7d9c5b8f6d-bbbbb")];
    if random.random_bool(0.2) { scrape.with("vllm:prompt_tokens_total", &own, odd) } else { scrape }
}

/// After each event, publishing what it touched equals recomputing everything (see [`World::publish`]), and every
/// number that a reader sees is one.
#[test]
fn operations() {
    attempts("sequences of operations", |random| {
        let mut world = World::new(&configuration(random));
        let mut seconds: f64 = 0.0;
        for _ in 0..40 {
            seconds += [15.0, 1.0, 0.0, -20.0, 90.0, 700.0, -100.0, -5_000.0][random.random_range(0..8)];
            match random.random_range(0..8) {
                0 => world.configure(&configuration(random)),
                1 => world.engine.tick(at(seconds)),
                _ => {
                    let ahead = [0.0, 0.0, 5.0, -500.0, -3_000.0][random.random_range(0..5)];
                    let scrape = scrape(random, seconds);
                    let (version, request) = match random.random_bool(0.5) {
                        true => (Version::V1, scrape.encode()),
                        false => (Version::V2, scrape.encode_2()),
                    };
                    world.engine.write(version, &request, at(seconds + ahead)).expect("the request is sound");
                }
            }
            world.publish();
            for entry in world.engine.board().entries.values() {
                let text = format!("{entry:?}");
                assert!(!text.contains("NaN"), "{text}");
            }
            assert!(world.engine.stats().series < 100);
        }
    });
}
