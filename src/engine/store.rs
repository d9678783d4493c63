//! What the engine remembers of the stream: slots (one per relevant series), the replicas, scale targets,
//! owners and scheduler queues that they describe, and the index from label bytes to slot.

use crate::config::TargetKind;
use crate::config::cluster::{PodFact, TargetReplicas};
use crate::limits::{SERIES_ALIASES_MAX, SERIES_MAX};
use crate::series::classify::Unused;
use crate::series::{Owner, Signal};
use crate::units::TimeMs;
use crate::window::{Counter, Gauge, Interval};
use ahash::{AHashMap, RandomState};
use slab::Slab;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::topology::{Join, ModelId, VariantId};

/// Index of a slot.
pub type SlotId = u32;
/// Index of a replica, target or scheduler queue in its slab.
pub type SubjectId = u32;
/// Namespace, kind and name of a scale target.
pub type TargetKey = (Arc<str>, TargetKind, Arc<str>);

/// The thing a slot describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectRef {
    /// A serving pod.
    Replica(SubjectId),
    /// A scale target.
    Target(SubjectId),
    /// Owner of a pod or ReplicaSet.
    Owner(SubjectId),
    /// The scheduler's queue of a model.
    Scheduler(SubjectId),
    /// A node's accelerators.
    Node(SubjectId),
    /// A series with a known name that does not count, and why if that is worth telling; remembered so
    /// that its labels are read once.
    Unused(Option<Unused>),
}

/// Remembered samples of a series, by the kind of its signal.
#[derive(Clone, Debug)]
pub enum Window {
    /// Window of a gauge.
    Gauge(Gauge),
    /// Window of a counter.
    Counter(Counter),
    /// Nothing but the labels matters.
    Info,
}

/// One relevant series.
#[derive(Clone, Debug)]
pub struct Slot {
    /// What the series describes.
    pub subject: SubjectRef,
    /// What it says.
    pub signal: Signal,
    /// Preference among names of the same signal; 0 first.
    pub rank: u8,
    /// Slot of the series that came after this one last time: senders keep the order of series.
    next: SlotId,
    /// First byte form (label order) in the index, by its key.
    bytes: u128,
    /// Further ones; 0 where there is none.
    aliases: Option<Box<[u128; SERIES_ALIASES_MAX - 1]>>,
    /// Ended by a staleness marker.
    pub stale: bool,
    /// Factor to the signal's unit.
    pub scale: f64,
    /// Newest sample or staleness marker.
    pub last: TimeMs,
    /// Stream time when it was first sent, whether or not with a sample that counts.
    pub added: TimeMs,
    /// Remembered samples.
    pub window: Window,
    /// Hash of the labels in any order.
    canonical: u128,
}

/// One serving pod, as its series show it.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Pod name.
    pub pod: Arc<str>,
    /// Model named by the series.
    pub model: Option<Arc<str>>,
    /// Variant named outright by a label.
    pub variant_label: Option<Arc<str>>,
    /// KV cache capacity, tokens.
    pub kv_capacity_tokens: Option<f64>,
    /// Its slots; a few dozen at most.
    pub slots: Vec<SlotId>,
    /// First sample ever.
    pub first_seen: TimeMs,
    /// Newest sample of any slot.
    pub last_seen: TimeMs,
    /// Scrape interval.
    pub interval: Interval,
    /// Variant it belongs to, and how that is known.
    pub join: Join,
    /// Waits to be joined (again).
    pub join_due: bool,
}

impl Replica {
    /// Stream time at which the replica counts as gone if it stays silent.
    pub fn gone_at(&self) -> TimeMs {
        self.last_seen + self.interval.silence_ms()
    }
}

/// A scale target's replica counts.
#[derive(Clone, Debug)]
pub struct TargetCounts {
    /// Newest sample of any slot.
    pub last_seen: TimeMs,
    /// Scrape interval.
    pub interval: Interval,
    /// Its slots.
    pub slots: Vec<SlotId>,
    /// Variant that scales it.
    pub variant: Option<VariantId>,
    /// Counts of the object itself, where the cluster is mirrored.
    pub mirrored: Option<TargetReplicas>,
}

impl Default for TargetCounts {
    fn default() -> Self {
        TargetCounts {
            last_seen: TimeMs::MIN,
            interval: Interval::default(),
            slots: Vec::new(),
            variant: None,
            mirrored: None,
        }
    }
}

/// A node, as far as its accelerators go.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Name of the node.
    pub name: Arc<str>,
    /// Pool that its cards belong to, once its product is known.
    pub pool: Option<String>,
    /// Its slots.
    pub slots: Vec<SlotId>,
}

/// Who owns a pod or a ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnedKey {
    /// Namespace of the owned object.
    pub namespace: Arc<str>,
    /// Whether the owned object is a ReplicaSet; a pod otherwise.
    pub is_replica_set: bool,
    /// Name of the owned object.
    pub name: Arc<str>,
}

/// Everything remembered of the stream.
#[derive(Debug)]
pub struct Store {
    /// All slots.
    pub slots: Slab<Slot>,
    /// All replicas.
    pub replicas: Slab<Replica>,
    /// Replicas by (namespace, pod).
    pub replica_ids: AHashMap<(Arc<str>, Arc<str>), SubjectId>,
    /// Scale targets.
    pub targets: Slab<TargetCounts>,
    /// Targets by (namespace, kind, name).
    pub target_ids: AHashMap<TargetKey, SubjectId>,
    /// Pods by (namespace, name), where the cluster is mirrored.
    pub pods: AHashMap<(Arc<str>, Arc<str>), PodFact>,
    /// Owned objects, by slot subject.
    pub owned: Slab<OwnedKey>,
    /// Owners of pods and ReplicaSets, with the number of series that name one.
    owners: AHashMap<OwnedKey, (Owner, u32)>,
    /// Scheduler queues.
    pub schedulers: Slab<Scheduler>,
    /// Scheduler queues by (namespace, model).
    pub scheduler_ids: AHashMap<(Arc<str>, Arc<str>), SubjectId>,
    /// Nodes with accelerators.
    pub nodes: Slab<Node>,
    /// Nodes by name.
    pub node_ids: AHashMap<Arc<str>, SubjectId>,
    by_bytes: HashMap<u128, SlotId, BuildHasherDefault<Hashed>>,
    by_canonical: HashMap<u128, SlotId, BuildHasherDefault<Hashed>>,
    hashers: [RandomState; 2],
    /// Most slots.
    pub slots_max: usize,
}

/// The inference scheduler's queue for one model.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Namespace of the scheduler; may be empty.
    pub namespace: Arc<str>,
    /// Model the queue holds requests for.
    pub model: Arc<str>,
    /// Its slots.
    pub slots: Vec<SlotId>,
    /// The configured models that this is, one per role.
    pub models: Vec<ModelId>,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            slots: Slab::new(),
            replicas: Slab::new(),
            replica_ids: AHashMap::new(),
            targets: Slab::new(),
            target_ids: AHashMap::new(),
            pods: AHashMap::new(),
            owned: Slab::new(),
            owners: AHashMap::new(),
            schedulers: Slab::new(),
            scheduler_ids: AHashMap::new(),
            nodes: Slab::new(),
            node_ids: AHashMap::new(),
            by_bytes: HashMap::default(),
            by_canonical: HashMap::default(),
            hashers: [RandomState::new(), RandomState::new()],
            slots_max: SERIES_MAX,
        }
    }
}

/// Hasher of keys that are keyed hashes themselves: half of one is as good as the hash of the whole.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// Keyed hash of one string.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextHash([u64; 2]);

/// Hash of one label. Summed up they identify a set of labels: strings are hashed once per request of 2.0,
/// and the order of labels does not matter. A label that occurs twice counts twice, so a set with
/// repeated names never passes for the one without.
#[inline]
pub fn hash_label(name: TextHash, value: TextHash) -> u128 {
    let folded = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product >> 64) as u64 ^ product as u64
    };
    let ([name_a, name_b], [value_a, value_b]) = (name.0, value.0);
    // Crosswise, so that a name and a value that change places hash differently.
    u128::from(folded(name_a, value_b)) << 64 | u128::from(folded(name_b, value_a))
}

impl Store {
    /// Keyed 128-bit hash of label bytes. Two independent 64-bit hashes: the chance that two of a
    /// million series meet is below 1e-26, and a peer cannot aim for it without the process's keys.
    #[inline]
    pub fn hash_bytes(&self, bytes: &[u8]) -> u128 {
        let [a, b] = &self.hashers;
        u128::from(a.hash_one(bytes)) << 64 | u128::from(b.hash_one(bytes))
    }

    /// Keyed hash of a label's name or value, to be combined by [`hash_label`].
    #[inline]
    pub fn hash_text(&self, text: &[u8]) -> TextHash {
        let [a, b] = &self.hashers;
        TextHash([a.hash_one(text), b.hash_one(text)])
    }

    /// Hash of a label set in any order: the sum of its labels' hashes.
    pub fn hash_labels(&self, pairs: &[(&str, &str)]) -> u128 {
        pairs.iter().fold(0, |sum: u128, (name, value)| {
            sum.wrapping_add(hash_label(self.hash_text(name.as_bytes()), self.hash_text(value.as_bytes())))
        })
    }

    /// Owner of a pod or ReplicaSet, as streamed last.
    pub fn owner(&self, key: &OwnedKey) -> Option<&Owner> {
        self.owners.get(key).map(|(owner, _)| owner)
    }

    /// Notes one more series that names an owner; returns its subject and whether that is news.
    pub fn add_owner(&mut self, key: OwnedKey, owner: &Owner) -> (SubjectId, bool) {
        let (known, series) = self.owners.entry(key.clone()).or_insert_with(|| (owner.clone(), 0));
        let news = *series == 0 || known != owner;
        *series += 1;
        if known != owner {
            *known = owner.clone();
        }
        (self.owned.insert(key) as SubjectId, news)
    }

    /// Slot whose labels were sent in the byte form with this key; most likely the one that came after
    /// `previous` last time.
    #[inline]
    pub fn slot_by_bytes(&mut self, key: u128, previous: SlotId) -> Option<SlotId> {
        if let Some((next, slot)) = self.next(previous)
            && slot.bytes == key
        {
            return Some(next);
        }
        let found = self.by_bytes.get(&key).copied()?;
        self.expect(previous, found);
        Some(found)
    }

    /// Slot with these labels in whatever order; most likely the one that came after `previous` last time.
    #[inline]
    pub fn slot_by_canonical(&mut self, hash: u128, previous: SlotId) -> Option<SlotId> {
        if let Some((next, slot)) = self.next(previous)
            && slot.canonical == hash
        {
            return Some(next);
        }
        let found = self.by_canonical.get(&hash).copied()?;
        self.expect(previous, found);
        Some(found)
    }

    #[inline]
    fn next(&self, previous: SlotId) -> Option<(SlotId, &Slot)> {
        let next = self.slots.get(previous as usize)?.next;
        Some((next, self.slots.get(next as usize)?))
    }

    fn expect(&mut self, previous: SlotId, next: SlotId) {
        if let Some(slot) = self.slots.get_mut(previous as usize) {
            slot.next = next;
        }
    }

    /// Remembers a byte form of a slot's labels, up to a bound.
    pub fn add_alias(&mut self, hash: u128, id: SlotId) {
        let Some(slot) = self.slots.get_mut(id as usize) else { return };
        if slot.bytes == 0 {
            slot.bytes = hash;
        } else {
            let further = slot.aliases.get_or_insert_default();
            let Some(free) = further.iter_mut().find(|alias| **alias == 0) else { return };
            *free = hash;
        }
        self.by_bytes.insert(hash, id);
    }

    /// The clock was set back: what was seen after `now` was seen now, so that silence can be noticed.
    pub fn forget_future(&mut self, now: TimeMs) {
        for (_, replica) in &mut self.replicas {
            replica.first_seen = replica.first_seen.min(now);
            replica.last_seen = replica.last_seen.min(now);
        }
        for (_, target) in &mut self.targets {
            target.last_seen = target.last_seen.min(now);
        }
    }

    /// Adds a slot and attaches it to its subject.
    pub fn add_slot(&mut self, canonical: u128, slot: NewSlot) -> SlotId {
        use crate::series::SignalKind;
        let window = match slot.signal.kind() {
            SignalKind::Gauge => Window::Gauge(Gauge::default()),
            SignalKind::Counter => Window::Counter(Counter::default()),
            SignalKind::Info => Window::Info,
        };
        let id = self.slots.insert(Slot {
            subject: slot.subject,
            signal: slot.signal,
            rank: slot.rank,
            next: SlotId::MAX,
            bytes: 0,
            aliases: None,
            stale: false,
            scale: slot.scale,
            last: TimeMs::MIN,
            added: slot.added,
            window,
            canonical,
        }) as SlotId;
        self.by_canonical.insert(canonical, id);
        if let Some(slots) = self.slots_of(slot.subject) {
            slots.push(id);
        }
        id
    }

    fn slots_of(&mut self, subject: SubjectRef) -> Option<&mut Vec<SlotId>> {
        match subject {
            SubjectRef::Replica(id) => self.replicas.get_mut(id as usize).map(|r| &mut r.slots),
            SubjectRef::Target(id) => self.targets.get_mut(id as usize).map(|t| &mut t.slots),
            SubjectRef::Scheduler(id) => self.schedulers.get_mut(id as usize).map(|s| &mut s.slots),
            SubjectRef::Node(id) => self.nodes.get_mut(id as usize).map(|node| &mut node.slots),
            SubjectRef::Owner(_) | SubjectRef::Unused(_) => None,
        }
    }

    /// Forgets a slot, and its subject when that was the subject's last one.
    pub fn remove_slot(&mut self, id: SlotId) {
        let Some(slot) = self.slots.try_remove(id as usize) else { return };
        self.by_canonical.remove(&slot.canonical);
        self.by_bytes.remove(&slot.bytes);
        for alias in slot.aliases.iter().flat_map(|aliases| aliases.iter()) {
            self.by_bytes.remove(alias);
        }
        if let Some(slots) = self.slots_of(slot.subject) {
            slots.retain(|other| *other != id);
            if slots.is_empty() {
                self.remove_subject(slot.subject);
            }
        } else if let SubjectRef::Owner(_) = slot.subject {
            self.remove_subject(slot.subject);
        }
    }

    /// Forgets a scale target that neither a series nor the cluster speaks of; tells whether it has.
    pub fn remove_empty_target(&mut self, id: SubjectId) -> bool {
        let is_empty = |target: &TargetCounts| target.slots.is_empty() && target.mirrored.is_none();
        if !self.targets.get(id as usize).is_some_and(is_empty) {
            return false;
        }
        self.targets.remove(id as usize);
        self.target_ids.retain(|_, target| *target != id);
        true
    }

    fn remove_subject(&mut self, subject: SubjectRef) {
        match subject {
            SubjectRef::Replica(id) => {
                if let Some(replica) = self.replicas.try_remove(id as usize) {
                    self.replica_ids.remove(&(replica.namespace, replica.pod));
                }
            }
            SubjectRef::Target(id) => drop(self.remove_empty_target(id)),
            SubjectRef::Scheduler(id) => {
                if let Some(scheduler) = self.schedulers.try_remove(id as usize) {
                    self.scheduler_ids.remove(&(scheduler.namespace, scheduler.model));
                }
            }
            SubjectRef::Owner(id) => {
                // A restarted exporter names the owner in a series of its own: the last one counts.
                if let Some(key) = self.owned.try_remove(id as usize)
                    && let Some((_, series)) = self.owners.get_mut(&key)
                {
                    *series -= 1;
                    if *series == 0 {
                        self.owners.remove(&key);
                    }
                }
            }
            SubjectRef::Node(id) => {
                if let Some(node) = self.nodes.try_remove(id as usize) {
                    self.node_ids.remove(&node.name);
                }
            }
            SubjectRef::Unused(_) => {}
        }
    }
}

/// What is needed to add a slot.
#[derive(Clone, Copy, Debug)]
pub struct NewSlot {
    /// What the series describes.
    pub subject: SubjectRef,
    /// What it says.
    pub signal: Signal,
    /// Preference among names of the same signal.
    pub rank: u8,
    /// Factor to the signal's unit.
    pub scale: f64,
    /// Stream time now.
    pub added: TimeMs,
}
