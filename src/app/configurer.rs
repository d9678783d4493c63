//! Turns documents into configuration in force: resolves, reports each problem once, hands over.

use crate::config::check;
use crate::config::objects::Document;
use crate::config::resolve::{Resolved, resolve_at};
use crate::config::shard::Shard;
use crate::runner::Handle;
use crate::serve::OwnMetrics;
use crate::tape::Basis;
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
    pub fn apply<'d, D>(&mut self, documents: D) -> bool
    where
        D: IntoIterator<Item = &'d Document, IntoIter: Clone>,
    {
        let documents = documents.into_iter();
        let mut next = resolve_at(documents.clone(), &self.resolved, self.home.as_deref());
        let (snapshot, problem) = self.shard.part_of(&next.snapshot);
        next.problems.extend(problem);
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
        let basis = self.engine.tape.is_some().then(|| Basis {
            documents: documents.cloned().collect(),
            home: self.home.as_deref().map(Arc::from),
        });
        self.engine.apply_resolved(snapshot, problems, basis).is_ok()
    }
}
