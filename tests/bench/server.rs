//! Benchmark of the whole server, as a process on loopback: `cargo bench --bench server`.
//!
//! Processor time per sample beside Prometheus and VictoriaMetrics (Debian's packages, on the path) that are
//! sent the same requests; the time until a reader sees a new number; scrapes and queries while samples
//! arrive. One part alone: `cargo bench --bench server -- cost` (or `reaction`, `readers`).

#[allow(dead_code, reason = "shared with the engine's benchmark")]
mod fleet;
mod link;
#[path = "../support/process.rs"]
mod process;
mod reaction;

use fleet::{Fleet, encode};
use inferno_sidecar::runner::wall_now;
use inferno_sidecar::wire::Version;
use link::{Link, await_ready, free_address, metric, post, sidecar};
use process::Process;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Variants of the fleet whose samples everybody is sent.
const VARIANTS: usize = 100;
/// Data time between scrapes, ms.
const SCRAPE_MS: i64 = 5_000;
/// Scrapes before anything is measured: series are new, and windows fill up.
const WARM_UP: i64 = 9;
/// Scrapes per measurement with all series, and with the relevant ones alone, which are fewer.
const SCRAPES: [i64; 2] = [20, 100];
/// Measurements, of which the median is shown.
const ROUNDS: i64 = 3;
/// Time for work that a server has put off until after its answers.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// One line of the table.
pub fn line(what: &str, value: f64, unit: &str, target: &str, note: &str) {
    println!("{what:<64} {value:>9.3} {unit:<3} {target:<8} {note}");
}

/// A quantile, by nearest rank.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

/// A server under measurement.
struct Receiver {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    /// Most that our share of its processor time may be.
    target: Option<f64>,
    /// Processor time per million samples of each round, seconds.
    cost_s: Vec<f64>,
}

impl Receiver {
    fn new(name: &'static str, (process, address): (Process, SocketAddr), target: Option<f64>) -> Self {
        Receiver { name, process, address, target, cost_s: Vec::new() }
    }

    /// Sends everything over one connection, one request after the other.
    fn send(&self, requests: &[Vec<u8>]) {
        let mut link = Link::open(self.address);
        requests.iter().for_each(|request| link.write(request));
    }

    fn measure(&mut self, requests: &[Vec<u8>], samples: usize) {
        let before = self.process.cpu_s();
        self.send(requests);
        std::thread::sleep(AFTERWARDS);
        self.cost_s.push((self.process.cpu_s() - before) * 1e6 / samples as f64);
    }
}

fn prometheus(dir: &Path) -> (Process, SocketAddr) {
    let settings = dir.join("prometheus.yml");
    std::fs::write(&settings, "").expect("the folder is ours");
    let address = free_address();
    let mut command = Command::new("prometheus");
    command.args(["--web.enable-remote-write-receiver", "--log.level=warn"]);
    command.arg(format!("--config.file={}", settings.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let mut process = Process::start("prometheus", &mut command);
    await_ready(&mut process, address, "/-/ready");
    (process, address)
}

fn victoria_metrics(dir: &Path) -> (Process, SocketAddr) {
    let address = free_address();
    let mut command = Command::new("victoria-metrics");
    command.arg(format!("-storageDataPath={}", dir.display()));
    command.arg(format!("-httpListenAddr={address}"));
    command.arg("-loggerLevel=ERROR");
    let mut process = Process::start("victoria-metrics", &mut command);
    await_ready(&mut process, address, "/health");
    (process, address)
}

/// Processor time of whole servers for the same requests of remote-write 1.0.
fn cost(relevant_only: bool) {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("there is room"));
    let fleet = Fleet::cold(VARIANTS, 1, "saturation");
    // The time of the samples is our clock, so that every round decides as it would live.
    let flags = ["--clock", "samples"];
    let ours = sidecar(folders[0].path(), &fleet::files(VARIANTS, 1, "saturation"), &flags);
    let mut receivers = [
        Receiver::new("inferno-sidecar", ours, None),
        Receiver::new("Prometheus", prometheus(folders[1].path()), Some(50.0)),
        Receiver::new("VictoriaMetrics", victoria_metrics(folders[2].path()), Some(8.0)),
    ];
    let per_round = SCRAPES[usize::from(relevant_only)];
    let start = wall_now() - SCRAPE_MS * (WARM_UP + ROUNDS * per_round);
    let scrapes = |range: std::ops::Range<i64>| {
        let mut samples = 0;
        let all =
            range.flat_map(|scrape| fleet.scrape_at(scrape, start + SCRAPE_MS * scrape, true, relevant_only));
        let requests: Vec<Vec<u8>> = all
            .map(|series| {
                samples += series.len();
                post(Version::V1, &encode(series))
            })
            .collect();
        (requests, samples)
    };
    let (warm_up, _) = scrapes(0..WARM_UP);
    receivers.iter().for_each(|receiver| receiver.send(&warm_up));
    let before = receivers[0].process.cpu_s_by_thread();
    let mut sent = 0;
    for round in 0..ROUNDS {
        let (requests, samples) = scrapes(WARM_UP + round * per_round..WARM_UP + (round + 1) * per_round);
        sent += samples;
        receivers.iter_mut().for_each(|receiver| receiver.measure(&requests, samples));
    }
    let after = receivers[0].process.cpu_s_by_thread();
    let decided = metric(receivers[0].address, "inferno_sidecar_model_recomputations_total");
    let what = if relevant_only { "relevant only" } else { "all series" };
    let ours_s = quantile(&mut receivers[0].cost_s, 0.5);
    for receiver in &mut receivers {
        let seconds = quantile(&mut receiver.cost_s, 0.5);
        let target = receiver.target.filter(|_| !relevant_only).map_or(String::new(), |t| format!("> {t} x"));
        let note = match receiver.target {
            None => format!("{decided:.0} recomputations, {} MB", receiver.process.resident_kib() / 1024),
            Some(_) => {
                format!("{:.1} x ours, {} MB", seconds / ours_s, receiver.process.resident_kib() / 1024)
            }
        };
        line(
            &format!("processor time of {} per million samples, {what}", receiver.name),
            seconds,
            "s",
            &target,
            &note,
        );
    }
    for (thread, seconds) in after {
        let seconds = seconds - before.get(&thread).copied().unwrap_or_default();
        if seconds > 0.0 {
            line(&format!("  of ours, thread {thread}"), seconds * 1e6 / sent as f64, "s", "", what);
        }
    }
}

fn main() {
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let is_asked = |name: &str| part.as_ref().is_none_or(|part| part == name);
    println!("{:<64} {:>9}     {:<8} note", "what", "measured", "target");
    if is_asked("cost") {
        cost(false);
        cost(true);
    }
    if is_asked("reaction") {
        reaction::reaction();
    }
    if is_asked("readers") {
        reaction::readers();
    }
}
