//! Child processes that end with the test, whatever its outcome, and say what they logged if it failed.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Lines shown of a process when the test fails.
const LINES_SHOWN: usize = 40;

/// A running child process.
pub struct Process {
    name: &'static str,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stderr = child.stderr.take().expect("standard error is piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lock().expect("no writer panics").push(line);
            }
        });
        Process { name, child, lines }
    }

    /// All lines so far that contain `part`.
    pub fn lines(&self, part: &str) -> Vec<String> {
        let lines = self.lines.lock().expect("no writer panics");
        lines.iter().filter(|line| line.contains(part)).cloned().collect()
    }

    /// The first line that contains `part`.
    pub async fn line(&self, part: &str) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(line) = self.lines(part).into_iter().next() {
                return line;
            }
            assert!(Instant::now() < until, "{} has not logged {part:?}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Resident memory, KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Processor time that all its threads have taken so far, user and system, seconds.
    pub fn cpu_s(&self) -> f64 {
        self.cpu_s_by_thread().values().sum()
    }

    /// The same by the name of the thread. What threads took that have ended is not known.
    pub fn cpu_s_by_thread(&self) -> BTreeMap<String, f64> {
        let mut by_name = BTreeMap::new();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        for task in tasks.into_iter().flatten().flatten() {
            let text = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let on_cpu_ns: Option<f64> =
                text("schedstat").split_whitespace().next().and_then(|ns| ns.parse().ok());
            *by_name.entry(text("comm").trim().to_owned()).or_default() += on_cpu_ns.unwrap_or(0.0) / 1e9;
        }
        by_name
    }

    pub fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("a child can be asked");
        assert!(ended.is_none(), "{} has ended: {ended:?}", self.name);
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} cannot be sent {signal}", self.name);
    }

    /// Asks it to end, as Kubernetes does, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be awaited")
    }

    /// Its number in the system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, max: Duration) -> ExitStatus {
        let until = Instant::now() + max;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(Instant::now() < until, "{} has not ended within {max:?}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it as `kill -9` does: no signal handler runs.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines = self.lines.lock().map(|lines| lines.clone()).unwrap_or_default();
            eprintln!("--- last lines of {}:", self.name);
            for line in lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)) {
                eprintln!("{line}");
            }
        }
    }
}
