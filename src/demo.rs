//! The demo: the real sidecar against an emulated fleet, closed loop, with no other software.
//!
//! The same server, engine and configuration code as `serve` runs on a loopback port. Once per virtual
//! second the demo plays everybody around it: the vLLM fleet serves its load ([`crate::emulate`]), a
//! Prometheus scrapes it and remote-writes the samples, an autoscaler asks for
//! `inferno_desired_replicas` and scales the fleet. All of that goes over HTTP, and one after the other,
//! so that the same flags and seed give the same run; only what is measured with the machine's clock
//! differs ([`wall`]).
//!
//! # Map
//! [`plan`] checks the flags; [`client`] is the HTTP side; [`scaler`] is the HPA; [`tally`] keeps the
//! books; [`screen`] shows them live; [`summary`] and [`report`] sum up; [`wall`] measures real time.

mod client;
mod plan;
mod report;
mod scaler;
mod screen;
mod summary;
mod tally;
mod wall;

use crate::app::{RECORD_END_MAX, start_recorder, terminated};
use crate::config::Mode;
use crate::config::objects::documents;
use crate::config::resolve::{Resolved, resolve};
use crate::emulate::Collector;
use crate::emulate::fleet::Fleet;
use crate::emulate::standard::{self, NAMESPACE, config_yaml};
use crate::engine::Engine;
use crate::options::DemoFlags;
use crate::recorder::RecordSettings;
use crate::runner::{self, Clock};
use crate::series::dialect::Dialects;
use crate::serve::{self, Context, OwnMetrics};
use crate::tape::{Recording, Setup};
use anyhow::{Context as _, ensure};
use client::Client;
use plan::{Plan, STEP_MS, span};
use report::words;
use scaler::{DOWN_WINDOW_MS, SYNC_MS, Scaler};
use screen::{Output, Screen};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use summary::{Pushed, Summary};
use tally::{Frame, Tally};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wall::{Pace, Wall};

/// Exit status after SIGINT or SIGTERM, as shells have it for an interrupted command.
const INTERRUPTED: u8 = 130;

/// Runs the demo. A signal ends it early, with the summary so far and exit status 130.
pub async fn run(flags: &DemoFlags) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(flags)?;
    let output = if flags.json { Output::Stderr } else { Output::Stdout };
    match play(plan, output, flags.json, flags.tape.setup()).await {
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        ended => ended,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn play(
    plan: Plan,
    output: Output,
    json: bool,
    record: Option<(PathBuf, u64)>,
) -> anyhow::Result<ExitCode> {
    let server = Server::start(plan.mode, record).await?;
    let mut run = Run::new(plan, server.address, output);
    run.introduce(server.address)?;
    let stop = terminated();
    tokio::pin!(stop);
    let mut pace = Pace::new(plan.speed);
    let mut interrupted = false;
    for step in 0..=(plan.duration_ms + STEP_MS - 1) / STEP_MS {
        let at_ms = (step * STEP_MS).min(plan.duration_ms);
        let due = async {
            tokio::time::sleep(pace.wait(at_ms)).await;
            run.step(at_ms).await
        };
        tokio::select! {
            biased;
            () = &mut stop => {
                interrupted = true;
                break;
            }
            done = due => done?,
        }
    }
    let summary = run.finish(interrupted)?;
    server.stop().await;
    if json {
        let mut text = serde_json::to_string_pretty(&summary)?;
        text.push('\n');
        io::Write::write_all(&mut io::stdout().lock(), text.as_bytes())?;
    }
    Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The sidecar, as `serve` runs it, with the demo's configuration.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    recording: Option<Recording>,
}

impl Server {
    async fn start(mode: Mode, record: Option<(PathBuf, u64)>) -> anyhow::Result<Self> {
        let (recorder, recording) = start_recorder(record, Setup { sample_clock: true, ..Setup::default() })?;
        let engine = Engine::new(Arc::new(Dialects::with_extra(&[])?));
        let (engine, _thread) =
            runner::spawn_recorded(engine, Clock::Samples, RecordSettings::default(), recorder)
                .context("cannot start the engine's thread")?;
        let documents = documents("demo.yaml", &config_yaml(mode));
        let resolved = resolve(&documents, &Resolved::default());
        ensure!(resolved.problems.is_empty(), "the built-in configuration: {:?}", resolved.problems);
        engine.apply_resolved(resolved.snapshot, Arc::from([]), Some(documents.into()))?;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let reload = Arc::new(|| Err("the configuration of the demo is built in".to_owned()));
        let context = Context::new(engine, true, Arc::new(OwnMetrics::new()?), reload);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve::serve(listener, serve::router(context), async {
            // Also when the sender is gone.
            let _ = stopped.await;
        }));
        Ok(Server { address, stop, task, recording })
    }

    async fn stop(self) {
        // The server may have ended by itself; a panic in it was reported where it happened.
        let _ = self.stop.send(());
        let _ = self.task.await;
        if let Some(recording) = self.recording {
            recording.close(RECORD_END_MAX);
        }
    }
}

/// The state of a run.
struct Run {
    plan: Plan,
    fleet: Fleet,
    collector: Collector,
    client: Client,
    scalers: Vec<Scaler>,
    tally: Tally,
    screen: Screen,
    wall: Wall,
    pushed: Pushed,
    frame: Frame,
    /// Ready replicas of each variant a second ago.
    ready: Vec<u32>,
}

impl Run {
    fn new(plan: Plan, address: SocketAddr, output: Output) -> Self {
        let fleet = Fleet::new(standard::spec(&plan.fleet()));
        let variants = fleet.variants();
        Run {
            plan,
            collector: Collector::new(),
            client: Client::new(address),
            scalers: variants.iter().map(|_| Scaler::default()).collect(),
            tally: Tally::new(plan, &fleet),
            screen: Screen::new(plan, output),
            wall: Wall::start(),
            pushed: Pushed::default(),
            frame: Frame::default(),
            ready: variants.iter().map(|variant| variant.ready).collect(),
            fleet,
        }
    }

    fn introduce(&mut self, address: SocketAddr) -> io::Result<()> {
        let plan = &self.plan;
        let text = format!(
            "An emulated vLLM fleet (2 models, 3 variants) sends its metrics by remote-write\n\
             once per virtual second. An emulated HPA asks for inferno_desired_replicas every\n\
             {} s and scales the fleet: up at once, down after {} s (Kubernetes: 300 s).\n\n  \
             scenario {}: {} virtual at {}x, about {:.0} s; replicas start in {}; seed {}\n  \
             meanwhile: curl http://{address}/api/v1/variants\n\n",
            SYNC_MS / 1000,
            DOWN_WINDOW_MS / 1000,
            plan.name(),
            span(plan.duration_ms),
            plan.speed,
            plan.real_seconds(),
            span(plan.startup_ms),
            plan.seed,
        );
        self.screen.print(&text)?;
        self.screen.legend()
    }

    /// One virtual second: serve, scrape and push, read the decisions, scale.
    async fn step(&mut self, at_ms: i64) -> anyhow::Result<()> {
        for event in self.plan.load_events(at_ms - STEP_MS, at_ms) {
            self.screen.event(at_ms, "load", event);
        }
        let now = self.plan.fleet().start + at_ms;
        self.fleet.advance_to(now);
        let served = self.fleet.take_finished();
        self.frame = self.tally.second(at_ms, &self.fleet, &served);
        self.note_ready(at_ms);

        let push = self.client.push(self.collector.collect(&self.fleet, now)).await?;
        let published = self.client.desired(NAMESPACE).await?;
        let reaction = self.wall.note(&push);
        self.pushed.samples += push.samples;
        self.pushed.requests += push.requests;
        self.pushed.bytes += push.bytes;

        let answers = self.client.answers(NAMESPACE).await?;
        for index in 0..self.frame.rows.len() {
            let row = &mut self.frame.rows[index];
            let answer = answers.get(&row.name).cloned().unwrap_or_default();
            row.desired = published.as_ref().and_then(|published| published.get(&row.name).copied());
            row.why = words(&answer.reason);
            let Some(desired) = row.desired else { continue };
            let Some(change) = self.tally.publish(index, desired, &answer.reason) else { continue };
            if change.is_up() && at_ms > self.plan.rise_ms {
                self.wall.note_raise(reaction);
            }
            let text = format!("{} {} -> {}: {}", row.name, change.from, change.to, answer.message);
            self.screen.event(at_ms, "decided", &text);
        }
        if at_ms % SYNC_MS == 0 {
            self.scale(at_ms).await?;
        }
        self.screen.frame(&self.frame)?;
        Ok(())
    }

    /// What the HPA does at a sync.
    async fn scale(&mut self, at_ms: i64) -> anyhow::Result<()> {
        for (index, status) in self.fleet.variants().into_iter().enumerate() {
            let (namespace, name) = (status.namespace.as_str(), status.name.as_str());
            let wanted = self.client.desired_of(namespace, name, &status.accelerator).await?;
            // Without a number the HPA leaves everything as it is.
            let Some(wanted) = wanted else { continue };
            let from = status.desired;
            let to = self.scalers[index].sync(at_ms, wanted, from);
            if to == from {
                continue;
            }
            self.fleet.set_replicas(namespace, name, to);
            self.tally.apply(index, from, to);
            self.screen.event(at_ms, "scaled", &format!("{name} {from} -> {to} by the autoscaler"));
        }
        // Show what there is now.
        for (row, status) in self.frame.rows.iter_mut().zip(self.fleet.variants()) {
            (row.ready, row.current) = (status.ready, status.current);
        }
        Ok(())
    }

    fn note_ready(&mut self, at_ms: i64) {
        for (row, before) in self.frame.rows.iter().zip(&mut self.ready) {
            let ready = row.ready;
            if ready > *before {
                self.screen.event(at_ms, "ready", &format!("{} now has {ready} ready", row.name));
            }
            *before = ready;
        }
    }

    /// Shows the end; in text unless a JSON object is to come.
    fn finish(&mut self, interrupted: bool) -> anyhow::Result<Summary> {
        if interrupted {
            self.screen.event(self.tally.at_ms, "stopped", "by a signal");
        }
        self.screen.finish(&self.frame)?;
        let summary = Summary::of(&self.plan, &self.fleet, &mut self.tally, self.pushed, &mut self.wall);
        self.screen.print(&summary.render())?;
        Ok(summary)
    }
}
