//! From a decompressed request to windows: every sample finds its slot, every slot its subject, every
//! subject the models that it touches.

use super::Engine;
use super::store::{
    NewSlot, OwnedKey, Replica, Scheduler, SlotId, SubjectId, SubjectRef, TargetCounts, Window,
};
use super::topology::NoJoin;
use crate::limits::{FUTURE_MAX_MS, SERIES_FORGET_MS, SERIES_MAX};
use crate::series::classify::{Unused, classify};
use crate::series::labels::{LabelError, Labels};
use crate::series::{Classified, Owner, Subject};
use crate::units::TimeMs;
use crate::window::{Interval, Recorded};
use crate::wire::v1::{self, Counts, Series};
use crate::wire::{WireError, is_stale_marker};
use std::sync::Arc;

/// Most rejections described in one answer; Prometheus logs the first 1024 bytes of it.
const REJECTIONS_DESCRIBED: usize = 5;
/// Slots looked at per event by the sweep that forgets ended series.
const SWEEP_STEP: usize = 256;

/// Why part of a request was refused for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The label set breaks the data rules.
    #[error(transparent)]
    Labels(#[from] LabelError),
    /// A sample from the future.
    #[error(
        "series {metric}: sample at {time} is {ahead_ms} ms ahead of the clock; check the sender's clock"
    )]
    Future {
        /// Metric of the series.
        metric: String,
        /// Time of the sample.
        time: TimeMs,
        /// How far ahead, ms.
        ahead_ms: i64,
    },
    /// A sample message that is broken.
    #[error("series with broken samples: {0}")]
    Samples(String),
}

/// What became of a request whose structure is sound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteReport {
    /// What the request carried.
    pub counts: Counts,
    /// Samples of relevant series that went into windows.
    pub used: u64,
    /// Relevant samples that were not the newest of their series: retries and late arrivals.
    pub late: u64,
    /// Relevant samples whose value says nothing: not a number, infinite, negative.
    pub meaningless: u64,
    /// Series or samples refused for good.
    pub rejected: u64,
    /// The first few refusals.
    pub rejections: Vec<Rejection>,
    /// New relevant series that found no room; the sender should retry later.
    pub no_room: u64,
}

impl WriteReport {
    fn reject(&mut self, rejection: Rejection) {
        self.rejected += 1;
        if self.rejections.len() < REJECTIONS_DESCRIBED {
            self.rejections.push(rejection);
        }
    }
}

impl Engine {
    /// Takes in a decompressed remote-write 1.0 request. Either its structure is broken and nothing of
    /// it is used, or everything acceptable in it is used and the report says what was not.
    ///
    /// `now` bounds sample times: samples over 10 minutes ahead of it are refused.
    pub fn write_v1(&mut self, request: &[u8], now: TimeMs) -> Result<WriteReport, WireError> {
        let mut report = WriteReport { counts: v1::check(request)?, ..WriteReport::default() };
        v1::walk(request, |series| self.take_series(&series, now, &mut report))?;
        self.note_catching_up(now);
        self.sweep();
        Ok(report)
    }

    fn take_series(&mut self, series: &Series<'_>, now: TimeMs, report: &mut WriteReport) {
        let metric = match series.metric_name() {
            Ok(Some(metric)) if !metric.is_empty() => metric,
            Ok(_) => return report.reject(LabelError::NoMetricName.into()),
            Err(error) => return report.reject(LabelError::Broken(error.to_string()).into()),
        };
        if self.dialects.row(metric).is_none() {
            return;
        }
        let hash = series.label_bytes().map(|bytes| self.store.hash_bytes(bytes));
        let known = hash.and_then(|hash| self.store.slot_by_bytes(hash));
        let slot = match known {
            Some(slot) => slot,
            None => match self.find_or_add(series, metric, hash) {
                Ok(Some(slot)) => slot,
                Ok(None) => {
                    report.no_room += 1;
                    return;
                }
                Err(error) => return report.reject(error.into()),
            },
        };
        for sample in series.samples() {
            match sample {
                Ok((time, _)) if time.since(now) > FUTURE_MAX_MS => {
                    let metric = String::from_utf8_lossy(metric).into_owned();
                    report.reject(Rejection::Future { metric, time, ahead_ms: time.since(now) });
                }
                Ok((time, value)) => self.take_sample(slot, time, value, now, report),
                Err(error) => return report.reject(Rejection::Samples(error.to_string())),
            }
        }
    }

    /// Slow path: reads the labels, finds the slot under another byte form or adds one. `None` when
    /// there is no room.
    fn find_or_add(
        &mut self,
        series: &Series<'_>,
        metric: &[u8],
        hash: Option<u128>,
    ) -> Result<Option<SlotId>, LabelError> {
        let labels = Labels::read(series, metric)?;
        let canonical = self.store.hash_pairs(labels.pairs());
        let slot = match self.store.slot_by_canonical(canonical) {
            Some(slot) => slot,
            None if self.store.slots.len() >= SERIES_MAX => return Ok(None),
            None => self.add(metric, &labels, canonical),
        };
        if let Some(hash) = hash {
            self.store.add_alias(hash, slot);
        }
        Ok(Some(slot))
    }

    fn add(&mut self, metric: &[u8], labels: &Labels<'_>, canonical: u128) -> SlotId {
        let dialects = self.dialects.clone();
        let Some(row) = dialects.row(metric) else {
            unreachable!("only series of known names come here");
        };
        let new = match classify(row, labels) {
            Ok(classified) => NewSlot {
                subject: self.subject(&classified),
                signal: classified.signal,
                rank: classified.rank,
                scale: classified.scale,
                added: self.stream,
            },
            Err(why) => {
                let why = Some(why).filter(|why| *why != Unused::ConditionNotMet);
                if let Some(why) = why {
                    *self.unused.entry(why).or_default() += 1;
                    self.unmatched_changed = true;
                }
                NewSlot {
                    subject: SubjectRef::Unused(why),
                    signal: row.signal,
                    rank: row.rank,
                    scale: row.scale,
                    added: self.stream,
                }
            }
        };
        self.store.add_slot(canonical, new)
    }

    fn subject(&mut self, classified: &Classified) -> SubjectRef {
        match &classified.subject {
            Subject::Replica { namespace, pod } => match &classified.owner {
                Some(owner) => self.owner_subject(namespace, false, pod, owner),
                None => SubjectRef::Replica(self.replica_subject(namespace, pod, classified)),
            },
            Subject::ReplicaSet { namespace, name } => match &classified.owner {
                Some(owner) => self.owner_subject(namespace, true, name, owner),
                None => SubjectRef::Unused(None),
            },
            Subject::Target { namespace, kind, name } => {
                let key = (namespace.clone(), *kind, name.clone());
                let targets = &mut self.store.targets;
                let id = *self
                    .store
                    .target_ids
                    .entry(key)
                    .or_insert_with(|| targets.insert(TargetCounts::default()) as SubjectId);
                let variant = self.topology.variant_of_target(namespace, *kind, name);
                targets[id as usize].variant = variant;
                if let Some(variant) = variant {
                    self.topology.variants[variant as usize].target = Some(id);
                }
                SubjectRef::Target(id)
            }
            Subject::Scheduler { namespace, model } => {
                SubjectRef::Scheduler(self.scheduler_subject(namespace, model))
            }
            Subject::Node { .. } => SubjectRef::Node,
        }
    }

    fn replica_subject(
        &mut self,
        namespace: &Arc<str>,
        pod: &Arc<str>,
        classified: &Classified,
    ) -> SubjectId {
        let key = (namespace.clone(), pod.clone());
        let id = match self.store.replica_ids.get(&key) {
            Some(&id) => id,
            None => {
                let id = self.store.replicas.insert(Replica {
                    namespace: namespace.clone(),
                    pod: pod.clone(),
                    model: None,
                    variant_label: None,
                    kv_capacity_tokens: None,
                    slots: Vec::new(),
                    first_seen: TimeMs::MAX,
                    last_seen: TimeMs::MIN,
                    interval: Interval::default(),
                    join: Err(NoJoin::NoVariantInNamespace),
                    join_due: false,
                }) as SubjectId;
                self.store.replica_ids.insert(key, id);
                self.unmatched_changed = true;
                self.join_later(id);
                id
            }
        };
        let replica = &mut self.store.replicas[id as usize];
        let mut learned = false;
        // A new series says what the pod serves now: a StatefulSet's pod comes back under its old name.
        if classified.model.is_some() && replica.model != classified.model {
            replica.model = classified.model.clone();
            learned = true;
        }
        if classified.variant.is_some() && replica.variant_label != classified.variant {
            replica.variant_label = classified.variant.clone();
            learned = true;
        }
        if classified.kv_capacity_tokens.is_some() {
            replica.kv_capacity_tokens = classified.kv_capacity_tokens;
        }
        if learned {
            self.join_later(id);
        }
        id
    }

    fn owner_subject(
        &mut self,
        namespace: &Arc<str>,
        is_replica_set: bool,
        name: &Arc<str>,
        owner: &Owner,
    ) -> SubjectRef {
        let key = OwnedKey { namespace: namespace.clone(), is_replica_set, name: name.clone() };
        let (id, news) = self.store.add_owner(key.clone(), owner);
        if news {
            self.rejoin_pods_of(&key);
        }
        SubjectRef::Owner(id)
    }

    /// An owner became known: pods that it may decide about are joined again.
    fn rejoin_pods_of(&mut self, key: &OwnedKey) {
        if !key.is_replica_set {
            if let Some(&id) = self.store.replica_ids.get(&(key.namespace.clone(), key.name.clone())) {
                self.join_later(id);
            }
            return;
        }
        // Not by prefix: of a long name the pods carry only the beginning.
        let of_set = |replica: &Replica| {
            replica.namespace == key.namespace && {
                let (namespace, name) = (replica.namespace.clone(), replica.pod.clone());
                let owner = self.store.owner(&OwnedKey { namespace, is_replica_set: false, name });
                owner.is_some_and(|owner| owner.name == key.name)
            }
        };
        let pods = self.store.replicas.iter().filter(|(_, replica)| of_set(replica));
        for id in pods.map(|(id, _)| id as SubjectId).collect::<Vec<_>>() {
            self.join_later(id);
        }
    }

    fn scheduler_subject(&mut self, namespace: &Arc<str>, model: &Arc<str>) -> SubjectId {
        let key = (namespace.clone(), model.clone());
        if let Some(&id) = self.store.scheduler_ids.get(&key) {
            return id;
        }
        let model_id = self.topology.model_of_queue(namespace, model);
        let scheduler =
            Scheduler { namespace: namespace.clone(), model: model.clone(), slots: Vec::new(), model_id };
        let id = self.store.schedulers.insert(scheduler) as SubjectId;
        self.store.scheduler_ids.insert(key, id);
        if let Some(model) = model_id {
            self.topology.models[model as usize].schedulers.push(id);
        }
        id
    }

    #[inline]
    fn take_sample(&mut self, id: SlotId, time: TimeMs, value: f64, now: TimeMs, report: &mut WriteReport) {
        self.start_new_label_at_zero(id, time);
        let slot = &mut self.store.slots[id as usize];
        // A slot can only be this far ahead if the clock was set back since; it starts afresh.
        if slot.last.since(now) > FUTURE_MAX_MS {
            slot.last = TimeMs::MIN;
            match &mut slot.window {
                Window::Gauge(gauge) => gauge.clear(),
                Window::Counter(counter) => *counter = Default::default(),
                Window::Info => {}
            }
        }
        let newest = time > slot.last;
        if is_stale_marker(value) {
            if newest {
                slot.stale = true;
                slot.last = time;
                if let Window::Gauge(gauge) = &mut slot.window {
                    gauge.clear();
                }
            }
        } else {
            let value = value * slot.scale;
            if !(value.is_finite() && value >= 0.0) {
                report.meaningless += 1;
                return;
            }
            let recorded = match &mut slot.window {
                // Samples from before the end of a series must not bring it back to life.
                _ if slot.stale && !newest => Recorded::Late,
                Window::Gauge(gauge) => gauge.record(time, value),
                Window::Counter(counter) => counter.record(time, value),
                Window::Info if newest => Recorded::New,
                Window::Info => Recorded::Late,
            };
            if recorded == Recorded::Late {
                report.late += 1;
            }
            if newest {
                slot.stale = false;
                slot.last = time;
            }
        }
        report.used += 1;
        let subject = slot.subject;
        self.stream = self.stream.max(time.min(now));
        self.touch_subject(subject, time);
    }

    /// The first sample of a further series of a counter that its replica already reports.
    fn start_new_label_at_zero(&mut self, id: SlotId, time: TimeMs) {
        let slot = &self.store.slots[id as usize];
        let (Window::Counter(counter), SubjectRef::Replica(replica)) = (&slot.window, slot.subject) else {
            return;
        };
        if counter.last().is_some() {
            return;
        }
        let slots = &self.store.slots;
        let replica = &self.store.replicas[replica as usize];
        let sibling = |other: &&SlotId| {
            let other = &slots[**other as usize];
            other.signal == slot.signal && other.rank == slot.rank && other.last > TimeMs::MIN
        };
        let watched_since =
            replica.slots.iter().filter(sibling).map(|other| slots[*other as usize].last).min();
        if let (Some(before), Some(interval)) = (watched_since, replica.interval.ms())
            && before >= time - 2 * interval
            && replica.first_seen < time
            && let Window::Counter(counter) = &mut self.store.slots[id as usize].window
        {
            counter.start_at_zero(time - interval);
        }
    }

    /// Notes the sample on its subject and marks the models that it may change.
    fn touch_subject(&mut self, subject: SubjectRef, time: TimeMs) {
        match subject {
            SubjectRef::Replica(id) => {
                let replica = &mut self.store.replicas[id as usize];
                replica.first_seen = replica.first_seen.min(time);
                if time > replica.last_seen {
                    if replica.last_seen > TimeMs::MIN {
                        replica.interval.observe(time.since(replica.last_seen));
                    }
                    replica.last_seen = time;
                }
                self.touch_joined(subject);
            }
            SubjectRef::Target(id) => {
                let target = &mut self.store.targets[id as usize];
                if time > target.last_seen {
                    if target.last_seen > TimeMs::MIN {
                        target.interval.observe(time.since(target.last_seen));
                    }
                    target.last_seen = time;
                }
                self.touch_joined(subject);
            }
            SubjectRef::Scheduler(_) => self.touch_joined(subject),
            SubjectRef::Owner(_) | SubjectRef::Node | SubjectRef::Unused(_) => {}
        }
    }

    /// Marks the model that a subject belongs to, if any.
    fn touch_joined(&mut self, subject: SubjectRef) {
        let model_of = |variant: u32| self.topology.variants.get(variant as usize).map(|state| state.model);
        let model = match subject {
            SubjectRef::Replica(id) => {
                let replica = self.store.replicas.get(id as usize);
                replica.and_then(|replica| model_of(replica.join.ok()?.0))
            }
            SubjectRef::Target(id) => {
                self.store.targets.get(id as usize).and_then(|target| model_of(target.variant?))
            }
            SubjectRef::Scheduler(id) => {
                self.store.schedulers.get(id as usize).and_then(|scheduler| scheduler.model_id)
            }
            SubjectRef::Owner(_) | SubjectRef::Node | SubjectRef::Unused(_) => None,
        };
        if let Some(model) = model {
            self.touch(model);
        }
    }

    /// Forgets series that ended or fell silent long ago, a bounded number of slots per event.
    pub(super) fn sweep(&mut self) {
        let capacity = self.store.slots.capacity();
        for _ in 0..SWEEP_STEP.min(capacity) {
            self.sweep_cursor = (self.sweep_cursor + 1) % capacity;
            let id = self.sweep_cursor as SlotId;
            let Some(slot) = self.store.slots.get(id as usize) else { continue };
            if self.stream.since(slot.last.max(slot.added)) <= SERIES_FORGET_MS {
                continue;
            }
            self.forget(id);
        }
    }

    fn forget(&mut self, id: SlotId) {
        let subject = self.store.slots[id as usize].subject;
        let replica = match subject {
            SubjectRef::Replica(id) => {
                self.store.replicas.get(id as usize).map(|r| (id, r.join, r.namespace.clone()))
            }
            _ => None,
        };
        if let SubjectRef::Unused(Some(why)) = subject
            && let Some(count) = self.unused.get_mut(&why)
        {
            *count -= 1;
            if *count == 0 {
                self.unused.remove(&why);
            }
            self.unmatched_changed = true;
        }
        // Even a silent series was part of the readings, unless it had ended.
        self.touch_joined(subject);
        self.store.remove_slot(id);
        let gone = |id: SubjectId| !self.store.replicas.contains(id as usize);
        if let Some((replica, join, namespace)) = replica
            && gone(replica)
        {
            if join.is_err() {
                self.unmatched_changed = true;
                self.touch_namespace(&namespace);
            }
            self.unjoined.retain(|other| *other != replica);
            if let Ok((variant, _)) = join
                && let Some(variant) = self.topology.variants.get_mut(variant as usize)
            {
                variant.replicas.retain(|other| *other != replica);
                let model = variant.model;
                self.touch(model);
            }
        }
        if let SubjectRef::Target(id) = subject
            && !self.store.targets.contains(id as usize)
        {
            for (_, variant) in self.topology.variants.iter_mut().filter(|(_, v)| v.target == Some(id)) {
                variant.target = None;
            }
        }
        if let SubjectRef::Scheduler(id) = subject
            && !self.store.schedulers.contains(id as usize)
        {
            for (_, model) in &mut self.topology.models {
                model.schedulers.retain(|other| *other != id);
            }
        }
    }
}
