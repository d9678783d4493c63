//! How soon a reader sees the new number while the whole fleet's samples arrive, and what readers and writers
//! do to each other.

use crate::fleet::{self, Fleet, INTERVAL_MS, PER_REQUEST, PODS, encode, namespace};
use crate::link::{Link, get, metric, post, sidecar};
use crate::{line, quantile};
use inferno_sidecar::proto::TimeSeries;
use inferno_sidecar::runner::wall_now;
use inferno_sidecar::units::TimeMs;
use inferno_sidecar::wire::Version;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Variants whose samples arrive while reactions are timed.
const VARIANTS: usize = 1_000;
/// Samples per second meanwhile.
const SAMPLES_PER_S: usize = 100_000;
/// How long they arrive, seconds.
const LOAD_S: u64 = 30;
/// Time to make them up beforehand, ms.
const PREPARATION_MS: i64 = 40_000;
/// Time between two changes whose reaction is timed.
const PROBE_EVERY: Duration = Duration::from_millis(29);
/// Scrapes of everything relevant before: the window is full.
const WARM_UP: i64 = 6;
/// Variants that are scraped and queried.
const SCRAPED_VARIANTS: usize = 10_000;
/// Writes per measurement beside scrapes.
const WRITES: usize = 500;
/// Time between two of them.
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// Scrapes with nothing else to do.
const SCRAPES: usize = 50;
/// Time between two scrapes: far more often than anybody does it.
const SCRAPE_EVERY: Duration = Duration::from_millis(100);

/// Fills the windows with scrapes until just before `end`.
fn warm_up(fleet: &Fleet, address: SocketAddr, end: TimeMs) {
    let mut link = Link::open(address);
    for scrape in 0..WARM_UP {
        let time = end - INTERVAL_MS * (WARM_UP - scrape);
        for request in fleet.scrape_at(scrape, time, true, true) {
            link.write(&post(Version::V1, &encode(request)));
        }
    }
}

/// Requests of a fleet that is scraped evenly, and the time that each is due after the first, s.
fn load(fleet: &Fleet, start: TimeMs) -> Vec<(f64, Vec<u8>)> {
    let requests = LOAD_S as usize * SAMPLES_PER_S / PER_REQUEST;
    let mut queue: Vec<TimeSeries> = Vec::new();
    let mut next_pod = 0;
    let due = (0..requests).map(|number| (number * PER_REQUEST) as f64 / SAMPLES_PER_S as f64);
    due.map(|due_s| {
        while queue.len() < PER_REQUEST {
            let scrape = WARM_UP + (next_pod / fleet.pods()) as i64;
            let time = start + (due_s * 1e3) as i64;
            queue.extend(fleet.pod(next_pod % fleet.pods(), scrape, time, false));
            next_pod += 1;
        }
        let rest = queue.split_off(PER_REQUEST);
        let request = encode(std::mem::replace(&mut queue, rest));
        (due_s, post(Version::V1, &request))
    })
    .collect()
}

/// Sends requests when they are due, over one connection as one shard of a sender does.
fn keep_sending(address: SocketAddr, requests: &[(f64, Vec<u8>)]) -> f64 {
    let mut link = Link::open(address);
    let start = Instant::now();
    let mut behind_s: f64 = 0.0;
    for (due_s, request) in requests {
        let now_s = start.elapsed().as_secs_f64();
        thread::sleep(Duration::from_secs_f64((due_s - now_s).max(0.0)));
        behind_s = behind_s.max(now_s - due_s);
        link.write(request);
    }
    behind_s
}

/// Both pods of a variant, suddenly full: its decision rises at once.
fn overload(fleet: &Fleet, variant: usize) -> Vec<u8> {
    let time = wall_now();
    let mut all: Vec<TimeSeries> = Vec::new();
    for pod in 0..PODS {
        for mut series in fleet.pod(variant * PODS + pod, WARM_UP, time, true).into_iter().take(3) {
            let metric = &series.labels.iter().find(|label| label.name == "__name__").expect("a name").value;
            series.samples[0].value = match &**metric {
                "vllm:kv_cache_usage_perc" => 0.99,
                "vllm:num_requests_waiting" => 60.0,
                _ => 64.0,
            };
            all.push(series);
        }
    }
    post(Version::V1, &encode(all))
}

/// Query for the desired count of a variant.
fn query(variant: usize) -> Vec<u8> {
    let selector = format!(
        "inferno_desired_replicas{{variant_name=\"variant-{variant}\",exported_namespace=\"{}\"}}",
        namespace(variant)
    );
    let form: String = form_urlencoded::byte_serialize(selector.as_bytes()).collect();
    get(&format!("/api/v1/query?query={form}"))
}

/// The only value in the answer to an instant query.
fn value(answer: &str) -> f64 {
    let value = answer.split("\"value\":[").nth(1).and_then(|rest| rest.split('"').nth(1));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("one value in {answer}"))
}

/// Times of reactions, microseconds after the last byte of the request.
#[derive(Default)]
struct Reactions {
    answered_us: Vec<f64>,
    queried_us: Vec<f64>,
    told_us: Vec<f64>,
}

impl Reactions {
    /// A reader asks again and again until it sees the new number.
    fn by_query(&mut self, fleet: &Fleet, address: SocketAddr, variants: std::ops::Range<usize>) {
        let (mut writer, mut reader) = (Link::open(address), Link::open(address));
        for variant in variants {
            let query = query(variant);
            let before = value(&reader.read(&query));
            let request = overload(fleet, variant);
            let sent = writer.send(&request);
            while value(&reader.read(&query)) <= before {}
            self.queried_us.push(sent.elapsed().as_secs_f64() * 1e6);
            assert_eq!(writer.answer().0, 204);
            thread::sleep(PROBE_EVERY);
        }
    }

    /// A reader is told by the stream of decisions. The sender takes the time of its answer.
    fn by_stream(&mut self, fleet: &Fleet, address: SocketAddr, variants: std::ops::Range<usize>) {
        let mut writer = Link::open(address);
        let (names, last) = (variants.clone(), variants.end - 1);
        let told = thread::spawn(move || follow(address, names, last));
        // The reader has its first board before the first change.
        thread::sleep(Duration::from_secs(1));
        let mut sent = Vec::new();
        for variant in variants {
            let at = writer.send(&overload(fleet, variant));
            assert_eq!(writer.answer().0, 204);
            self.answered_us.push(at.elapsed().as_secs_f64() * 1e6);
            sent.push(at);
            thread::sleep(PROBE_EVERY);
        }
        let told = told.join().expect("the reader ends");
        let pairs = sent.iter().zip(&told);
        self.told_us
            .extend(pairs.map(|(sent, told)| told.saturating_duration_since(*sent).as_secs_f64() * 1e6));
    }
}

/// When the stream tells of a changed decision of each variant.
fn follow(address: SocketAddr, variants: std::ops::Range<usize>, last: usize) -> Vec<Instant> {
    let mut link = Link::open(address);
    link.send(&get("/api/v1/stream"));
    let mut told: Vec<Option<Instant>> = vec![None; variants.len()];
    while told[last - variants.start].is_none() {
        let read = link.more();
        let at = Instant::now();
        let Some(end) = read.windows(2).rposition(|window| window == b"\n\n") else { continue };
        let text = String::from_utf8_lossy(&read[..end]).into_owned();
        for event in text.split("event: scaling").skip(1) {
            let name = event.split("\"name\":\"variant-").nth(1).and_then(|rest| rest.split('"').next());
            let number: usize = name.and_then(|name| name.parse().ok()).expect("events name variants");
            if let Some(told) = number.checked_sub(variants.start).and_then(|at| told.get_mut(at)) {
                told.get_or_insert(at);
            }
        }
        link.forget(end);
    }
    told.into_iter().map(|at| at.expect("every change is told")).collect()
}

/// From the last byte of a request to the new number at a reader, while a fleet's samples arrive.
pub fn reaction() {
    let dir = tempfile::tempdir().expect("there is room");
    let (process, address) = sidecar(dir.path(), &fleet::files(VARIANTS, 1, "saturation"), &[]);
    let fleet = Fleet::cold(VARIANTS, 1, "saturation");
    let start = wall_now() + PREPARATION_MS;
    let requests = load(&fleet, start);
    warm_up(&fleet, address, start);
    thread::sleep(Duration::from_millis(u64::try_from(start.since(wall_now())).unwrap_or(0)));
    let mut reactions = Reactions::default();
    let before_s = process.cpu_s();
    let behind_s = thread::scope(|scope| {
        let sender = scope.spawn(|| keep_sending(address, &requests));
        thread::sleep(Duration::from_millis(500));
        // Together they fit into the time for which samples arrive.
        reactions.by_query(&fleet, address, 0..VARIANTS * 2 / 5);
        reactions.by_stream(&fleet, address, VARIANTS * 2 / 5..VARIANTS * 4 / 5);
        assert!(!sender.is_finished(), "all reactions were timed under load");
        sender.join().expect("the sender ends")
    });
    let cores = (process.cpu_s() - before_s) / LOAD_S as f64;
    let (mut idle_us, mut link) = (Vec::new(), Link::open(address));
    for _ in 0..400 {
        thread::sleep(PROBE_EVERY / 4);
        let start = Instant::now();
        link.read(&get("/-/healthy"));
        idle_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    for (what, microseconds, targets) in [
        ("seen by a query, asked without end", &mut reactions.queried_us, ["< 300", "< 2000"]),
        ("told by the stream of decisions", &mut reactions.told_us, ["", ""]),
        ("answered to the sender", &mut reactions.answered_us, ["", ""]),
    ] {
        let note = format!("{} changes, {SAMPLES_PER_S} samples/s, {VARIANTS} variants", microseconds.len());
        for (share, target) in [(0.5, targets[0]), (0.99, targets[1])] {
            let name = format!("last byte to new number {what}, p{:.0}", share * 100.0);
            line(&name, quantile(microseconds, share), "us", target, &note);
        }
    }
    let note = format!("p99 {:.0}: what the machine takes at this moment", quantile(&mut idle_us, 0.99));
    line(
        "for comparison: round trip of /-/healthy without load, p50",
        quantile(&mut idle_us, 0.5),
        "us",
        "",
        &note,
    );
    let note = format!("the sender was {:.1} ms behind at most", behind_s * 1e3);
    line("cores that the server takes meanwhile", cores, "", "", &note);
}

/// Times of writes of one pod each, microseconds.
fn writes(fleet: &Fleet, address: SocketAddr, scrape: i64) -> Vec<f64> {
    let mut link = Link::open(address);
    let write = |pod: usize| {
        thread::sleep(WRITE_EVERY);
        let request = post(Version::V1, &encode(fleet.pod(pod, scrape, wall_now(), true)));
        let sent = link.send(&request);
        assert_eq!(link.answer().0, 204);
        sent.elapsed().as_secs_f64() * 1e6
    };
    (0..WRITES).map(write).collect()
}

/// Times of scrapes with nothing else to do, milliseconds.
fn skims(reader: &mut Link) -> Vec<f64> {
    let scrape = |_| {
        thread::sleep(SCRAPE_EVERY);
        let start = Instant::now();
        reader.skim(&get("/metrics"));
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..SCRAPES).map(scrape).collect()
}

/// The same of a server that has nothing to render: what the system and the reader take.
fn bare_ms(bytes: usize) -> Vec<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the reader connects");
        let ready = vec![b'x'; bytes];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
        let mut request = [0; 1024];
        // The reader sends one request at a time, which is read at once.
        while stream.read(&mut request).is_ok_and(|read| read > 0) {
            stream.write_all(head.as_bytes()).expect("the reader reads");
            stream.write_all(&ready).expect("the reader reads");
        }
    });
    let mut reader = Link::open(address);
    let took_ms = skims(&mut reader);
    drop(reader);
    server.join().expect("the server ends");
    took_ms
}

/// Scrapes and queries of 10,000 variants, beside writes.
pub fn readers() {
    let dir = tempfile::tempdir().expect("there is room");
    let files = fleet::files(SCRAPED_VARIANTS, 1, "saturation");
    let (process, address) = sidecar(dir.path(), &files, &["--retention", "0"]);
    let fleet = Fleet::cold(SCRAPED_VARIANTS, 1, "saturation");
    warm_up(&fleet, address, wall_now());
    let mut reader = Link::open(address);
    let mut asked_us: Vec<f64> = (0..WRITES)
        .map(|variant| {
            let query = query(variant * 17 % SCRAPED_VARIANTS);
            let start = Instant::now();
            value(&reader.read(&query));
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    let note =
        format!("p99 {:.0}; one connection, {SCRAPED_VARIANTS} variants", quantile(&mut asked_us, 0.99));
    line("query for one variant over HTTP", quantile(&mut asked_us, 0.5), "us", "< 200", &note);
    let mut alone_us = writes(&fleet, address, WARM_UP);
    let done = AtomicBool::new(false);
    let (mut beside_us, mut scraped_ms, bytes) = thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let (mut took_ms, mut bytes) = (Vec::new(), 0);
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                bytes = reader.skim(&get("/metrics"));
                took_ms.push(start.elapsed().as_secs_f64() * 1e3);
                thread::sleep(SCRAPE_EVERY);
            }
            (took_ms, bytes)
        });
        let beside_us = writes(&fleet, address, WARM_UP + 1);
        done.store(true, Ordering::Relaxed);
        let (took_ms, bytes) = scraper.join().expect("the scraper ends");
        (beside_us, took_ms, bytes)
    });
    let mut quiet_ms = skims(&mut reader);
    let megabytes = bytes as f64 / 1e6;
    for (what, target, milliseconds) in [
        ("/metrics of 10,000 variants", "< 20", &mut quiet_ms),
        ("the same while one pod after the other is written", "", &mut scraped_ms),
        ("for comparison: as many bytes that are ready, from a bare socket", "", &mut bare_ms(bytes)),
    ] {
        let note = format!("p99 {:.1}; {megabytes:.1} MB, over HTTP", quantile(milliseconds, 0.99));
        line(what, quantile(milliseconds, 0.5), "ms", target, &note);
    }
    for (what, microseconds) in [("alone", &mut alone_us), ("beside scrapes", &mut beside_us)] {
        let note =
            format!("p99 {:.0}, most {:.0}", quantile(microseconds, 0.99), quantile(microseconds, 1.0));
        line(&format!("write of one pod, {what}"), quantile(microseconds, 0.5), "us", "", &note);
    }
    let series = metric(address, "inferno_sidecar_series");
    line("resident", process.resident_kib() as f64 / 1024.0, "MB", "", &format!("{series} series"));
}
