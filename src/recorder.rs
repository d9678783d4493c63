//! The record's thread: notes boards in the order in which they are published, and answers what is asked of
//! the past.
//!
//! The engine's thread only hands over `Arc`s, so that recording takes nothing from the decisions. What is
//! asked after a write was answered includes what that write has moved: both go through one queue.

use crate::config::VariantKey;
use crate::limits::HISTORY_QUEUE_MAX;
use crate::publish::Board;
use crate::publish::history::{History, HistoryStats, Recorded, Retention, TooMuch, Want};
use crate::units::TimeMs;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use tokio::sync::oneshot;

/// How much is recorded, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    /// How much is kept.
    pub retention: Retention,
    /// Time between two steps, ms.
    pub step_ms: i64,
}

impl Default for RecordSettings {
    fn default() -> Self {
        let retention = Retention { ms: 3_600_000, bytes: crate::limits::HISTORY_MAX_BYTES };
        RecordSettings { retention, step_ms: 15_000 }
    }
}

/// Everything that can happen to the record.
enum Event {
    Step { board: Arc<Board>, at: TimeMs },
    Moved { board: Arc<Board>, keys: Vec<VariantKey>, at: TimeMs },
    Asked { wants: Vec<Want>, samples_max: usize, reply: oneshot::Sender<Result<Past, TooMuch>> },
}

/// What was recorded.
#[derive(Debug, Default)]
pub struct Past {
    /// From when on the record is complete.
    pub since: Option<TimeMs>,
    /// The series of each wish, sorted by labels.
    pub series: Vec<Vec<Recorded>>,
}

/// Why a question of the past has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PastError {
    /// More than is given out at once.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// Too many questions wait.
    #[error("the record is busy; try again")]
    Busy,
    /// The record's thread has ended.
    #[error("the record has ended")]
    Ended,
}

/// Access to the record.
#[derive(Clone)]
pub struct Recorder {
    events: SyncSender<Event>,
    stats: Arc<ArcSwap<HistoryStats>>,
}

impl Recorder {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn spawn(retention: Retention) -> std::io::Result<Self> {
        let (events, inbox) = sync_channel(HISTORY_QUEUE_MAX);
        let stats = Arc::new(ArcSwap::from_pointee(HistoryStats::default()));
        let recorder = Recorder { events, stats: stats.clone() };
        thread::Builder::new().name("record".into()).spawn(move || run(retention, &inbox, &stats))?;
        Ok(recorder)
    }

    /// Notes all that `board` publishes at `at`.
    pub fn step(&self, board: Arc<Board>, at: TimeMs) {
        // Without its thread there is no record, which readers are told when they ask.
        let _ = self.events.send(Event::Step { board, at });
    }

    /// Notes what an autoscaler acts on, for variants whose numbers have changed.
    pub fn moved(&self, board: Arc<Board>, keys: Vec<VariantKey>, at: TimeMs) {
        let _ = self.events.send(Event::Moved { board, keys, at });
    }

    /// Asks for recorded series: at most `samples_max` samples for each wish.
    pub async fn ask(&self, wants: Vec<Want>, samples_max: usize) -> Result<Past, PastError> {
        let (reply, heard) = oneshot::channel();
        self.events.try_send(Event::Asked { wants, samples_max, reply }).map_err(|error| match error {
            TrySendError::Full(_) => PastError::Busy,
            TrySendError::Disconnected(_) => PastError::Ended,
        })?;
        Ok(heard.await.map_err(|_| PastError::Ended)??)
    }

    /// Figures of the record.
    pub fn stats(&self) -> HistoryStats {
        **self.stats.load()
    }
}

fn run(retention: Retention, inbox: &Receiver<Event>, stats: &ArcSwap<HistoryStats>) {
    let mut history = History::new(retention);
    let mut was_shortened = false;
    while let Ok(event) = inbox.recv() {
        match event {
            Event::Step { board, at } => history.step(&board, at),
            Event::Moved { board, keys, at } => history.moved(&board, &keys, at),
            Event::Asked { wants, samples_max, reply } => {
                let series = wants.iter().map(|want| history.select(want, samples_max)).collect();
                let past = Result::map(series, |series| Past { since: history.since(), series });
                // Whoever asked may have gone away.
                let _ = reply.send(past);
                continue;
            }
        }
        let now = history.stats();
        if now.is_shortened && !was_shortened {
            was_shortened = true;
            let limit = retention.bytes;
            tracing::warn!(
                "the record has reached its {limit} bytes and reaches less far back than asked for"
            );
        }
        stats.store(Arc::new(now));
    }
}
