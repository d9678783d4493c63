//! The folder of configuration files in a real file system: every way of change is seen, soon and
//! whole.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use inferno_sidecar::config::objects::Document;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::mirror::files::{Watcher, read_folder, spawn};
use tempfile::TempDir;

fn variants(names: &[&str]) -> String {
    let head = "---\napiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n";
    let one = |name: &&str| format!("{head}metadata: {{name: {name}}}\nspec: {{modelID: m}}\n");
    names.iter().map(one).collect()
}

/// A watched folder and the configuration that follows from it.
struct Seen {
    watcher: Watcher,
    inbox: Receiver<Vec<Document>>,
    resolved: Resolved,
    deliveries: usize,
}

impl Seen {
    fn watch(dir: &Path) -> Self {
        let (sender, inbox) = channel();
        let watcher = spawn(dir.to_path_buf(), move |documents| sender.send(documents).is_ok());
        Seen { watcher, inbox, resolved: Resolved::default(), deliveries: 0 }
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.resolved.snapshot.variants.keys().map(|key| &*key.name).collect();
        names.join(" ")
    }

    fn take(&mut self, timeout: Duration) -> bool {
        match self.inbox.recv_timeout(timeout) {
            Ok(documents) => {
                self.resolved = resolve(&documents, &self.resolved);
                self.deliveries += 1;
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => panic!("the watch has ended"),
        }
    }

    /// Waits until exactly these variants are there, and tells how long that took.
    #[track_caller]
    fn until(&mut self, what: &str, names: &str, has_problem: bool) -> Duration {
        let start = Instant::now();
        while self.names() != names || self.resolved.problems.is_empty() == has_problem {
            let left = Duration::from_secs(15).saturating_sub(start.elapsed());
            assert!(
                self.take(left),
                "{what}: saw {:?} instead of {names:?}: {:?}",
                self.names(),
                self.resolved.problems
            );
        }
        println!("{what}: {:?}", start.elapsed());
        start.elapsed()
    }

    /// The same, and soon: within a second even on a busy machine.
    #[track_caller]
    fn soon(&mut self, what: &str, names: &str) {
        let delay = self.until(what, names, false);
        assert!(delay < Duration::from_secs(1), "{what} took {delay:?}");
    }

    /// Nothing more comes.
    #[track_caller]
    fn nothing(&mut self) {
        assert!(!self.take(Duration::from_millis(200)), "delivered again: {:?}", self.names());
    }
}

fn folder(names: &[&str]) -> (TempDir, Seen) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.yaml"), variants(names)).unwrap();
    let mut seen = Seen::watch(dir.path());
    seen.soon("start", &names.join(" "));
    (dir, seen)
}

#[test]
fn writing_in_place() {
    let (dir, mut seen) = folder(&["a"]);
    fs::write(dir.path().join("a.yaml"), variants(&["a", "b"])).unwrap();
    seen.soon("write in place", "a b");
    fs::write(dir.path().join("b.yml"), variants(&["c"])).unwrap();
    seen.soon("new file", "a b c");
    fs::remove_file(dir.path().join("b.yml")).unwrap();
    seen.soon("removed file", "a b");
    fs::write(dir.path().join("notes.txt"), "not ours").unwrap();
    fs::write(dir.path().join(".hidden.yaml"), variants(&["x"])).unwrap();
    fs::write(dir.path().join("a.yaml"), variants(&["a", "b"])).unwrap();
    seen.nothing();
}

#[test]
fn renaming_over_it() {
    let (dir, mut seen) = folder(&["a"]);
    for (round, names) in [["a", "b"], ["b", "c"], ["c", "d"]].into_iter().enumerate() {
        let new = dir.path().join(format!(".new-{round}"));
        fs::write(&new, variants(&names)).unwrap();
        fs::rename(new, dir.path().join("a.yaml")).unwrap();
        seen.soon("rename", &names.join(" "));
    }
}

#[test]
fn swapping_the_data_of_a_mounted_config_map() {
    let dir = TempDir::new().unwrap();
    let mount = |round: usize, names: &[&str]| {
        let real = dir.path().join(format!("..2026_{round}"));
        fs::create_dir(&real).unwrap();
        fs::write(real.join("a.yaml"), variants(names)).unwrap();
        symlink(format!("..2026_{round}"), dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        if round > 0 {
            fs::remove_dir_all(dir.path().join(format!("..2026_{}", round - 1))).unwrap();
        }
    };
    mount(0, &["a"]);
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut seen = Seen::watch(dir.path());
    seen.soon("start", "a");
    mount(1, &["b"]);
    seen.soon("swap", "b");
    mount(2, &["b", "c"]);
    seen.soon("second swap", "b c");
}

#[test]
fn mounted_below_the_folder() {
    let (dir, mut seen) = folder(&["a"]);
    let below = dir.path().join("team");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("b.yaml"), variants(&["b"])).unwrap();
    seen.soon("folder in the folder", "a b");
    fs::write(below.join("b.yaml"), variants(&["c"])).unwrap();
    seen.soon("change in it", "a c");
    fs::create_dir(below.join("deeper")).unwrap();
    fs::write(below.join("deeper/d.yaml"), variants(&["d"])).unwrap();
    seen.nothing();
    fs::remove_dir_all(&below).unwrap();
    seen.soon("folder in the folder gone", "a");
}

#[test]
fn behind_a_symbolic_link() {
    let (elsewhere, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(elsewhere.path().join("real.yaml"), variants(&["a"])).unwrap();
    symlink(elsewhere.path().join("real.yaml"), dir.path().join("a.yaml")).unwrap();
    let mut seen = Seen::watch(dir.path());
    seen.soon("start", "a");
    fs::write(elsewhere.path().join("real.yaml"), variants(&["b"])).unwrap();
    seen.soon("change behind the link", "b");
}

#[test]
fn a_folder_that_comes_goes_and_comes_back() {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("not/yet/here");
    let mut seen = Seen::watch(&dir);
    seen.until("missing", "", true);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.yaml"), variants(&["a"])).unwrap();
    seen.soon("appears", "a");
    fs::rename(&dir, root.path().join("gone")).unwrap();
    let delay = seen.until("vanishes, keeping all", "a", true);
    assert!(delay < Duration::from_secs(1));
    fs::remove_dir_all(root.path().join("not")).unwrap();
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    fs::rename(root.path().join("gone"), &dir).unwrap();
    seen.soon("comes back", "a");
    fs::write(dir.join("a.yaml"), variants(&["b"])).unwrap();
    seen.soon("changes after that", "b");
    fs::remove_dir_all(&dir).unwrap();
    let delay = seen.until("removed, keeping all", "b", true);
    assert!(delay < Duration::from_secs(1));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), variants(&["c"])).unwrap();
    seen.soon("made anew", "c");
    fs::write(dir.join("a.yaml"), variants(&["d"])).unwrap();
    seen.soon("changes in the new one", "d");
}

#[test]
fn another_folder_in_its_place() {
    let root = TempDir::new().unwrap();
    for (name, variant) in [("one", "a"), ("two", "b")] {
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join("a.yaml"), variants(&[variant])).unwrap();
    }
    let dir = root.path().join("config");
    symlink("one", &dir).unwrap();
    let mut seen = Seen::watch(&dir);
    seen.soon("start", "a");
    symlink("two", root.path().join("next")).unwrap();
    fs::rename(root.path().join("next"), &dir).unwrap();
    seen.soon("link swapped", "b");
    fs::write(dir.join("a.yaml"), variants(&["c"])).unwrap();
    seen.soon("change in the new folder", "c");
}

#[test]
fn a_slow_writer_is_never_seen_half_way() {
    let (dir, mut seen) = folder(&["a", "b", "c"]);
    for (file, what) in [("a.yaml", "slow writer"), ("new.yaml", "slow writer of a new file")] {
        let path = dir.path().join(file);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
        let (before, start) = (seen.deliveries, Instant::now());
        for index in 0..4 {
            std::thread::sleep(Duration::from_millis(40));
            file.write_all(variants(&[&format!("{}-{index}", what.len())]).as_bytes()).unwrap();
        }
        drop(file);
        // One that takes too long is read as it is in the end.
        let was_fast = start.elapsed() < Duration::from_millis(400);
        let slow = seen.names().replace("a b c", "");
        let names = format!("{slow} {0}-0 {0}-1 {0}-2 {0}-3", what.len());
        seen.soon(what, names.trim());
        assert!(!was_fast || seen.deliveries == before + 1, "a half-written file was seen");
    }
}

#[test]
fn an_emptied_file_means_it_after_a_while() {
    let (dir, mut seen) = folder(&["a"]);
    fs::write(dir.path().join("a.yaml"), "").unwrap();
    let delay = seen.until("emptied", "", false);
    assert!(delay > Duration::from_millis(500) && delay < Duration::from_secs(3), "took {delay:?}");
}

#[test]
fn a_thousand_rewrites_end_in_the_last() {
    let (dir, mut seen) = folder(&["v-start"]);
    for round in 0..1000 {
        let name = format!("v-{round}");
        if round % 2 == 0 {
            fs::write(dir.path().join("a.yaml"), variants(&[&name])).unwrap();
        } else {
            fs::write(dir.path().join(".new"), variants(&[&name])).unwrap();
            fs::rename(dir.path().join(".new"), dir.path().join("a.yaml")).unwrap();
        }
        while seen.take(Duration::ZERO) {
            assert_eq!(
                seen.resolved.snapshot.variants.len(),
                1,
                "after {round} rewrites: {:?}",
                seen.names()
            );
        }
    }
    seen.soon("a thousand rewrites", "v-999");
    seen.nothing();
}

#[test]
fn many_files_change_as_one() {
    let (dir, mut seen) = folder(&["a"]);
    let before = seen.deliveries;
    for index in 0..50 {
        fs::write(dir.path().join(format!("f{index:02}.yaml")), variants(&[&format!("f{index:02}")]))
            .unwrap();
    }
    while seen.resolved.snapshot.variants.len() < 51 {
        assert!(seen.take(Duration::from_secs(10)));
    }
    println!("50 files in {} deliveries", seen.deliveries - before);
    assert!(seen.deliveries - before <= 3);
}

#[test]
fn asked_to_look_it_looks() {
    let (dir, mut seen) = folder(&["a"]);
    fs::write(dir.path().join("a.yaml"), variants(&["b"])).unwrap();
    let done = seen.watcher.rescan_now();
    done.recv_timeout(Duration::from_secs(5)).unwrap();
    seen.soon("asked", "b");
}

#[test]
fn what_cannot_be_read_is_told_and_kept() {
    let (dir, mut seen) = folder(&["a"]);
    fs::write(dir.path().join("a.yaml"), [0xff, 0xfe, b'a']).unwrap();
    seen.until("not text", "a", true);
    fs::write(dir.path().join("a.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    seen.until("too large", "a", true);
    while !seen.resolved.problems[0].reason.contains("more than 1048576 bytes") {
        assert!(seen.take(Duration::from_secs(10)));
    }
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    symlink("nowhere", dir.path().join("a.yaml")).unwrap();
    while !seen.resolved.problems[0].reason.contains("cannot be read") {
        assert!(seen.take(Duration::from_secs(10)));
    }
    assert_eq!(seen.names(), "a");
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    fs::create_dir(dir.path().join("a.yaml")).unwrap();
    seen.until("a folder with that name", "", false);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(format!("{:?}", read_folder(&file)).contains("SourceLost"));
}

#[test]
fn too_many_files_are_refused_as_a_whole() {
    let dir = TempDir::new().unwrap();
    for index in 0..=10_000 {
        fs::write(dir.path().join(format!("{index}.yaml")), "").unwrap();
    }
    let text = format!("{:?}", read_folder(dir.path()));
    assert!(text.contains("SourceLost") && text.contains("more than 10000 files"), "{text:.200}");
}
