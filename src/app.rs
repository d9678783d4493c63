//! The composition root: binds engine, configuration, server and signals together.

use crate::config::check;
use crate::config::resolve::{Resolved, resolve};
use crate::demo;
use crate::engine::Engine;
use crate::mirror::files;
use crate::options::{CheckFlags, Job, LogFormat, Settings};
use crate::runner::{self, Handle};
use crate::series::dialect::Dialects;
use crate::serve::{self, Context, OwnMetrics};
use crate::simulate;
use crate::size;
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

/// Longest wait for a reload that was asked for.
const RELOAD_MAX: Duration = Duration::from_secs(30);

/// Does what the command line asks for.
pub fn run(job: Job) -> anyhow::Result<ExitCode> {
    match job {
        Job::Check(flags) => check_folder(&flags),
        Job::Size(flags) => size::run(&flags),
        Job::Simulate(flags) => simulate::command::execute(&flags),
        Job::Demo(flags) => {
            start_log(LogFormat::Text, "warn")?;
            runtime()?.block_on(demo::run(&flags))
        }
        Job::Serve(settings) => {
            start_log(settings.log_format, &settings.log)?;
            runtime()?.block_on(run_server(&settings))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

fn start_log(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    // The watching library warns of every watch that ended with its folder, as it does whenever a
    // ConfigMap is remounted. A filter that names it comes later and so wins.
    let filter = format!("notify=error,{filter}");
    let filter =
        EnvFilter::try_new(&filter).with_context(|| format!("log filter {filter:?} is not valid"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
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
    let (engine, _thread) = runner::spawn(Engine::new(Arc::new(dialects)), settings.clock)
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
        let applied = engine.apply(next.snapshot.clone(), problems);
        resolved = next;
        applied.is_ok()
    }
}
