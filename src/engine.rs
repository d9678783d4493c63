//! The state machine at the centre: one owner mutates it with a closed set of events and gets a new board
//! when something a reader can see has changed.
//!
//! # Calling order
//! [`Engine::write`], [`Engine::apply_snapshot`], [`Engine::apply_cluster`] and [`Engine::tick`] take an event and the clock's
//! `now`; [`Engine::publish`] then recomputes what the events touched and returns the board if it
//! changed. Several events may share one `publish`. `now` may jump; it is used only to bound sample times.
//!
//! # Time
//! Decisions are functions of *stream time*, the newest accepted sample time (never ahead of `now`). When
//! the stream stops, stream time stops: windows do not run empty and nobody is called gone, so silence
//! never changes a decision. Readers judge the age of the input by the clock.
//!
//! # Invariants
//! * A model is recomputed only when one of its inputs changed or its deadline (the earliest stream time
//!   at which a window or a replica expires) has passed. `tests/engine` holds that the result equals a
//!   recomputation of everything, under random event orders.
//! * Recomputing without a change changes nothing.

mod change;
mod decide;
mod follow;
mod foresee;
mod ingest;
mod ingest_v2;
mod limit;
mod mirrored;
mod nodes;
mod observe;
mod plan;
mod readings;
mod shape;
mod starts;
mod stats;
mod store;
mod subjects;
mod topology;

pub use ingest::{Rejection, WriteReport, Written};
pub use stats::Stats;
pub use topology::{JoinWay, NoJoin};

use crate::analyze::saturation::{ReplicaLoad, SaturationAnalysis, targets};
use crate::analyze::slo::{ReplicaTotals, Sized};
use crate::analyze::tokens::{ReplicaTokens, TokenMemory};
use crate::config::{Problem, Snapshot, VariantKey};
use crate::limits::{CATCH_UP_MAX_MS, CATCH_UP_MS};
use crate::optimize::planner::{Planner, Wish};
use crate::publish::{Advice, Board, Cause, Direction, Entry, Unmatched};
use crate::series::classify::Unused;
use crate::series::dialect::Dialects;
use crate::units::TimeMs;
use ahash::AHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::{Store, SubjectId};
use topology::{ModelId, Topology, VariantId};

/// A decision that changed a desired count, for the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Variant concerned.
    pub variant: VariantKey,
    /// Desired count before.
    pub from: u32,
    /// Desired count now.
    pub to: u32,
    /// Replicas there are.
    pub current: u32,
    /// Direction of the change.
    pub direction: Direction,
    /// Why.
    pub cause: Cause,
    /// One sentence with the figures.
    pub why: String,
}

/// Reused memory of one model's recomputation.
#[derive(Debug, Default)]
struct Scratch {
    loads: Vec<ReplicaLoad>,
    analysis: SaturationAnalysis,
    states: Vec<targets::VariantState>,
    targets: Vec<targets::Target>,
    tokens: Vec<ReplicaTokens>,
    counted: Vec<ReplicaTotals>,
    sized: Vec<Sized>,
    recalled: foresee::Recalled,
    counts: Vec<u32>,
    /// Per variant: what the mode that only advises wants; empty without one or when it cannot.
    advice: Vec<Advice>,
    /// Per variant: replicas and cause by saturation.
    saturation: Vec<(u32, Cause)>,
    /// Per variant: what a mode that sizes by demand wants; empty when saturation decides.
    wishes: Vec<Wish>,
    /// Per variant: replicas and cause.
    plan: Vec<(u32, Cause)>,
    observed: Vec<observe::Observed>,
}

/// Whether the stream has reached the present since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CatchingUp {
    /// No relevant sample yet.
    NotBegun,
    /// Since this time by the clock.
    Since(TimeMs),
    /// It has.
    Done,
}

/// The engine. See the module documentation for the rules of use.
#[derive(Debug)]
pub struct Engine {
    dialects: Arc<Dialects>,
    store: Store,
    topology: Topology,
    stream: TimeMs,
    board: Arc<Board>,
    /// Models to recompute, each once.
    dirty: Vec<ModelId>,
    /// Deadlines of models, by stream time.
    deadlines: BTreeSet<(TimeMs, ModelId)>,
    /// Replicas to join again: new ones and those whose owner became known.
    unjoined: Vec<SubjectId>,
    unused: BTreeMap<Unused, u64>,
    unmatched_changed: bool,
    /// By namespace: models of pods that belong to no variant; not known after `unmatched_changed`.
    models_unmatched: Option<AHashMap<Arc<str>, BTreeSet<Arc<str>>>>,
    scalings: Vec<Scaling>,
    /// Variants whose numbers that an autoscaler acts on have changed, or whose labels have.
    moved: Vec<VariantKey>,
    problems: Arc<[Problem]>,
    configured: bool,
    catching_up: CatchingUp,
    /// Nothing is given out yet: the past is being replayed.
    filling: bool,
    removed: Vec<VariantKey>,
    recomputations: u64,
    entries: u64,
    sweep_cursor: usize,
    planner: Planner,
    token_memory: TokenMemory,
    /// Entries of the variants planned anew, before the inventory has its say.
    proposals: Vec<(VariantId, Entry)>,
    cards: limit::Cards,
    /// Something was said about a node's accelerators.
    nodes_changed: bool,
    /// Cards by pool name, where the cluster's nodes are mirrored.
    mirrored_cards: Option<BTreeMap<String, u64>>,
    scratch: Scratch,
    interned: ingest_v2::Interned,
    first_pass: follow::FirstPass,
    starts: starts::Starts,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(dialects: Arc<Dialects>) -> Self {
        Engine {
            dialects,
            store: Store::default(),
            topology: Topology::default(),
            stream: TimeMs::MIN,
            board: Arc::default(),
            dirty: Vec::new(),
            deadlines: BTreeSet::new(),
            unjoined: Vec::new(),
            unused: BTreeMap::new(),
            unmatched_changed: false,
            models_unmatched: None,
            scalings: Vec::new(),
            moved: Vec::new(),
            problems: Arc::from([]),
            configured: false,
            catching_up: CatchingUp::NotBegun,
            filling: false,
            removed: Vec::new(),
            recomputations: 0,
            entries: 0,
            sweep_cursor: 0,
            planner: Planner::default(),
            token_memory: TokenMemory::default(),
            proposals: Vec::new(),
            cards: limit::Cards::default(),
            nodes_changed: false,
            mirrored_cards: None,
            scratch: Scratch::default(),
            interned: ingest_v2::Interned::default(),
            first_pass: follow::FirstPass::default(),
            starts: starts::Starts::default(),
        }
    }

    /// The engine with the past to be replayed first: it gives out no decision until [`Engine::filled`].
    pub fn to_be_filled(mut self) -> Self {
        self.filling = true;
        Arc::make_mut(&mut self.board).filling = true;
        self
    }

    /// All of the past has been written: the next publication gives out its decisions.
    pub fn filled(&mut self) {
        self.filling = false;
    }

    /// Notes how far the stream is behind the clock after a write. A clock that is the stream itself
    /// (`TimeMs::MAX`) is never behind.
    fn note_catching_up(&mut self, now: TimeMs) {
        let behind_ms = if now == TimeMs::MAX { 0 } else { now.since(self.stream) };
        let began = match self.catching_up {
            CatchingUp::Done => return,
            _ if self.stream == TimeMs::MIN => return,
            CatchingUp::NotBegun => now,
            CatchingUp::Since(began) => began,
        };
        let done = behind_ms <= CATCH_UP_MS || now.since(began) > CATCH_UP_MAX_MS;
        self.catching_up = if done { CatchingUp::Done } else { CatchingUp::Since(began) };
    }

    /// Takes over a configuration with the problems found in it. Only touched models are recomputed.
    pub fn apply_snapshot(&mut self, snapshot: &Snapshot, problems: Arc<[Problem]>) {
        let change = self.topology.apply(snapshot);
        self.regroup();
        self.cards.configure(&snapshot.inventory);
        self.problems = problems;
        self.configured = true;
        self.removed.extend(change.removed);
        if change.rejoin {
            self.rejoin_all();
        }
        for model in change.touched {
            self.touch(model);
        }
    }

    /// Lets time pass: stream time cannot stay ahead of a clock that was set back.
    pub fn tick(&mut self, now: TimeMs) {
        if self.stream > now + crate::limits::FUTURE_MAX_MS {
            self.stream = now;
            self.store.forget_future(now);
            self.topology.forget_future(now);
            self.touch_all();
        }
        self.sweep();
    }

    /// Recomputes what was touched or is due and returns the new board if a reader can see a change.
    pub fn publish(&mut self) -> Option<Arc<Board>> {
        self.join_pending();
        if self.unmatched_changed {
            self.models_unmatched = None;
        }
        while let Some(&(deadline, model)) = self.deadlines.first() {
            if deadline > self.stream {
                break;
            }
            self.deadlines.pop_first();
            self.touch(model);
        }
        let mut next: Option<Board> = None;
        for key in std::mem::take(&mut self.removed) {
            // A variant that was removed and came back within one publish is recomputed below.
            if !self.topology.variant_ids.contains_key(&key) {
                next.get_or_insert_with(|| Board::clone(&self.board)).entries.remove(&key);
                self.moved.push(key);
            }
        }
        self.recompute_dirty();
        self.give_starts();
        self.recompute_dirty();
        self.count_nodes();
        self.share_cards(&mut next);
        self.publish_surroundings(&mut next);
        let mut board = next?;
        board.version += 1;
        let readiness = |board: &Board| (board.configured, board.caught_up, board.filling);
        let begins = board.stream_time.is_none() && self.stream > TimeMs::MIN;
        if begins || !self.moved.is_empty() || readiness(&board) != readiness(&self.board) {
            board.moved = board.version;
        }
        board.stream_time = (self.stream > TimeMs::MIN).then_some(self.stream);
        self.board = Arc::new(board);
        Some(self.board.clone())
    }

    fn recompute_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for model in dirty.drain(..) {
            if self.topology.models.contains(model as usize) {
                self.recompute(model);
            }
        }
        self.dirty = dirty;
    }

    /// Puts what is not an entry on the board: configuration problems and what matched nothing.
    fn publish_surroundings(&mut self, next: &mut Option<Board>) {
        let current = next.as_ref().unwrap_or(&self.board);
        let caught_up = self.catching_up == CatchingUp::Done;
        let first_sample = current.stream_time.is_none() && self.stream > TimeMs::MIN;
        let problems = !Arc::ptr_eq(&current.problems, &self.problems) && current.problems != self.problems;
        let unmatched = self.unmatched_changed.then(|| self.count_unmatched());
        self.unmatched_changed = false;
        let unmatched = unmatched.filter(|unmatched| *unmatched != *current.unmatched);
        let same_state = (current.configured, current.caught_up, current.filling)
            == (self.configured, caught_up, self.filling);
        if same_state && !problems && unmatched.is_none() && !first_sample {
            return;
        }
        let board = next.get_or_insert_with(|| Board::clone(&self.board));
        board.configured = self.configured;
        board.caught_up = caught_up;
        board.filling = self.filling;
        board.problems = self.problems.clone();
        if let Some(unmatched) = unmatched {
            board.unmatched = Arc::new(unmatched);
        }
    }

    /// Current board.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Scaling decisions since the last call, for the log.
    pub fn take_scalings(&mut self) -> Vec<Scaling> {
        std::mem::take(&mut self.scalings)
    }

    /// Variants whose published decision has changed since the last call, those that are gone among them; for
    /// the record.
    pub fn take_moved(&mut self) -> Vec<VariantKey> {
        std::mem::take(&mut self.moved)
    }

    /// Newest accepted sample time; the clock of `--clock samples`.
    pub fn stream_time(&self) -> Option<TimeMs> {
        (self.stream > TimeMs::MIN).then_some(self.stream)
    }

    /// Marks every model for recomputation: the from-scratch oracle of the tests.
    pub fn touch_all(&mut self) {
        let models: Vec<ModelId> = self.topology.models.iter().map(|(id, _)| id as ModelId).collect();
        for model in models {
            self.touch(model);
        }
    }

    fn touch(&mut self, model: ModelId) {
        if let Some(state) = self.topology.models.get_mut(model as usize)
            && !state.dirty
        {
            state.dirty = true;
            self.dirty.push(model);
        }
    }

    /// Variants without pods say which models are seen beside them, so they depend on foreign pods.
    fn touch_namespace(&mut self, namespace: &Arc<str>) {
        for variant in self.topology.variants_of_namespace(namespace).to_vec() {
            self.touch(self.topology.variants[variant as usize].model);
        }
    }

    fn join_later(&mut self, id: SubjectId) {
        let replica = &mut self.store.replicas[id as usize];
        if !std::mem::replace(&mut replica.join_due, true) {
            self.unjoined.push(id);
        }
    }

    fn rejoin_all(&mut self) {
        for (_, variant) in &mut self.topology.variants {
            variant.replicas.clear();
            variant.target = None;
        }
        for (_, model) in &mut self.topology.models {
            model.schedulers.clear();
        }
        self.unjoined.clear();
        for (id, replica) in &mut self.store.replicas {
            // The old join stays until the new one is known, so that only those that differ touch models.
            if let Ok((variant, _)) = replica.join
                && !self.topology.variants.contains(variant as usize)
            {
                replica.join = Err(NoJoin::NoVariantInNamespace);
                self.unmatched_changed = true;
            }
            replica.join_due = true;
            self.unjoined.push(id as SubjectId);
        }
        for ((namespace, kind, name), &id) in &self.store.target_ids {
            let variant = self.topology.variant_of_target(namespace, *kind, name);
            self.store.targets[id as usize].variant = variant;
            if let Some(variant) = variant {
                self.topology.variants[variant as usize].target = Some(id);
            }
        }
        let mut moved = Vec::new();
        for (id, scheduler) in &mut self.store.schedulers {
            let models = self.topology.models_of_queue(&scheduler.namespace, &scheduler.model);
            for model in &models {
                self.topology.models[*model as usize].schedulers.push(id as SubjectId);
            }
            if models != scheduler.models {
                moved.extend(models.iter().chain(&scheduler.models));
                scheduler.models = models;
            }
        }
        for model in moved {
            self.touch(model);
        }
    }

    /// Joins the replicas that are new or whose owner became known.
    fn join_pending(&mut self) {
        let mut namespaces = BTreeSet::new();
        for id in std::mem::take(&mut self.unjoined) {
            let Some(replica) = self.store.replicas.get_mut(id as usize) else { continue };
            replica.join_due = false;
            let replica = &self.store.replicas[id as usize];
            let join = self.topology.join(replica, &self.store);
            let old = replica.join;
            // Its model may have become known, which is part of what is said about unmatched pods.
            let unmatched = old.is_err() || join.is_err();
            self.unmatched_changed |= unmatched;
            let namespace = unmatched.then(|| replica.namespace.clone());
            if old != join
                && let Ok((variant, _)) = old
                && let Some(variant) = self.topology.variants.get_mut(variant as usize)
            {
                variant.replicas.retain(|other| *other != id);
                let model = variant.model;
                self.touch(model);
            }
            if let Ok((variant, _)) = join {
                let variant = &mut self.topology.variants[variant as usize];
                if let Err(at) = variant.replicas.binary_search(&id) {
                    variant.replicas.insert(at, id);
                }
                let model = variant.model;
                if old != join {
                    self.touch(model);
                }
            }
            self.store.replicas[id as usize].join = join;
            namespaces.extend(namespace);
        }
        for namespace in namespaces {
            self.touch_namespace(&namespace);
        }
    }

    fn count_unmatched(&self) -> Unmatched {
        const EXAMPLES: usize = 10;
        let mut unmatched = Unmatched::default();
        let mut examples = BTreeSet::new();
        for (_, replica) in &self.store.replicas {
            let Err(reason) = replica.join else { continue };
            *unmatched.replicas.entry(reason.as_str()).or_default() += 1;
            let model = replica.model.as_deref().unwrap_or("?");
            examples.insert(format!(
                "{}/{} model={model}: {}",
                replica.namespace,
                replica.pod,
                reason.as_str()
            ));
            if examples.len() > EXAMPLES {
                examples.pop_last();
            }
        }
        unmatched.examples = examples.into_iter().collect();
        unmatched.series = self.unused.iter().map(|(why, count)| (why.as_str(), *count)).collect();
        unmatched
    }

    fn set_entry(&mut self, next: &mut Option<Board>, entry: Entry) {
        let entries = &next.as_ref().unwrap_or(&self.board).entries;
        let old = entries.get(&entry.variant.key);
        if old.is_some_and(|old| **old == entry) {
            return;
        }
        if old.is_none_or(|old| entry.moves(old)) {
            self.moved.push(entry.variant.key.clone());
        }
        let board = next.get_or_insert_with(|| Board::clone(&self.board));
        board.entries.insert(entry.variant.key.clone(), Arc::new(entry));
    }
}
