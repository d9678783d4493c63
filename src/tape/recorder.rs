//! The recorder's queue and thread.
//!
//! [`Recorder`] is the engine thread's end: it never waits. What finds no room in the queue is left out, and
//! a gap stands in its place as soon as there is room again, followed by the configuration in force.

use super::cluster::{self, Known};
use super::convert::recorded;
use super::digest::of_change;
use super::ring::Ring;
use super::segment::frame;
use crate::config::VariantKey;
use crate::config::cluster::ClusterChange;
use crate::config::objects::Document;
use crate::config::shard::Shard;
use crate::limits::{RECORD_MAX_BYTES, RECORD_QUEUE_MAX, RECORD_QUEUE_MAX_BYTES, RECORD_RETRY_S};
use crate::proto::recording as pb;
use crate::proto::recording::record::Event;
use crate::publish::Board;
use crate::units::TimeMs;
use crate::wire::Version;
use imbl::ordmap::DiffItem;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// What is recorded, and where.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Folder of the segment files.
    pub dir: PathBuf,
    /// Most bytes of all segment files.
    pub max_bytes: u64,
    /// Texts of the dialect tables beside the built-in ones.
    pub dialects: Vec<String>,
    /// The newest sample is the clock.
    pub sample_clock: bool,
    /// Stored samples are taken in first.
    pub to_be_filled: bool,
    /// The part of the models that is decided.
    pub shard: Shard,
    /// Most live series that the engine takes; 0 where nobody has set it.
    pub series_max: usize,
    /// Texts of the profiles to start from.
    pub profiles: Vec<String>,
    /// Start of the process.
    pub started: TimeMs,
}

/// What a configuration was made of.
#[derive(Clone, Debug)]
pub struct Basis {
    /// All documents of the source.
    pub documents: Arc<[Document]>,
    /// With a cluster as the source, the namespace whose ConfigMaps are for everybody.
    pub home: Option<Arc<str>>,
}

impl From<Vec<Document>> for Basis {
    fn from(documents: Vec<Document>) -> Self {
        Basis { documents: documents.into(), home: None }
    }
}

/// Figures of the recorder, for its metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records written.
    pub written: AtomicU64,
    /// Records left out because the queue or the disk was full.
    pub dropped: AtomicU64,
    /// Bytes of all segment files.
    pub bytes: AtomicU64,
    /// Bytes of write requests in the queue.
    queued_bytes: AtomicUsize,
}

/// The body of a write request.
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether they are compressed, as received.
    pub compressed: bool,
}

enum Item {
    Write { now: TimeMs, version: Version, body: Body },
    Configuration { basis: Basis, carried: bool },
    Cluster { change: ClusterChange, carried: bool },
    Filled,
    Tick { now: TimeMs },
    Published { board: Option<Arc<Board>> },
    Gap { records: u64 },
    Close(SyncSender<()>),
}

/// The running recorder, for whoever ends it.
pub struct Recording {
    queue: SyncSender<Item>,
    /// Its figures.
    pub counters: Arc<Counters>,
}

impl Recording {
    /// Ends the recording: has everything that waits written, but waits no longer than `max` for it.
    pub fn close(&self, max: Duration) {
        let (done, heard) = sync_channel(1);
        if self.queue.try_send(Item::Close(done)).is_err() || heard.recv_timeout(max).is_err() {
            tracing::warn!("the end of the recording was not written in time");
        }
    }
}

/// The engine thread's end of the queue. Nothing here waits.
pub struct Recorder {
    queue: SyncSender<Item>,
    counters: Arc<Counters>,
    /// Records left out since the last one that found room.
    missing: u64,
    basis: Option<Basis>,
    /// Changes of the cluster that were left out.
    missed: Option<Known>,
    filled: bool,
}

impl Recorder {
    /// Opens the folder and starts the thread. It ends when the recorder and its recording are dropped.
    pub fn start(setup: Setup) -> anyhow::Result<(Recorder, Recording)> {
        let ring = Ring::open(&setup.dir, setup.max_bytes)?;
        let counters = Arc::new(Counters::default());
        counters.bytes.store(ring.bytes(), Relaxed);
        let (queue, inbox) = sync_channel(RECORD_QUEUE_MAX);
        let mut writer = Writer::new(ring, setup, counters.clone());
        writer.begin(true)?;
        thread::Builder::new().name("recorder".into()).spawn(move || writer.run(&inbox))?;
        let recording = Recording { queue: queue.clone(), counters: counters.clone() };
        Ok((Recorder::new(queue, counters), recording))
    }

    fn new(queue: SyncSender<Item>, counters: Arc<Counters>) -> Self {
        Recorder { queue, counters, missing: 0, basis: None, missed: None, filled: false }
    }

    /// Figures of the recorder.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// A write request that the engine takes at `now`.
    pub fn write(&mut self, now: TimeMs, version: Version, body: Body) {
        let bytes = body.bytes.len();
        if self.counters.queued_bytes.load(Relaxed) + bytes > RECORD_QUEUE_MAX_BYTES {
            self.leave_out();
            return;
        }
        self.counters.queued_bytes.fetch_add(bytes, Relaxed);
        if !self.send(Item::Write { now, version, body }) {
            self.counters.queued_bytes.fetch_sub(bytes, Relaxed);
        }
    }

    /// A configuration that the engine takes.
    pub fn configuration(&mut self, basis: Basis) {
        self.basis = Some(basis.clone());
        self.send(Item::Configuration { basis, carried: false });
    }

    /// A change of the cluster that the engine takes.
    pub fn cluster(&mut self, change: ClusterChange) {
        if !self.send(Item::Cluster { change: change.clone(), carried: false }) {
            self.missed.get_or_insert_default().add(change);
        }
    }

    /// The stored samples have been taken in.
    pub fn filled(&mut self) {
        self.filled = true;
        self.send(Item::Filled);
    }

    /// Time passes for the engine.
    pub fn tick(&mut self, now: TimeMs) {
        self.send(Item::Tick { now });
    }

    /// What has been taken since the last publication is published; `None` when the board did not change.
    pub fn published(&mut self, board: Option<Arc<Board>>) {
        self.send(Item::Published { board });
    }

    fn send(&mut self, item: Item) -> bool {
        if self.missing > 0 && !self.fill_gap() {
            self.leave_out();
            return false;
        }
        match self.queue.try_send(item) {
            Ok(()) => return true,
            Err(TrySendError::Full(_)) => self.leave_out(),
            // The recording was closed, as at the end of the process.
            Err(TrySendError::Disconnected(_)) => {}
        }
        false
    }

    fn leave_out(&mut self) {
        if self.missing == 0 {
            tracing::warn!("the recorder cannot keep up; records are left out, decisions are not affected");
        }
        self.missing += 1;
        self.counters.dropped.fetch_add(1, Relaxed);
    }

    /// Says what is missing, and what later records build on, which may be among it.
    fn fill_gap(&mut self) -> bool {
        if self.queue.try_send(Item::Gap { records: self.missing }).is_err() {
            return false;
        }
        self.missing = 0;
        let basis = self.basis.clone().map(|basis| Item::Configuration { basis, carried: true });
        let missed = self.missed.as_ref().map(Known::change);
        let missed = missed.map(|change| Item::Cluster { change, carried: true });
        let filled = self.filled.then_some(Item::Filled);
        for item in [basis, missed, filled].into_iter().flatten() {
            if self.queue.try_send(item).is_err() {
                return false;
            }
        }
        self.missed = None;
        true
    }
}

/// The thread's side.
struct Writer {
    ring: Ring,
    setup: Setup,
    counters: Arc<Counters>,
    basis: Option<Basis>,
    known: Known,
    filling: bool,
    board: Arc<Board>,
    /// The next publication lists all desired counts.
    list_all: bool,
    buffer: Vec<u8>,
    /// Records that could not be written, and when to try again.
    failed: Option<(u64, Instant)>,
}

impl Writer {
    fn new(ring: Ring, setup: Setup, counters: Arc<Counters>) -> Self {
        Writer {
            ring,
            filling: setup.to_be_filled,
            setup,
            counters,
            basis: None,
            known: Known::default(),
            board: Arc::default(),
            list_all: true,
            buffer: Vec::new(),
            failed: None,
        }
    }

    fn run(mut self, inbox: &Receiver<Item>) {
        loop {
            let item = match inbox.try_recv() {
                Ok(item) => item,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    // Nothing waits, so there is time; a crash then costs nothing that was taken before.
                    if let Err(error) = self.ring.flush() {
                        self.fail(&error, 0);
                    }
                    match inbox.recv() {
                        Ok(item) => item,
                        Err(_) => break,
                    }
                }
            };
            if let Item::Close(done) = item {
                self.ring.end();
                drop(self);
                // Whoever asked may have given up.
                let _ = done.send(());
                return;
            }
            self.take(item);
        }
        self.ring.end();
    }

    /// Begins a segment. `fresh` says that the engine has just started.
    fn begin(&mut self, fresh: bool) -> io::Result<()> {
        self.ring.begin()?;
        self.list_all = true;
        let start = pb::Start {
            version: env!("CARGO_PKG_VERSION").into(),
            run_ms: self.setup.started.0,
            fresh,
            dialects: self.setup.dialects.clone(),
            sample_clock: self.setup.sample_clock,
            filling: self.filling,
            shard_index: self.setup.shard.index,
            shard_count: self.setup.shard.count,
            series_max: self.setup.series_max as u64,
            profiles: self.setup.profiles.clone(),
        };
        let mut head = Vec::new();
        frame(Event::Start(start), &mut head);
        self.carry(&mut head);
        self.ring.append(&head)
    }

    /// Appends what later records build on.
    fn carry(&self, frames: &mut Vec<u8>) {
        if let Some(basis) = &self.basis {
            frame(configuration(basis, true), frames);
        }
        let change = self.known.change();
        let end = frames.len();
        if !change.is_empty()
            && frame(Event::Cluster(cluster::recorded(&change, true)), frames) > RECORD_MAX_BYTES
        {
            frames.truncate(end);
        }
    }

    fn take(&mut self, item: Item) {
        let waits = self.failed.is_some_and(|(_, retry)| Instant::now() < retry);
        let Some(event) = self.event(item) else { return };
        if waits {
            self.leave_out(1);
            return;
        }
        self.buffer.clear();
        let mut frames = std::mem::take(&mut self.buffer);
        if let Some((records, _)) = self.failed {
            frame(Event::Gap(pb::Gap { records }), &mut frames);
            self.carry(&mut frames);
        }
        let bytes = frame(event, &mut frames);
        if bytes > RECORD_MAX_BYTES {
            self.buffer = frames;
            self.leave_out(1);
            return;
        }
        match self.write(&frames) {
            Ok(()) => {
                self.counters.written.fetch_add(1, Relaxed);
                if let Some((records, _)) = self.failed.take() {
                    tracing::info!(missing = records, "recording goes on");
                }
            }
            Err(error) => self.fail(&error, 1),
        }
        self.buffer = frames;
        self.counters.bytes.store(self.ring.bytes(), Relaxed);
    }

    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.ring.is_full(frames.len()) {
            self.begin(false)?;
        }
        self.ring.append(frames)
    }

    fn fail(&mut self, error: &io::Error, records: u64) {
        if self.failed.is_none() {
            tracing::warn!(
                dir = %self.setup.dir.display(), %error,
                "cannot record; decisions are not affected; trying again every {RECORD_RETRY_S} s",
            );
        }
        let (missing, _) = self.failed.unwrap_or((0, Instant::now()));
        self.failed = Some((missing, Instant::now() + Duration::from_secs(RECORD_RETRY_S)));
        self.leave_out(records);
    }

    fn leave_out(&mut self, records: u64) {
        let (missing, retry) = self.failed.unwrap_or((0, Instant::now()));
        self.failed = Some((missing + records, retry));
        self.counters.dropped.fetch_add(records, Relaxed);
    }

    /// The item as a record. What later records build on is noted even when it is not written.
    fn event(&mut self, item: Item) -> Option<Event> {
        Some(match item {
            Item::Write { now, version, body } => {
                self.counters.queued_bytes.fetch_sub(body.bytes.len(), Relaxed);
                let protocol = match version {
                    Version::V1 => 1,
                    Version::V2 => 2,
                };
                let Body { bytes, compressed } = body;
                Event::Write(pb::Write { now_ms: now.0, protocol, message: bytes, compressed })
            }
            Item::Configuration { basis, carried } => {
                let event = configuration(&basis, carried);
                self.basis = Some(basis);
                event
            }
            Item::Cluster { change, carried } => {
                let event = Event::Cluster(cluster::recorded(&change, carried));
                self.known.add(change.clone());
                self.known.forget_gone(&change);
                event
            }
            Item::Filled => {
                self.filling = false;
                Event::Filled(pb::Filled {})
            }
            Item::Tick { now } => Event::Tick(pb::Tick { now_ms: now.0 }),
            Item::Gap { records } => Event::Gap(pb::Gap { records }),
            Item::Published { board } => Event::Published(self.published(board)),
            Item::Close(_) => return None,
        })
    }

    fn published(&mut self, board: Option<Arc<Board>>) -> pb::Published {
        let mut published = pb::Published::default();
        if let Some(board) = board {
            published.version = board.version;
            published.digest = of_change(&self.board, &board);
            published.desired = moved(&self.board, &board);
            self.board = board;
        }
        if std::mem::take(&mut self.list_all) {
            published.all = true;
            published.desired = moved(&Board::default(), &self.board);
        }
        published
    }
}

fn configuration(basis: &Basis, carried: bool) -> Event {
    let home = basis.home.as_deref().map(str::to_owned);
    Event::Configuration(pb::Configuration { documents: recorded(&basis.documents), carried, home })
}

/// Desired counts that differ from those of the board before.
fn moved(before: &Board, now: &Board) -> Vec<pb::Desired> {
    let one = |key: &VariantKey, replicas| pb::Desired {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        replicas,
    };
    let changes = before.entries.diff(&now.entries).filter_map(|change| match change {
        DiffItem::Add(key, entry) => Some(one(key, entry.desired())),
        DiffItem::Update { old: (_, old), new: (key, entry) } => {
            (old.desired() != entry.desired()).then(|| one(key, entry.desired()))
        }
        DiffItem::Remove(key, _) => Some(one(key, None)),
    });
    changes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_a_gap_followed_by_the_configuration_in_force() {
        let (queue, inbox) = sync_channel(3);
        let counters = Arc::new(Counters::default());
        let mut recorder = Recorder::new(queue, counters.clone());
        recorder.configuration(Vec::new().into());
        for now in 0..4 {
            recorder.tick(TimeMs(now));
        }
        assert_eq!(counters.dropped.load(Relaxed), 2, "the queue holds the configuration and two ticks");
        assert!(matches!(inbox.try_iter().last(), Some(Item::Tick { now: TimeMs(1) })));
        recorder.tick(TimeMs(4));
        let items: Vec<Item> = inbox.try_iter().collect();
        let [gap, configuration, tick] = &items[..] else { panic!("{} items", items.len()) };
        assert!(matches!(gap, Item::Gap { records: 2 }));
        assert!(matches!(configuration, Item::Configuration { carried: true, .. }));
        assert!(matches!(tick, Item::Tick { now: TimeMs(4) }));
        drop(inbox);
        recorder.tick(TimeMs(5));
        assert_eq!(counters.dropped.load(Relaxed), 2, "after the end nothing is missed");
    }

    #[test]
    fn a_burst_of_large_requests_is_bounded_by_its_bytes() {
        let (queue, _inbox) = sync_channel(RECORD_QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        let mut recorder = Recorder::new(queue, counters.clone());
        for _ in 0..5 {
            let bytes = vec![0; RECORD_QUEUE_MAX_BYTES / 4 + 1];
            recorder.write(TimeMs(0), Version::V1, Body { bytes, compressed: true });
        }
        assert_eq!(counters.dropped.load(Relaxed), 2);
        assert!(counters.queued_bytes.load(Relaxed) <= RECORD_QUEUE_MAX_BYTES);
    }
}
