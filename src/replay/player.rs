//! Feeds a recording to one or two engines and compares with what was published.

use super::tally::Tally;
use crate::config::VariantKey;
use crate::config::resolve::{Resolved, resolve_at};
use crate::config::shard::Shard;
use crate::engine::Engine;
use crate::limits::WRITE_REQUEST_MAX_BYTES;
use crate::proto::recording as pb;
use crate::proto::recording::record::Event;
use crate::publish::Board;
use crate::series::dialect::Dialects;
use crate::simulate::profiles::starts;
use crate::tape::cluster;
use crate::tape::convert::documents;
use crate::tape::digest::of_change;
use crate::tape::ring;
use crate::tape::segment::{End, Reader};
use crate::units::TimeMs;
use crate::wire::{Version, decompress_within};
use anyhow::{Context as _, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

/// What a replay found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Segments read.
    pub segments: usize,
    /// Segments that end before their end, and how: a crash, or damage.
    pub broken: Vec<(String, End)>,
    /// Versions of the sidecar that recorded.
    pub versions: BTreeSet<String>,
    /// Starts of the sidecar within the recording.
    pub runs: usize,
    /// The segments with the start of the first run are no longer there.
    pub beginning_lost: bool,
    /// Records left out because the disk was slow or full, and segments missing in between.
    pub missing: u64,
    /// Write requests.
    pub writes: u64,
    /// Configurations.
    pub configurations: u64,
    /// Publications that changed something.
    pub publications: u64,
    /// Those reproduced bit for bit.
    pub exact: u64,
    /// Those after which every desired count was the recorded one.
    pub same_desired: u64,
    /// The first that was not reproduced: what, and when.
    pub first_difference: Option<String>,
    /// First and last stream time.
    pub span: Option<(TimeMs, TimeMs)>,
    /// Books of the recorded configuration.
    pub recorded: Tally,
    /// Books of the other configuration.
    pub with: Option<Tally>,
}

impl Outcome {
    /// Whether everything that can be reproduced was: a recording without its beginning, with gaps or of
    /// another version cannot.
    pub fn is_reproduced(&self) -> bool {
        self.exact == self.publications || !self.is_complete()
    }

    /// Whether the recording can be reproduced bit for bit by this version.
    pub fn is_complete(&self) -> bool {
        let same_version = self.versions.iter().all(|version| version == env!("CARGO_PKG_VERSION"));
        !self.beginning_lost && self.missing == 0 && same_version
    }
}

/// Replays the recording in `dir`, also under the configuration `with`.
pub fn play(dir: &Path, with: Option<Resolved>) -> anyhow::Result<Outcome> {
    let segments = ring::segments(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    ensure!(
        !segments.is_empty(),
        "{}: no recording there; record one with `inferno-sidecar --record DIR`",
        dir.display()
    );
    let mut player = Player::new(with)?;
    let mut last_number: Option<u64> = None;
    for (number, path) in segments {
        if last_number.is_some_and(|last| last.saturating_add(1) != number) {
            player.miss(1);
        }
        last_number = Some(number);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file))?;
        while let Some(event) = reader.next_event().with_context(|| format!("cannot read {name}"))? {
            player.take(event)?;
        }
        player.outcome.segments += 1;
        if let Some(end) = reader.end().filter(|end| *end != End::Whole) {
            player.outcome.broken.push((name, end));
            player.cut_off = true;
        }
    }
    Ok(player.finish())
}

/// One engine and its books.
struct Side {
    engine: Engine,
    resolved: Resolved,
    board: Arc<Board>,
    tally: Tally,
}

impl Side {
    fn new(dialects: &Arc<Dialects>) -> Self {
        Side {
            engine: Engine::new(dialects.clone()),
            resolved: Resolved::default(),
            board: Arc::default(),
            tally: Tally::default(),
        }
    }

    fn restart(&mut self, dialects: &Arc<Dialects>, start: &pb::Start) {
        if let Some(at) = self.board.stream_time {
            self.tally.end_all(at);
        }
        let tally = std::mem::take(&mut self.tally);
        *self = Side { tally, ..Side::new(dialects) };
        let mut engine = Engine::new(dialects.clone()).with_profiles(starts(&start.profiles));
        if let Some(series_max) = usize::try_from(start.series_max).ok().filter(|max| *max > 0) {
            engine = engine.with_series_max(series_max);
        }
        self.engine = if start.filling { engine.to_be_filled() } else { engine };
    }

    fn configure(&mut self, resolved: Resolved, shard: Shard) {
        let (snapshot, _) = shard.part_of(&resolved.snapshot);
        self.engine.apply_snapshot(&snapshot, Arc::from(resolved.problems.as_slice()));
        self.resolved = resolved;
    }

    /// The digest of the next board, if there is one.
    fn publish(&mut self) -> Option<u64> {
        let board = self.engine.publish()?;
        let digest = of_change(&self.board, &board);
        self.tally.take(&self.board, &board);
        self.board = board;
        self.engine.take_scalings();
        Some(digest)
    }
}

struct Player {
    recorded: Side,
    other: Option<Side>,
    with: Option<Resolved>,
    /// Desired counts as recorded.
    desired: BTreeMap<VariantKey, Option<u32>>,
    /// Start of the run that is played.
    run_ms: Option<i64>,
    shard: Shard,
    /// What is carried along is known already, each of configuration and cluster.
    configured: bool,
    mirrored: bool,
    /// The segment before ended early; what follows it in the same run is incomplete.
    cut_off: bool,
    buffer: Vec<u8>,
    outcome: Outcome,
}

impl Player {
    fn new(with: Option<Resolved>) -> anyhow::Result<Self> {
        let dialects = Arc::new(Dialects::with_extra(&[])?);
        Ok(Player {
            recorded: Side::new(&dialects),
            other: with.is_some().then(|| Side::new(&dialects)),
            with,
            desired: BTreeMap::new(),
            run_ms: None,
            shard: Shard::default(),
            configured: false,
            mirrored: false,
            cut_off: false,
            buffer: Vec::new(),
            outcome: Outcome::default(),
        })
    }

    fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Start(start) => self.start(start)?,
            Event::Write(write) => self.write(&write),
            Event::Configuration(configuration) => self.configure(configuration),
            Event::Tick(pb::Tick { now_ms }) => self.each(|side| side.engine.tick(TimeMs(now_ms))),
            Event::Published(published) => self.published(published),
            Event::Gap(pb::Gap { records }) => self.miss(records),
            Event::Cluster(cluster) => self.mirror(cluster),
            Event::Filled(pb::Filled {}) => self.each(|side| side.engine.filled()),
        }
        Ok(())
    }

    /// Records are missing; what is carried along next may be news.
    fn miss(&mut self, records: u64) {
        self.outcome.missing = self.outcome.missing.saturating_add(records);
        (self.configured, self.mirrored) = (false, false);
    }

    fn each(&mut self, mut act: impl FnMut(&mut Side)) {
        act(&mut self.recorded);
        self.other.iter_mut().for_each(act);
    }

    fn start(&mut self, start: pb::Start) -> anyhow::Result<()> {
        self.outcome.versions.insert(start.version.clone());
        let cut_off = std::mem::take(&mut self.cut_off);
        if self.run_ms == Some(start.run_ms) && !start.fresh {
            if cut_off {
                self.miss(1);
            }
            if !start.filling {
                self.each(|side| side.engine.filled());
            }
            return Ok(());
        }
        if !start.fresh && self.run_ms.is_none() {
            self.outcome.beginning_lost = true;
        } else if !start.fresh {
            self.miss(1);
        }
        self.run_ms = Some(start.run_ms);
        self.outcome.runs += 1;
        let tables: Vec<&str> = start.dialects.iter().map(String::as_str).collect();
        let dialects = Arc::new(Dialects::with_extra(&tables)?);
        self.each(|side| side.restart(&dialects, &start));
        self.shard = Shard { index: start.shard_index, count: start.shard_count.max(1) };
        if let (Some(other), Some(with)) = (&mut self.other, &self.with) {
            other.configure(with.clone(), self.shard);
        }
        (self.configured, self.mirrored) = (false, false);
        self.desired.clear();
        Ok(())
    }

    fn write(&mut self, write: &pb::Write) {
        self.outcome.writes += 1;
        let message = match write.compressed {
            false => &write.message,
            // The sidecar had decompressed it before it was recorded.
            true => match decompress_within(&write.message, &mut self.buffer, WRITE_REQUEST_MAX_BYTES) {
                Ok(message) => message,
                Err(_) => return,
            },
        };
        let version = if write.protocol == 2 { Version::V2 } else { Version::V1 };
        // What was wrong with it then is wrong with it now.
        for side in [Some(&mut self.recorded), self.other.as_mut()].into_iter().flatten() {
            let _ = side.engine.write(version, message, TimeMs(write.now_ms));
        }
    }

    fn configure(&mut self, configuration: pb::Configuration) {
        if configuration.carried && self.configured {
            return;
        }
        self.configured = true;
        self.outcome.configurations += 1;
        let home = configuration.home;
        let documents = documents(configuration.documents);
        let resolved = resolve_at(&documents, &self.recorded.resolved, home.as_deref());
        self.recorded.configure(resolved, self.shard);
    }

    fn mirror(&mut self, cluster: pb::Cluster) {
        if cluster.carried && self.mirrored {
            return;
        }
        self.mirrored = true;
        let change = cluster::change(cluster);
        self.each(|side| side.engine.apply_cluster(change.clone()));
    }

    fn published(&mut self, published: pb::Published) {
        let digest = self.recorded.publish();
        if let Some(other) = &mut self.other {
            other.publish();
        }
        let board = &self.recorded.board;
        if let Some(at) = board.stream_time {
            let (first, last) = self.outcome.span.unwrap_or((at, at));
            self.outcome.span = Some((first.min(at), last.max(at)));
        }
        if published.all {
            self.desired.clear();
        }
        for pb::Desired { namespace, name, replicas } in published.desired {
            self.desired.insert(VariantKey::new(&namespace, &name), replicas);
        }
        let recorded = (published.version > 0).then_some(published.digest);
        if recorded.is_none() && digest.is_none() {
            return;
        }
        self.outcome.publications += 1;
        let is_exact = recorded == digest;
        self.outcome.exact += u64::from(is_exact);
        if is_exact && self.outcome.first_difference.is_none() {
            self.outcome.same_desired += 1;
            return;
        }
        let differs = self.differs();
        self.outcome.same_desired += u64::from(differs.is_none());
        if self.outcome.first_difference.is_none() {
            let what = differs.unwrap_or_else(|| "the same desired counts, but not the same figures".into());
            self.outcome.first_difference =
                Some(format!("publication {}: {what}", self.outcome.publications));
        }
    }

    /// A variant whose desired count is not the recorded one.
    fn differs(&self) -> Option<String> {
        self.desired.iter().find_map(|(key, desired)| {
            let now = self.recorded.board.entries.get(key).and_then(|entry| entry.desired());
            (now != *desired).then(|| format!("{key}: {} recorded, {} now", count(*desired), count(now)))
        })
    }

    fn finish(mut self) -> Outcome {
        let end = self.outcome.span.map_or(TimeMs(0), |(_, last)| last);
        self.recorded.tally.finish(end);
        self.outcome.recorded = self.recorded.tally;
        self.outcome.with = self.other.map(|mut other| {
            other.tally.finish(end);
            other.tally
        });
        self.outcome
    }
}

fn count(desired: Option<u32>) -> String {
    desired.map_or_else(|| "none".to_owned(), |desired| desired.to_string())
}
