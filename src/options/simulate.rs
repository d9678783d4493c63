//! Flags of `simulate`.

use super::duration_ms;
use crate::config::ATTAINMENT_DEFAULT;
use clap::Args;
use std::path::PathBuf;

/// What `--help` says behind the flags.
const MORE: &str = "\
Traces:
  FILE.csv, FILE.csv.gz   columns arrival_s (seconds from 0), input_tokens, output_tokens
  DIR                     all such files of a folder, or a recording of `serve --record DIR`
  pattern:KEY=VALUE,...   a synthetic load, for example
                          pattern:rate=2,peak=8,shape=sine,period=30m,duration=2h,prompt=1000,output=200
    rate, peak    requests per second, lowest and highest [1, rate]
    shape         steady, step, ramp, sine or spikes, between the two [sine with a peak]
    period        after which the shape repeats [duration]
    duration      length of the trace [1h]
    prompt        mean prompt length, tokens [1000]
    output        mean generated length, tokens [200]
    spread        standard deviation of both, relative to the mean [0.6]
    burst         mean number of requests that come at once [1]

What is wrong with one input is named and left out; the other runs go on, and the exit status is 1.";

/// Flags of `simulate`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = MORE, after_help = MORE)]
pub struct SimulateFlags {
    /// Traces: CSV files, plain or gzip; folders of them; recordings; patterns (see below).
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,
    /// Run the standard suite over the traces: each on the profiles, and with the targets, that suit it.
    #[arg(long, conflicts_with_all = ["profile", "ttft", "itl"])]
    pub suite: bool,
    /// File of performance profiles (JSON) beside the built-in ones.
    #[arg(long, value_name = "FILE")]
    pub profiles: Option<PathBuf>,
    /// Profiles that serve the traces, separated by commas; a wrong name lists what there is.
    #[arg(long, value_name = "IDS", default_value = "llama-3.1-8b_h100", value_delimiter = ',')]
    pub profile: Vec<String>,
    /// Target of the time to first token, ms; 0 for none.
    #[arg(long = "ttft-ms", value_name = "MS", default_value_t = 2000.0, value_parser = target_ms, allow_negative_numbers = true)]
    pub ttft: f64,
    /// Target of the time per output token, ms; 0 for none.
    #[arg(long = "itl-ms", value_name = "MS", default_value_t = 50.0, value_parser = target_ms, allow_negative_numbers = true)]
    pub itl: f64,
    /// Share of the requests that are to meet the targets: what `slo` aims at, and `oracle` and `best-static` hold.
    #[arg(long, value_name = "SHARE", default_value_t = ATTAINMENT_DEFAULT, value_parser = attainment)]
    pub attainment: f64,
    /// Policies to compare, separated by commas; a wrong name lists what there is.
    #[arg(long, value_name = "NAMES", default_value = crate::simulate::PolicyName::DEFAULT, value_delimiter = ',')]
    pub policy: Vec<String>,
    /// From the creation of a replica until it is ready; several, separated by commas, are run each.
    #[arg(long, value_name = "DURATIONS", default_value = "110s", value_delimiter = ',', value_parser = duration_ms)]
    pub startup: Vec<i64>,
    /// Interval at which the engines' metrics are scraped.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration_ms)]
    pub scrape: i64,
    /// Fewest replicas.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub min: u32,
    /// Most replicas.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub max: u32,
    /// Seed of what chance decides: patterns, the fleet's names and ties.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Runs with this many seeds from --seed on; from the second on, requests of a recorded trace come up to 1 s
    /// earlier or later and exchange their lengths within a minute.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub seeds: u32,
    /// Print one JSON object instead of tables; units are in the names of its keys.
    #[arg(long)]
    pub json: bool,
    /// Also write a picture: one SVG file with load, replicas, queue and attainment of every policy.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// A share of requests.
fn attainment(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.5..=0.9999).contains(&share) => Ok(share),
        _ => Err("must be from 0.5 to 0.9999".into()),
    }
}

/// A target of a latency, ms.
fn target_ms(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if ms.is_finite() && ms >= 0.0 => Ok(ms),
        _ => Err("must be a number of milliseconds, 0 for no target".into()),
    }
}
