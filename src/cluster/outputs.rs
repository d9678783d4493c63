//! What every writer needs: what to look at, whether it may write, and when there may be something to write.

use super::lease::Leadership;
use super::metrics::ClusterMetrics;
use crate::config::shard::Shard;
use crate::mirror::cluster::{Scope, View};
use crate::runner::Handle;
use kube::Client;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A fault that lasts is told again after this time.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

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

/// Keeps a fault that lasts from filling the log: it is told once a minute.
#[derive(Debug, Default)]
pub struct Complaints {
    told: Option<Instant>,
}

impl Complaints {
    /// Whether the fault is to be told now.
    pub fn are_due(&mut self) -> bool {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= COMPLAINT_PERIOD);
        if is_due {
            self.told = Some(Instant::now());
        }
        is_due
    }
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
