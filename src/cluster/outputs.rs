//! What every writer needs: what to look at, whether it may write, and when there may be something to write.

use super::lease::Leadership;
use super::metrics::ClusterMetrics;
use crate::config::shard::Shard;
use crate::mirror::cluster::{Scope, View};
use crate::runner::Handle;
use kube::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Shared by the writers; each has a clone of its own.
#[derive(Clone)]
pub struct Outputs {
    /// The API server.
    pub client: Client,
    /// The board, and when there is a new one.
    pub engine: Handle,
    /// New boards.
    pub versions: watch::Receiver<u64>,
    /// Mirrored objects.
    pub views: watch::Receiver<View>,
    /// Whether this instance may write.
    pub leadership: Leadership,
    /// Which objects are ours.
    pub scope: Arc<Scope>,
    /// Which models are ours.
    pub shard: Shard,
    /// Counters.
    pub metrics: Arc<ClusterMetrics>,
}

impl Outputs {
    /// Completes when there may be something new, `settle` after it came, or after `longest` without news.
    pub async fn changed(&mut self, settle: Duration, longest: Duration) {
        tokio::select! {
            Ok(()) = self.versions.changed() => {}
            Ok(()) = self.views.changed() => {}
            () = self.leadership.changed() => {}
            () = tokio::time::sleep(longest) => {}
        }
        if !settle.is_zero() {
            tokio::time::sleep(settle).await;
        }
        self.versions.mark_unchanged();
        self.views.mark_unchanged();
    }
}
