//! From windows to the load of one variant: what its replicas report, and what is missing.

use super::readings::{Reading, Readings};
use super::store::{Replica, Store, SubjectId, Window};
use super::topology::VariantState;
use crate::analyze::saturation::ReplicaLoad;
use crate::analyze::slo::ReplicaTotals;
use crate::analyze::tokens::{ReplicaTokens, SchedulerQueue};
use crate::limits::{SILENCE_MIN_MS, SILENCE_UNKNOWN_MS};
use crate::publish::{Fault, Health, Load};
use crate::series::Signal;
use crate::units::TimeMs;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of one variant.
#[derive(Debug)]
pub struct Observed {
    /// Replicas whose load is known.
    pub reporting: u32,
    /// Earliest first sample of its replicas.
    pub first_seen: Option<TimeMs>,
    /// Replica counts of its target: (pods, pods not ready).
    pub target: Option<(u32, u32)>,
    /// They come from the object itself.
    pub is_mirrored: bool,
    /// Replicas there are, as far as anybody can tell; filled in with the last decision at hand.
    pub pods: u32,
    /// Replicas of `pods` that are not ready.
    pub pending: u32,
    /// Load over the window.
    pub load: Load,
    /// Completed requests and their tokens over the window.
    pub totals: Totals,
    /// Requests that arrived over the window.
    pub arrivals: Arrivals,
    /// Requests that arrived over the short window.
    pub recent: Arrivals,
    /// State of the inputs, as far as the variant alone tells.
    pub health: Health,
    /// Newest time at which a request was seen.
    pub active_at: Option<TimeMs>,
    /// Stream time from which this may differ without a new sample.
    pub changes_at: TimeMs,
}

impl Observed {
    /// What is known of a variant without any input.
    pub fn nothing() -> Self {
        Observed {
            reporting: 0,
            first_seen: None,
            target: None,
            is_mirrored: false,
            pods: 0,
            pending: 0,
            load: Load::default(),
            totals: Totals::default(),
            arrivals: Arrivals::default(),
            recent: Arrivals::default(),
            health: Health {
                faults: Vec::new(),
                newest_sample: None,
                stale_after_ms: SILENCE_MIN_MS,
                joins: BTreeMap::new(),
            },
            active_at: None,
            changes_at: TimeMs::MAX,
        }
    }
}

/// Requests and tokens over the window, all replicas.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Requests completed.
    pub finished: f64,
    /// Requests whose prompt was processed; it is counted then, long before the request has finished.
    pub prefilled: f64,
    /// Prompt tokens processed.
    pub prompt_tokens: f64,
    /// Completed requests whose generated length is known, and the sum of those lengths.
    pub generated: (f64, f64),
}

impl Totals {
    /// Adds the totals of other replicas.
    pub fn add(&mut self, other: &Totals) {
        self.finished += other.finished;
        self.prefilled += other.prefilled;
        self.prompt_tokens += other.prompt_tokens;
        self.generated.0 += other.generated.0;
        self.generated.1 += other.generated.1;
    }

    /// Average prompt length, tokens.
    pub fn avg_prompt_tokens(&self) -> Option<f64> {
        (self.prefilled > 0.0).then(|| self.prompt_tokens / self.prefilled)
    }

    /// Average generated length of completed requests, tokens.
    pub fn avg_generation_tokens(&self) -> Option<f64> {
        (self.generated.0 > 0.0).then(|| self.generated.1 / self.generated.0)
    }

    fn of(readings: &Readings) -> Self {
        use Signal::*;
        let value = |signal| readings.value(signal);
        let finished = value(RequestsFinished).unwrap_or(0.0);
        let prefilled = value(TimeToFirstTokenCount).filter(|count| *count > 0.0).unwrap_or(finished);
        let measured = value(RequestGenerationTokensCount).zip(value(RequestGenerationTokensSum));
        Totals {
            finished,
            prefilled,
            prompt_tokens: value(PromptTokens).unwrap_or(0.0),
            // Without the histogram, tokens of requests that are still running count too early.
            generated: measured.unwrap_or((finished, value(GenerationTokens).unwrap_or(0.0))),
        }
    }
}

/// Requests that arrived within a span of time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    requests: f64,
    span_ms: i64,
}

impl Arrivals {
    /// Adds those of another replica. All count over the longest span: a replica that started within it
    /// took over requests that the others were given before.
    pub fn add(&mut self, other: Arrivals) {
        self.requests += other.requests;
        self.span_ms = self.span_ms.max(other.span_ms);
    }

    /// Requests per second; `None` when the span is not known.
    pub fn per_s(&self) -> Option<f64> {
        (self.span_ms > 0).then(|| self.requests.max(0.0) * 1000.0 / self.span_ms as f64)
    }
}

/// Sums over the replicas of a variant.
#[derive(Default)]
struct Sums {
    replicas: u32,
    kv: (f64, u32),
    waiting: Option<f64>,
    running: Option<f64>,
    totals: Totals,
    arrivals: Arrivals,
    recent: Arrivals,
    ttft: (f64, f64),
    itl: (f64, f64),
    missing: BTreeMap<Signal, u32>,
}

fn add(sum: &mut Option<f64>, value: Option<f64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0.0) + value);
    }
}

impl Sums {
    fn add(&mut self, readings: &Readings) {
        use Signal::*;
        self.replicas += 1;
        if let Some(kv) = readings.value(KvCacheUsage) {
            self.kv = (self.kv.0 + kv, self.kv.1 + 1);
        }
        add(&mut self.waiting, readings.value(RequestsWaiting));
        add(&mut self.running, readings.value(RequestsRunning));
        self.totals.add(&Totals::of(readings));
        let (arrivals, recent) = arrivals(readings);
        self.arrivals.add(arrivals);
        self.recent.add(recent);
        let pair = |sum, count| (readings.value(sum).unwrap_or(0.0), readings.value(count).unwrap_or(0.0));
        let (ttft, itl) = (
            pair(TimeToFirstTokenSum, TimeToFirstTokenCount),
            pair(InterTokenLatencySum, InterTokenLatencyCount),
        );
        self.ttft = (self.ttft.0 + ttft.0, self.ttft.1 + ttft.1);
        self.itl = (self.itl.0 + itl.0, self.itl.1 + itl.1);
    }

    fn load(&self) -> Load {
        let per = |(sum, count): (f64, f64)| (count > 0.0).then(|| sum / count);
        Load {
            arrival_rate_per_s: self.arrivals.per_s(),
            avg_prompt_tokens: self.totals.avg_prompt_tokens(),
            avg_generation_tokens: self.totals.avg_generation_tokens(),
            kv_usage_ratio: per((self.kv.0, f64::from(self.kv.1))),
            waiting: self.waiting,
            running: self.running,
            ttft_ms: per(self.ttft),
            itl_ms: per(self.itl),
            capacity_per_replica_per_s: None,
            utilization_ratio: None,
        }
    }
}

/// Arrivals over the long and the short window: completions + change of (running + waiting), because
/// completions alone flatten under overload while the queue grows.
fn arrivals(readings: &Readings) -> (Arrivals, Arrivals) {
    let Some(finished) = readings.get(Signal::RequestsFinished) else { return Default::default() };
    let change = |before: fn(&Reading) -> f64| -> f64 {
        let gauges = [Signal::RequestsRunning, Signal::RequestsWaiting];
        gauges.iter().filter_map(|s| readings.get(*s)).map(|gauge| gauge.value - before(gauge)).sum()
    };
    (
        Arrivals { requests: finished.value + change(|gauge| gauge.at_start), span_ms: finished.span_ms },
        Arrivals {
            requests: finished.recent + change(|gauge| gauge.recent),
            span_ms: finished.recent_span_ms,
        },
    )
}

/// Reads one variant at stream time `now`; pushes the load of each reporting replica, with `index` as
/// its variant.
pub fn observe(
    store: &Store,
    variant: &VariantState,
    index: u32,
    now: TimeMs,
    (loads, tokens, counted): (&mut Vec<ReplicaLoad>, &mut Vec<ReplicaTokens>, &mut Vec<ReplicaTotals>),
) -> Observed {
    let mut sums = Sums::default();
    let mut observed = Observed::nothing();
    observed.target = variant.target.and_then(|id| target_counts(store, id));
    if let Some(target) = variant.target.and_then(|id| store.targets.get(id as usize)) {
        observed.health.newest_sample = Some(target.last_seen).filter(|time| *time > TimeMs::MIN);
        observed.is_mirrored = target.mirrored.is_some();
    }
    let mut silence = PodSilence::default();
    let mut mismatch = None;
    for id in &variant.replicas {
        let replica = &store.replicas[*id as usize];
        if replica.last_seen == TimeMs::MIN {
            continue; // no sample of it has said anything yet
        }
        observed.first_seen =
            Some(observed.first_seen.map_or(replica.first_seen, |seen| seen.min(replica.first_seen)));
        observed.health.newest_sample = observed.health.newest_sample.max(Some(replica.last_seen));
        if replica.gone_at() <= now {
            continue;
        }
        observed.changes_at = observed.changes_at.min(replica.gone_at());
        let readings = Readings::of(store, &replica.slots, now);
        observed.changes_at = observed.changes_at.min(readings.changes_at);
        observed.active_at = observed.active_at.max(readings.active_at);
        if readings.are_empty() {
            continue; // every series has ended: the pod is gone
        }
        if let Ok((_, way)) = replica.join {
            *observed.health.joins.entry(way.as_str()).or_default() += 1;
        }
        silence.note(replica);
        sums.add(&readings);
        mismatch = mismatch.or_else(|| other_model(replica, &variant.config.model_id));
        match (readings.get(Signal::KvCacheUsage), readings.get(Signal::RequestsWaiting)) {
            (Some(kv), Some(waiting)) => {
                observed.reporting += 1;
                loads.push(ReplicaLoad { variant: index, kv_cache_usage: kv.max, queue_length: waiting.max });
                tokens.push(token_readings(replica, &readings, index, kv, waiting));
                counted.push(totals_of((*id, replica), &readings, index, kv, waiting));
            }
            (None, _) => *sums.missing.entry(Signal::KvCacheUsage).or_default() += 1,
            (_, None) => *sums.missing.entry(Signal::RequestsWaiting).or_default() += 1,
        }
    }
    let target = variant.target.and_then(|id| store.targets.get(id as usize));
    observed.health.stale_after_ms = match (silence.ms(), target) {
        (Some(silence), _) => silence,
        (None, Some(target)) => target.interval.silence_ms(),
        (None, None) => SILENCE_MIN_MS,
    };
    observed.load = sums.load();
    (observed.totals, observed.arrivals, observed.recent) = (sums.totals, sums.arrivals, sums.recent);
    let missing = sums.missing.iter();
    observed
        .health
        .faults
        .extend(missing.map(|(&signal, &replicas)| Fault::MissingSignal { signal, replicas }));
    observed.health.faults.extend(mismatch.map(|seen| Fault::ModelMismatch { seen }));
    observed
}

fn token_readings(
    replica: &Replica,
    readings: &Readings,
    index: u32,
    kv: &Reading,
    waiting: &Reading,
) -> ReplicaTokens {
    let total = replica.kv_capacity_tokens.unwrap_or(0.0);
    let totals = Totals::of(readings);
    let hits = readings.value(Signal::PrefixCacheHits).unwrap_or(0.0);
    let queries = readings.value(Signal::PrefixCacheQueries).unwrap_or(0.0);
    ReplicaTokens {
        variant: index,
        total_kv_tokens: total as u64,
        tokens_in_use: (kv.value * total) as u64,
        queue_length: waiting.value,
        avg_input_tokens: totals.avg_prompt_tokens().unwrap_or(0.0),
        avg_output_tokens: totals.avg_generation_tokens().unwrap_or(0.0),
        prefix_cache_hit_rate: if queries > 0.0 { (hits / queries).min(1.0) } else { 0.0 },
    }
}

fn totals_of(
    (id, replica): (SubjectId, &Replica),
    readings: &Readings,
    index: u32,
    kv: &Reading,
    waiting: &Reading,
) -> ReplicaTotals {
    use Signal::*;
    let total = |signal| readings.get(signal).map_or(0.0, |reading| reading.total);
    let capacity = replica.kv_capacity_tokens.unwrap_or(0.0);
    ReplicaTotals {
        id: (id, replica.first_seen.0),
        variant: index,
        at: replica.last_seen,
        finished: total(RequestsFinished),
        inside: readings.value(RequestsRunning).unwrap_or(0.0) + waiting.value,
        waiting: waiting.value,
        // Without that histogram a prompt counts when its request completes.
        prompts: readings
            .get(TimeToFirstTokenCount)
            .or(readings.get(RequestsFinished))
            .map_or(0.0, |it| it.total),
        generated: (total(RequestGenerationTokensCount), total(RequestGenerationTokensSum)),
        prompt_tokens: total(PromptTokens),
        cached_tokens: total(PrefixCacheHits),
        itl_sum_ms: total(InterTokenLatencySum),
        itl_count: total(InterTokenLatencyCount),
        ttft_sum_ms: total(TimeToFirstTokenSum),
        generation_tokens: total(GenerationTokens),
        kv_tokens: kv.value * capacity,
        kv_capacity: capacity,
        readings: Default::default(),
    }
}

/// How long a variant's pods may be silent before its input counts as stale.
#[derive(Default)]
struct PodSilence {
    /// Longest among the pods that have shown their scrape interval.
    known_ms: Option<i64>,
    /// Some pod has only one sample yet; it is scraped like the others, if there are others.
    has_unknown: bool,
}

impl PodSilence {
    fn note(&mut self, replica: &Replica) {
        match replica.interval.ms() {
            Some(_) => self.known_ms = self.known_ms.max(Some(replica.interval.silence_ms())),
            None => self.has_unknown = true,
        }
    }

    /// `None` without pods.
    fn ms(&self) -> Option<i64> {
        self.known_ms.or_else(|| self.has_unknown.then_some(SILENCE_UNKNOWN_MS))
    }
}

fn other_model(replica: &Replica, configured: &Arc<str>) -> Option<Arc<str>> {
    replica.model.clone().filter(|seen| seen != configured)
}

/// Pods of a target and how many of them are not ready, from the object itself or kube-state-metrics. These series have no
/// age limit of their own: an old count is better than none, and staleness markers end it. Several
/// exporters (one that was restarted, say) speak of the same pods, so the newest word counts.
fn target_counts(store: &Store, id: SubjectId) -> Option<(u32, u32)> {
    if let Some(object) = store.targets[id as usize].mirrored {
        return Some((object.status, object.status.saturating_sub(object.ready)));
    }
    let newest = |signal: Signal| {
        let slots = store.targets[id as usize].slots.iter().map(|id| &store.slots[*id as usize]);
        let values = slots.filter(|slot| slot.signal == signal && !slot.stale).filter_map(|slot| {
            let Window::Gauge(gauge) = &slot.window else { return None };
            gauge.last()
        });
        values.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).map(|(_, value)| value)
    };
    let count = |signal| newest(signal).map(|value| value as u32);
    let pods = count(Signal::TargetReplicasStatus).or(count(Signal::TargetReplicasSpec))?;
    let ready = count(Signal::TargetReplicasReady).unwrap_or(pods);
    Some((pods, pods.saturating_sub(ready)))
}

/// What the scheduler holds back for a model.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerSeen {
    /// The queue; `None` when no scheduler reports.
    pub queue: Option<SchedulerQueue>,
    /// Newest time at which it held a request.
    pub active_at: Option<TimeMs>,
    /// Stream time from which this may differ without a new sample.
    pub changes_at: TimeMs,
}

/// Reads the scheduler queues of a model.
pub fn scheduler_queue(store: &Store, schedulers: &[SubjectId], now: TimeMs) -> SchedulerSeen {
    let mut seen = SchedulerSeen { queue: None, active_at: None, changes_at: TimeMs::MAX };
    for id in schedulers {
        let readings = Readings::of(store, &store.schedulers[*id as usize].slots, now);
        if let Some(size) = readings.value(Signal::SchedulerQueueSize) {
            let queue = seen.queue.get_or_insert_default();
            queue.size += size;
            queue.bytes += readings.value(Signal::SchedulerQueueBytes).unwrap_or(0.0);
        }
        seen.active_at = seen.active_at.max(readings.active_at);
        seen.changes_at = seen.changes_at.min(readings.changes_at);
    }
    seen
}
