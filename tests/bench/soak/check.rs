//! Looks at the sidecar during the soak: memory, latency, and what a fresh instance decides.

use crate::Noted;
use crate::link::{Link, get, metric, started};
use crate::process::Process;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Queries whose time is taken.
const QUERIES: usize = 200;

/// What is looked at.
pub struct Check<'a> {
    pub program: &'a Path,
    pub address: SocketAddr,
    pub config: &'a Path,
    pub process: &'a Process,
}

/// Names of the columns.
pub fn heading() {
    println!(
        "{:>6} {:>8} {:>9} {:>8} {:>17} {:>17} {:>9} {:>9}  since the check before",
        "min",
        "RSS MB",
        "record MB",
        "series",
        "write p50/p99 ms",
        "query p50/p99 ms",
        "decisions",
        "differing"
    );
}

fn quantiles(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    format!("{:.2}/{:.2}", at(0.5), at(0.99))
}

/// Desired counts by labels.
fn decisions(address: SocketAddr) -> BTreeMap<String, String> {
    let text = Link::open(address).read(&get("/metrics"));
    let lines =
        text.lines().filter_map(|line| line.strip_prefix("inferno_desired_replicas")?.rsplit_once(' '));
    lines.map(|(labels, value)| (labels.to_owned(), value.to_owned())).collect()
}

/// The decision of the variant with these labels, as it explains itself.
fn explained(address: SocketAddr, labels: &str) -> String {
    let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1)?.split('"').next();
    let (namespace, variant) = (label("namespace").unwrap_or("?"), label("variant_name").unwrap_or("?"));
    let text = Link::open(address).read(&get(&format!("/api/v1/variants/{namespace}/{variant}")));
    let entry: serde_json::Value = serde_json::from_str(&text).expect("answers are JSON");
    format!("{variant}: {}", entry["decision"])
}

impl Check<'_> {
    /// Prints a line.
    pub fn report(&self, elapsed: Duration, recent: &VecDeque<Vec<u8>>, mut noted: Noted) {
        let reload = b"POST /-/reload HTTP/1.1\r\nHost: sidecar\r\nContent-Length: 0\r\n\r\n";
        let said = Link::open(self.address).read(reload);
        assert!(said.contains(" 0 problems"), "{said}");
        let published = decisions(self.address);
        let (_process, fresh_address) = self.fresh(recent);
        let fresh = decisions(fresh_address);
        let differing: Vec<_> =
            published.iter().filter(|(labels, value)| fresh.get(*labels) != Some(value)).collect();
        let mut query_ms = self.queries();
        println!(
            "{:>6.1} {:>8.1} {:>9.1} {:>8} {:>17} {:>17} {:>9} {:>9}  {} pods replaced, {} configurations, refused {:?}, faults {}",
            elapsed.as_secs_f64() / 60.0,
            self.process.resident_kib() as f64 / 1024.0,
            metric(self.address, "inferno_sidecar_record_bytes") / 1e6,
            metric(self.address, "inferno_sidecar_series"),
            quantiles(&mut noted.write_ms),
            quantiles(&mut query_ms),
            published.len(),
            differing.len(),
            noted.replaced,
            noted.changes,
            noted.refused,
            noted.faults.values().sum::<u64>(),
        );
        let values: std::collections::BTreeSet<&String> = published.values().collect();
        assert!(values.len() > 1, "the load swings, so counts differ: {values:?}");
        for (labels, _) in differing.iter().take(3) {
            for (address, which) in [(self.address, "published"), (fresh_address, "of the fresh one")] {
                println!("       {which}: {}", explained(address, labels));
            }
        }
    }

    /// An instance that knows the configuration and the recent samples alone.
    fn fresh(&self, recent: &VecDeque<Vec<u8>>) -> (Process, SocketAddr) {
        let (process, address) = started(self.program, self.config, &[], &[]);
        let mut link = Link::open(address);
        recent.iter().for_each(|request| link.write(request));
        (process, address)
    }

    fn queries(&self) -> Vec<f64> {
        let mut link = Link::open(self.address);
        let query = get("/api/v1/query?query=sum(inferno_desired_replicas)");
        let asked = (0..QUERIES).map(|_| {
            let start = Instant::now();
            link.read(&query);
            start.elapsed().as_secs_f64() * 1e3
        });
        asked.collect()
    }
}

/// What the log says that nobody wants to read.
pub fn logged(process: &Process) {
    for part in ["panicked", " ERROR "] {
        let lines = process.lines(part);
        println!("lines of the log with {part:?}: {}", lines.len());
        lines.iter().take(3).for_each(|line| println!("       {line}"));
    }
}
