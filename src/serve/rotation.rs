//! Certificates, tokens and passwords that are replaced while the process runs.
//!
//! File system events on the files' folders wake one thread, and so does a slow clock where events fail;
//! it compares the bytes, so links that are swapped (as in mounted secrets) count like files written over.
//! What does not load leaves the last good value in use. A certificate and its key are rarely replaced in
//! the same instant: an error is logged only when it persists.

use crate::tls::SecretFile;
use arc_swap::ArcSwap;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// A burst of events is over after this long without one.
const QUIET: Duration = Duration::from_millis(50);
/// Events of one burst that are waited for.
const BURST_MAX: usize = 20;
/// What did not load is looked at again after this time before it is called broken.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// Period of the look that waits for no event.
const SLOW_LOOK: Duration = Duration::from_secs(5);

/// A value that follows its files.
pub type Current<T> = Arc<ArcSwap<T>>;

/// The values that follow their files; the thread ends when this is dropped.
#[derive(Default)]
pub struct Rotation {
    files: Vec<Box<dyn Follow>>,
    folders: BTreeSet<PathBuf>,
}

/// Keeps the values following their files until dropped.
pub struct Rotating {
    wake: SyncSender<()>,
    is_stopping: Arc<AtomicBool>,
}

impl Drop for Rotating {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        // A full queue wakes the thread as well.
        let _ = self.wake.try_send(());
    }
}

trait Follow: Send {
    /// Looks at the files; whether a second look is due soon.
    fn look(&mut self) -> bool;
}

type Seen = Result<Vec<SecretFile>, String>;

struct Following<T, L> {
    what: &'static str,
    paths: Vec<PathBuf>,
    load: L,
    current: Current<T>,
    seen: Seen,
    /// What failed to load at the last look and has not been logged.
    suspect: Option<Seen>,
}

impl Rotation {
    /// Loads a value from files and keeps it following them. The first load must succeed; `what` names the
    /// value in the log.
    pub fn follow<T: Send + Sync + 'static>(
        &mut self,
        what: &'static str,
        paths: Vec<PathBuf>,
        load: impl Fn(&[SecretFile]) -> Result<T, String> + Send + 'static,
    ) -> Result<Current<T>, String> {
        let files = read(&paths)?;
        let current = Arc::new(ArcSwap::from_pointee(load(&files)?));
        for path in &paths {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            self.folders.insert(folder.unwrap_or(Path::new(".")).to_owned());
        }
        let following =
            Following { what, paths, load, current: current.clone(), seen: Ok(files), suspect: None };
        self.files.push(Box::new(following));
        Ok(current)
    }

    /// Starts the thread that looks at the files, if there are any.
    pub fn start(self) -> std::io::Result<Rotating> {
        let (wake, woken) = sync_channel(1);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let rotating = Rotating { wake: wake.clone(), is_stopping: is_stopping.clone() };
        if !self.files.is_empty() {
            let run = move || self.run(&woken, wake, &is_stopping);
            thread::Builder::new().name("secret-files".into()).spawn(run)?;
        }
        Ok(rotating)
    }

    fn run(mut self, woken: &Receiver<()>, wake: SyncSender<()>, is_stopping: &AtomicBool) {
        let _watcher = watch(&self.folders, wake);
        let mut wait = SLOW_LOOK;
        loop {
            if woken.recv_timeout(wait).is_ok() {
                // In a folder where something changes all the time it is never quiet.
                for _ in 0..BURST_MAX {
                    if woken.recv_timeout(QUIET).is_err() {
                        break;
                    }
                }
            }
            if is_stopping.load(Ordering::Relaxed) {
                return;
            }
            let is_due_soon = self.files.iter_mut().fold(false, |due, file| file.look() | due);
            wait = if is_due_soon { SECOND_LOOK } else { SLOW_LOOK };
        }
    }
}

fn read(paths: &[PathBuf]) -> Seen {
    paths.iter().map(|path| SecretFile::read(path)).collect()
}

/// The folders' events as wake-ups. Without events the slow look remains.
fn watch(folders: &BTreeSet<PathBuf>, wake: SyncSender<()>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Reading the files causes access events.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            let _ = wake.try_send(());
        }
    };
    let log = |error: &notify::Error| {
        tracing::warn!(%error, "no file system events; certificates and secrets are read every 5 s");
    };
    let mut watcher = notify::recommended_watcher(handler).inspect_err(log).ok()?;
    for folder in folders {
        let _ = watcher.watch(folder, RecursiveMode::NonRecursive).inspect_err(log);
    }
    Some(watcher)
}

impl<T: Send + Sync, L: Fn(&[SecretFile]) -> Result<T, String> + Send> Follow for Following<T, L> {
    fn look(&mut self) -> bool {
        let found = read(&self.paths);
        if found == self.seen {
            self.suspect = None;
            return false;
        }
        match found.as_ref().map_err(Clone::clone).and_then(|files| (self.load)(files)) {
            Ok(value) => {
                self.current.store(Arc::new(value));
                tracing::info!("{} read again and in use", self.what);
            }
            Err(_) if self.suspect.as_ref() != Some(&found) => {
                self.suspect = Some(found);
                return true;
            }
            Err(error) => {
                tracing::error!(%error, "new {} cannot be used; the last good one stays in use", self.what);
            }
        }
        self.suspect = None;
        self.seen = found;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    fn wait_for(current: &Current<String>, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while **current.load() != *text {
            assert!(Instant::now() < end, "still {}", current.load());
            thread::yield_now();
        }
    }

    #[test]
    fn a_secret_mount_is_followed_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mount = |generation: u32, text: &str| {
            let folder = format!("..{generation}");
            std::fs::create_dir(at(&folder)).unwrap();
            std::fs::write(at(&folder).join("token"), text).unwrap();
            symlink(&folder, at("..data_tmp")).unwrap();
            std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        mount(1, "one");
        symlink("..data/token", at("token")).unwrap();
        let mut rotation = Rotation::default();
        let load = |files: &[SecretFile]| files[0].secret().map(str::to_owned);
        assert!(rotation.follow("token", vec![at("nothing")], load).is_err());
        let current = rotation.follow("token", vec![at("token")], load).unwrap();
        assert_eq!(**current.load(), "one");
        let _rotating = rotation.start().unwrap();
        mount(2, "two");
        wait_for(&current, "two");
        mount(3, " \n");
        std::fs::remove_file(at("token")).unwrap();
        std::fs::write(at("token"), "").unwrap();
        thread::sleep(3 * SECOND_LOOK);
        assert_eq!(**current.load(), "two");
        std::fs::write(at("token"), "four").unwrap();
        wait_for(&current, "four");
    }
}
