//! From a decompressed request to windows: every sample finds its slot, every slot its subject, every
//! subject the models that it touches.

use super::Engine;
use super::follow::{FirstPass, Follow};
use super::store::{NewSlot, SlotId, SubjectRef, Window};
use crate::limits::FUTURE_MAX_MS;
use crate::series::classify::{Unused, classify};
use crate::series::labels::{LabelError, Labels, short};
use crate::units::TimeMs;
use crate::window::Recorded;
use crate::wire::histogram::HistogramError;
use crate::wire::v1::Series;
use crate::wire::{Counts, Version, WireError, is_stale_marker};

/// Most rejections described in one answer; Prometheus logs the first 1024 bytes of it.
const REJECTIONS_DESCRIBED: usize = 5;

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
    /// A native histogram that breaks the rules of the data model.
    #[error("series {metric}: invalid native histogram: {what}")]
    Histogram {
        /// Metric of the series.
        metric: String,
        /// What is wrong with it.
        what: HistogramError,
    },
    /// An exemplar whose label references are not pairs of known symbols, or that is broken.
    #[error("series {metric}: exemplar with broken labels")]
    Exemplar {
        /// Metric of the series.
        metric: String,
    },
}

/// How much of a request was accepted, whether or not it means anything to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Float samples.
    pub samples: u64,
    /// Native histograms.
    pub histograms: u64,
    /// Exemplars.
    pub exemplars: u64,
}

/// What became of a request whose structure is sound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteReport {
    /// What the request carried.
    pub counts: Counts,
    /// How much of it was accepted.
    pub written: Written,
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
    /// New relevant series that found no room.
    pub no_room: u64,
}

impl WriteReport {
    /// Everything counts as accepted until it is rejected.
    pub(super) fn of(counts: Counts) -> Self {
        let Counts { samples, histograms, exemplars, .. } = counts;
        WriteReport { counts, written: Written { samples, histograms, exemplars }, ..WriteReport::default() }
    }

    fn reject(&mut self, rejection: Rejection) {
        self.rejected += 1;
        if self.rejections.len() < REJECTIONS_DESCRIBED {
            self.rejections.push(rejection);
        }
    }

    /// Rejects a series with all that it carries.
    pub(super) fn reject_series(&mut self, carried: [u32; 3], why: LabelError) {
        self.take_back(carried);
        self.reject(why.into());
    }

    /// Refuses a new series with all that it carries. To have it sent again would be no help: a sender that
    /// repeats itself sends nothing newer, so that time would stand still and no old series could end.
    pub(super) fn refuse_new(&mut self, carried: [u32; 3]) {
        self.no_room += 1;
        self.take_back(carried);
    }

    fn take_back(&mut self, carried: [u32; 3]) {
        let [samples, histograms, exemplars] = carried.map(u64::from);
        self.written.samples -= samples;
        self.written.histograms -= histograms;
        self.written.exemplars -= exemplars;
    }

    fn reject_sample(&mut self, why: Rejection) {
        self.written.samples -= 1;
        self.reject(why);
    }

    pub(super) fn reject_exemplar(&mut self, why: Rejection) {
        self.written.exemplars -= 1;
        self.reject(why);
    }

    /// Refuses the native histograms that are invalid and returns how many; the others are accepted and
    /// not used.
    pub(super) fn take_histograms(
        &mut self,
        metric: &[u8],
        verdicts: impl Iterator<Item = Result<(), HistogramError>>,
    ) -> u32 {
        let mut refused = 0;
        for what in verdicts.filter_map(Result::err) {
            refused += 1;
            self.written.histograms -= 1;
            self.reject(Rejection::Histogram { metric: short(metric), what });
        }
        refused
    }
}

impl Engine {
    /// The engine with room for that many live relevant series.
    pub fn with_series_max(mut self, series_max: usize) -> Self {
        self.store.slots_max = series_max;
        self
    }

    /// Takes in a decompressed write request of either version; see [`Engine::write_v1`].
    pub fn write(&mut self, version: Version, request: &[u8], now: TimeMs) -> Result<WriteReport, WireError> {
        match version {
            Version::V1 => self.write_v1(request, now),
            Version::V2 => self.write_v2(request, now),
        }
    }

    /// Takes in a decompressed remote-write 1.0 request. Either its structure is broken and nothing of
    /// it is used, or everything acceptable in it is used and the report says what was not.
    ///
    /// `now` bounds sample times: samples over 10 minutes ahead of it are refused.
    pub fn write_v1(&mut self, request: &[u8], now: TimeMs) -> Result<WriteReport, WireError> {
        let mut first = std::mem::take(&mut self.first_pass);
        let outcome = self.write_in_passes(request, now, &mut first);
        self.first_pass = first;
        let report = outcome?;
        self.end_write(now);
        Ok(report)
    }

    fn write_in_passes(
        &mut self,
        request: &[u8],
        now: TimeMs,
        first: &mut FirstPass,
    ) -> Result<WriteReport, WireError> {
        let mut report = WriteReport::of(first.read(request, &self.dialects)?);
        let mut follow = Follow::default();
        first.kept.visit(request, |series, row| {
            self.take_series(series, row.flatten(), now, &mut follow, &mut report)
        })?;
        Ok(report)
    }

    /// What follows every request that was used.
    pub(super) fn end_write(&mut self, now: TimeMs) {
        self.note_catching_up(now);
        self.sweep();
    }

    fn take_series<'a>(
        &mut self,
        series: &Series<'a>,
        row: Option<u16>,
        now: TimeMs,
        follow: &mut Follow<'a>,
        report: &mut WriteReport,
    ) {
        let mut carried = [series.samples, series.histograms, series.exemplars];
        let metric = match series.metric_name() {
            Ok(Some(metric)) if !metric.is_empty() => metric,
            Ok(_) => return report.reject_series(carried, LabelError::NoMetricName),
            Err(error) => return report.reject_series(carried, LabelError::Broken(error.to_string())),
        };
        if series.histograms > 0 {
            carried[1] -= report.take_histograms(metric, series.histograms());
        }
        let Some(row) = row.or_else(|| self.dialects.number(metric)) else { return };
        let key = follow.key(series, row, &self.store);
        let known = key.and_then(|key| self.store.slot_by_bytes(key, follow.previous));
        let slot = match known {
            Some(slot) => slot,
            None => match Labels::read(series.labels(), metric) {
                Ok(labels) => match self.find_or_add(metric, &labels) {
                    Some(slot) => {
                        if let Some(key) = key {
                            self.store.add_alias(key, slot);
                        }
                        slot
                    }
                    None => return report.refuse_new(carried),
                },
                Err(error) => return report.reject_series(carried, error),
            },
        };
        follow.previous = slot;
        self.take_samples(slot, metric, series.plain_sample(), series.samples(), now, report);
    }

    /// Takes in the samples of a series; `plain` is the only one, where that is easily told.
    #[inline]
    pub(super) fn take_samples(
        &mut self,
        slot: SlotId,
        metric: &[u8],
        plain: Option<(TimeMs, f64)>,
        samples: impl Iterator<Item = Result<(TimeMs, f64), WireError>>,
        now: TimeMs,
        report: &mut WriteReport,
    ) {
        if let Some((time, value)) = plain
            && time.since(now) <= FUTURE_MAX_MS
        {
            return self.take_sample(slot, time, value, now, report);
        }
        for sample in samples {
            match sample {
                Ok((time, _)) if time.since(now) > FUTURE_MAX_MS => {
                    let (metric, ahead_ms) = (short(metric), time.since(now));
                    report.reject_sample(Rejection::Future { metric, time, ahead_ms });
                }
                Ok((time, value)) => self.take_sample(slot, time, value, now, report),
                Err(error) => report.reject_sample(Rejection::Samples(error.to_string())),
            }
        }
    }

    /// Slow path: finds the slot of a label set or adds one. `None` when there is no room.
    pub(super) fn find_or_add(&mut self, metric: &[u8], labels: &Labels<'_>) -> Option<SlotId> {
        let identity = self.store.hash_labels(labels.pairs());
        match self.store.slot_by_canonical(identity, SlotId::MAX) {
            Some(slot) => Some(slot),
            None if self.store.slots.len() >= self.store.slots_max => None,
            None => Some(self.add(metric, labels, identity)),
        }
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

    #[inline]
    fn take_sample(&mut self, id: SlotId, time: TimeMs, value: f64, now: TimeMs, report: &mut WriteReport) {
        self.start_new_label_at_zero(id, time);
        let slot = &self.store.slots[id as usize];
        if slot.last.since(now) > FUTURE_MAX_MS {
            self.start_afresh(id);
        }
        let slot = &mut self.store.slots[id as usize];
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

    /// A slot can only be far ahead of the clock if that was set back since: what it remembers is forgotten.
    /// Its model is touched here, because the sample that led here may say nothing by itself.
    #[cold]
    fn start_afresh(&mut self, id: SlotId) {
        let slot = &mut self.store.slots[id as usize];
        slot.last = TimeMs::MIN;
        match &mut slot.window {
            Window::Gauge(gauge) => gauge.clear(),
            Window::Counter(counter) => *counter = Default::default(),
            Window::Info => {}
        }
        let subject = slot.subject;
        self.touch_joined(subject);
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
            SubjectRef::Scheduler(_) | SubjectRef::Node(_) => self.touch_joined(subject),
            SubjectRef::Owner(_) | SubjectRef::Unused(_) => {}
        }
    }

    /// Marks the model that a subject belongs to, if any.
    pub(super) fn touch_joined(&mut self, subject: SubjectRef) {
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
                let scheduler = self.store.schedulers.get(id as usize);
                for at in 0..scheduler.map_or(0, |scheduler| scheduler.models.len()) {
                    self.touch(self.store.schedulers[id as usize].models[at]);
                }
                None
            }
            SubjectRef::Node(_) => {
                self.nodes_changed = true;
                None
            }
            SubjectRef::Owner(_) | SubjectRef::Unused(_) => None,
        };
        if let Some(model) = model {
            self.touch(model);
        }
    }
}
