//! Flags of the Prometheus that is asked for the past.

use super::{FileSettings, duration, duration_ms};
use crate::client::ClientSettings;
use crate::runner::Clock;
use clap::Args;
use std::time::Duration;

/// Default of `--backfill`, ms: longer than a decided change is waited for.
const BACKFILL_MS: i64 = 15 * 60_000;
/// Default of `--backfill-wait`, ms.
const BACKFILL_WAIT_MS: i64 = 30_000;

/// Flags about Prometheus as a server.
#[derive(Clone, Debug, Default, Args)]
pub struct BackfillFlags {
    /// URL of the Prometheus whose stored samples fill the windows at the start, such as
    /// http://127.0.0.1:9090; without it they fill as samples stream in.
    #[arg(long, value_name = "URL", env = "INFERNO_PROMETHEUS_URL")]
    prometheus_url: Option<String>,
    /// How far back the windows are filled; 0 for not at all [default: 15m].
    #[arg(long, value_name = "DURATION", env = "INFERNO_BACKFILL", value_parser = duration_ms)]
    backfill: Option<i64>,
    /// Longest time that readiness waits for it [default: 30s].
    #[arg(long, value_name = "DURATION", env = "INFERNO_BACKFILL_WAIT", value_parser = duration_ms)]
    backfill_wait: Option<i64>,
}

/// Checked settings of the backfill.
#[derive(Clone, Debug)]
pub struct BackfillSettings {
    /// The server's URL.
    pub url: String,
    /// How to connect to it.
    pub client: ClientSettings,
    /// How far back to begin, ms.
    pub span_ms: i64,
    /// Longest wait.
    pub wait: Duration,
}

impl BackfillFlags {
    /// Checks what was given; `None` when the windows are not to be filled.
    pub(super) fn settle(
        self,
        file: &FileSettings,
        clock: Clock,
    ) -> anyhow::Result<Option<BackfillSettings>> {
        let span = duration(self.backfill, file.backfill.as_deref(), "backfill")?;
        let wait = duration(self.backfill_wait, file.backfill_wait.as_deref(), "backfill_wait")?;
        let span_ms = span.unwrap_or(BACKFILL_MS);
        let Some(url) = self.prometheus_url.or_else(|| file.prometheus_url.clone()) else {
            anyhow::ensure!(span.is_none_or(|ms| ms == 0), "--backfill needs --prometheus-url");
            return Ok(None);
        };
        let is_http = url.starts_with("http://") || url.starts_with("https://");
        anyhow::ensure!(is_http, "--prometheus-url must begin with http:// or https://");
        if span_ms == 0 || clock == Clock::Samples {
            return Ok(None);
        }
        let wait = Duration::from_millis(wait.unwrap_or(BACKFILL_WAIT_MS).unsigned_abs());
        Ok(Some(BackfillSettings { url, client: file.prometheus_client.clone(), span_ms, wait }))
    }
}
