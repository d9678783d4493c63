//! Accelerators that the nodes of the cluster offer, by pool: what kube-state-metrics says of them.
//!
//! A node counts once its product is known, with the newest word on its allocatable cards; staleness markers
//! end it. Cards of an unknown product belong to no pool: nobody is limited by what is not known.

use super::Engine;
use super::store::{Node, SubjectId, SubjectRef, Window};
use crate::optimize::limiter::pool_name;
use crate::series::{Classified, Signal};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Engine {
    pub(super) fn node_subject(&mut self, name: &Arc<str>, classified: &Classified) -> SubjectRef {
        let nodes = &mut self.store.nodes;
        let new = || nodes.insert(Node { name: name.clone(), ..Node::default() }) as SubjectId;
        let id = *self.store.node_ids.entry(name.clone()).or_insert_with(new);
        if let Some(product) = &classified.product {
            self.store.nodes[id as usize].pool = Some(pool_name(product));
            self.nodes_changed = true;
        }
        SubjectRef::Node(id)
    }

    /// Counts the cards anew if something was said about a node.
    pub(super) fn count_nodes(&mut self) {
        if !std::mem::take(&mut self.nodes_changed) {
            return;
        }
        if let Some(cards) = &self.mirrored_cards {
            self.cards.set_nodes(cards.clone());
            return;
        }
        let mut cards: BTreeMap<String, u64> = BTreeMap::new();
        for (_, node) in &self.store.nodes {
            let Some(pool) = &node.pool else { continue };
            let Some(count) = self.allocatable(node) else { continue };
            match cards.get_mut(pool) {
                Some(sum) => *sum = sum.saturating_add(count),
                None => drop(cards.insert(pool.clone(), count)),
            }
        }
        self.cards.set_nodes(cards);
    }

    /// Cards of a node. Several exporters (one that was restarted, say) speak of the same cards, so the newest
    /// word counts.
    fn allocatable(&self, node: &Node) -> Option<u64> {
        let slots = node.slots.iter().map(|id| &self.store.slots[*id as usize]);
        let live = slots.filter(|slot| slot.signal == Signal::NodeAccelerators && !slot.stale);
        let values = live.filter_map(|slot| match &slot.window {
            Window::Gauge(gauge) => gauge.last(),
            Window::Counter(_) | Window::Info => None,
        });
        let newest = values.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        newest.map(|(_, value)| value as u64)
    }
}
