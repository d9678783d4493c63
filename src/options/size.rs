//! Flags of `size` and the readers of their values. A bad value is refused here, with the flag named by
//! the parser and the way to write it in the message; what is missing is told by `size`.

use crate::analyze::queueing::MAX_BATCH;
use crate::config::resolve::go_duration_ms;
use crate::limits::CONFIG_REPLICAS_MAX;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Largest rate, token count, cost or time accepted; real ones stay far below.
const LARGEST: f64 = 1e12;

/// Flags of `size`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 when the targets are met, 1 when they cannot be met, 2 for bad input."
)]
pub struct SizeFlags {
    /// Load in requests per second, or with a unit: 41.32/min, 7200/h.
    #[arg(long, value_name = "RATE", env = "INFERNO_RATE", value_parser = rate_per_s, allow_hyphen_values = true)]
    pub rate: Option<f64>,
    /// Average prompt tokens of a request; 0 for decode only. Not needed by the decode-only model.
    #[arg(long, value_name = "TOKENS", env = "INFERNO_INPUT_TOKENS", value_parser = not_negative, allow_hyphen_values = true)]
    pub input_tokens: Option<f64>,
    /// Average generated tokens of a request.
    #[arg(long, value_name = "TOKENS", env = "INFERNO_OUTPUT_TOKENS", value_parser = positive, allow_hyphen_values = true)]
    pub output_tokens: Option<f64>,
    /// Target for the time to first token, in milliseconds or as a duration (500, 500ms, 0.5s); 0 for
    /// none. The decode-only model takes it as the 95th percentile of the wait.
    #[arg(long, value_name = "TIME", env = "INFERNO_SLO_TTFT", value_parser = time_ms, allow_hyphen_values = true)]
    pub slo_ttft: Option<f64>,
    /// Target for the time per output token, in milliseconds or as a duration; 0 for none.
    #[arg(long, value_name = "TIME", env = "INFERNO_SLO_ITL", value_parser = time_ms, allow_hyphen_values = true)]
    pub slo_itl: Option<f64>,
    /// Target for the throughput of all replicas, generated tokens per second; 0 for none.
    #[arg(long, value_name = "TOKENS_PER_S", env = "INFERNO_SLO_TPS", value_parser = not_negative, allow_hyphen_values = true)]
    pub slo_tps: Option<f64>,
    /// Performance model: base time of an iteration, ms.
    #[arg(long, value_name = "MS", env = "INFERNO_ALPHA", value_parser = not_negative, allow_hyphen_values = true, help_heading = "Profile")]
    pub alpha: Option<f64>,
    /// Performance model: ms per concurrent request (iteration model: per computed token).
    #[arg(long, value_name = "MS", env = "INFERNO_BETA", value_parser = not_negative, allow_hyphen_values = true, help_heading = "Profile")]
    pub beta: Option<f64>,
    /// Prefill model: base time of a prefill, ms; iteration model: ms per token of memory read.
    #[arg(long, value_name = "MS", env = "INFERNO_GAMMA", value_parser = not_negative, allow_hyphen_values = true, help_heading = "Profile")]
    pub gamma: Option<f64>,
    /// Prefill model: ms per prompt token and concurrent request.
    #[arg(long, value_name = "MS", env = "INFERNO_DELTA", value_parser = not_negative, allow_hyphen_values = true, help_heading = "Profile")]
    pub delta: Option<f64>,
    /// Generation of the performance model; auto follows from the parameters that are given.
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "INFERNO_MODEL_GENERATION",
        help_heading = "Profile"
    )]
    pub model_generation: Generation,
    /// Most requests that one replica runs together.
    #[arg(long, value_name = "REQUESTS", env = "INFERNO_MAX_BATCH", value_parser = batch, allow_hyphen_values = true, help_heading = "Profile")]
    pub max_batch: Option<u32>,
    /// Output tokens per request at which the batch limit was measured; the limit is then scaled to
    /// those of the load.
    #[arg(long, value_name = "TOKENS", env = "INFERNO_AT_TOKENS", value_parser = at_tokens, allow_hyphen_values = true, help_heading = "Profile")]
    pub at_tokens: Option<u32>,
    /// Variant of the configuration folder whose profile, service class, cost and bounds apply; the
    /// other flags override them one by one, those of the performance model together.
    #[arg(long, value_name = "NAMESPACE/NAME", env = "INFERNO_VARIANT")]
    pub variant: Option<String>,
    /// Folder of Kubernetes objects, for --variant.
    #[arg(long, value_name = "DIR", default_value = super::CONFIG_DIR, env = "INFERNO_CONFIG_DIR")]
    pub config_dir: PathBuf,
    /// Cost of one replica per hour [default: 1, or the variant's].
    #[arg(long, value_name = "COST", env = "INFERNO_COST", value_parser = not_negative, allow_hyphen_values = true)]
    pub cost: Option<f64>,
    /// Fewest replicas [default: 1, or the variant's].
    #[arg(long, value_name = "REPLICAS", env = "INFERNO_MIN_REPLICAS", value_parser = min_replicas, allow_hyphen_values = true)]
    pub min_replicas: Option<u32>,
    /// Most replicas [default: no bound, or the variant's].
    #[arg(long, value_name = "REPLICAS", env = "INFERNO_MAX_REPLICAS", value_parser = max_replicas, allow_hyphen_values = true)]
    pub max_replicas: Option<u32>,
    /// Print one JSON object instead of text.
    #[arg(long, env = "INFERNO_JSON")]
    pub json: bool,
}

/// Generation of the performance model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generation {
    /// As the given parameters say: delta means prefill, gamma alone iteration, neither decode.
    Auto,
    /// Decode only: alpha, beta.
    Decode,
    /// Decode and prefill apart: alpha, beta, gamma, delta.
    Prefill,
    /// Iteration time: alpha, beta, gamma.
    Iteration,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        // Adding 0 turns -0 into 0.
        Ok(number) if (0.0..=LARGEST).contains(&number) => Ok(number + 0.0),
        _ => Err(format!("write a number from 0 to {LARGEST:e}")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = not_negative(text).ok().filter(|number| *number > 0.0);
    number.ok_or_else(|| format!("write a number above 0, at most {LARGEST:e}"))
}

/// Requests per second of `2.5`, `2.5/s`, `150/min` or `9000/h`.
fn rate_per_s(text: &str) -> Result<f64, String> {
    let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match unit.trim().to_ascii_lowercase().as_str() {
        "s" | "sec" | "second" => 1.0,
        "m" | "min" | "minute" => 60.0,
        "h" | "hour" => 3600.0,
        _ => return Err("write the unit as /s, /min or /h, e.g. 120/min".into()),
    };
    let number = not_negative(number)
        .map_err(|_| "write requests per second, a number of at least 0, or with a unit, e.g. 120/min")?;
    Ok(number / seconds)
}

/// Milliseconds of a plain number of them, or of a Go-style duration.
fn time_ms(text: &str) -> Result<f64, String> {
    let ms = not_negative(text).ok().or_else(|| go_duration_ms(text.trim()));
    let ms = ms.filter(|ms| (0.0..=LARGEST).contains(ms));
    ms.ok_or_else(|| "write milliseconds, a number of at least 0, or a duration, e.g. 500ms or 0.5s".into())
}

fn whole(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.trim().parse::<u32>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("write a whole number from {least} to {most}"))
}

fn batch(text: &str) -> Result<u32, String> {
    whole(text, 1, MAX_BATCH)
}

fn at_tokens(text: &str) -> Result<u32, String> {
    whole(text, 1, 1_000_000_000)
}

fn min_replicas(text: &str) -> Result<u32, String> {
    whole(text, 0, CONFIG_REPLICAS_MAX)
}

fn max_replicas(text: &str) -> Result<u32, String> {
    whole(text, 1, CONFIG_REPLICAS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_have_units() {
        assert_eq!(rate_per_s("2.5"), Ok(2.5));
        assert_eq!(rate_per_s("120/min"), Ok(2.0));
        assert_eq!(rate_per_s("7200 /H"), Ok(2.0));
        assert_eq!(rate_per_s("-0"), Ok(0.0));
        for bad in ["", "-1", "nan", "inf", "1/day", "/s", "1/", "1e300", "x/min"] {
            assert!(rate_per_s(bad).is_err(), "{bad}");
        }
        assert_eq!((time_ms("24"), time_ms("24ms"), time_ms("0.5s")), (Ok(24.0), Ok(24.0), Ok(500.0)));
        for bad in ["", "-1", "-1s", "nan", "1d", "inf", "9999999h"] {
            assert!(time_ms(bad).is_err(), "{bad}");
        }
    }
}
