//! At the start, the windows are filled with what Prometheus has stored, so that the first decision after a
//! restart is the one before it.
//!
//! The past is replayed through the engine in the order of its samples, as if it were streamed, so every state
//! that a decision rests on comes back with it. Until the replay has reached the present nothing is given out,
//! and writes are answered 503: their sender repeats them, and what arrives twice is known by its time.
//!
//! Remote read is asked first, in slices of time that bound the memory; a server without it is asked by range
//! selectors of its query API. When the time for all this is over the sidecar starts with what it has.

mod replay;
mod source;

pub use source::SourceError;

use crate::client::Client;
use crate::limits::{BACKFILL_SAMPLES_MAX, BACKFILL_SLICE_MIN_MS, BACKFILL_SLICE_MS};
use crate::runner::{Handle, wall_now};
use crate::serve::OwnMetrics;
use crate::units::TimeMs;
use replay::Replay;
use source::Source;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wait before a request that failed is sent again.
const RETRY: Duration = Duration::from_millis(250);
/// Share of the time that is left in which the present is to be reached at the speed so far.
const SHARE_OF_WAIT: f64 = 0.5;
/// What has reached this close to the present is complete, ms: the rest is streamed.
const PRESENT_MS: i64 = 500;

/// What to fill the windows with.
pub struct Backfill {
    /// The server's URL, without a path of its API.
    pub url: String,
    /// Connection to it.
    pub client: Client,
    /// Names of the metrics that matter.
    pub metrics: Vec<String>,
    /// How far back to begin, ms.
    pub span_ms: i64,
    /// Longest time that the start waits for it.
    pub wait: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Done {
    samples: u64,
    /// Reached the present.
    is_whole: bool,
}

impl Backfill {
    /// Fills the windows of `engine`, which gives out decisions when this is done, however it ends.
    pub async fn run(self, engine: Handle, own: Arc<OwnMetrics>) {
        let started = Instant::now();
        let wait = self.wait;
        let mut done = Done::default();
        let error = tokio::time::timeout(wait, self.fill(&engine, &own, &mut done)).await;
        let seconds = started.elapsed().as_secs_f64();
        let samples = done.samples;
        match error {
            Ok(Ok(())) => {
                own.backfilled(samples, 1.0);
                tracing::info!(samples, seconds, "windows filled from Prometheus");
            }
            Ok(Err(error)) => {
                tracing::warn!(samples, seconds, %error, "windows not filled from Prometheus; starting without");
            }
            Err(_) => {
                tracing::warn!(
                    samples,
                    seconds,
                    "windows not filled within {wait:?}; starting with what is there"
                );
            }
        }
        // Without an engine there is nobody left to wait.
        let _ = engine.filled();
    }

    async fn fill(&self, engine: &Handle, own: &OwnMetrics, done: &mut Done) -> Result<(), SourceError> {
        configured(engine).await;
        let mut source = Source::new(&self.url, &self.client, &self.metrics);
        let (began, clock) = (wall_now(), Instant::now());
        let (mut read_ms, mut reading) = (0, Duration::ZERO);
        let start = began - self.span_ms;
        let mut gap_ms = i64::MAX;
        let mut slice_ms = BACKFILL_SLICE_MS;
        let mut from = start;
        let mut is_waited_for = false;
        while !done.is_whole {
            let (now, pass) = (wall_now(), Instant::now());
            let to = (from + slice_ms - 1).min(now);
            match source.read(from, to).await {
                Ok(series) => {
                    let mut replay = Replay::new(series);
                    while let Some(batch) = replay.next_batch() {
                        done.samples += batch.samples;
                        replay::write(engine, &batch).await?;
                    }
                }
                Err(SourceError::TooLarge) if slice_ms > BACKFILL_SLICE_MIN_MS => {
                    slice_ms /= 2;
                    continue;
                }
                Err(SourceError::Unreachable(why)) => {
                    if !std::mem::replace(&mut is_waited_for, true) {
                        tracing::warn!(%why, "cannot fill the windows yet; trying again for {:?}", self.wait);
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            (read_ms, reading) = (read_ms + to.since(from) + 1, reading + pass.elapsed());
            from = to + 1;
            let left = self.wait.saturating_sub(clock.elapsed());
            let reachable_ms = reachable_ms(read_ms, reading, left);
            let behind_ms = wall_now().since(from);
            if behind_ms > reachable_ms {
                // What is newest matters most: cut off on the way, the windows would end in the past.
                from = wall_now() - reachable_ms;
                let skipped_s = (behind_ms - reachable_ms) / 1000;
                tracing::warn!(
                    skipped_s,
                    "too much is stored for --backfill-wait; going on with what is newer"
                );
            }
            let last_ms = std::mem::replace(&mut gap_ms, wall_now().since(to));
            // A slow server is never caught up with. What came since we began was answered 503, so it is sent again.
            let is_no_nearer = to >= began && gap_ms > last_ms / 2;
            done.is_whole = gap_ms <= PRESENT_MS || is_no_nearer;
            let share = to.since(start) as f64 / wall_now().since(start).max(1) as f64;
            own.backfilled(done.samples, share.clamp(0.0, 1.0));
            tracing::info!(
                samples = done.samples,
                "filling the windows from Prometheus: {:.0} %",
                share * 100.0
            );
            if done.samples > BACKFILL_SAMPLES_MAX {
                return Err(SourceError::TooMany);
            }
        }
        Ok(())
    }
}

/// Span of stored time that can be read within a share of the time that is left, ms, where `read_ms` of it took so long.
fn reachable_ms(read_ms: i64, reading: Duration, left: Duration) -> i64 {
    let per_ms = read_ms as f64 / (reading.as_secs_f64() * 1e3).max(1.0);
    let reachable_ms = per_ms * left.as_secs_f64() * 1e3 * SHARE_OF_WAIT;
    (reachable_ms as i64).max(BACKFILL_SLICE_MIN_MS)
}

/// Waits for the configuration: without it the replay would decide nothing.
async fn configured(engine: &Handle) {
    let mut versions = engine.versions();
    while !engine.board().configured {
        if versions.changed().await.is_err() {
            return;
        }
    }
}

/// A span of time: both ends inclusive.
#[derive(Clone, Copy, Debug)]
struct Slice {
    from: TimeMs,
    to: TimeMs,
}
