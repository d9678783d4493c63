//! Flags of the Prometheus that is asked for the past.

use super::{FileSettings, duration, duration_ms};
use crate::client::ClientSettings;
use crate::runner::Clock;
use clap::Args;
use std::time::Duration;

/// Default of `--backfill`, ms: as far as the `slo` policy looks back.
const BACKFILL_MS: i64 = 2 * 3_600_000;
/// Default of `--backfill-wait`, ms.
const BACKFILL_WAIT_MS: i64 = 30_000;

/// Flags about Prometheus as a server.
#[derive(Clone, Debug, Default, Args)]
pub struct BackfillFlags {
    /// URL of the Prometheus whose stored samples fill the windows at the start, such as
    /// http://127.0.0.1:9090; without it they fill as samples stream in.
    #[arg(long, value_name = "URL", env = "INFERNO_PROMETHEUS_URL")]
    prometheus_url: Option<String>,
    /// How far back the windows are filled; 0 for not at all [default: 2h].
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

#[cfg(test)]
mod tests {
    use super::super::{Cli, Job, Settings};
    use clap::Parser;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = std::iter::once("inferno-sidecar").chain(arguments.iter().copied());
        let cli = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        match cli.into_job().map_err(|error| error.to_string())? {
            Job::Serve(settings) => Ok(*settings),
            other => Err(format!("expected serve, got {other:?}")),
        }
    }

    #[test]
    fn the_past_is_asked_for_where_an_address_is_given() {
        assert!(settings(&[]).unwrap().backfill.is_none());
        let asked = settings(&["--prometheus-url", "http://p:9090"]).unwrap().backfill.unwrap();
        assert_eq!((asked.span_ms, asked.wait.as_secs()), (7_200_000, 30));
        let off = settings(&["--prometheus-url", "http://p:9090", "--backfill", "0"]).unwrap();
        assert!(off.backfill.is_none());
        for (arguments, said) in [
            (vec!["--backfill", "5m"], "needs --prometheus-url"),
            (vec!["--prometheus-url", "p:9090"], "must begin with http"),
            (vec!["--retention-step", "1ms"], "from 1s to 2m"),
            (vec!["--retention", "soon"], "duration"),
        ] {
            let error = settings(&arguments).unwrap_err();
            assert!(error.contains(said), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn the_settings_file_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.yaml");
        let text = "prometheus_url: https://p:9090\nbackfill: 5m\nbackfill_wait: 10s\nretention: 2h\n\
                    retention_step: 30s\nprometheus_client: {server_name: prometheus}\n";
        std::fs::write(&path, text).unwrap();
        let read = settings(&["--config", path.to_str().unwrap()]).unwrap();
        let asked = read.backfill.unwrap();
        assert_eq!((asked.span_ms, asked.wait.as_secs()), (300_000, 10));
        assert_eq!(asked.client.server_name.as_deref(), Some("prometheus"));
        assert_eq!((read.retention.retention.ms, read.retention.step_ms), (7_200_000, 30_000));
        std::fs::write(&path, "backfill: soon\nprometheus_url: http://p\n").unwrap();
        let error = settings(&["--config", path.to_str().unwrap()]).unwrap_err();
        assert!(error.contains("setting backfill"), "{error}");
    }
}
