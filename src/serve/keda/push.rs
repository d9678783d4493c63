//! The stream of an `external-push` trigger: whether the scale target should have replicas, at once and
//! whenever that changes.

use super::super::Closing;
use super::trigger::Trigger;
use crate::limits::SCALER_REPEAT_S;
use crate::runner::Handle;
use futures_util::stream::{Stream, unfold};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

/// KEDA takes `true` as a sign of life as well, so it is repeated.
const REPEAT: Duration = Duration::from_secs(SCALER_REPEAT_S);

/// One open stream.
pub struct Push {
    trigger: Trigger,
    engine: Handle,
    versions: watch::Receiver<u64>,
    closing: Option<Closing>,
    sent: Option<bool>,
    repeat_at: Instant,
    failed: bool,
}

/// Why a stream goes on.
enum Woken {
    Changed,
    Repeat,
    Ended,
}

impl Push {
    /// A stream that has not said anything yet.
    pub fn new(trigger: Trigger, engine: Handle, closing: Option<Closing>) -> Self {
        let versions = engine.versions();
        let repeat_at = Instant::now() + REPEAT;
        Push { trigger, engine, versions, closing, sent: None, repeat_at, failed: false }
    }

    /// The answers, until the server closes.
    pub fn into_stream(self) -> impl Stream<Item = Result<bool, Status>> {
        unfold(self, |mut push| async move {
            let item = push.next().await?;
            Some((item, push))
        })
    }

    async fn next(&mut self) -> Option<Result<bool, Status>> {
        if self.failed {
            return None;
        }
        loop {
            // Marked as seen before the board is read, so that no later board is missed.
            self.versions.borrow_and_update();
            match self.look() {
                Err(status) => {
                    self.failed = true;
                    return Some(Err(status));
                }
                Ok(Some(active)) if self.sent != Some(active) => return Some(Ok(self.send(active))),
                Ok(_) => {}
            }
            match self.wait().await {
                Woken::Changed => {}
                Woken::Repeat => return Some(Ok(self.send(true))),
                Woken::Ended => return None,
            }
        }
    }

    fn send(&mut self, active: bool) -> bool {
        self.sent = Some(active);
        self.repeat_at = Instant::now() + REPEAT;
        active
    }

    /// `None` while nothing is decided: the stream then waits, because after an error KEDA would wait for
    /// up to a minute before it opens another.
    fn look(&self) -> Result<Option<bool>, Status> {
        let board = self.engine.board();
        match self.trigger.desired(&board, self.engine.clock.reader_now(&board)) {
            Ok(desired) => Ok(Some(self.trigger.is_active(desired))),
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            Err(status) => Err(status),
        }
    }

    async fn wait(&mut self) -> Woken {
        let repeating = self.sent == Some(true);
        tokio::select! {
            changed = self.versions.changed() => match changed {
                Ok(()) => Woken::Changed,
                // The engine has ended, as it does with the process.
                Err(_) => Woken::Ended,
            },
            () = closed(self.closing.clone()) => Woken::Ended,
            () = tokio::time::sleep_until(self.repeat_at), if repeating => Woken::Repeat,
        }
    }
}

/// Completes when the server is about to end; never if nobody can tell.
pub async fn closed(closing: Option<Closing>) {
    match closing {
        Some(closing) => closing.closed().await,
        None => std::future::pending().await,
    }
}
