//! A soak of the built sidecar: `cargo bench --bench soak -- --minutes 60` (3 without it).
//!
//! 50,000 samples per second of a fleet whose load swings and whose pods are replaced, a configuration that
//! changes every second, and a fault every few seconds. At the start, every five minutes and at the end: memory,
//! latency, and three comparisons of every published count. In mode `model` it is the one of a fresh instance that
//! is given the configuration and the last minutes of samples alone. In both modes it is within bounds, from fresh
//! input and from what was learned. And it is that of a twin that is sent the relevant samples and to which nothing
//! happens. After the first two checks and the last one the sidecar ends in the middle of a request (SIGKILL,
//! SIGTERM) and comes back with its windows filled from a real Prometheus, and the counts are compared with those
//! of before. Needs `prometheus` on the path.

#[allow(dead_code, reason = "shared with the engine's benchmark")]
#[path = "fleet.rs"]
mod fleet;
#[allow(dead_code, reason = "shared with the server's benchmark")]
#[path = "link.rs"]
mod link;
#[path = "../support/process.rs"]
mod process;

#[path = "soak/check.rs"]
mod check;
#[path = "soak/faults.rs"]
mod faults;
#[path = "soak/sidecar.rs"]
mod sidecar;
#[path = "soak/world.rs"]
mod world;

use faults::Faults;
use link::{Link, SIDECAR, started};
use sidecar::Sidecar;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use world::{REQUESTS_PER_S, World};

/// Time until the first check: every window is full.
const FIRST_CHECK: Duration = Duration::from_secs(180);
/// Time between checks.
const CHECK_EVERY: Duration = Duration::from_secs(300);
/// Samples that a fresh instance is given: longer than anything that a decision remembers.
const REMEMBERED: usize = 300 * REQUESTS_PER_S;
/// Time without changes of the configuration before a check: a bound that was lifted is felt for a minute, as a
/// decision to use less waits that long.
const QUIET: Duration = Duration::from_secs(150);
/// Requests between two changes of the configuration.
const CHANGE_EVERY: usize = REQUESTS_PER_S;
/// Requests between two faults.
const FAULT_EVERY: usize = 7 * REQUESTS_PER_S;

/// What has happened since the last check.
#[derive(Default)]
pub struct Noted {
    /// Times from a request's last byte to its answer, ms.
    pub write_ms: Vec<f64>,
    /// Answers to requests of the fleet other than success.
    pub refused: BTreeMap<u16, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Changes of the configuration.
    pub changes: u64,
    /// Pods that were replaced.
    pub replaced: u64,
}

/// Sends a request until it is taken, as Prometheus does.
fn deliver(link: &mut Link, request: &[u8], noted: &mut Noted) {
    loop {
        let sent = link.send(request);
        let (status, body) = link.answer();
        match status {
            204 => return noted.write_ms.push(sent.elapsed().as_secs_f64() * 1e3),
            503 => {
                *noted.refused.entry(status).or_default() += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            _ => panic!("{status}: {}", String::from_utf8_lossy(&body)),
        }
    }
}

fn minutes() -> u64 {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--minutes");
    at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(3)
}

/// The ways in which the sidecar ends after a check: whether it is asked to.
fn restarts(check: usize, is_last: bool) -> &'static [bool] {
    match (check, is_last) {
        (_, true) => &[false, true],
        (0, _) => &[false],
        (1, _) => &[true],
        _ => &[],
    }
}

fn main() {
    let length = Duration::from_secs(60 * minutes());
    let dir = tempfile::tempdir().expect("there is room");
    let mut world = World::new();
    // A copy, so that a build meanwhile changes nothing.
    let program = dir.path().join("inferno-sidecar");
    std::fs::copy(SIDECAR, &program).expect("there is room");
    let (_prometheus, stored) = sidecar::prometheus(dir.path());
    let mut sidecar = Sidecar::start(&program, dir.path(), &world::files(), stored);
    let mut faults = Faults::new(sidecar.address, &sidecar.config);
    let (_twin, twin) = started(&program, &sidecar.config, &[], &[]);
    let [mut link, mut storing, mut beside] = [sidecar.address, stored, twin].map(Link::open);
    let mut recent: VecDeque<Vec<u8>> = VecDeque::new();
    let mut noted = Noted::default();
    let (start, mut next_check, mut checks) = (Instant::now(), FIRST_CHECK.min(length), 0);
    check::heading();
    for number in 0.. {
        let due = start + world.paused + Duration::from_secs_f64(number as f64 / REQUESTS_PER_S as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        noted.replaced += world.replace_pods(number);
        let (request, relevant) = world.next_request();
        deliver(&mut link, &request, &mut noted);
        storing.write(&relevant);
        beside.write(&relevant);
        recent.push_back(relevant);
        if recent.len() > REMEMBERED {
            recent.pop_front();
        }
        faults.end_what_is_due(number, &sidecar);
        let is_quiet = start.elapsed() - world.paused + QUIET > next_check;
        if number % CHANGE_EVERY == 0 && !is_quiet {
            noted.changes += u64::from(faults.change_configuration(number / CHANGE_EVERY));
        }
        if number % FAULT_EVERY == FAULT_EVERY - 1 {
            let name = faults.next(number, &request, &sidecar, &mut world);
            *noted.faults.entry(name).or_default() += 1;
        }
        sidecar.process.assert_running();
        let elapsed = start.elapsed() - world.paused;
        if elapsed < next_check {
            continue;
        }
        let began = Instant::now();
        faults.end_all(&sidecar);
        check::report(&sidecar, twin, elapsed, &recent, std::mem::take(&mut noted));
        for asked in restarts(checks, elapsed >= length) {
            check::restart(&mut sidecar, *asked, &request);
            link = Link::open(sidecar.address);
        }
        checks += 1;
        world.paused += began.elapsed();
        if elapsed >= length {
            break;
        }
        next_check = (elapsed + CHECK_EVERY).min(length);
    }
    sidecar::logged(&sidecar.process);
    sidecar.process.terminate();
}
