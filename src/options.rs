//! The command line and the file of static settings: raw text in, one checked structure out.
//!
//! A flag wins over its `INFERNO_*` variable, that over the file of `--config`, that over the default.

mod simulate;
mod size;

pub use simulate::SimulateFlags;
pub use size::{Generation, SizeFlags};

use crate::config::Mode;
use crate::config::resolve::go_duration_ms;
use crate::runner::Clock;
use clap::{Args, Parser, Subcommand, ValueEnum};
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
    Serve(ServeFlags),
    /// Run the sidecar against a built-in emulated vLLM fleet, closed loop, with no other software.
    ///
    /// Ctrl-C or SIGTERM ends it early with the summary so far; the exit status is then 130.
    Demo(DemoFlags),
    /// Validate the configuration folder and print every problem; exit status 1 if there is any.
    Check(CheckFlags),
    /// Answer a what-if: how many replicas a load needs within its targets, and why.
    Size(Box<SizeFlags>),
    /// Run policies on a trace against an emulated fleet: what would each cost, and would it hold?
    Simulate(Box<SimulateFlags>),
}

/// Flags of `serve`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeFlags {
    /// File of static settings (YAML); its keys are the names of these flags with underscores.
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
    /// File with a further dialect table (YAML); may be repeated.
    #[arg(long = "dialect", value_name = "FILE", env = "INFERNO_DIALECTS", value_delimiter = ',')]
    dialects: Vec<PathBuf>,
    /// Form of the log lines [default: text].
    #[arg(long, value_enum, env = "INFERNO_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// Which log lines: error, warn, info, debug, or a tracing filter [default: info].
    #[arg(long, value_name = "FILTER", env = "INFERNO_LOG")]
    log: Option<String>,
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
    /// One JSON object per line.
    Json,
}

/// Flags of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoFlags {
    /// Course of the load.
    #[arg(long, value_enum, default_value = "spike", env = "INFERNO_SCENARIO")]
    pub scenario: Scenario,
    /// Analyzers that decide: saturation, tokens, model, hybrid, or several joined by +.
    #[arg(long, value_name = "MODE", default_value = "hybrid", env = "INFERNO_MODE", value_parser = mode)]
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

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckFlags {
    /// Folder of Kubernetes objects.
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR, env = "INFERNO_CONFIG_DIR")]
    pub config_dir: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long, env = "INFERNO_JSON")]
    pub json: bool,
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
    dialects: Vec<PathBuf>,
    log_format: Option<LogFormat>,
    log: Option<String>,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Job {
    /// Run the sidecar.
    Serve(Box<Settings>),
    /// Run the demo.
    Demo(DemoFlags),
    /// Validate configuration.
    Check(CheckFlags),
    /// Answer a what-if.
    Size(Box<SizeFlags>),
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
    /// Texts of further dialect tables.
    pub dialects: Vec<String>,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Which log lines.
    pub log: String,
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
        let dialects = if self.dialects.is_empty() { file.dialects } else { self.dialects };
        let source = self.source.or(file.source).unwrap_or(Source::Files);
        anyhow::ensure!(
            source == Source::Files,
            "--source cluster is not available in this version; mount the objects and use --source files"
        );
        Ok(Settings {
            listen: self.listen.or(file.listen).unwrap_or_else(default_listen),
            source,
            config_dir: self.config_dir.or(file.config_dir).unwrap_or_else(|| CONFIG_DIR.into()),
            clock,
            wva_aliases: self.wva_aliases.or(file.wva_aliases).unwrap_or(true),
            dialects: dialects.iter().map(|path| read(path, "dialect table")).collect::<Result<_, _>>()?,
            log_format: self.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
            log: self.log.or(file.log).unwrap_or_else(|| "info".into()),
        })
    }
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
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
