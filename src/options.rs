//! The command line and the file of static settings: raw text in, one checked structure out.
//!
//! A flag wins over its `INFERNO_*` variable, that over the file of `--config`, that over the default.

mod backfill;
mod check;
mod cluster;
mod learned;
mod limits;
mod recording;
mod security;
mod simulate;
mod size;

pub use backfill::{BackfillFlags, BackfillSettings};
pub use check::{CheckFlags, WithinFlags};
pub use cluster::{Actuation, ClusterFlags, ClusterSettings, LeaseSettings};
pub use learned::LearnedSettings;
pub use recording::{RecordFlags, ReplayFlags};
pub use security::{ExternalMetrics, Security, SecurityFlags};
pub use simulate::SimulateFlags;
pub use size::{Generation, SizeFlags};

use crate::client::ClientSettings;
use crate::config::Mode;
use crate::config::resolve::go_duration_ms;
use crate::config::shard::Shard;
use crate::limits::{HISTORY_STEP_MAX_MS, HISTORY_STEP_MIN_MS, Limits};
use crate::recorder::RecordSettings;
use crate::runner::Clock;
use clap::{Args, Parser, Subcommand, ValueEnum};
use learned::LearnedFlags;
use limits::LimitFlags;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Default of `--listen`.
const LISTEN: &str = "127.0.0.1:9099";
/// Default of `--config-dir`.
const CONFIG_DIR: &str = "config";

/// Streaming autoscaling brain for LLM inference.
///
/// Takes vLLM series by Prometheus remote-write, decides replicas the moment samples arrive, and serves
/// the decisions to KEDA, the HPA and Prometheus.
#[derive(Debug, Parser)]
#[command(name = "inferno-sidecar", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeFlags,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar (the default).
    Serve(Box<ServeFlags>),
    /// Run the sidecar against a built-in emulated vLLM fleet, closed loop, with no other software.
    ///
    /// Ctrl-C or SIGTERM ends it early with the summary so far; the exit status is then 130.
    Demo(DemoFlags),
    /// Validate the configuration folder, or with `--cluster` the cluster, and print every problem; exit status 1
    /// if there is any.
    Check(Box<CheckFlags>),
    /// Answer a what-if: how many replicas a load needs within its targets, and why.
    Size(Box<SizeFlags>),
    /// Decide anew from a recording of `--record`, and compare with what another configuration decides.
    ///
    /// Exit status 1 when a complete recording of this version is not reproduced bit for bit.
    Replay(ReplayFlags),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff); with `--dir`, write one per command.
    Man {
        /// Folder for the pages.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the relabelling that makes Prometheus send one of several instances its part of the stream.
    Relabel(RelabelFlags),
    /// Run policies on a trace against an emulated fleet: what would each cost, and would it hold?
    Simulate(Box<SimulateFlags>),
}

/// Flags of `serve`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeFlags {
    /// File of static settings (YAML); its keys are the names of these flags with underscores, those of the
    /// cluster under `cluster`.
    #[arg(long, value_name = "FILE", env = "INFERNO_CONFIG")]
    config: Option<PathBuf>,
    /// Address for HTTP: remote-write in, metrics and queries out [default: 127.0.0.1:9099].
    #[arg(long, value_name = "ADDR", env = "INFERNO_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where configuration objects come from [default: files].
    #[arg(long, value_enum, env = "INFERNO_SOURCE")]
    source: Option<Source>,
    /// Folder of Kubernetes objects for `--source files`, watched [default: config].
    #[arg(long, value_name = "DIR", env = "INFERNO_CONFIG_DIR")]
    config_dir: Option<PathBuf>,
    /// Which clock decides: the machine's, or the newest sample's (to replay a recorded stream)
    /// [default: wall].
    #[arg(long, value_enum, env = "INFERNO_CLOCK")]
    clock: Option<Clock>,
    /// Whether to publish the wva_* names beside the inferno_* ones [default: true].
    #[arg(long, value_name = "BOOL", env = "INFERNO_WVA_ALIASES")]
    wva_aliases: Option<bool>,
    /// How long what is published is kept in memory, for queries of the past; 0 for not at all [default: 1h].
    #[arg(long, value_name = "DURATION", env = "INFERNO_RETENTION", value_parser = duration_ms)]
    retention: Option<i64>,
    /// Time between two samples that are kept; decisions are kept when they change [default: 15s].
    #[arg(long, value_name = "DURATION", env = "INFERNO_RETENTION_STEP", value_parser = duration_ms)]
    retention_step: Option<i64>,
    #[command(flatten)]
    backfill: BackfillFlags,
    /// File with a further dialect table (YAML); may be repeated.
    #[arg(long = "dialect", value_name = "FILE", env = "INFERNO_DIALECTS", value_delimiter = ',')]
    dialects: Vec<PathBuf>,
    /// Form of the log lines [default: text].
    #[arg(long, value_enum, env = "INFERNO_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// Which log lines: error, warn, info, debug, or a tracing filter [default: info].
    #[arg(long, value_name = "FILTER", env = "INFERNO_LOG")]
    log: Option<String>,
    #[command(flatten)]
    tape: RecordFlags,
    #[command(flatten)]
    learned: LearnedFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    security: SecurityFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// Where configuration objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A watched folder.
    Files,
    /// The cluster's API server.
    Cluster,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One line of `key=value` pairs each.
    Logfmt,
    /// One JSON object per line.
    Json,
}

/// Flags of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoFlags {
    /// Course of the load.
    #[arg(long, value_enum, default_value = "spike", env = "INFERNO_SCENARIO")]
    pub scenario: Scenario,
    /// Analyzers that decide: slo, saturation, tokens, model, hybrid, or several joined by +.
    #[arg(long, value_name = "MODE", default_value = "slo", env = "INFERNO_MODE", value_parser = mode)]
    pub mode: Mode,
    /// Virtual length of the run, e.g. 10m, 90s, 1h30m or a number of seconds.
    #[arg(long, value_name = "DURATION", default_value = "10m", env = "INFERNO_DURATION", value_parser = duration_ms)]
    pub duration: i64,
    /// Virtual seconds per real second.
    #[arg(long, value_name = "FACTOR", default_value_t = 10.0, env = "INFERNO_SPEED", value_parser = speed)]
    pub speed: f64,
    /// Virtual time from a pod's creation until it is ready.
    #[arg(long, value_name = "DURATION", default_value = "30s", env = "INFERNO_STARTUP", value_parser = duration_ms)]
    pub startup: i64,
    /// Seed of the load; the same seed gives the same run.
    #[arg(long, default_value_t = 1, env = "INFERNO_SEED")]
    pub seed: u64,
    /// End with one JSON object of the summary on standard output; progress goes to standard error.
    #[arg(long, env = "INFERNO_JSON")]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub tape: RecordFlags,
}

/// Course of the demo's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Steady, then suddenly several times as much, then back.
    Spike,
    /// A slow climb.
    Ramp,
    /// A day's course, compressed into the run.
    Diurnal,
}

/// Flags of `relabel`.
#[derive(Clone, Debug, Args)]
pub struct RelabelFlags {
    /// The part, as `serve` has it: I/N with I from 0.
    #[arg(long, value_name = "I/N", env = "INFERNO_SHARD", value_parser = shard)]
    pub shard: Shard,
}

fn shard(text: &str) -> Result<Shard, String> {
    Shard::parse(text, host_name)
}

fn mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text).ok_or_else(|| format!("must be {}", Mode::CHOICES))
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.1..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("must be a number from 0.1 to 1000".into()),
    }
}

/// Milliseconds of a Go-style duration or a plain number of seconds, up to a day.
fn duration_ms(text: &str) -> Result<i64, String> {
    const DAY_MS: f64 = 86_400_000.0;
    let ms = text.parse::<f64>().ok().map(|seconds| seconds * 1000.0).or_else(|| go_duration_ms(text));
    match ms {
        Some(ms) if (0.0..=DAY_MS).contains(&ms) => Ok(ms as i64),
        _ => Err("must be a duration such as 90s, 10m or 1h, up to 24h".into()),
    }
}

/// Keys of the file of `--config`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSettings {
    listen: Option<SocketAddr>,
    source: Option<Source>,
    config_dir: Option<PathBuf>,
    clock: Option<String>,
    wva_aliases: Option<bool>,
    retention: Option<String>,
    retention_step: Option<String>,
    prometheus_url: Option<String>,
    prometheus_client: ClientSettings,
    backfill: Option<String>,
    backfill_wait: Option<String>,
    dialects: Vec<PathBuf>,
    log_format: Option<LogFormat>,
    log: Option<String>,
    record: Option<PathBuf>,
    record_size: Option<String>,
    profiles: Option<PathBuf>,
    state: Option<PathBuf>,
    limits: LimitFlags,
    security: SecurityFlags,
    cluster: ClusterFlags,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Job {
    /// Run the sidecar.
    Serve(Box<Settings>),
    /// Run the demo.
    Demo(DemoFlags),
    /// Validate configuration.
    Check(Box<CheckFlags>),
    /// Answer a what-if.
    Size(Box<SizeFlags>),
    /// Decide anew from a recording.
    Replay(ReplayFlags),
    /// Print a completion script.
    Completions(clap_complete::Shell),
    /// Print the manual page, or write all into a folder.
    Man(Option<PathBuf>),
    /// Print relabelling.
    Relabel(RelabelFlags),
    /// Compare policies on traces.
    Simulate(Box<SimulateFlags>),
}

/// Checked settings of `serve`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Where configuration objects come from.
    pub source: Source,
    /// Folder of configuration objects.
    pub config_dir: PathBuf,
    /// Which clock decides.
    pub clock: Clock,
    /// Publish the `wva_*` names too.
    pub wva_aliases: bool,
    /// What is kept of the past.
    pub retention: RecordSettings,
    /// What fills the windows at the start.
    pub backfill: Option<BackfillSettings>,
    /// Texts of further dialect tables.
    pub dialects: Vec<String>,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Which log lines.
    pub log: String,
    /// Folder of the recording and its largest size in bytes.
    pub tape: Option<(PathBuf, u64)>,
    /// What `slo` starts from, and where it keeps what it learns.
    pub learned: LearnedSettings,
    /// Limits.
    pub limits: Limits,
    /// TLS and authentication.
    pub security: Security,
    /// The external metrics API, if it is served.
    pub external_metrics: Option<ExternalMetrics>,
    /// The cluster.
    pub cluster: ClusterSettings,
}

impl Cli {
    /// Checks what was given and reads the files that it names.
    pub fn into_job(self) -> anyhow::Result<Job> {
        Ok(match self.command {
            None => Job::Serve(Box::new(self.serve.settle()?)),
            Some(Command::Serve(flags)) => Job::Serve(Box::new(flags.settle()?)),
            Some(Command::Demo(flags)) => Job::Demo(flags),
            Some(Command::Check(flags)) => Job::Check(flags),
            Some(Command::Size(flags)) => Job::Size(flags),
            Some(Command::Replay(flags)) => Job::Replay(flags),
            Some(Command::Completions { shell }) => Job::Completions(shell),
            Some(Command::Man { dir }) => Job::Man(dir),
            Some(Command::Relabel(flags)) => Job::Relabel(flags),
            Some(Command::Simulate(flags)) => Job::Simulate(flags),
        })
    }
}

impl ServeFlags {
    fn settle(self) -> anyhow::Result<Settings> {
        let file = match &self.config {
            Some(path) => read_settings(path)?,
            None => FileSettings::default(),
        };
        let clock = match (self.clock, &file.clock) {
            (Some(clock), _) => clock,
            (None, Some(text)) => Clock::from_str(text, true)
                .map_err(|_| anyhow::anyhow!("setting clock: {text:?} is not one of wall, samples"))?,
            (None, None) => Clock::Wall,
        };
        let backfill = self.backfill.settle(&file, clock)?;
        let learned = self.learned.settle(&file)?;
        let dialects = if self.dialects.is_empty() { file.dialects } else { self.dialects };
        let source = self.source.or(file.source).unwrap_or(Source::Files);
        let tape = self.tape.over(file.record, file.record_size.as_deref())?;
        let (security, external_metrics) = self.security.settle(file.security)?;
        let limits = self.limits.or(file.limits).settle()?;
        let mut retention = RecordSettings::default();
        retention.retention.bytes = limits.record_bytes;
        if let Some(ms) = duration(self.retention, file.retention.as_deref(), "retention")? {
            retention.retention.ms = ms;
        }
        if let Some(ms) = duration(self.retention_step, file.retention_step.as_deref(), "retention_step")? {
            let allowed = HISTORY_STEP_MIN_MS..=HISTORY_STEP_MAX_MS;
            anyhow::ensure!(allowed.contains(&ms), "--retention-step must be from 1s to 2m");
            retention.step_ms = ms;
        }
        Ok(Settings {
            retention,
            backfill,
            listen: self.listen.or(file.listen).unwrap_or_else(default_listen),
            source,
            config_dir: self.config_dir.or(file.config_dir).unwrap_or_else(|| CONFIG_DIR.into()),
            clock,
            wva_aliases: self.wva_aliases.or(file.wva_aliases).unwrap_or(true),
            dialects: dialects.iter().map(|path| read(path, "dialect table")).collect::<Result<_, _>>()?,
            log_format: self.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
            log: self.log.or(file.log).unwrap_or_else(|| "info".into()),
            tape,
            learned,
            limits,
            security,
            external_metrics,
            cluster: self.cluster.or(file.cluster).settle(host_name)?,
        })
    }
}

/// A duration given by flag, else by the settings file, in milliseconds.
fn duration(flag: Option<i64>, file: Option<&str>, key: &str) -> anyhow::Result<Option<i64>> {
    let from_file = || file.map(duration_ms).transpose();
    match flag {
        Some(ms) => Ok(Some(ms)),
        None => from_file().map_err(|why| anyhow::anyhow!("setting {key}: {why}")),
    }
}

/// Name of this machine; in a pod, the pod's name.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty()).unwrap_or(name);
    name.trim().to_owned()
}

fn default_listen() -> SocketAddr {
    LISTEN.parse().unwrap_or_else(|_| unreachable!("{LISTEN} is an address"))
}

fn read(path: &PathBuf, what: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| anyhow::anyhow!("{what} {}: {error}; check the path", path.display()))
}

fn read_settings(path: &PathBuf) -> anyhow::Result<FileSettings> {
    let text = read(path, "settings file")?;
    if text.trim().is_empty() {
        return Ok(FileSettings::default());
    }
    serde_yaml::from_str(&text).map_err(|error| anyhow::anyhow!("settings file {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> anyhow::Result<Settings> {
        let arguments = std::iter::once("inferno-sidecar").chain(arguments.iter().copied());
        match Cli::try_parse_from(arguments)?.into_job()? {
            Job::Serve(settings) => Ok(*settings),
            other => panic!("expected serve, got {other:?}"),
        }
    }

    #[test]
    fn the_command_is_serve_unless_named_and_flags_work_in_both_forms() {
        assert_eq!(settings(&[]).unwrap().listen.to_string(), LISTEN);
        assert_eq!(settings(&["--listen", "0.0.0.0:1"]).unwrap().listen.port(), 1);
        assert_eq!(settings(&["serve", "--clock", "samples"]).unwrap().clock, Clock::Samples);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_unknown_keys_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.yaml");
        std::fs::write(&path, "listen: 127.0.0.1:7\nclock: samples\nwva_aliases: false\n").unwrap();
        let path = path.to_str().unwrap();
        let from_file = settings(&["--config", path]).unwrap();
        assert_eq!(
            (from_file.listen.port(), from_file.clock, from_file.wva_aliases),
            (7, Clock::Samples, false)
        );
        let both = settings(&["--config", path, "--listen", "127.0.0.1:8", "--clock", "wall"]).unwrap();
        assert_eq!((both.listen.port(), both.clock), (8, Clock::Wall));
        std::fs::write(path, "listn: 127.0.0.1:7\n").unwrap();
        let error = settings(&["--config", path]).unwrap_err().to_string();
        assert!(error.contains("unknown field `listn`"), "{error}");
    }

    #[test]
    fn settings_of_the_cluster_come_from_flags_or_the_file_and_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.yaml");
        std::fs::write(&path, "source: cluster\ncluster: {namespaces: [a, b], actuation: from-zero-only}\n")
            .unwrap();
        let file = settings(&["--config", path.to_str().unwrap(), "--shard", "1/3"]).unwrap();
        assert_eq!((file.source, file.cluster.namespaces.len()), (Source::Cluster, 2));
        assert_eq!(file.cluster.actuation, Actuation::FromZeroOnly);
        let lease = file.cluster.lease.unwrap();
        assert_eq!((&*lease.name, lease.duration.as_secs()), ("inferno-sidecar-1", 15));
        assert_eq!(settings(&["--leader-elect", "false"]).unwrap().cluster.lease, None);
        for wrong in [["--shard", "3/3"], ["--lease-duration", "5s"], ["--lease-retry-period", "0s"]] {
            assert!(settings(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
