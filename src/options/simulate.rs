//! Flags of `simulate`.

use super::duration_ms;
use clap::Args;
use std::path::PathBuf;

/// Flags of `simulate`.
#[derive(Clone, Debug, Args)]
pub struct SimulateFlags {
    /// Traces: CSV files, plain or gzip, with arrival_s, input_tokens and output_tokens; or a folder.
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,
    /// Run the standard suite over the traces: each on the profiles, and with the targets, that suit it.
    #[arg(long, conflicts_with_all = ["profile", "ttft", "itl"])]
    pub suite: bool,
    /// File of performance profiles (JSON) beside the built-in ones.
    #[arg(long, value_name = "FILE")]
    pub profiles: Option<PathBuf>,
    /// Profile that serves the traces; a wrong name lists what there is.
    #[arg(long, value_name = "ID", default_value = "llama-3.1-8b_h100")]
    pub profile: String,
    /// Target of the time to first token, ms; 0 for none.
    #[arg(long = "ttft-ms", value_name = "MS", default_value_t = 2000.0)]
    pub ttft: f64,
    /// Target of the time per output token, ms; 0 for none.
    #[arg(long = "itl-ms", value_name = "MS", default_value_t = 50.0)]
    pub itl: f64,
    /// Policies to compare, separated by commas; a wrong name lists what there is.
    #[arg(long, value_name = "NAMES", default_value = crate::simulate::PolicyName::DEFAULT, value_delimiter = ',')]
    pub policy: Vec<String>,
    /// From the creation of a replica until it is ready.
    #[arg(long, value_name = "DURATION", default_value = "110s", value_parser = duration_ms)]
    pub startup: i64,
    /// Interval at which the engines' metrics are scraped.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration_ms)]
    pub scrape: i64,
    /// Fewest replicas.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub min: u32,
    /// Most replicas.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub max: u32,
    /// Seed of what chance decides in the fleet.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Also write a picture: one SVG file with load, replicas, queue and attainment of every policy.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}
