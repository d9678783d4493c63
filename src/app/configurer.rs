//! Turns documents into configuration in force: resolves, reports each problem once, hands over.

use crate::config::check;
use crate::config::objects::Document;
use crate::config::resolve::{Resolved, resolve_at};
use crate::config::shard::Shard;
use crate::config::{Kept, Problem, Snapshot};
use crate::runner::Handle;
use crate::serve::OwnMetrics;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Keeps what is in force, for the next time.
pub struct Configurer {
    engine: Handle,
    own: Arc<OwnMetrics>,
    shard: Shard,
    home: Option<String>,
    resolved: Resolved,
}

impl Configurer {
    /// One that has nothing in force. Only models of `shard` are decided.
    pub fn new(engine: Handle, own: Arc<OwnMetrics>, shard: Shard) -> Self {
        Configurer { engine, own, shard, home: None, resolved: Resolved::default() }
    }

    /// For a cluster: ConfigMaps of the namespace `home` are for everybody.
    pub fn at_home(self, home: &str) -> Self {
        Configurer { home: Some(home.to_owned()), ..self }
    }

    /// Puts documents in force and waits until their decisions are on the board. Answers whether there is
    /// still an engine.
    pub fn apply<'d>(&mut self, documents: impl IntoIterator<Item = &'d Document>) -> bool {
        let mut next = resolve_at(documents, &self.resolved, self.home.as_deref());
        let snapshot = part_of(&next.snapshot, self.shard, &mut next.problems);
        let known: BTreeSet<_> = self.resolved.problems.iter().collect();
        for problem in next.problems.iter().filter(|problem| !known.contains(problem)) {
            tracing::warn!("configuration problem: {problem}");
        }
        for variant in next.snapshot.variants.keys() {
            if !self.resolved.snapshot.variants.contains_key(variant) {
                tracing::info!(%variant, "variant configured");
            }
        }
        for variant in self.resolved.snapshot.variants.keys() {
            if !next.snapshot.variants.contains_key(variant) {
                tracing::info!(%variant, "variant removed");
            }
        }
        tracing::info!("configuration in force: {}", check::summary(&next));
        self.own.config_applied(next.problems.len());
        let problems = Arc::from(next.problems.as_slice());
        self.resolved = next;
        self.engine.apply(snapshot, problems).is_ok()
    }
}

/// The part of a configuration that is decided here.
fn part_of(snapshot: &Snapshot, shard: Shard, problems: &mut Vec<Problem>) -> Snapshot {
    let mut snapshot = snapshot.clone();
    if shard.count == 1 {
        return snapshot;
    }
    let is_limited = snapshot.models.keys().any(|model| snapshot.is_limited(model));
    snapshot.variants.retain(|_, variant| shard.holds(&variant.model_id));
    snapshot.models.retain(|model, _| shard.holds(&model.model_id));
    if is_limited {
        problems.push(Problem {
            origin: "--shard".into(),
            object: "--shard".into(),
            field: String::new(),
            reason: "models are held within the inventory, but each instance knows only its own".into(),
            fix: "run one instance where cards are shared, or give the namespaces quotas of their own".into(),
            kept: Kept::Nothing,
        });
    }
    snapshot
}
