//! Flags of `serve` for the limits that an operator may set.

use super::recording::size;
use crate::limits::{Limits, WRITE_REQUEST_MAX_BYTES, WRITE_REQUEST_MIN_BYTES};
use anyhow::ensure;
use clap::Args;
use serde::Deserialize;

/// Flags of limits. Each limit has a gauge for its value and one for how near it is.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Limits")]
pub struct LimitFlags {
    /// Most live relevant series, at some 800 bytes each, decisions and all; the samples of further ones are
    /// refused until old ones have ended [default: 2000000].
    #[arg(long, value_name = "COUNT", env = "INFERNO_MAX_SERIES")]
    max_series: Option<usize>,
    /// Largest write request, before and after decompression, up to 64MiB [default: 32MiB].
    #[arg(long, value_name = "SIZE", env = "INFERNO_MAX_REQUEST_SIZE")]
    max_request_size: Option<String>,
    /// Most memory of write requests under way, for at least two of the largest; more is answered 503
    /// [default: 256MiB].
    #[arg(long, value_name = "SIZE", env = "INFERNO_MAX_INFLIGHT_SIZE")]
    max_inflight_size: Option<String>,
    /// Most memory of what is kept for queries of the past; the oldest part makes room [default: 256MiB].
    #[arg(long, value_name = "SIZE", env = "INFERNO_RETENTION_SIZE")]
    retention_size: Option<String>,
    /// Most open connections of a listener; further ones are answered 503 [default: 1024].
    #[arg(long, value_name = "COUNT", env = "INFERNO_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// Most open streams of KEDA's push triggers; further ones are refused [default: 20000].
    #[arg(long, value_name = "COUNT", env = "INFERNO_MAX_SCALER_STREAMS")]
    max_scaler_streams: Option<usize>,
}

impl LimitFlags {
    /// Values of `self`, or else of `file`.
    pub(super) fn or(self, file: LimitFlags) -> LimitFlags {
        LimitFlags {
            max_series: self.max_series.or(file.max_series),
            max_request_size: self.max_request_size.or(file.max_request_size),
            max_inflight_size: self.max_inflight_size.or(file.max_inflight_size),
            retention_size: self.retention_size.or(file.retention_size),
            max_connections: self.max_connections.or(file.max_connections),
            max_scaler_streams: self.max_scaler_streams.or(file.max_scaler_streams),
        }
    }

    /// Checks the values and how they go together.
    pub(super) fn settle(self) -> anyhow::Result<Limits> {
        let default = Limits::default();
        let request_bytes = bytes("--max-request-size", self.max_request_size, default.request_bytes)?;
        let given = self.max_inflight_size.is_some();
        let inflight = bytes("--max-inflight-size", self.max_inflight_size, default.inflight_bytes)?;
        let limits = Limits {
            series: self.max_series.unwrap_or(default.series),
            request_bytes,
            // Two of the largest, each before and after decompression, must be able to be under way.
            inflight_bytes: if given { inflight } else { inflight.max(4 * request_bytes) },
            record_bytes: bytes("--retention-size", self.retention_size, default.record_bytes)?,
            connections: self.max_connections.unwrap_or(default.connections),
            scaler_streams: self.max_scaler_streams.unwrap_or(default.scaler_streams),
        };
        ensure!(limits.series > 0, "--max-series must be at least 1");
        ensure!(limits.connections >= 8, "--max-connections must be at least 8");
        ensure!(
            (WRITE_REQUEST_MIN_BYTES..=WRITE_REQUEST_MAX_BYTES).contains(&limits.request_bytes),
            "--max-request-size must be from 1MiB to 64MiB"
        );
        ensure!(
            limits.inflight_bytes >= 4 * limits.request_bytes,
            "--max-inflight-size must be at least 4 x --max-request-size: two requests, each before and after \
             decompression"
        );
        Ok(limits)
    }
}

fn bytes(flag: &str, text: Option<String>, default: usize) -> anyhow::Result<usize> {
    let Some(text) = text else { return Ok(default) };
    let bytes = size(text.trim()).map_err(|why| anyhow::anyhow!("{flag}: {why}"))?;
    usize::try_from(bytes).map_err(|_| anyhow::anyhow!("{flag}: {text} is more than memory can be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_do_not_go_together_are_refused() {
        let limits = |yaml: &str| serde_yaml::from_str::<LimitFlags>(yaml).unwrap().settle();
        assert_eq!(limits("{}").unwrap(), Limits::default());
        let larger = limits("{max_request_size: 64MiB, max_series: 5}").unwrap();
        assert_eq!((larger.series, larger.request_bytes, larger.inflight_bytes), (5, 64 << 20, 256 << 20));
        for wrong in [
            "{max_series: 0}",
            "{max_request_size: 65MiB}",
            "{max_request_size: 10}",
            "{max_request_size: 32MiB, max_inflight_size: 64MiB}",
            "{max_connections: 1}",
            "{retention_size: much}",
        ] {
            let error = limits(wrong).unwrap_err().to_string();
            assert!(error.starts_with("--"), "{wrong}: {error}");
        }
    }
}
