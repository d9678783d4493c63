//! The folder of configuration files, watched.
//!
//! Input: a folder that may appear, vanish and change in any way. Output: after each change the
//! documents of the whole folder, once. Change is noticed by file system events, and by a slow scan
//! where those fail. Must not know what the documents mean.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::config::objects::Document;
use crate::limits::{CONFIG_FILES_MAX, CONFIG_WATCHES_MAX};

mod scan;

pub use scan::{Scan, Scanner, read_folder};

/// Events are collected until there was none for this long ...
const QUIET: Duration = Duration::from_millis(20);
/// ... but not longer than this.
const BURST_MAX: Duration = Duration::from_millis(60);
/// When a file was in the middle of being written, it is looked at again after this time.
const UNSETTLED: Duration = Duration::from_millis(15);
/// Period of the scan that does not wait for an event.
const SLOW_SCAN: Duration = Duration::from_secs(5);
/// The same where the system gives no events.
const SLOW_SCAN_ALONE: Duration = Duration::from_secs(1);
/// Events that may wait; when there are more, everything counts as changed.
const QUEUE: usize = 4096;

/// How often one look follows folders that appear meanwhile; events tell about later ones.
const LOOKS_MAX: usize = 16;

/// A running watch on a folder; ends when dropped.
pub struct Watcher {
    signals: SyncSender<Signal>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Signal {
    Event(notify::Result<Event>),
    Rescan(SyncSender<()>),
    Stop,
}

/// Watches a folder on a thread of its own. `deliver` gets all documents at once: at the start, and
/// whenever they differ from those delivered last. It answers whether it wants more.
pub fn spawn(dir: PathBuf, deliver: impl FnMut(Vec<Document>) -> bool + Send + 'static) -> Watcher {
    let (signals, inbox) = sync_channel(QUEUE);
    let is_stopping = Arc::new(AtomicBool::new(false));
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    let mut mirror = Mirror {
        watches: Watches::new(&dir, signals.clone()),
        scanner: Scanner::new(dir),
        inbox,
        is_stopping: is_stopping.clone(),
        delivered: None,
        deliver,
    };
    let thread = thread::Builder::new().name("config-files".into()).spawn(move || mirror.run());
    let thread =
        thread.inspect_err(|error| tracing::error!(%error, "configuration files are not watched")).ok();
    Watcher { signals, is_stopping, thread }
}

impl Watcher {
    /// Has the folder read now. The receiver hears when that has been done and, if anything changed,
    /// delivered; it may be dropped.
    pub fn rescan_now(&self) -> Receiver<()> {
        let (done, heard) = sync_channel(1);
        // Fails only when the thread has ended; then the receiver hears that nobody will answer.
        let _ = self.signals.send(Signal::Rescan(done));
        heard
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        // A full queue wakes the thread as well.
        let _ = self.signals.try_send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What woke the thread.
#[derive(PartialEq)]
enum Wake {
    Changed,
    Due,
    Stop,
}

struct Mirror<D> {
    watches: Watches,
    scanner: Scanner,
    inbox: Receiver<Signal>,
    is_stopping: Arc<AtomicBool>,
    delivered: Option<Vec<Document>>,
    deliver: D,
}

impl<D: FnMut(Vec<Document>) -> bool> Mirror<D> {
    fn run(&mut self) {
        let mut waiting: Vec<SyncSender<()>> = Vec::new();
        let mut was_asked = true;
        loop {
            let (wait, wants_more, has_changed) = self.pass();
            if !wants_more {
                return;
            }
            if has_changed && !was_asked {
                // Events did not tell: the watches are not what they seem.
                self.watches.are_stale = true;
            }
            for done in waiting.drain(..) {
                let _ = done.try_send(());
            }
            match self.wait(wait, &mut waiting) {
                Wake::Stop => return,
                Wake::Due => was_asked = wait < SLOW_SCAN_ALONE,
                Wake::Changed => {
                    was_asked = true;
                    if self.collect_burst(&mut waiting) == Wake::Stop {
                        return;
                    }
                }
            }
        }
    }

    /// One look at the folder: how long to wait for the next, whether one is wanted, and whether
    /// anything was new.
    fn pass(&mut self) -> (Duration, bool, bool) {
        self.watches.follow(None);
        let mut scan = self.scanner.scan(&self.watches.open);
        for _ in 0..LOOKS_MAX {
            if !self.watches.follow(Some(&scan.folders)) {
                break;
            }
            // What happened in a new folder before it was watched is seen only now.
            scan = self.scanner.scan(&self.watches.open);
        }
        let wait = match (scan.is_unsettled, self.watches.watcher.is_some()) {
            (true, _) => UNSETTLED,
            (false, true) => SLOW_SCAN,
            (false, false) => SLOW_SCAN_ALONE,
        };
        if self.delivered.as_ref() == Some(&scan.documents) {
            return (wait, true, false);
        }
        self.delivered = Some(scan.documents.clone());
        (wait, (self.deliver)(scan.documents), true)
    }

    /// Waits for something that matters.
    fn wait(&mut self, wait: Duration, waiting: &mut Vec<SyncSender<()>>) -> Wake {
        let until = Instant::now() + wait;
        loop {
            if self.is_stopping.load(Ordering::Relaxed) {
                return Wake::Stop;
            }
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stop,
                Err(RecvTimeoutError::Timeout) => return Wake::Due,
                Ok(Signal::Rescan(done)) => {
                    waiting.push(done);
                    return Wake::Changed;
                }
                Ok(Signal::Event(event)) => {
                    if self.watches.matters(event) {
                        return Wake::Changed;
                    }
                }
            }
        }
    }

    /// Lets a burst of changes pass, so that it is read once.
    fn collect_burst(&mut self, waiting: &mut Vec<SyncSender<()>>) -> Wake {
        let end = Instant::now() + BURST_MAX;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Wake::Due;
            }
            match self.wait(QUIET.min(left), waiting) {
                Wake::Changed => {}
                other => return other,
            }
        }
    }
}

/// What the system is asked to tell about.
struct Watches {
    watcher: Option<RecommendedWatcher>,
    dir: PathBuf,
    /// Folders whose files matter.
    folders: BTreeSet<PathBuf>,
    /// The nearest existing folder above `dir`, and its entry on the way to `dir`.
    gate: Option<(PathBuf, PathBuf)>,
    /// Files that were written to and not closed since.
    open: BTreeSet<PathBuf>,
    /// Whether everything has to be asked for anew.
    are_stale: bool,
    /// Whether events were lost.
    has_overflown: Arc<AtomicBool>,
}

impl Watches {
    fn new(dir: &Path, signals: SyncSender<Signal>) -> Self {
        let has_overflown = Arc::new(AtomicBool::new(false));
        let overflow = has_overflown.clone();
        let watcher = notify::recommended_watcher(move |event| {
            if let Err(TrySendError::Full(_)) = signals.try_send(Signal::Event(event)) {
                overflow.store(true, Ordering::Relaxed);
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(%error, "no file system events; configuration is read every second"),
            )
            .ok();
        Watches {
            watcher,
            dir: dir.into(),
            folders: BTreeSet::new(),
            gate: None,
            open: BTreeSet::new(),
            are_stale: false,
            has_overflown,
        }
    }

    /// Watches the way to the folder and the given folders; without any, those of before. Tells whether
    /// something is watched that was not.
    fn follow(&mut self, folders: Option<&BTreeSet<PathBuf>>) -> bool {
        if self.watcher.is_none() {
            return false;
        }
        if std::mem::take(&mut self.are_stale) {
            // The events that would close them may be lost.
            self.open.clear();
            let gate = self.gate.take().map(|(above, _)| above);
            for path in std::mem::take(&mut self.folders).into_iter().chain(gate) {
                self.drop_watch(&path);
            }
        }
        let gate = gate_of(&self.dir);
        let mut is_new = false;
        if gate != self.gate {
            if let Some((above, _)) = self.gate.take().filter(|(above, _)| !self.folders.contains(above)) {
                self.drop_watch(&above);
            }
            is_new |= gate.as_ref().is_some_and(|(above, _)| self.add_watch(above));
            self.gate = gate;
        }
        let wanted = match folders {
            Some(folders) => folders.clone(),
            None => self.folders.iter().cloned().chain([self.dir.clone()]).collect(),
        };
        for path in self.folders.difference(&wanted).cloned().collect::<Vec<_>>() {
            self.folders.remove(&path);
            if self.gate.as_ref().is_none_or(|(above, _)| *above != path) {
                self.drop_watch(&path);
            }
        }
        for path in wanted {
            if !self.folders.contains(&path)
                && self.folders.len() < CONFIG_WATCHES_MAX
                && self.add_watch(&path)
            {
                self.folders.insert(path);
                is_new = true;
            }
        }
        is_new
    }

    fn add_watch(&mut self, path: &Path) -> bool {
        let watcher = self.watcher.as_mut();
        watcher.is_some_and(|watcher| watcher.watch(path, RecursiveMode::NonRecursive).is_ok())
    }

    fn drop_watch(&mut self, path: &Path) {
        if let Some(watcher) = self.watcher.as_mut() {
            // It may have gone with its folder.
            let _ = watcher.unwatch(path);
        }
    }

    /// Whether an event can mean another configuration.
    fn matters(&mut self, event: notify::Result<Event>) -> bool {
        if self.has_overflown.swap(false, Ordering::Relaxed) {
            self.are_stale = true;
            return true;
        }
        let Ok(event) = event else {
            self.are_stale = true;
            return true;
        };
        if event.need_rescan() {
            self.are_stale = true;
            return true;
        }
        let is_access =
            matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
        if is_access {
            // Reading the files causes these.
            return false;
        }
        let mut matters = false;
        for path in &event.paths {
            let is_gate = self.gate.as_ref().is_some_and(|(above, entry)| entry == path || above == path);
            if is_gate || self.folders.contains(path) {
                // A folder came, went or was replaced: watches of the old one are dead.
                self.are_stale = true;
                matters = true;
            }
            if path.parent().is_some_and(|parent| self.folders.contains(parent)) {
                matters = true;
                self.note_writer(event.kind, path);
            }
        }
        matters
    }

    fn note_writer(&mut self, kind: EventKind, path: &Path) {
        if matches!(kind, EventKind::Modify(ModifyKind::Data(_))) {
            if self.open.len() < CONFIG_FILES_MAX {
                self.open.insert(path.into());
            }
        } else if !matches!(kind, EventKind::Modify(ModifyKind::Metadata(_))) {
            // Closed, removed or replaced: what is there now is whole.
            self.open.remove(path);
        }
    }
}

/// The nearest existing folder above `dir`, and its entry on the way to `dir`.
fn gate_of(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let above = dir.ancestors().skip(1).find(|above| above.is_dir())?;
    let entry = dir.ancestors().find(|path| path.parent() == Some(above))?;
    Some((above.to_path_buf(), entry.to_path_buf()))
}
