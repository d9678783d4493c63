//! Pods that live for minutes, for hours: what is remembered of them is bounded.

use crate::support::{Pod, Scrape, World, at};
use crate::worlds::sized;
use inferno_sidecar::publish::history::{History, HistoryStats, Retention};

/// Time between two scrapes, s.
const SCRAPE_S: usize = 15;

/// Time between two rollouts, which give every Deployment another ReplicaSet, s.
const ROLLOUT_S: usize = 600;
/// What `slo` remembers longest: surges, somewhat over two hours.
const FULL_S: usize = 9_000;
/// How far the record reaches back, ms.
const RECORDED_MS: i64 = 1_800_000;
/// Deployments and the models that their pods serve; the last one is nobody's.
const DEPLOYMENTS: [(&str, &str); 4] = [("a", "m"), ("b", "m"), ("c", "n"), ("stranger", "o")];

/// A fleet in which every pod is another one a minute later.
struct Fleet {
    world: World,
    history: History,
    now_s: usize,
}

impl Fleet {
    fn new(mode: &str) -> Self {
        let history = History::new(Retention { ms: RECORDED_MS, bytes: 1 << 30 });
        Fleet { world: World::new(&sized(mode)), history, now_s: 0 }
    }

    /// Pod `number` of a Deployment in the minute `minute`.
    fn pod(&self, (target, model): (&str, &str), number: usize, minute: usize) -> (Pod, String) {
        let letter = |of: usize| char::from(b"bcdfghjklmnpqrstvwxz2456789"[of % 27]);
        let set = format!("{target}-{}f6d", letter(minute * 60 / ROLLOUT_S));
        let end: String = [minute / 729, minute / 27, minute, number].into_iter().map(letter).collect();
        let mut pod = Pod::named(&format!("{set}-x{end}"), model).load(0.4, (minute % 3) as f64);
        pod.done = (self.now_s % 60) as f64 * (2.0 + (minute % 7) as f64);
        (pod, set)
    }

    fn scrape(&self) -> Scrape {
        let (minute, is_first) = (self.now_s / 60, self.now_s.is_multiple_of(60));
        let mut scrape = Scrape::at(self.now_s as f64);
        for deployment in DEPLOYMENTS {
            for number in 0..2 {
                let (pod, set) = self.pod(deployment, number, minute);
                let owner =
                    [("namespace", "llm"), ("owner_is_controller", "true"), ("owner_kind", "ReplicaSet")];
                let of_pod = [&owner[..], &[("owner_name", &set), ("pod", &pod.name)]].concat();
                scrape = scrape.pod(&pod).with("kube_pod_owner", &of_pod, 1.0);
                let owner =
                    [("namespace", "llm"), ("owner_is_controller", "true"), ("owner_kind", "Deployment")];
                let of_set = [&owner[..], &[("owner_name", deployment.0), ("replicaset", &set)]].concat();
                scrape = scrape.with("kube_replicaset_owner", &of_set, 1.0);
                // Every second pod ends without a word.
                if is_first && minute > 0 && number == 0 {
                    scrape = scrape.gone(&self.pod(deployment, number, minute - 1).0);
                }
            }
            scrape = scrape.deployment(deployment.0, 2, 2).queue(deployment.1, 0.0);
        }
        scrape
    }

    /// Goes on until so many seconds after the start.
    fn until(&mut self, end_s: usize) {
        while self.now_s < end_s {
            self.world.write_quietly(self.scrape());
            self.history.step(self.world.engine.board(), at(self.now_s as f64));
            self.now_s += SCRAPE_S;
        }
    }

    /// Everything that the engine holds, by the length of its description, and what is recorded.
    fn held(&self) -> (usize, HistoryStats) {
        (format!("{:?}", self.world.engine).len(), self.history.stats())
    }
}

fn holds_as_much_later(mode: &str) {
    let mut fleet = Fleet::new(mode);
    fleet.until(FULL_S);
    let (series, replicas) = (fleet.world.engine.stats().series, fleet.world.engine.stats().replicas);
    let (held, recorded) = fleet.held();
    for part in 1..=4 {
        // Not at the same minute of a rollout.
        fleet.until(FULL_S + part * 2_700);
        let stats = fleet.world.engine.stats();
        assert!(stats.series <= series + series / 50, "{mode}: {} after {series} series", stats.series);
        assert!(stats.replicas <= replicas + 2, "{mode}: {} after {replicas} replicas", stats.replicas);
        let (later, record) = fleet.held();
        assert!(later <= held + held / 20, "{mode}: {later} after {held} characters of everything");
        assert_eq!(record.series, recorded.series, "{mode}: of the record");
        assert!(
            record.bytes <= recorded.bytes + recorded.bytes / 20,
            "{mode}: {record:?} after {recorded:?}"
        );
    }
    assert!(fleet.world.entry("a").learned.is_some() || mode != "slo", "it learns from pods of a minute");
}

#[test]
fn what_is_remembered_of_pods_that_come_and_go_is_bounded_in_mode_slo() {
    holds_as_much_later("slo");
}

#[test]
fn what_is_remembered_of_pods_that_come_and_go_is_bounded_in_mode_model() {
    holds_as_much_later("model+tokens+saturation");
}
