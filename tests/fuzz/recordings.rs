//! Recordings with damaged records, as `replay` reads them: each is told apart from a sound one, or replayed for
//! what it says.

use crate::attempts;
use crate::mutate::damage;
use crate::support::{NAMESPACE, Pod, Scrape, at};
use crate::worlds;
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::proto::recording::{
    Cards, Cluster, ClusterPod, ClusterTarget, Configuration, Desired, Filled, Gap, PodFact, Published,
    Record, Replicas, ScaleTarget, Start, Tick, Write, record::Event,
};
use inferno_sidecar::replay::play;
use inferno_sidecar::tape::convert::recorded;
use inferno_sidecar::tape::segment::MAGIC;
use prost::Message;
use rand::RngExt;
use rand_pcg::Pcg64;

fn configured(number: usize, carried: bool) -> Event {
    let documents = recorded(&documents("fuzz.yaml", &worlds::configuration(number)));
    Event::Configuration(Configuration { documents, carried, home: None })
}

fn written(random: &mut Pcg64, seconds: f64) -> Event {
    let pod = Pod::new("a", random.random_range(0..3), "m").load(random.random(), 2.0);
    let scrape = Scrape::at(seconds).pod(&pod).deployment("a", 2, 2);
    let protocol = random.random_range(1..=2);
    let message = if protocol == 1 { scrape.encode() } else { scrape.encode_2() };
    let compressed = random.random();
    let message = match compressed {
        true => snap::raw::Encoder::new().compress_vec(&message).expect("it fits"),
        false => message,
    };
    Event::Write(Write { now_ms: at(seconds).0, protocol, message, compressed })
}

fn clustered() -> Event {
    let target = ScaleTarget { kind: "Deployment".into(), name: "a".into() };
    let replicas = Some(Replicas { spec: 3, status: 2, ready: 1 });
    let fact = PodFact { owner: Some(target.clone()), created_ms: Some(at(0.0).0), ready_ms: None };
    let name = "a-7d9c5b8f6d-bbbbb".into();
    let cards = Cards { counts: [("NVIDIA-H100-80GB-HBM3".to_owned(), 8)].into() };
    Event::Cluster(Cluster {
        targets: vec![ClusterTarget { namespace: NAMESPACE.into(), target: Some(target), replicas }],
        pods: vec![ClusterPod { namespace: NAMESPACE.into(), name, fact: Some(fact) }],
        cards: Some(cards),
        carried: false,
    })
}

fn event(random: &mut Pcg64, seconds: f64) -> Event {
    match random.random_range(0..12) {
        0 => configured(random.random_range(0..worlds::CONFIGURATIONS), random.random()),
        1 => clustered(),
        2 => Event::Tick(Tick { now_ms: at(seconds).0 }),
        3 => Event::Gap(Gap { records: random.random_range(0..3) }),
        4 => Event::Filled(Filled {}),
        5 => start(random),
        6..8 => {
            let desired = Desired { namespace: NAMESPACE.into(), name: "a".into(), replicas: Some(2) };
            let digest = random.random();
            Event::Published(Published { version: 1, digest, desired: vec![desired], all: random.random() })
        }
        _ => written(random, seconds),
    }
}

fn start(random: &mut Pcg64) -> Event {
    Event::Start(Start {
        version: env!("CARGO_PKG_VERSION").into(),
        run_ms: random.random_range(1..3),
        fresh: random.random(),
        filling: random.random_ratio(1, 4),
        shard_count: random.random_range(0..3),
        series_max: [0, 4, 1_000][random.random_range(0..3)],
        ..Start::default()
    })
}

/// A frame as the recorder writes it, of a record that may be damaged before its checksum is made.
fn frame(random: &mut Pcg64, event: Event) -> Vec<u8> {
    let mut record = Record { event: Some(event) }.encode_to_vec();
    if random.random_ratio(1, 6) {
        damage(random, &mut record);
    }
    let length = u32::try_from(record.len()).expect("records are small").to_le_bytes();
    [&length[..], &crc32fast::hash(&record).to_le_bytes(), &record].concat()
}

#[test]
fn recordings() {
    let dir = tempfile::tempdir().expect("there is room");
    let path = dir.path().join("0000000001.inferno-recording");
    let other = resolve(&documents("fuzz.yaml", &worlds::configuration(1)), &Resolved::default());
    attempts("recordings", |random| {
        let mut bytes = MAGIC.to_vec();
        let first = [start(random), configured(random.random_range(0..worlds::CONFIGURATIONS), false)];
        for event in first {
            bytes.extend(frame(random, event));
        }
        let mut seconds: f64 = 0.0;
        for _ in 0..random.random_range(0..40) {
            seconds += [15.0, 0.0, 90.0, -300.0][random.random_range(0..4)];
            let event = event(random, seconds);
            bytes.extend(frame(random, event));
        }
        if random.random_ratio(1, 4) {
            damage(random, &mut bytes);
        }
        std::fs::write(&path, bytes).expect("there is room");
        let with = random.random_bool(0.5).then(|| other.clone());
        if let Ok(outcome) = play(dir.path(), with) {
            assert!(!format!("{outcome:?}").contains("NaN"));
        }
    });
}
