//! The composition root: binds engine, configuration, server and signals together.

mod configurer;
mod security;
mod state;

use crate::backfill::Backfill;
use crate::client::Client;
use crate::cluster;
use crate::config::check;
use crate::config::objects::Document;
use crate::config::resolve::{Resolved, resolve};
use crate::demo;
use crate::engine::Engine;
use crate::logs;
use crate::mirror::files;
use crate::options::{BackfillSettings, CheckFlags, Cli, Job, LogFormat, Settings, Source};
use crate::replay;
use crate::runner::{self, Clock, Handle, wall_now};
use crate::series::dialect::Dialects;
use crate::serve::rotation::Rotation;
use crate::serve::{self, Closing, Context, OwnMetrics};
use crate::simulate::{self, profiles::starts};
use crate::size;
use crate::tape::{Recorder, Recording, Setup};
use anyhow::Context as _;
use clap::CommandFactory;
pub use configurer::Configurer;
use security::{Guards, serve_external_metrics};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Longest wait for a reload that was asked for.
const RELOAD_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the end of the recording.
pub const RECORD_END_MAX: Duration = Duration::from_secs(5);
/// Name of the command.
const NAME: &str = "inferno-sidecar";

/// Does what the command line asks for.
pub fn run(job: Job) -> anyhow::Result<ExitCode> {
    match job {
        Job::Check(flags) if flags.cluster => runtime()?.block_on(cluster::check::run(&flags)),
        Job::Check(flags) => check_folder(&flags),
        Job::Size(flags) => size::run(&flags),
        Job::Replay(flags) => replay::run(&flags),
        Job::Completions(shell) => {
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Job::Man(dir) => manual(dir.as_deref()),
        Job::Relabel(flags) => {
            print!("{}", flags.shard.relabelling());
            Ok(ExitCode::SUCCESS)
        }
        Job::Simulate(flags) => simulate::command::execute(&flags),
        Job::Demo(flags) => {
            logs::start(LogFormat::Text, "warn")?;
            runtime()?.block_on(demo::run(&flags))
        }
        Job::Serve(settings) => {
            logs::start(settings.log_format, &settings.log)?;
            runtime()?.block_on(run_server(&settings))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Prints the page of the whole command, or writes one per subcommand into a folder.
fn manual(dir: Option<&Path>) -> anyhow::Result<ExitCode> {
    match dir {
        None => clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?,
        Some(dir) => {
            let named = || format!("cannot write pages to {}", dir.display());
            fs::create_dir_all(dir).with_context(named)?;
            clap_mangen::generate_to(Cli::command(), dir).with_context(named)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the recorder, if there is to be one, in that folder with that size.
pub fn start_recorder(
    record: Option<(PathBuf, u64)>,
    setup: Setup,
) -> anyhow::Result<(Option<Recorder>, Option<Recording>)> {
    let Some((dir, max_bytes)) = record else { return Ok((None, None)) };
    tracing::info!(dir = %dir.display(), max_bytes, "recording what drives decisions");
    let (recorder, recording) = Recorder::start(Setup { dir, max_bytes, started: wall_now(), ..setup })?;
    Ok((Some(recorder), Some(recording)))
}

fn check_folder(flags: &CheckFlags) -> anyhow::Result<ExitCode> {
    let resolved = resolve(&files::read_folder(&flags.config_dir), &Resolved::default());
    if flags.json {
        println!("{}", check::render_json(&resolved));
    } else {
        print!("{}", check::render(&resolved));
    }
    Ok(if resolved.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_server(settings: &Settings) -> anyhow::Result<()> {
    let tables: Vec<&str> = settings.dialects.iter().map(String::as_str).collect();
    let dialects = Dialects::with_extra(&tables)?;
    let backfill = settings.backfill.as_ref().map(|settings| backfill(settings, &dialects)).transpose()?;
    let (profiles, state) = state::known(&settings.learned);
    let engine = new_engine(settings, dialects, &profiles);
    let setup = Setup {
        dialects: settings.dialects.clone(),
        sample_clock: settings.clock == Clock::Samples,
        to_be_filled: backfill.is_some(),
        profiles,
        shard: settings.cluster.shard,
        series_max: settings.limits.series,
        ..Setup::default()
    };
    let (recorder, recording) = start_recorder(settings.tape.clone(), setup)?;
    let (engine, _thread) = runner::spawn_recorded(engine, settings.clock, settings.retention, recorder)
        .context("cannot start the engine's thread")?;
    let own = Arc::new(OwnMetrics::new()?);
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another with --listen", settings.listen))?;
    let address = listener.local_addr()?;
    let mut rotation = Rotation::default();
    let guards = Guards::new(&settings.security, &own, &mut rotation).map_err(anyhow::Error::msg)?;
    for warning in guards.warnings(&settings.security, address) {
        tracing::warn!("{warning}");
    }
    let source = start_source(settings, &engine, &own).await?;
    let scheme = if guards.tls.is_some() { "https" } else { "http" };
    tracing::info!(
        %address,
        source = %source.name,
        version = env!("CARGO_PKG_VERSION"),
        "listening; point Prometheus's remote_write at {scheme}://{address}/api/v1/write",
    );
    if let Some(backfill) = backfill {
        tokio::spawn(backfill.run(engine.clone(), own.clone()));
    }
    let context = Context::limited(engine.clone(), settings.wva_aliases, own, source.reload, settings.limits);
    let context = Context { access: Arc::new(guards.access), ..context };
    let (open, closing) = watch::channel(());
    let keeping = state.map(|state| tokio::spawn(state.follow(engine.clone(), closing.clone())));
    let external = match &settings.external_metrics {
        Some(external) => {
            let shutdown = Closing::new(closing).closed();
            Some(serve_external_metrics(external, &context, &mut rotation, shutdown).await?)
        }
        None => None,
    };
    let _rotating = rotation.start().context("cannot follow certificates and secrets")?;
    let shutdown = async {
        terminated().await;
        drop(open);
    };
    let connections = context.connections.clone();
    serve::serve_on(listener, guards.tls, connections, serve::router(context), shutdown).await;
    if let Some(external) = external {
        external.await.context("the external metrics API ended badly")?;
    }
    source.end.await;
    if let Some(keeping) = keeping {
        keeping.await.context("the state was not written")?;
    }
    if let Some(recording) = recording {
        recording.close(RECORD_END_MAX);
    }
    tracing::info!("stopped");
    Ok(())
}

fn new_engine(settings: &Settings, dialects: Dialects, profiles: &[String]) -> Engine {
    let engine = Engine::new(Arc::new(dialects)).with_series_max(settings.limits.series);
    let engine = engine.with_profiles(starts(profiles));
    if settings.backfill.is_some() { engine.to_be_filled() } else { engine }
}

fn backfill(settings: &BackfillSettings, dialects: &Dialects) -> anyhow::Result<Backfill> {
    let client = Client::new(settings.client.clone()).context("prometheus_client in the settings file")?;
    Ok(Backfill {
        url: settings.url.clone(),
        client,
        metrics: dialects.rows().iter().map(|row| row.metric.clone()).collect(),
        span_ms: settings.span_ms,
        wait: settings.wait,
    })
}

/// Completes on the first SIGTERM or SIGINT; a second one ends the process at once.
pub async fn terminated() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(interrupt.await),
    }
}

/// A running source of configuration.
struct Running {
    /// Where it reads, for the log.
    name: String,
    /// Has everything read again.
    reload: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Ends it in good order.
    end: Pin<Box<dyn Future<Output = ()>>>,
}

async fn start_source(
    settings: &Settings,
    engine: &Handle,
    own: &Arc<OwnMetrics>,
) -> anyhow::Result<Running> {
    let mut configurer = Configurer::new(engine.clone(), own.clone(), settings.cluster.shard);
    if settings.source == Source::Cluster {
        let cluster = cluster::start(&settings.cluster, engine, own, configurer).await?;
        return Ok(Running {
            name: cluster.address.clone(),
            // The mirror follows by itself.
            reload: Arc::new(|| Ok(())),
            end: Box::pin(cluster.end()),
        });
    }
    let deliver = move |documents: Vec<Document>| configurer.apply(&documents);
    let watcher = Arc::new(files::spawn(settings.config_dir.clone(), deliver));
    let reload = Arc::new(move || {
        let done = watcher.rescan_now().recv_timeout(RELOAD_MAX);
        done.map_err(|_| "the configuration folder was not read in time; see the log".to_owned())
    });
    let name = settings.config_dir.display().to_string();
    Ok(Running { name, reload, end: Box::pin(std::future::ready(())) })
}
