//! The composition root: binds engine, configuration, server and signals together.

use crate::config::check;
use crate::config::resolve::{Resolved, resolve};
use crate::demo;
use crate::engine::Engine;
use crate::logs;
use crate::mirror::files;
use crate::options::{CheckFlags, Cli, Job, LogFormat, Settings};
use crate::replay;
use crate::runner::{self, Clock, Handle, wall_now};
use crate::series::dialect::Dialects;
use crate::serve::{self, Context, OwnMetrics};
use crate::size;
use crate::tape::{Recorder, Recording, Setup};
use anyhow::Context as _;
use clap::CommandFactory;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};
use tokio::net::TcpListener;

/// Longest wait for a reload that was asked for.
const RELOAD_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the end of the recording.
pub const RECORD_END_MAX: Duration = Duration::from_secs(5);
/// Name of the command.
const NAME: &str = "inferno-sidecar";

/// Does what the command line asks for.
pub fn run(job: Job) -> anyhow::Result<ExitCode> {
    match job {
        Job::Check(flags) => check_folder(&flags),
        Job::Size(flags) => size::run(&flags),
        Job::Replay(flags) => replay::run(&flags),
        Job::Completions(shell) => {
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Job::Man(dir) => manual(dir.as_deref()),
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

/// Starts the recorder, if there is to be one.
pub fn start_recorder(
    record: Option<(PathBuf, u64)>,
    dialects: &[String],
    clock: Clock,
) -> anyhow::Result<(Option<Recorder>, Option<Recording>)> {
    let Some((dir, max_bytes)) = record else { return Ok((None, None)) };
    tracing::info!(dir = %dir.display(), max_bytes, "recording what drives decisions");
    let sample_clock = clock == Clock::Samples;
    let setup = Setup { dir, max_bytes, dialects: dialects.to_vec(), sample_clock, started: wall_now() };
    let (recorder, recording) = Recorder::start(setup)?;
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
    let (recorder, recording) = start_recorder(settings.tape.clone(), &settings.dialects, settings.clock)?;
    let (engine, _thread) = runner::spawn_taped(Engine::new(Arc::new(dialects)), settings.clock, recorder)
        .context("cannot start the engine's thread")?;
    let own = Arc::new(OwnMetrics::new()?);
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another with --listen", settings.listen))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "listening beyond loopback without TLS or authentication");
    }
    let watcher =
        Arc::new(files::spawn(settings.config_dir.clone(), configurer(engine.clone(), own.clone())));
    let reload = {
        let watcher = watcher.clone();
        Arc::new(move || {
            let done = watcher.rescan_now().recv_timeout(RELOAD_MAX);
            done.map_err(|_| "the configuration folder was not read in time; see the log".to_owned())
        })
    };
    tracing::info!(
        %address,
        config_dir = %settings.config_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "listening; point Prometheus's remote_write at http://{address}/api/v1/write",
    );
    let context = Context::new(engine, settings.wva_aliases, own, reload);
    serve::serve(listener, serve::router(context), terminated()).await;
    if let Some(recording) = recording {
        recording.close(RECORD_END_MAX);
    }
    tracing::info!("stopped");
    Ok(())
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

/// Turns documents into configuration in force: resolves, reports each problem once, hands over.
pub fn configurer(
    engine: Handle,
    own: Arc<OwnMetrics>,
) -> impl FnMut(Vec<crate::config::objects::Document>) -> bool + Send + 'static {
    let mut resolved = Resolved::default();
    move |documents| {
        let next = resolve(&documents, &resolved);
        let known: BTreeSet<_> = resolved.problems.iter().collect();
        for problem in next.problems.iter().filter(|problem| !known.contains(problem)) {
            tracing::warn!("configuration problem: {problem}");
        }
        for variant in next.snapshot.variants.keys() {
            if !resolved.snapshot.variants.contains_key(variant) {
                tracing::info!(%variant, "variant configured");
            }
        }
        for variant in resolved.snapshot.variants.keys() {
            if !next.snapshot.variants.contains_key(variant) {
                tracing::info!(%variant, "variant removed");
            }
        }
        tracing::info!("configuration in force: {}", check::summary(&next));
        own.config_applied(next.problems.len());
        let problems = Arc::from(next.problems.as_slice());
        let documents = engine.tape.is_some().then(|| documents.into());
        let applied = engine.apply_resolved(next.snapshot.clone(), problems, documents);
        resolved = next;
        applied.is_ok()
    }
}
