//! Flags of `serve` for the cluster: what is mirrored, what is written, who writes. Raw text in, one checked
//! structure out.

use super::duration_ms;
use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::config::shard::Shard;

/// Flags of `serve` for `--source cluster`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterFlags {
    /// Namespaces to look at, separated by commas [default: all].
    #[arg(long, value_name = "NAMES", env = "INFERNO_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Name of this instance: only objects with this label wva.llmd.ai/controller-instance are its own.
    #[arg(long, value_name = "NAME", env = "INFERNO_CONTROLLER_INSTANCE")]
    controller_instance: Option<String>,
    /// Namespace of the sidecar, whose ConfigMaps are for everybody [default: as the service account says].
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// Part of the models that this instance decides: I/N with I from 0, or ordinal/N for the number at the
    /// end of the host name, as a StatefulSet gives it [default: 0/1].
    #[arg(long, value_name = "I/N", env = "INFERNO_SHARD")]
    shard: Option<String>,
    /// Whether to write the status of VariantAutoscalings [default: true].
    #[arg(long, value_name = "BOOL", env = "INFERNO_WRITE_STATUS")]
    write_status: Option<bool>,
    /// Whether to write Events [default: true].
    #[arg(long, value_name = "BOOL", env = "INFERNO_WRITE_EVENTS")]
    write_events: Option<bool>,
    /// Who scales: nobody but the autoscalers, this sidecar, or this sidecar from zero only [default: none].
    #[arg(long, value_enum, env = "INFERNO_ACTUATION")]
    actuation: Option<Actuation>,
    /// Whether a Lease decides which of several instances writes [default: true].
    #[arg(long, value_name = "BOOL", env = "INFERNO_LEADER_ELECT")]
    leader_elect: Option<bool>,
    /// Name of the Lease, in the sidecar's namespace [default: inferno-sidecar].
    #[arg(long, value_name = "NAME", env = "INFERNO_LEASE_NAME")]
    lease_name: Option<String>,
    /// How long a Lease holds that is not renewed [default: 15s].
    #[arg(long, value_name = "DURATION", env = "INFERNO_LEASE_DURATION")]
    lease_duration: Option<String>,
    /// How long the leader tries to renew its Lease before it stops writing [default: 10s].
    #[arg(long, value_name = "DURATION", env = "INFERNO_LEASE_RENEW_DEADLINE")]
    lease_renew_deadline: Option<String>,
    /// How often the Lease is looked at or renewed [default: 2s].
    #[arg(long, value_name = "DURATION", env = "INFERNO_LEASE_RETRY_PERIOD")]
    lease_retry_period: Option<String>,
}

/// Who changes the replicas of scale targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actuation {
    /// An HPA or KEDA, by the published metrics.
    #[default]
    None,
    /// The sidecar, on every decision.
    Direct,
    /// The sidecar, only from 0 to 1 when the scheduler's queue holds requests.
    FromZeroOnly,
}

/// Parameters of the Lease, each shorter than the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Name, in the sidecar's namespace.
    pub name: String,
    /// How long it holds without being renewed.
    pub duration: Duration,
    /// How long the leader tries to renew it.
    pub renew_deadline: Duration,
    /// Time between two tries.
    pub retry_period: Duration,
}

/// Checked settings of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSettings {
    /// Namespaces; empty for all.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Name of this instance.
    pub instance: Option<String>,
    /// Namespace of the sidecar, where it was stated.
    pub pod_namespace: Option<String>,
    /// Part of the models that is decided here.
    pub shard: Shard,
    /// Write the status of VariantAutoscalings.
    pub write_status: bool,
    /// Write Events.
    pub write_events: bool,
    /// Who scales.
    pub actuation: Actuation,
    /// Who writes; `None`: this instance always does.
    pub lease: Option<LeaseSettings>,
}

impl ClusterFlags {
    /// Values of `self`, or else of `file`.
    pub(super) fn or(self, file: ClusterFlags) -> ClusterFlags {
        ClusterFlags {
            namespaces: if self.namespaces.is_empty() { file.namespaces } else { self.namespaces },
            controller_instance: self.controller_instance.or(file.controller_instance),
            pod_namespace: self.pod_namespace.or(file.pod_namespace),
            shard: self.shard.or(file.shard),
            write_status: self.write_status.or(file.write_status),
            write_events: self.write_events.or(file.write_events),
            actuation: self.actuation.or(file.actuation),
            leader_elect: self.leader_elect.or(file.leader_elect),
            lease_name: self.lease_name.or(file.lease_name),
            lease_duration: self.lease_duration.or(file.lease_duration),
            lease_renew_deadline: self.lease_renew_deadline.or(file.lease_renew_deadline),
            lease_retry_period: self.lease_retry_period.or(file.lease_retry_period),
        }
    }

    /// Checks the values; `host_name` is asked when the shard is the ordinal of a StatefulSet.
    pub(super) fn settle(self, host_name: impl Fn() -> String) -> anyhow::Result<ClusterSettings> {
        let shard = match &self.shard {
            Some(text) => Shard::parse(text, host_name).map_err(anyhow::Error::msg).context("--shard")?,
            None => Shard::default(),
        };
        let names = self.namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        let is_given = |text: &String| !text.trim().is_empty();
        Ok(ClusterSettings {
            namespaces: names.map(Into::into).collect(),
            instance: self.controller_instance.clone().filter(is_given),
            pod_namespace: self.pod_namespace.clone().filter(is_given),
            write_status: self.write_status.unwrap_or(true),
            write_events: self.write_events.unwrap_or(true),
            actuation: self.actuation.unwrap_or_default(),
            lease: if self.leader_elect.unwrap_or(true) { Some(self.lease(&shard)?) } else { None },
            shard,
        })
    }

    fn lease(&self, shard: &Shard) -> anyhow::Result<LeaseSettings> {
        let time = |flag: &str, text: &Option<String>, default: &str| {
            let text = text.as_deref().unwrap_or(default);
            let ms = duration_ms(text).map_err(|error| anyhow::anyhow!("--{flag} {text}: {error}"))?;
            anyhow::Ok(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
        };
        let duration = time("lease-duration", &self.lease_duration, "15s")?;
        let renew_deadline = time("lease-renew-deadline", &self.lease_renew_deadline, "10s")?;
        let retry_period = time("lease-retry-period", &self.lease_retry_period, "2s")?;
        ensure!(
            duration > renew_deadline && renew_deadline > retry_period && !retry_period.is_zero(),
            "--lease-duration must be longer than --lease-renew-deadline, and that longer than \
             --lease-retry-period, found {duration:?}, {renew_deadline:?} and {retry_period:?}"
        );
        ensure!(
            duration >= Duration::from_secs(1),
            "--lease-duration must be at least 1s, found {duration:?}"
        );
        let name = self.lease_name.as_deref().unwrap_or("inferno-sidecar");
        // Shards write different objects, so each has a leader of its own.
        let name = match shard.count {
            1 => name.to_owned(),
            _ => format!("{name}-{}", shard.index),
        };
        Ok(LeaseSettings { name, duration, renew_deadline, retry_period })
    }
}
