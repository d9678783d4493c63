//! The engine's thread: takes events from a bounded queue, applies them in order, publishes, answers.
//!
//! Whoever waits for an answer to a write hears it only after the board with its decisions is in place.
//! Several waiting events share one publication, so a burst costs one recomputation per touched model.

use crate::config::cluster::ClusterChange;
use crate::config::{Problem, Snapshot};
use crate::engine::{Engine, Scaling, Stats, WriteReport};
use crate::limits::WRITE_QUEUE_MAX;
use crate::publish::Board;
use crate::recorder::{RecordSettings, Recorder};
use crate::tape;
use crate::units::TimeMs;
use crate::wire::{Version, WireError};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

/// Time passes for the engine at least this often without an event.
const TICK: Duration = Duration::from_secs(1);

/// Which clock the engine and its readers go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Clock {
    /// The machine's clock.
    Wall,
    /// The newest sample's timestamp, so that a recorded stream can be replayed at any speed.
    Samples,
}

impl Clock {
    /// `now` as the engine's events get it. With `samples` nothing is ever in the future.
    fn event_now(self) -> TimeMs {
        match self {
            Clock::Wall => wall_now(),
            Clock::Samples => TimeMs::MAX,
        }
    }

    /// `now` as a reader of `board` judges ages.
    pub fn reader_now(self, board: &Board) -> TimeMs {
        match self {
            Clock::Wall => wall_now(),
            Clock::Samples => board.stream_time.unwrap_or(TimeMs(0)),
        }
    }
}

/// The machine's clock.
pub fn wall_now() -> TimeMs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Everything that can happen to the engine.
enum Event {
    Write {
        version: Version,
        message: Vec<u8>,
        len: usize,
        /// The body as received, where it is to be recorded.
        received: Option<Vec<u8>>,
        reply: oneshot::Sender<WriteDone>,
    },
    Snapshot {
        snapshot: Box<Snapshot>,
        problems: Arc<[Problem]>,
        /// What the snapshot was made of.
        basis: Option<tape::Basis>,
        done: SyncSender<()>,
    },
    Filled,
    Cluster(Box<ClusterChange>),
}

/// Answer to a write: what became of it, and its buffer back for reuse.
pub struct WriteDone {
    /// What became of the request.
    pub outcome: Result<WriteReport, WireError>,
    /// The buffer that the message was in.
    pub buffer: Vec<u8>,
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunnerError {
    /// The queue is full; try again shortly.
    #[error("the engine is busy; try again")]
    Busy,
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

/// Access to the engine: its queue, its current board, its figures.
#[derive(Clone)]
pub struct Handle {
    events: SyncSender<Event>,
    board: Arc<ArcSwap<Board>>,
    stats: Arc<ArcSwap<Stats>>,
    versions: watch::Receiver<u64>,
    moves: watch::Receiver<u64>,
    record: Recorder,
    /// The clock in force.
    pub clock: Clock,
    /// Figures of the recorder, if there is one; it then wants bodies of writes as received.
    pub tape: Option<Arc<tape::Counters>>,
}

impl Handle {
    /// Queues a decompressed write request, the first `len` bytes of `message`; the receiver hears when
    /// its decisions are on the board.
    pub fn write(
        &self,
        version: Version,
        message: Vec<u8>,
        len: usize,
    ) -> Result<oneshot::Receiver<WriteDone>, RunnerError> {
        self.write_received(version, message, len, None)
    }

    /// The same with the body as received, for the recorder.
    pub fn write_received(
        &self,
        version: Version,
        message: Vec<u8>,
        len: usize,
        received: Option<Vec<u8>>,
    ) -> Result<oneshot::Receiver<WriteDone>, RunnerError> {
        let (reply, heard) = oneshot::channel();
        match self.events.try_send(Event::Write { version, message, len, received, reply }) {
            Ok(()) => Ok(heard),
            Err(TrySendError::Full(_)) => Err(RunnerError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(RunnerError::Ended),
        }
    }

    /// Hands over a configuration and waits until its decisions are on the board.
    pub fn apply(&self, snapshot: Snapshot, problems: Arc<[Problem]>) -> Result<(), RunnerError> {
        self.apply_resolved(snapshot, problems, None)
    }

    /// The same with what the configuration was made of, for the recorder.
    pub fn apply_resolved(
        &self,
        snapshot: Snapshot,
        problems: Arc<[Problem]>,
        basis: Option<tape::Basis>,
    ) -> Result<(), RunnerError> {
        let (done, heard) = sync_channel(1);
        self.events
            .send(Event::Snapshot { snapshot: Box::new(snapshot), problems, basis, done })
            .map_err(|_| RunnerError::Ended)?;
        heard.recv().map_err(|_| RunnerError::Ended)
    }

    /// Tells that all of the past was written: decisions are given out from now on.
    pub fn filled(&self) -> Result<(), RunnerError> {
        self.events.send(Event::Filled).map_err(|_| RunnerError::Ended)
    }

    /// Hands over what changed in the cluster; its decisions follow without being waited for.
    pub fn apply_cluster(&self, change: ClusterChange) -> Result<(), RunnerError> {
        self.events.send(Event::Cluster(Box::new(change))).map_err(|_| RunnerError::Ended)
    }

    /// Current board.
    pub fn board(&self) -> Arc<Board> {
        self.board.load_full()
    }

    /// Figures of the engine.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.load_full()
    }

    /// What was published in the past.
    pub fn record(&self) -> &Recorder {
        &self.record
    }

    /// Hears of every new board by its version.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.versions.clone()
    }

    /// Hears of those boards by their version in which something changed that an autoscaler acts on; see
    /// [`Board::moved`].
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moves.clone()
    }
}

/// Starts the engine's thread, and its record with default settings. It ends when the last handle is dropped.
pub fn spawn(engine: Engine, clock: Clock) -> std::io::Result<(Handle, JoinHandle<()>)> {
    spawn_recorded(engine, clock, RecordSettings::default(), None)
}

/// As [`spawn`], with settings for the record in memory, and with a recorder of everything that drives the
/// engine.
pub fn spawn_recorded(
    engine: Engine,
    clock: Clock,
    settings: RecordSettings,
    tape: Option<tape::Recorder>,
) -> std::io::Result<(Handle, JoinHandle<()>)> {
    let record = Recorder::spawn(settings.retention)?;
    let (events, inbox) = sync_channel(WRITE_QUEUE_MAX);
    let board = Arc::new(ArcSwap::from(engine.board().clone()));
    let stats = Arc::new(ArcSwap::from_pointee(Stats::default()));
    let (version_sender, versions) = watch::channel(0);
    let (move_sender, moves) = watch::channel(0);
    let handle = Handle {
        events,
        board: board.clone(),
        stats: stats.clone(),
        versions,
        moves,
        record: record.clone(),
        clock,
        tape: tape.as_ref().map(tape::Recorder::counters),
    };
    let mut runner = Runner {
        engine,
        clock,
        tape,
        board,
        stats,
        versions: version_sender,
        moves: move_sender,
        record,
        step_ms: settings.step_ms,
        next_step: TimeMs::MIN,
        answers: Vec::new(),
        applied: Vec::new(),
        is_full: false,
    };
    let thread = thread::Builder::new().name("engine".into()).spawn(move || runner.run(&inbox))?;
    Ok((handle, thread))
}

struct Runner {
    engine: Engine,
    clock: Clock,
    tape: Option<tape::Recorder>,
    board: Arc<ArcSwap<Board>>,
    stats: Arc<ArcSwap<Stats>>,
    versions: watch::Sender<u64>,
    moves: watch::Sender<u64>,
    record: Recorder,
    /// Time between two steps of the record, ms.
    step_ms: i64,
    /// When its next step is due.
    next_step: TimeMs,
    /// Writes taken in but not answered yet.
    answers: Vec<(oneshot::Sender<WriteDone>, WriteDone)>,
    /// Configurations taken in but not confirmed yet.
    applied: Vec<SyncSender<()>>,
    /// New series were refused, and there is hardly more room since.
    is_full: bool,
}

impl Runner {
    fn run(&mut self, inbox: &Receiver<Event>) {
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(event) => {
                    self.take(event);
                    // What has queued up meanwhile shares the publication.
                    for event in inbox.try_iter().take(WRITE_QUEUE_MAX) {
                        self.take(event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.publish();
        }
    }

    fn tick(&mut self) {
        let now = self.clock.event_now();
        self.engine.tick(now);
        if let Some(tape) = &mut self.tape {
            tape.tick(now);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Write { version, message, len, received, reply } => {
                let now = self.clock.event_now();
                let outcome = self.engine.write(version, &message[..len], now);
                if !self.is_full && outcome.as_ref().is_ok_and(|report| report.no_room > 0) {
                    self.is_full = true;
                    tracing::warn!(
                        limit = self.engine.stats().series_max,
                        "new series are refused: the limit of live series is reached; forward fewer \
                         (write_relabel_configs) or raise --max-series",
                    );
                }
                if let Some(tape) = &mut self.tape {
                    let body = match received {
                        Some(bytes) => tape::Body { bytes, compressed: true },
                        None => tape::Body { bytes: message[..len].to_vec(), compressed: false },
                    };
                    tape.write(now, version, body);
                }
                self.answers.push((reply, WriteDone { outcome, buffer: message }));
            }
            Event::Snapshot { snapshot, problems, basis, done } => {
                self.engine.apply_snapshot(&snapshot, problems);
                if let (Some(tape), Some(basis)) = (&mut self.tape, basis) {
                    tape.configuration(basis);
                }
                self.applied.push(done);
            }
            Event::Filled => {
                if let Some(tape) = &mut self.tape {
                    tape.filled();
                }
                self.engine.filled();
            }
            Event::Cluster(change) => {
                if let Some(tape) = &mut self.tape {
                    tape.cluster((*change).clone());
                }
                self.engine.apply_cluster(*change);
            }
        }
    }

    fn publish(&mut self) {
        let before = self.engine.board().clone();
        let published = self.engine.publish();
        self.note(before);
        if let Some(tape) = &mut self.tape {
            tape.published(published.clone());
        }
        if let Some(board) = published {
            let (version, moved) = (board.version, board.moved);
            self.board.store(board);
            self.versions.send_replace(version);
            if moved == version {
                self.moves.send_replace(version);
            }
        }
        let stats = self.engine.stats();
        if self.is_full && stats.series < stats.series_max - stats.series_max / 20 {
            self.is_full = false;
            tracing::info!(series = stats.series, "there is room for new series again");
        }
        self.stats.store(Arc::new(stats));
        // A sender that has gone away needs no answer.
        for (reply, done) in self.answers.drain(..) {
            let _ = reply.send(done);
        }
        for done in self.applied.drain(..) {
            let _ = done.send(());
        }
        for scaling in self.engine.take_scalings() {
            log_scaling(&scaling);
        }
    }
}

impl Runner {
    /// Hands the record what is due: until now the board was `before`, so a step that lies behind us is made
    /// of that one.
    fn note(&mut self, before: Arc<Board>) {
        let moved = self.engine.take_moved();
        let Some(now) = self.now() else { return };
        if before.configured && !before.filling && now >= self.next_step {
            self.record.step(before, TimeMs(now.0 - now.0.rem_euclid(self.step_ms)));
        }
        // So too after a clock that was set back.
        if now >= self.next_step || self.next_step.since(now) > self.step_ms {
            self.next_step = TimeMs(now.0 - now.0.rem_euclid(self.step_ms)) + self.step_ms;
        }
        if !moved.is_empty() {
            self.record.moved(self.engine.board().clone(), moved, now);
        }
    }

    /// The time of what is published now; `None` before the first sample where samples are the clock.
    fn now(&self) -> Option<TimeMs> {
        match self.clock {
            Clock::Wall => Some(wall_now()),
            Clock::Samples => self.engine.stream_time(),
        }
    }
}

fn log_scaling(scaling: &Scaling) {
    tracing::info!(
        variant = %scaling.variant,
        from = scaling.from,
        to = scaling.to,
        current = scaling.current,
        reason = scaling.cause.as_str(),
        "scale {}: {}",
        scaling.direction.as_str(),
        scaling.why,
    );
}
