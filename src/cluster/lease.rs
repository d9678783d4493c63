//! Who writes: the instance that holds the Lease. Every instance decides and serves; only the leader writes.
//!
//! The rule is that of Kubernetes's own controllers: a Lease that nobody has renewed for its duration, as
//! seen by the own clock, may be taken; the holder stops by itself when it could not renew in time, which is
//! sooner than anybody can take it.

use crate::options::LeaseSettings;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use std::time::Instant;
use tokio::sync::watch;

/// Whether this instance may write now.
#[derive(Clone)]
pub struct Leadership {
    /// It may until then.
    until: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Asked before every write.
    pub fn is_mine(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Completes when leadership came or went.
    pub async fn changed(&mut self) {
        if self.until.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// A candidate for the Lease.
pub struct Candidate {
    api: Api<Lease>,
    settings: LeaseSettings,
    identity: String,
    until: watch::Sender<Option<Instant>>,
    /// The Lease as last seen, and since when it has been so.
    seen: Option<(Lease, Instant)>,
    complained: bool,
}

/// Leadership without a Lease.
pub fn always() -> (watch::Sender<Option<Instant>>, Leadership) {
    // Longer than anything runs.
    const FOR_EVER_S: u64 = 100 * 365 * 86_400;
    let until = Instant::now().checked_add(std::time::Duration::from_secs(FOR_EVER_S));
    let (sender, until) = watch::channel(until);
    (sender, Leadership { until })
}

impl Candidate {
    /// A candidate named `identity` for a Lease in `namespace`.
    pub fn new(
        client: Client,
        namespace: &str,
        identity: String,
        settings: LeaseSettings,
    ) -> (Self, Leadership) {
        let (sender, until) = watch::channel(None);
        let api = Api::namespaced(client, namespace);
        let candidate = Candidate { api, settings, identity, until: sender, seen: None, complained: false };
        (candidate, Leadership { until })
    }

    /// Takes and renews the Lease for as long as it runs.
    pub async fn run(&mut self) {
        loop {
            let began = Instant::now();
            let outcome = tokio::time::timeout(self.settings.renew_deadline, self.attempt()).await;
            match outcome {
                Ok(Ok(true)) => {
                    self.complained = false;
                    self.lead_until(Some(began + self.settings.renew_deadline));
                }
                Ok(Ok(false)) => {
                    self.complained = false;
                    self.lead_until(None);
                }
                // The deadline of the last renewal stands.
                Ok(Err(error)) => self.complain(&error.to_string()),
                Err(_) => self.complain("no answer in time"),
            }
            if self.until.borrow().is_some_and(|until| until <= Instant::now()) {
                tracing::warn!("the Lease could not be renewed in time: writing stops");
                self.until.send_replace(None);
            }
            tokio::time::sleep(self.settings.retry_period).await;
        }
    }

    fn lead_until(&self, until: Option<Instant>) {
        let (was, is) = (self.until.borrow().is_some(), until.is_some());
        if was != is {
            let holder = self.seen.as_ref().and_then(|(lease, _)| holder(lease)).map_or("", String::as_str);
            tracing::info!(leader = is, holder, lease = self.settings.name, "leadership changed");
        }
        self.until.send_replace(until);
    }

    fn complain(&mut self, error: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            let name = &self.settings.name;
            tracing::warn!("the Lease {name} cannot be read or renewed; see deploy/rbac/lease.yaml: {error}");
        }
    }

    /// One look at the Lease, and a try to take or renew it. Answers whether it is ours now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.api.get_opt(&self.settings.name).await? else {
            let name = Some(self.settings.name.clone());
            let metadata = ObjectMeta { name, ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return self.settle(self.api.create(&PostParams::default(), &lease).await);
        };
        let same = self.seen.as_ref().filter(|(seen, _)| seen.spec == lease.spec);
        let since = same.map_or_else(Instant::now, |(_, since)| *since);
        self.seen = Some((lease.clone(), since));
        let is_mine = holder(&lease) == Some(&self.identity);
        let is_free = holder(&lease).is_none() || since.elapsed() >= duration_of(&lease, &self.settings);
        if !is_mine && !is_free {
            return Ok(false);
        }
        let spec = self.spec(lease.spec.as_ref());
        // With the version that was seen, so that of two candidates one gets it.
        let lease = Lease { spec: Some(spec), ..lease };
        self.settle(self.api.replace(&self.settings.name, &PostParams::default(), &lease).await)
    }

    fn settle(&mut self, outcome: kube::Result<Lease>) -> kube::Result<bool> {
        match outcome {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let kept = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(self.settings.duration.as_secs_f64().ceil() as i32),
            acquire_time: kept.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(match (before, kept) {
                (Some(_), None) => transitions.saturating_add(1),
                _ => transitions,
            }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the Lease back, so that the next leader need not wait for its end.
    pub async fn release(&mut self) {
        let leads = self.until.borrow().is_some();
        self.until.send_replace(None);
        let Some((lease, _)) = self.seen.take().filter(|_| leads) else { return };
        let spec = LeaseSpec {
            holder_identity: None,
            lease_duration_seconds: Some(1),
            ..lease.spec.clone().unwrap_or_default()
        };
        let lease = Lease { spec: Some(spec), ..lease };
        if let Err(error) = self.api.replace(&self.settings.name, &PostParams::default(), &lease).await {
            tracing::debug!(%error, "the Lease was not given back");
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

/// The duration that the holder has promised, or else our own.
fn duration_of(lease: &Lease, settings: &LeaseSettings) -> std::time::Duration {
    let stated = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let stated = stated.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    stated.map_or(settings.duration, std::time::Duration::from_secs)
}
