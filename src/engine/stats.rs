//! Figures of the engine, for its metrics.

use super::Engine;

/// Figures of the engine itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live slots: relevant series and remembered unused ones.
    pub series: usize,
    /// Most of them.
    pub series_max: usize,
    /// Replicas known.
    pub replicas: usize,
    /// Variants configured.
    pub variants: usize,
    /// Models configured.
    pub models: usize,
    /// Models recomputed since the start.
    pub recomputations: u64,
    /// Entries made since the start.
    pub entries: u64,
}

impl Engine {
    /// Figures of the engine itself.
    pub fn stats(&self) -> Stats {
        Stats {
            series: self.store.slots.len(),
            series_max: self.store.slots_max,
            replicas: self.store.replicas.len(),
            variants: self.topology.variants.len(),
            models: self.topology.models.len(),
            recomputations: self.recomputations,
            entries: self.entries,
        }
    }
}
