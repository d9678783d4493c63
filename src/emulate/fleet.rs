//! A fleet of emulated engines: models, their variants, and replicas that start, serve, drain and vanish.
//!
//! Input: a [`FleetSpec`], replica counts ([`Fleet::set_replicas`]) and times ([`Fleet::advance_to`]).
//! Output: counts per variant, finished requests, and through [`super::exposition`] all metrics.
//!
//! A replica is created at once, becomes ready after the start-up time of its variant, and takes requests
//! from then on. Scaling down removes starting replicas first, then the newest ready ones; those take no
//! more requests, finish what they have, and are killed with it after the grace period. Requests go to the
//! ready replica of the model with the fewest requests; without one they queue at the scheduler.

use std::collections::VecDeque;

use super::load::{Arrival, Arrivals};
use super::names::Namer;
use super::profile::EngineProfile;
use super::replica::Replica;
use super::request::{Finished, Request};
use super::spec::{FleetSpec, MAX_REPLICAS, ModelSpec, NodeSpec, VariantSpec};
use super::{US_PER_MS, to_us, us_to_ms};
use crate::config::SloTargets;
use crate::units::TimeMs;

/// What a pod is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Loading the model: not ready, nothing to scrape.
    Starting,
    /// Serving.
    Ready,
    /// Being removed: finishes what it has.
    Draining,
}

/// One replica of a variant.
#[derive(Debug)]
pub struct Pod {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) phase: Phase,
    /// The engine, once it answers.
    pub(super) replica: Option<Replica>,
    created_us: i64,
    /// When the phase ends by itself: ready when starting, killed when draining.
    deadline_us: i64,
}

/// A scale target with its pods.
#[derive(Debug)]
pub struct Variant {
    pub(super) spec: VariantSpec,
    pub(super) replica_set: String,
    pub(super) desired: u32,
    pub(super) pods: Vec<Pod>,
    /// Lifetime of the pods that are gone, us.
    past_us: i64,
}

/// What happened to the requests of a model so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that came.
    pub arrived: u64,
    /// Requests served to their end.
    pub finished: u64,
    /// Of those, the ones that met the model's targets.
    pub met: u64,
    /// Requests refused because their prompt fits no engine.
    pub rejected: u64,
    /// Requests lost with a replica that was killed at the end of its grace period.
    pub killed: u64,
}

/// A model with its requests.
pub struct Model {
    pub(super) namespace: String,
    pub(super) model_id: String,
    pub(super) variants: Vec<Variant>,
    /// Name of the inference pool.
    pub(super) pool: String,
    /// Pod of the inference scheduler.
    pub(super) scheduler_pod: String,
    /// Requests at the scheduler.
    pub(super) queue: VecDeque<Request>,
    slo: SloTargets,
    load: Arrivals,
    next: Option<Arrival>,
    totals: Totals,
    /// Where the search for the least loaded replica begins, so that ties go round.
    turn: usize,
}

/// Counts of one variant.
#[derive(Clone, Debug, PartialEq)]
pub struct VariantStatus {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name of the Deployment.
    pub name: String,
    /// Model served.
    pub model_id: String,
    /// Accelerator type.
    pub accelerator: String,
    /// Cost of one replica per hour.
    pub cost: f64,
    /// Replicas asked for.
    pub desired: u32,
    /// Replicas that exist and are not being removed.
    pub current: u32,
    /// Replicas that take requests.
    pub ready: u32,
    /// Replicas being removed.
    pub draining: u32,
    /// Requests waiting inside the engines.
    pub waiting: u64,
    /// Requests running.
    pub running: u64,
    /// Mean share of KV blocks in use over the ready replicas, 0..1.
    pub kv_usage: f64,
    /// Time that replicas have existed, starting and draining included, h.
    pub replica_hours: f64,
}

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name of its Deployment.
    pub variant: String,
    /// Name, unique in the fleet for all time.
    pub name: String,
    /// What it is doing.
    pub phase: Phase,
}

/// A finished request and where it was served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// Index of the model in the specification.
    pub model: usize,
    /// Index of the variant within the model.
    pub variant: usize,
    /// The request and its latencies.
    pub finished: Finished,
}

/// The emulated fleet.
pub struct Fleet {
    now_us: i64,
    pub(super) models: Vec<Model>,
    pub(super) nodes: Vec<NodeSpec>,
    /// Pod of kube-state-metrics.
    pub(super) cluster_metrics_pod: String,
    namer: Namer,
    served: Vec<Served>,
}

impl Fleet {
    /// A fleet at its start, with the specified replicas ready.
    pub fn new(spec: FleetSpec) -> Self {
        let now_us = to_us(spec.start);
        let mut namer = Namer::new(spec.seed);
        let cluster_metrics_pod = namer.only_pod("kube-state-metrics");
        let models = spec.models.into_iter().map(|model| Model::new(model, &mut namer, now_us)).collect();
        Fleet { now_us, models, nodes: spec.nodes, cluster_metrics_pod, namer, served: Vec::new() }
    }

    /// The fleet's time.
    pub fn now(&self) -> TimeMs {
        TimeMs(self.now_us.div_euclid(US_PER_MS))
    }

    /// Asks for `replicas` replicas of a variant from now on; false when there is no such variant.
    pub fn set_replicas(&mut self, namespace: &str, name: &str, replicas: u32) -> bool {
        let now_us = self.now_us;
        let found = self
            .models
            .iter_mut()
            .filter(|model| model.namespace == namespace)
            .flat_map(|model| &mut model.variants)
            .find(|variant| variant.spec.name == name);
        match found {
            Some(variant) => {
                variant.scale(replicas.min(MAX_REPLICAS), &mut self.namer, now_us);
                true
            }
            None => false,
        }
    }

    /// Lets time pass until `time`; a time in the past changes nothing.
    pub fn advance_to(&mut self, time: TimeMs) {
        let until_us = to_us(time);
        if until_us <= self.now_us {
            return;
        }
        for (index, model) in self.models.iter_mut().enumerate() {
            let mut now_us = self.now_us;
            while let Some(event_us) = model.next_event_us().filter(|&at_us| at_us <= until_us) {
                // A source that goes back in time is served late.
                now_us = now_us.max(event_us);
                model.advance_replicas(index, now_us, &mut self.served);
                model.handle_events(now_us);
            }
            model.advance_replicas(index, until_us, &mut self.served);
        }
        self.now_us = until_us;
    }

    /// The requests finished since the last call. The fleet keeps them until then.
    pub fn take_finished(&mut self) -> Vec<Served> {
        std::mem::take(&mut self.served)
    }

    /// The models, in the order of the specification.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The pods that exist, in the order of the specification.
    pub fn pods(&self) -> Vec<PodStatus> {
        let status = |model: &Model, variant: &Variant, pod: &Pod| PodStatus {
            namespace: model.namespace.clone(),
            variant: variant.spec.name.clone(),
            name: pod.name.clone(),
            phase: pod.phase,
        };
        self.each_pod().map(|(model, variant, pod)| status(model, variant, pod)).collect()
    }

    pub(super) fn each_pod(&self) -> impl Iterator<Item = (&Model, &Variant, &Pod)> {
        self.models.iter().flat_map(|model| {
            let variants = model.variants.iter();
            variants.flat_map(move |variant| variant.pods.iter().map(move |pod| (model, variant, pod)))
        })
    }

    /// Counts of every variant, in the order of the specification.
    pub fn variants(&self) -> Vec<VariantStatus> {
        let of_model = |model: &Model| -> Vec<VariantStatus> {
            model.variants.iter().map(|variant| model.status(variant, self.now_us)).collect()
        };
        self.models.iter().flat_map(of_model).collect()
    }
}

impl Model {
    fn new(spec: ModelSpec, namer: &mut Namer, now_us: i64) -> Self {
        let variants = spec
            .variants
            .into_iter()
            .map(|variant| {
                let replica_set = namer.replica_set(&variant.name);
                let replicas = variant.replicas.min(MAX_REPLICAS);
                let mut variant =
                    Variant { spec: variant, replica_set, desired: 0, pods: Vec::new(), past_us: 0 };
                variant.scale(replicas, namer, now_us);
                variant.pods.iter_mut().for_each(|pod| pod.start(&variant.spec.profile, now_us));
                variant
            })
            .collect();
        let mut load = spec.load;
        let pool = pool_name(&spec.model_id);
        Model {
            scheduler_pod: namer.only_pod(&format!("{pool}-epp")),
            pool,
            namespace: spec.namespace,
            model_id: spec.model_id,
            variants,
            queue: VecDeque::new(),
            slo: spec.slo,
            next: load.next(),
            load,
            totals: Totals::default(),
            turn: 0,
        }
    }

    /// Model ID as clients send it.
    pub fn model_id(&self) -> &str {
        &self.model_id
    }

    /// Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Targets against which attainment is counted.
    pub fn slo(&self) -> SloTargets {
        self.slo
    }

    /// What happened to the requests so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Requests waiting at the scheduler.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Requests that came and are neither finished nor lost: at the scheduler and in the engines.
    pub fn in_flight(&self) -> u64 {
        let engines: usize = self.replicas().map(Replica::in_flight).sum();
        (engines + self.queue.len()) as u64
    }

    /// The engines that run, draining ones included.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.variants.iter().flat_map(|variant| &variant.pods).filter_map(|pod| pod.replica.as_ref())
    }

    /// The next moment at which something happens other than inside an engine.
    fn next_event_us(&self) -> Option<i64> {
        let pods = self.variants.iter().flat_map(|variant| &variant.pods);
        let deadlines = pods.filter(|pod| pod.phase != Phase::Ready).map(|pod| pod.deadline_us);
        deadlines.chain(self.next.map(|arrival| arrival.at_us)).min()
    }

    /// Runs every engine until `until_us`, and removes the pods that have drained.
    fn advance_replicas(&mut self, model: usize, until_us: i64, served: &mut Vec<Served>) {
        let mut finished = Vec::new();
        for (index, variant) in self.variants.iter_mut().enumerate() {
            for replica in variant.pods.iter_mut().filter_map(|pod| pod.replica.as_mut()) {
                replica.advance_to(until_us);
                replica.drain_finished(&mut finished);
            }
            for finished in finished.drain(..) {
                self.totals.finished += 1;
                self.totals.met += u64::from(finished.meets(&self.slo));
                served.push(Served { model, variant: index, finished });
            }
            let done = |pod: &Pod| pod.phase == Phase::Draining && pod.in_flight() == 0;
            variant.remove(until_us, done);
        }
    }

    /// Handles what is due at `now_us`; the engines have been advanced to it.
    fn handle_events(&mut self, now_us: i64) {
        for variant in &mut self.variants {
            for pod in &mut variant.pods {
                if pod.phase == Phase::Starting && pod.deadline_us <= now_us {
                    pod.start(&variant.spec.profile, now_us);
                }
            }
            let overdue = |pod: &Pod| pod.phase == Phase::Draining && pod.deadline_us <= now_us;
            self.totals.killed += variant.remove(now_us, overdue);
        }
        while self.has_ready() {
            let Some(request) = self.queue.pop_front() else { break };
            self.route(request);
        }
        while let Some(arrival) = self.next.filter(|arrival| arrival.at_us <= now_us) {
            self.next = self.load.next();
            let request = Request {
                id: self.totals.arrived,
                arrival_us: now_us,
                prompt_tokens: arrival.prompt_tokens,
                output_tokens: arrival.output_tokens,
                cached_tokens: arrival.cached_tokens,
            };
            self.totals.arrived += 1;
            self.route(request);
        }
    }

    fn has_ready(&self) -> bool {
        self.variants.iter().flat_map(|variant| &variant.pods).any(|pod| pod.phase == Phase::Ready)
    }

    /// Gives a request to the ready replica with the fewest requests, or to the scheduler's queue.
    fn route(&mut self, request: Request) {
        let mut ready: Vec<&mut Replica> = self
            .variants
            .iter_mut()
            .flat_map(|variant| &mut variant.pods)
            .filter(|pod| pod.phase == Phase::Ready)
            .filter_map(|pod| pod.replica.as_mut())
            .collect();
        let count = ready.len();
        if count == 0 {
            self.queue.push_back(request);
            return;
        }
        self.turn = (self.turn + 1) % count;
        let turn = self.turn;
        let chosen = ready
            .iter_mut()
            .enumerate()
            .min_by_key(|(index, replica)| (replica.in_flight(), (index + count - turn) % count));
        if let Some((_, replica)) = chosen
            && !replica.submit(request)
        {
            self.totals.rejected += 1;
        }
    }

    fn status(&self, variant: &Variant, now_us: i64) -> VariantStatus {
        let count = |phase: Phase| variant.pods.iter().filter(|pod| pod.phase == phase).count() as u32;
        let ready = count(Phase::Ready);
        let replicas = || variant.pods.iter().filter_map(|pod| pod.replica.as_ref());
        let usage: f64 = variant.pods.iter().filter(|pod| pod.phase == Phase::Ready).map(Pod::kv_usage).sum();
        let living_us: i64 = variant.pods.iter().map(|pod| now_us - pod.created_us).sum();
        VariantStatus {
            namespace: self.namespace.clone(),
            name: variant.spec.name.clone(),
            model_id: self.model_id.clone(),
            accelerator: variant.spec.accelerator.clone(),
            cost: variant.spec.cost,
            desired: variant.desired,
            current: count(Phase::Starting) + ready,
            ready,
            draining: count(Phase::Draining),
            waiting: replicas().map(|replica| replica.waiting() as u64).sum(),
            running: replicas().map(|replica| replica.running() as u64).sum(),
            kv_usage: if ready == 0 { 0.0 } else { usage / f64::from(ready) },
            replica_hours: us_to_ms(variant.past_us + living_us) / 3_600_000.0,
        }
    }
}

/// Name of the inference pool of a model: the model ID brought into the form of an object name.
fn pool_name(model_id: &str) -> String {
    let name: String = model_id
        .rsplit('/')
        .next()
        .unwrap_or(model_id)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    format!("{}-pool", name.trim_matches('-'))
}

impl Variant {
    /// Creates or removes pods until as many as asked for exist.
    fn scale(&mut self, replicas: u32, namer: &mut Namer, now_us: i64) {
        self.desired = replicas;
        let live = |pods: &[Pod]| pods.iter().filter(|pod| pod.phase != Phase::Draining).count();
        while live(&self.pods) < replicas as usize {
            self.pods.push(Pod {
                name: namer.pod(&self.replica_set),
                address: namer.address(),
                phase: Phase::Starting,
                replica: None,
                created_us: now_us,
                deadline_us: now_us.saturating_add(self.spec.startup_ms.max(0).saturating_mul(US_PER_MS)),
            });
        }
        let mut excess = live(&self.pods).saturating_sub(replicas as usize);
        for victims in [Phase::Starting, Phase::Ready] {
            for pod in self.pods.iter_mut().rev().filter(|pod| pod.phase == victims).take(excess) {
                pod.phase = Phase::Draining;
                pod.deadline_us = now_us.saturating_add(self.spec.grace_ms.max(0).saturating_mul(US_PER_MS));
                excess -= 1;
            }
        }
        self.remove(now_us, |pod| pod.phase == Phase::Draining && pod.in_flight() == 0);
    }

    /// Removes the pods that `gone` names; returns the requests that go with them.
    fn remove(&mut self, now_us: i64, gone: impl Fn(&Pod) -> bool) -> u64 {
        let mut lost = 0;
        let past_us = &mut self.past_us;
        self.pods.retain(|pod| {
            let keep = !gone(pod);
            if !keep {
                lost += pod.in_flight() as u64;
                *past_us += now_us - pod.created_us;
            }
            keep
        });
        lost
    }
}

impl Pod {
    fn start(&mut self, profile: &EngineProfile, now_us: i64) {
        self.phase = Phase::Ready;
        self.replica = Some(Replica::new(*profile, now_us));
    }

    fn in_flight(&self) -> usize {
        self.replica.as_ref().map_or(0, Replica::in_flight)
    }

    fn kv_usage(&self) -> f64 {
        self.replica.as_ref().map_or(0.0, Replica::kv_usage)
    }
}
