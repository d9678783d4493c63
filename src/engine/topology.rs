//! Variants and models of the current snapshot, and the join from pods to variants.

use super::store::{OwnedKey, Replica, Store, SubjectId};
use crate::analyze::queueing::{Sizing, Tokens};
use crate::analyze::slo::{ModelMemory, VariantMemory};
use crate::config::{ModelConfig, ModelKey, Role, Snapshot, TargetKind, Variant, VariantKey};
use crate::optimize::stabilize::Stabilizer;
use crate::publish::exposition::variant_labels;
use crate::publish::{Decision, ScalingCount};
use crate::series::podname;
use crate::units::TimeMs;
use ahash::AHashMap;
use slab::Slab;
use std::sync::Arc;

/// Index of a variant.
pub type VariantId = u32;
/// Index of a model.
pub type ModelId = u32;

/// How a pod was joined to its variant, in the order in which the ways are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JoinWay {
    /// Owner references of the pod in the cluster.
    Owner,
    /// Streamed owner series (`kube_pod_owner`, `kube_replicaset_owner`).
    OwnerSeries,
    /// A label of the series names the variant.
    VariantLabel,
    /// The pod's name has the shape that the target gives its pods.
    PodName,
    /// The only variant of that model in that namespace.
    OnlyVariant,
}

impl JoinWay {
    /// Name under which it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            JoinWay::Owner => "owner",
            JoinWay::OwnerSeries => "owner_series",
            JoinWay::VariantLabel => "variant_label",
            JoinWay::PodName => "pod_name",
            JoinWay::OnlyVariant => "only_variant",
        }
    }
}

/// Why a pod belongs to no variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoJoin {
    /// Its owner is a target that no variant claims.
    OwnerNotManaged,
    /// No variant is configured in its namespace.
    NoVariantInNamespace,
    /// Its namespace has variants, but none for its model.
    NoVariantOfModel,
    /// Several variants serve its model there and nothing tells them apart.
    Ambiguous,
    /// A worker of a LeaderWorkerSet group, which is no replica of its own.
    GroupWorker,
}

impl NoJoin {
    /// Name under which it is counted.
    pub fn as_str(self) -> &'static str {
        match self {
            NoJoin::OwnerNotManaged => "owner_not_managed",
            NoJoin::NoVariantInNamespace => "no_variant_in_namespace",
            NoJoin::NoVariantOfModel => "no_variant_of_model",
            NoJoin::Ambiguous => "ambiguous",
            NoJoin::GroupWorker => "group_worker",
        }
    }
}

/// Outcome of joining a pod.
pub type Join = Result<(VariantId, JoinWay), NoJoin>;

/// One variant of the snapshot with what the engine knows of it.
#[derive(Clone, Debug)]
pub struct VariantState {
    /// Its configuration.
    pub config: Arc<Variant>,
    /// Published `variant_id`.
    pub variant_id: Arc<str>,
    /// Labels under which it is published, as an exposition has them.
    pub labels: Arc<str>,
    /// The model it serves.
    pub model: ModelId,
    /// Replicas joined to it.
    pub replicas: Vec<SubjectId>,
    /// Replica counts of its target, if they are streamed.
    pub target: Option<SubjectId>,
    /// Replicas there are, as far as anybody can tell.
    pub pods: u32,
    /// Last plan: the decision as it would be with cards for everybody. Planning builds on it and never on
    /// what was granted, so that a plan does not depend on what others claim.
    pub plan: Option<Decision>,
    /// Last decision: the plan held within the inventory.
    pub decision: Option<Decision>,
    /// Scaling decisions so far, by direction and reason.
    pub scalings: Vec<ScalingCount>,
    /// Recent plans, for the stabilisation windows.
    pub stabilizer: Stabilizer,
    /// Last sizing by the queueing model.
    pub sizing: Option<Sizing>,
    /// What the `slo` analyzer has learned of it.
    pub learned: VariantMemory,
    /// That is enough to be a start for others.
    pub is_lending: bool,
}

/// One model of the snapshot.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// Its key.
    pub key: ModelKey,
    /// Its configuration.
    pub config: Arc<ModelConfig>,
    /// Its variants in the order of their names.
    pub variants: Vec<VariantId>,
    /// Scheduler queues with its requests.
    pub schedulers: Vec<SubjectId>,
    /// Average request, as last known.
    pub tokens: Option<Tokens>,
    /// What the `slo` analyzer remembers of its load.
    pub load: ModelMemory,
    /// Last stream time at which a request was seen.
    pub last_active: Option<TimeMs>,
    /// Since when the model is watched without a gap that could hide a request.
    pub watched_since: Option<TimeMs>,
    /// Its variants are held within the inventory.
    pub is_limited: bool,
    /// Is in the list of models to recompute.
    pub dirty: bool,
    /// Stream time at which it must be recomputed even without a sample.
    pub deadline: TimeMs,
}

/// Variants, models and the lookups of the join.
#[derive(Debug, Default)]
pub struct Topology {
    /// Variants by id.
    pub variants: Slab<VariantState>,
    /// Models by id.
    pub models: Slab<ModelState>,
    /// Ids of the variants.
    pub variant_ids: AHashMap<VariantKey, VariantId>,
    /// Ids of the models.
    pub model_ids: AHashMap<ModelKey, ModelId>,
    /// Variants by what they scale: (namespace, kind, name).
    by_target: AHashMap<(Arc<str>, TargetKind, Arc<str>), VariantId>,
    /// Variants of a namespace.
    by_namespace: AHashMap<Arc<str>, Vec<VariantId>>,
}

/// The `variant_id` of a variant and the labels under which it is published.
fn names(config: &Variant) -> (Arc<str>, Arc<str>) {
    let variant_id = config.variant_id();
    let labels = variant_labels(config, &variant_id);
    (variant_id.into(), labels.into())
}

/// What a new snapshot changed.
#[derive(Debug, Default)]
pub struct SnapshotChange {
    /// Models with a changed, added or removed variant or changed configuration.
    pub touched: Vec<ModelId>,
    /// Variants that are gone.
    pub removed: Vec<VariantKey>,
    /// The join must be redone: targets, names or models of variants changed.
    pub rejoin: bool,
}

impl Topology {
    /// Takes over a snapshot; state of variants and models that stay is kept.
    pub fn apply(&mut self, snapshot: &Snapshot) -> SnapshotChange {
        let mut change = SnapshotChange::default();
        self.remove_variants(snapshot, &mut change);
        for (key, config) in &snapshot.models {
            self.upsert_model(key, config, &mut change);
            self.limit_model(key, snapshot.is_limited(key), &mut change);
        }
        for (key, config) in &snapshot.variants {
            self.upsert_variant(key, config, &mut change);
        }
        self.remove_models(&mut change);
        self.rebuild_lookups();
        change.touched.sort_unstable();
        change.touched.dedup();
        change.touched.retain(|id| self.models.contains(*id as usize));
        change
    }

    fn remove_variants(&mut self, snapshot: &Snapshot, change: &mut SnapshotChange) {
        let mut gone: Vec<(VariantKey, VariantId)> = self
            .variant_ids
            .iter()
            .filter(|(key, _)| !snapshot.variants.contains_key(*key))
            .map(|(key, id)| (key.clone(), *id))
            .collect();
        // In a fixed order, so that ids are handed out anew in a fixed order too.
        gone.sort_unstable();
        for (key, id) in gone {
            let state = self.variants.remove(id as usize);
            self.models[state.model as usize].variants.retain(|other| *other != id);
            change.touched.push(state.model);
            change.rejoin = true;
            self.variant_ids.remove(&key);
            change.removed.push(key);
        }
    }

    fn upsert_model(&mut self, key: &ModelKey, config: &Arc<ModelConfig>, change: &mut SnapshotChange) {
        if let Some(&id) = self.model_ids.get(key) {
            let model = &mut self.models[id as usize];
            if model.config != *config {
                model.config = config.clone();
                change.touched.push(id);
            }
            return;
        }
        let id = self.models.insert(ModelState {
            key: key.clone(),
            config: config.clone(),
            variants: Vec::new(),
            schedulers: Vec::new(),
            tokens: None,
            load: ModelMemory::default(),
            last_active: None,
            watched_since: None,
            is_limited: false,
            dirty: false,
            deadline: TimeMs::MAX,
        }) as ModelId;
        self.model_ids.insert(key.clone(), id);
        change.touched.push(id);
        change.rejoin = true;
    }

    fn limit_model(&mut self, key: &ModelKey, is_limited: bool, change: &mut SnapshotChange) {
        let Some(&id) = self.model_ids.get(key) else { return };
        let model = &mut self.models[id as usize];
        if std::mem::replace(&mut model.is_limited, is_limited) != is_limited {
            change.touched.push(id);
        }
    }

    fn upsert_variant(&mut self, key: &VariantKey, config: &Arc<Variant>, change: &mut SnapshotChange) {
        let model_key = config.model();
        let Some(&model) = self.model_ids.get(&model_key) else {
            // The resolver gives every variant's model a configuration; without one the default applies.
            self.upsert_model(&model_key, &Arc::default(), change);
            return self.upsert_variant(key, config, change);
        };
        let id = match self.variant_ids.get(key) {
            Some(&id) => {
                let state = &mut self.variants[id as usize];
                if state.config == *config {
                    return;
                }
                change.rejoin |= state.config.target != config.target || state.model != model;
                change.touched.push(state.model);
                if state.config.target != config.target || state.model != model {
                    // Another target or model is another workload: its old decision says nothing.
                    (state.plan, state.decision) = (None, None);
                }
                let hardware = |of: &Variant| (of.model_id.clone(), of.accelerator.clone(), of.acc_count);
                if hardware(&state.config) != hardware(config) {
                    // Other hardware is as fast as it is; what was learned is of the one before.
                    (state.learned, state.is_lending) = (VariantMemory::default(), false);
                }
                let old_model = std::mem::replace(&mut state.model, model);
                state.config = config.clone();
                (state.variant_id, state.labels) = names(config);
                self.models[old_model as usize].variants.retain(|other| *other != id);
                id
            }
            None => {
                change.rejoin = true;
                let (variant_id, labels) = names(config);
                let id = self.variants.insert(VariantState {
                    config: config.clone(),
                    variant_id,
                    labels,
                    model,
                    replicas: Vec::new(),
                    target: None,
                    pods: 0,
                    plan: None,
                    decision: None,
                    scalings: Vec::new(),
                    stabilizer: Stabilizer::default(),
                    sizing: None,
                    learned: VariantMemory::default(),
                    is_lending: false,
                }) as VariantId;
                self.variant_ids.insert(key.clone(), id);
                id
            }
        };
        change.touched.push(model);
        let variants = &self.variants;
        let peers = &mut self.models[model as usize].variants;
        let at = peers.partition_point(|peer| variants[*peer as usize].config.key < *key);
        peers.insert(at, id);
    }

    fn remove_models(&mut self, change: &mut SnapshotChange) {
        let mut empty: Vec<ModelKey> = self
            .model_ids
            .iter()
            .filter(|(_, id)| self.models[**id as usize].variants.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        empty.sort_unstable();
        for key in empty {
            if let Some(id) = self.model_ids.remove(&key) {
                self.models.remove(id as usize);
                change.rejoin = true;
            }
        }
    }

    fn rebuild_lookups(&mut self) {
        self.by_target.clear();
        self.by_namespace.clear();
        for (id, variant) in &self.variants {
            let config = &variant.config;
            let namespace = config.key.namespace.clone();
            let target = (namespace.clone(), config.target.kind, config.target.name.clone());
            self.by_target.insert(target, id as VariantId);
            self.by_namespace.entry(namespace).or_default().push(id as VariantId);
        }
    }

    /// The clock was set back: nothing that is remembered happened after `now`.
    pub fn forget_future(&mut self, now: TimeMs) {
        let earlier = |time: &mut Option<TimeMs>| *time = time.map(|time| time.min(now));
        for (_, model) in &mut self.models {
            earlier(&mut model.last_active);
            earlier(&mut model.watched_since);
        }
        for (_, variant) in &mut self.variants {
            variant.stabilizer.forget();
            for decision in variant.plan.iter_mut().chain(&mut variant.decision) {
                earlier(&mut decision.transition_since);
            }
        }
    }

    /// Variant that scales the given target.
    pub fn variant_of_target(
        &self,
        namespace: &Arc<str>,
        kind: TargetKind,
        name: &Arc<str>,
    ) -> Option<VariantId> {
        self.by_target.get(&(namespace.clone(), kind, name.clone())).copied()
    }

    /// Variants configured in a namespace.
    pub fn variants_of_namespace(&self, namespace: &Arc<str>) -> &[VariantId] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// Models whose requests a scheduler queue holds, one per role: those of the queue's namespace, or those of
    /// the only namespace that has any of that name when the queue's has none.
    pub fn models_of_queue(&self, namespace: &Arc<str>, model: &Arc<str>) -> Vec<ModelId> {
        let of = |namespace: &Arc<str>| -> Vec<ModelId> {
            let key = |role| ModelKey { namespace: namespace.clone(), model_id: model.clone(), role };
            Role::ALL.into_iter().filter_map(|role| self.model_ids.get(&key(role)).copied()).collect()
        };
        let own = of(namespace);
        if !own.is_empty() {
            return own;
        }
        let mut elsewhere =
            self.model_ids.keys().filter(|key| key.model_id == *model).map(|key| &key.namespace);
        match elsewhere.next() {
            Some(first) if elsewhere.all(|other| other == first) => of(first),
            _ => Vec::new(),
        }
    }

    /// Joins a pod to its variant: several independent ways, the first that answers wins.
    pub fn join(&self, replica: &Replica, store: &Store) -> Join {
        let Some(candidates) = self.by_namespace.get(&replica.namespace) else {
            return Err(NoJoin::NoVariantInNamespace);
        };
        if let Some(pod) = store.pods.get(&(replica.namespace.clone(), replica.pod.clone())) {
            let owner = pod.owner.iter().map(|owner| (owner.kind, owner.name.clone()));
            return self.join_by_owner(replica, &owner.collect::<Vec<_>>(), JoinWay::Owner);
        }
        if let Some(owners) = owning_targets(replica, store) {
            return self.join_by_owner(replica, &owners, JoinWay::OwnerSeries);
        }
        if let Some(name) = &replica.variant_label {
            let key = VariantKey { namespace: replica.namespace.clone(), name: name.clone() };
            if let Some(&id) = self.variant_ids.get(&key) {
                return Ok((id, JoinWay::VariantLabel));
            }
        }
        if let Some(join) = self.join_by_pod_name(replica, candidates) {
            return join;
        }
        self.join_by_model(replica, candidates)
    }

    /// A known owner is an answer even when no variant claims it: guessing on would give the pod of an
    /// unmanaged Deployment to a variant.
    fn join_by_owner(&self, replica: &Replica, owners: &[(TargetKind, Arc<str>)], way: JoinWay) -> Join {
        for (kind, name) in owners {
            let Some(id) = self.variant_of_target(&replica.namespace, *kind, name) else { continue };
            let worker = *kind == TargetKind::LeaderWorkerSet && podname::is_group_worker(&replica.pod, name);
            return if worker { Err(NoJoin::GroupWorker) } else { Ok((id, way)) };
        }
        Err(NoJoin::OwnerNotManaged)
    }

    /// Variants whose targets of any kind have that name.
    fn variants_of_name(&self, namespace: &Arc<str>, name: &str) -> impl Iterator<Item = VariantId> {
        let name: Arc<str> = name.into();
        let of = |kind| self.by_target.get(&(namespace.clone(), kind, name.clone())).copied();
        TargetKind::ALL.map(of).into_iter().flatten()
    }

    fn join_by_pod_name(&self, replica: &Replica, candidates: &[VariantId]) -> Option<Join> {
        let belongs = |id: &VariantId| {
            let target = &self.variants[*id as usize].config.target;
            podname::belongs_to(&replica.pod, target.kind, &target.name)
        };
        // Of "llama" and "llama-7d9c" the longer name says more about where the pod came from.
        let length = |id: &VariantId| (self.variants[*id as usize].config.target.name.len(), *id);
        let id = match podname::possible_targets(&replica.pod) {
            Some(names) => {
                let claimed = names.flat_map(|name| self.variants_of_name(&replica.namespace, name));
                claimed.filter(belongs).max_by_key(length)
            }
            None => candidates.iter().copied().filter(belongs).max_by_key(length),
        }?;
        let target = &self.variants[id as usize].config.target;
        if target.kind == TargetKind::LeaderWorkerSet && podname::is_group_worker(&replica.pod, &target.name)
        {
            return Some(Err(NoJoin::GroupWorker));
        }
        Some(Ok((id, JoinWay::PodName)))
    }

    fn join_by_model(&self, replica: &Replica, candidates: &[VariantId]) -> Join {
        let mut serving = candidates.iter().copied().filter(|id| {
            replica.model.as_ref().is_some_and(|model| *model == self.variants[*id as usize].config.model_id)
        });
        match (serving.next(), serving.next()) {
            (Some(id), None) => Ok((id, JoinWay::OnlyVariant)),
            (Some(_), Some(_)) => Err(NoJoin::Ambiguous),
            (None, _) => Err(NoJoin::NoVariantOfModel),
        }
    }
}

/// Scale targets that may stand at the end of the streamed owner chain, likeliest first; `None` when the
/// stream says nothing about the pod's owner.
fn owning_targets(replica: &Replica, store: &Store) -> Option<Vec<(TargetKind, Arc<str>)>> {
    let owner_of = |is_replica_set, name: &Arc<str>| {
        store.owner(&OwnedKey { namespace: replica.namespace.clone(), is_replica_set, name: name.clone() })
    };
    let owner = owner_of(false, &replica.pod)?;
    Some(match &*owner.kind {
        "ReplicaSet" => match owner_of(true, &owner.name) {
            Some(owner) if &*owner.kind == "Deployment" => vec![(TargetKind::Deployment, owner.name.clone())],
            Some(_) => vec![],
            // Not streamed, but a Deployment names its ReplicaSets NAME-HASH.
            None => vec![(TargetKind::Deployment, owner.name.rsplit_once('-')?.0.into())],
        },
        "StatefulSet" => {
            // A LeaderWorkerSet runs its leaders in a StatefulSet of its own name and each group's
            // workers in a StatefulSet NAME-GROUP.
            let mut targets = vec![
                (TargetKind::StatefulSet, owner.name.clone()),
                (TargetKind::LeaderWorkerSet, owner.name.clone()),
            ];
            if let Some((name, _)) = owner.name.rsplit_once('-') {
                targets.push((TargetKind::LeaderWorkerSet, name.into()));
            }
            targets
        }
        "Deployment" => vec![(TargetKind::Deployment, owner.name.clone())],
        "LeaderWorkerSet" => vec![(TargetKind::LeaderWorkerSet, owner.name.clone())],
        _ => return None,
    })
}
