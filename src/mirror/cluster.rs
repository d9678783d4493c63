//! The cluster, mirrored: watches for every kind that says something, kept whole in one store.
//!
//! Output: after each change, at most every few milliseconds, what changed: documents for `config`, counts
//! and owners for the engine, a view for writers. Nothing is handed over before every watch has its first
//! list, and a list that begins anew replaces the old one at once. Must not know what documents mean.

pub mod kinds;
pub mod once;
mod pods;
pub mod scope;
pub mod store;
mod template;
mod watch;

pub use kinds::{Kind, Mirrored};
pub use scope::Scope;
pub use store::View;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use kube::Client;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::AbortHandle;

use crate::config::cluster::ClusterChange;
use crate::config::objects::Document;
use crate::limits::{CLUSTER_EVENTS_MAX, CLUSTER_NAMESPACES_MAX};
use kinds::Item;
use store::{Store, WatchId};
use watch::{Failure, Message, News};

/// Changes are collected until there was none for this long ...
const QUIET: Duration = Duration::from_millis(4);
/// ... but not longer than this.
const BURST_MAX: Duration = Duration::from_millis(40);
/// How often it is said what the first hand-over waits for.
const WAITING: Duration = Duration::from_secs(10);

/// One hand-over.
pub struct Delivery<'a> {
    /// All documents, if any differs.
    pub documents: Option<Vec<Cow<'a, Document>>>,
    /// What changed of targets, pods and nodes.
    pub change: ClusterChange,
    /// What writers see, if it differs.
    pub view: Option<View>,
    /// Start-up times of pods that became ready, ms.
    pub started_ms: Vec<i64>,
}

/// State of the mirror, for metrics.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Time until the first hand-over; `None` before it.
    pub synced_after: Option<Duration>,
    /// Since when some watch has not followed the cluster.
    pub stale_since: Option<Instant>,
    /// By kind: objects, lists so far, and whether all its watches follow.
    pub kinds: BTreeMap<Kind, KindHealth>,
}

/// State of the watches of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindHealth {
    /// Objects kept.
    pub objects: usize,
    /// Lists since the start.
    pub lists: u64,
    /// All its watches follow the cluster.
    pub is_up: bool,
}

impl Health {
    /// Time since which the mirror may be out of date.
    pub fn age(&self) -> Duration {
        self.stale_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Follows the cluster until `deliver` wants no more.
pub async fn run(
    client: Client,
    scope: Scope,
    health: Arc<ArcSwap<Health>>,
    deliver: impl FnMut(Delivery<'_>) -> bool,
) {
    let (messages, inbox) = channel(CLUSTER_EVENTS_MAX);
    let mut mirror = Mirror {
        client,
        scope,
        health,
        deliver,
        messages,
        store: Store::default(),
        watches: BTreeMap::new(),
        lists: BTreeMap::new(),
        began: Instant::now(),
        synced_after: None,
        lacks: BTreeSet::new(),
    };
    mirror.begin();
    mirror.run(inbox).await;
}

/// A running watch.
struct Running {
    task: AbortHandle,
    /// It has had its first list, or was given up for want of a permission.
    is_listed: bool,
    /// Since when it has not followed the cluster, and why.
    failed: Option<(Instant, Failure)>,
    /// It is given up until the permission is there.
    is_given_up: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Mirror<D> {
    client: Client,
    scope: Scope,
    health: Arc<ArcSwap<Health>>,
    deliver: D,
    messages: Sender<Message>,
    store: Store,
    watches: BTreeMap<WatchId, Running>,
    lists: BTreeMap<Kind, u64>,
    began: Instant,
    synced_after: Option<Duration>,
    /// Permissions that are missing, as they were logged.
    lacks: BTreeSet<String>,
}

impl<D: FnMut(Delivery<'_>) -> bool> Mirror<D> {
    /// Starts the watches that every cluster needs; the others follow from what these tell.
    fn begin(&mut self) {
        for kind in Kind::NAMESPACED {
            self.watch_in_scope(kind);
        }
        self.watch(WatchId { kind: Kind::Node, namespace: None, name: None });
        for kind in Kind::CUSTOM {
            let name = kind.definition().map(Into::into);
            self.watch(WatchId { kind: Kind::CustomResourceDefinition, namespace: None, name });
        }
        let home = Some(self.scope.home.clone());
        self.watch(WatchId { kind: Kind::ConfigMap, namespace: home.clone(), name: None });
        if self.scope.namespaces.is_empty() {
            self.watch(WatchId { kind: Kind::Namespace, namespace: None, name: None });
        }
        for namespace in self.scope.namespaces.clone() {
            self.watch(WatchId { kind: Kind::Namespace, namespace: None, name: Some(namespace) });
        }
    }

    fn watch_in_scope(&mut self, kind: Kind) {
        if self.scope.namespaces.is_empty() {
            return self.watch(WatchId { kind, namespace: None, name: None });
        }
        for namespace in self.scope.namespaces.clone() {
            self.watch(WatchId { kind, namespace: Some(namespace), name: None });
        }
    }

    fn watch(&mut self, id: WatchId) {
        if !self.watches.contains_key(&id) {
            let task = tokio::spawn(watch::follow(self.client.clone(), id.clone(), self.messages.clone()));
            let task = task.abort_handle();
            self.watches.insert(id, Running { task, is_listed: false, failed: None, is_given_up: false });
        }
    }

    fn stop(&mut self, unwanted: impl Fn(&WatchId) -> bool) {
        let gone: Vec<WatchId> = self.watches.keys().filter(|id| unwanted(id)).cloned().collect();
        for id in gone {
            self.watches.remove(&id);
            self.store.forget(&id);
        }
    }

    async fn run(&mut self, mut inbox: Receiver<Message>) {
        let mut waiting = tokio::time::interval(WAITING);
        waiting.reset();
        let (mut first, mut last): (Option<Instant>, Instant) = (None, Instant::now());
        loop {
            let due = first.map(|first| (last + QUIET).min(first + BURST_MAX));
            tokio::select! {
                message = inbox.recv() => {
                    let Some(message) = message else { return };
                    if self.take(message) {
                        last = Instant::now();
                        first.get_or_insert(last);
                    }
                }
                () = until(due) => {
                    first = None;
                    if !self.hand_over() {
                        return;
                    }
                }
                _ = waiting.tick(), if self.synced_after.is_none() => self.say_what_is_awaited(),
            }
        }
    }

    /// Takes in a message; answers whether there may be something to hand over.
    fn take(&mut self, Message { watch, news }: Message) -> bool {
        let Some(running) = self.watches.get_mut(&watch) else { return false };
        match news {
            News::Told(told) => {
                if matches!(told, store::Told::All(_)) {
                    running.is_listed = true;
                    *self.lists.entry(watch.kind).or_default() += 1;
                }
                (running.failed, running.is_given_up) = (None, false);
                self.store.apply(&watch, told);
                match watch.kind {
                    Kind::Namespace => self.follow_namespaces(),
                    Kind::CustomResourceDefinition => self.follow_definitions(),
                    _ => {}
                }
            }
            News::Connected => {
                if let Some((since, _)) = running.failed.take() {
                    let seconds = since.elapsed().as_secs_f64();
                    tracing::info!(kind = watch.kind.plural(), seconds, "the cluster is followed again");
                    running.is_given_up = false;
                }
                self.publish_health();
            }
            News::Failed(failure) => {
                self.note_failure(&watch, failure);
                self.publish_health();
            }
        }
        true
    }

    fn note_failure(&mut self, watch: &WatchId, failure: Failure) {
        let Some(running) = self.watches.get_mut(watch) else { return };
        let is_news = running
            .failed
            .as_ref()
            .is_none_or(|(_, known)| std::mem::discriminant(known) != std::mem::discriminant(&failure));
        let since = running.failed.take().map_or_else(Instant::now, |(since, _)| since);
        let kind = watch.kind;
        match &failure {
            Failure::Forbidden(text) => {
                let (plural, group) = (kind.plural(), kind.group());
                let place =
                    watch.namespace.as_ref().map_or(String::new(), |name| format!(" in namespace {name}"));
                let lack = format!("get, list and watch {plural} (API group \"{group}\"){place}");
                if self.lacks.insert(lack.clone()) {
                    let kept = if kind.is_dispensable() { "it works without" } else { "it waits for it" };
                    tracing::error!("a permission is missing: {lack}; {kept}; see deploy/rbac: {text}");
                }
                if kind.is_dispensable() && !running.is_listed {
                    (running.is_listed, running.is_given_up) = (true, true);
                }
            }
            Failure::Unknown(text) if is_news => {
                tracing::warn!(kind = kind.plural(), "the API server does not know the kind: {text}");
            }
            Failure::Passing(text) if is_news => {
                tracing::warn!(kind = kind.plural(), "the cluster is not followed: {text}");
            }
            Failure::Unknown(_) | Failure::Passing(_) => {}
        }
        let is_definition_hidden =
            kind == Kind::CustomResourceDefinition && matches!(failure, Failure::Forbidden(_));
        running.failed = Some((since, failure));
        if is_definition_hidden && let Some(kind) = watch.name.as_deref().and_then(Kind::of_definition) {
            // Without leave to look, it is found out by asking for its objects.
            self.watch_in_scope(kind);
        }
        self.give_up_unknown(watch);
    }

    /// A custom kind that is not there has no objects; nothing waits for it.
    fn give_up_unknown(&mut self, watch: &WatchId) {
        let is_custom = watch.kind.definition().is_some();
        if let Some(running) = self.watches.get_mut(watch)
            && is_custom
            && matches!(running.failed, Some((_, Failure::Unknown(_))))
        {
            (running.is_listed, running.is_given_up) = (true, true);
            self.store.apply(watch, store::Told::All(Vec::new()));
        }
    }

    /// Follows the ConfigMaps of the namespaces that have some of their own.
    fn follow_namespaces(&mut self) {
        let mut wanted: BTreeSet<Arc<str>> = BTreeSet::from([self.scope.home.clone()]);
        let enabled = self.store.of_kind(Kind::Namespace).filter(|(_, item)| {
            let labels = item.object().map(|object| &object.body()["metadata"]["labels"]);
            labels.is_some_and(|labels| labels[scope::CONFIG_ENABLED] == "true")
        });
        wanted.extend(enabled.map(|(name, _)| name.name.clone()).take(CLUSTER_NAMESPACES_MAX));
        let is_unwanted = |id: &WatchId| {
            id.kind == Kind::ConfigMap && id.namespace.as_ref().is_some_and(|name| !wanted.contains(name))
        };
        self.stop(is_unwanted);
        for namespace in wanted {
            self.watch(WatchId { kind: Kind::ConfigMap, namespace: Some(namespace), name: None });
        }
    }

    /// Follows the custom kinds that are defined.
    fn follow_definitions(&mut self) {
        for kind in Kind::CUSTOM {
            let name = kind.definition();
            let defined = self.store.of_kind(Kind::CustomResourceDefinition).any(|(found, item)| {
                let is_served = matches!(item, Item::Definition(definition) if definition.is_served);
                Some(&*found.name) == name.as_deref() && is_served
            });
            let is_watched = self.watches.keys().any(|id| id.kind == kind);
            match (defined, is_watched) {
                (true, false) => {
                    tracing::info!(kind = kind.name(), "the kind is defined: its objects are followed");
                    self.watch_in_scope(kind);
                }
                (false, true) => {
                    tracing::info!(kind = kind.name(), "the kind is not defined any more");
                    self.stop(|id| id.kind == kind);
                }
                _ => {}
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.watches.values().all(|watch| watch.is_listed)
    }

    fn hand_over(&mut self) -> bool {
        if self.synced_after.is_none() {
            if !self.is_complete() {
                return true;
            }
            let took = self.began.elapsed();
            self.synced_after = Some(took);
            let objects: usize = self.store.counts().values().sum();
            tracing::info!(objects, seconds = took.as_secs_f64(), "the cluster is mirrored");
            // Also a cluster without any object is a configuration.
            let taken = store::Taken { config: true, view: true, ..self.store.take() };
            self.publish_health();
            return self.deliver(taken);
        }
        self.publish_health();
        let taken = self.store.take();
        self.deliver(taken)
    }

    fn deliver(&mut self, taken: store::Taken) -> bool {
        if !taken.config && !taken.view && taken.change.is_empty() {
            return true;
        }
        (self.deliver)(Delivery {
            documents: taken.config.then(|| self.store.documents(&self.scope)),
            change: taken.change,
            view: taken.view.then(|| self.store.view()),
            started_ms: taken.started_ms,
        })
    }

    fn publish_health(&self) {
        let mut kinds: BTreeMap<Kind, KindHealth> = BTreeMap::new();
        let mut stale_since: Option<Instant> = None;
        for (id, watch) in &self.watches {
            let up = kinds.entry(id.kind).or_insert(KindHealth { is_up: true, ..KindHealth::default() });
            up.is_up &= watch.failed.is_none();
            if let Some((since, _)) = watch.failed.as_ref().filter(|_| !watch.is_given_up) {
                stale_since = Some(stale_since.map_or(*since, |earlier| earlier.min(*since)));
            }
        }
        for (kind, objects) in self.store.counts() {
            kinds.entry(kind).or_default().objects = objects;
        }
        for (kind, lists) in &self.lists {
            kinds.entry(*kind).or_default().lists = *lists;
        }
        self.health.store(Arc::new(Health { synced_after: self.synced_after, stale_since, kinds }));
    }

    fn say_what_is_awaited(&self) {
        let awaited = self.watches.iter().filter(|(_, watch)| !watch.is_listed).map(|(id, watch)| {
            let why = watch.failed.as_ref().map_or("no answer yet", |(_, failure)| failure.text());
            format!("{}: {why}", id.kind.plural())
        });
        let awaited: BTreeSet<String> = awaited.collect();
        tracing::warn!("waiting for the first lists: {}", awaited.into_iter().collect::<Vec<_>>().join("; "));
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
