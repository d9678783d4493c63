//! The cluster as source and sink: the connection, the mirror that feeds the engine, and what is written
//! back by the instance that leads.

mod actuate;
pub mod check;
mod conditions;
mod events;
mod lease;
pub mod metrics;
mod outputs;
mod shape;
mod status;

use outputs::Outputs;

use crate::app::Configurer;
use crate::config::objects::Document;
use crate::limits::CLUSTER_CONNECT_MAX_S;
use crate::mirror::cluster::{self as mirror, Delivery, Health, Scope, View};
use crate::options::{Actuation, ClusterSettings, host_name};
use crate::runner::Handle;
use crate::serve::OwnMetrics;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use events::Recorder;
use lease::Candidate;
use metrics::ClusterMetrics;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// A running connection to the cluster.
pub struct Cluster {
    /// URL of the API server.
    pub address: String,
    candidate: Option<(oneshot::Sender<()>, oneshot::Receiver<Candidate>)>,
    writers: JoinSet<()>,
    _leads: Option<watch::Sender<Option<Instant>>>,
}

/// Connects and starts the mirror. The first configuration follows when everything has been listed; an API
/// server that cannot be reached yet is waited for.
pub async fn start(
    settings: &ClusterSettings,
    engine: &Handle,
    own: &Arc<OwnMetrics>,
    configurer: Configurer,
) -> anyhow::Result<Cluster> {
    let (client, address, namespace) = connect().await?;
    let home = settings.pod_namespace.clone().unwrap_or(namespace);
    let scope = Scope {
        namespaces: settings.namespaces.clone(),
        home: home.as_str().into(),
        instance: settings.instance.clone(),
    };
    tracing::info!(%address, %home, namespaces = ?settings.namespaces, "mirroring the cluster");
    let health = Arc::new(ArcSwap::from_pointee(Health::default()));
    let metrics = Arc::new(ClusterMetrics::new(health.clone())?);
    own.add(metrics.clone());
    let (view_sender, views) = watch::channel(View::default());
    let deliver = deliverer(engine.clone(), configurer.at_home(&home), view_sender, metrics.clone());
    let scope = Arc::new(scope);
    tokio::spawn(mirror::run(client.clone(), Scope::clone(&scope), health, deliver));
    let writes = settings.write_status || settings.write_events || settings.actuation != Actuation::None;
    let lease = settings
        .lease
        .clone()
        .filter(|_| writes)
        .map(|lease| Candidate::new(client.clone(), &home, identity(), lease));
    let (candidate, leadership, leads) = match lease {
        Some((candidate, leadership)) => (Some(run_candidate(candidate)), leadership, None),
        None => {
            let (leads, leadership) = lease::always();
            (None, leadership, Some(leads))
        }
    };
    metrics.show_leadership(leadership.clone());
    let outputs = Outputs {
        client,
        engine: engine.clone(),
        versions: engine.versions(),
        views,
        leadership,
        scope,
        shard: settings.shard,
        metrics,
    };
    let mut writers = JoinSet::new();
    if settings.write_status {
        writers.spawn(status::run(outputs.clone()));
    }
    if settings.write_events {
        writers.spawn(events::run(outputs.clone()));
    }
    if settings.actuation != Actuation::None {
        let recorder = settings.write_events.then(|| Recorder::new(outputs.clone()));
        writers.spawn(actuate::run(outputs, settings.actuation, recorder));
    }
    Ok(Cluster { address, candidate, writers, _leads: leads })
}

/// A client of the API server, its URL, and the namespace that the context or the service account names.
async fn connect() -> anyhow::Result<(kube::Client, String, String)> {
    let mut config = kube::Config::infer().await.context(
        "cannot find the cluster: run in a pod with a service account, or point KUBECONFIG at a file",
    )?;
    config.connect_timeout = Some(Duration::from_secs(CLUSTER_CONNECT_MAX_S));
    // Retries are ours, with a wait that is ours.
    config.default_retry = false;
    let (address, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
    let client = kube::Client::try_from(config).context("cannot make a client for the API server")?;
    Ok((client, address, namespace))
}

/// Name of this instance among the candidates: no two processes have the same.
fn identity() -> String {
    format!("{}_{:08x}", host_name(), rand::random::<u32>())
}

/// Runs a candidate until it is asked back.
fn run_candidate(mut candidate: Candidate) -> (oneshot::Sender<()>, oneshot::Receiver<Candidate>) {
    let (stop, stopped) = oneshot::channel();
    let (back, given_back) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            () = candidate.run() => {}
            _ = stopped => {}
        }
        let _ = back.send(candidate);
    });
    (stop, given_back)
}

impl Cluster {
    /// Ends it in good order: nothing is written any more, and the Lease is given back.
    pub async fn end(mut self) {
        self.writers.shutdown().await;
        let Some((stop, given_back)) = self.candidate.take() else { return };
        let _ = stop.send(());
        let release = async {
            if let Ok(mut candidate) = given_back.await {
                candidate.release().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(CLUSTER_CONNECT_MAX_S), release).await.is_err() {
            tracing::warn!("the Lease was not given back in time");
        }
    }
}

/// Hands deliveries of the mirror to the engine and to the writers.
fn deliverer(
    engine: Handle,
    mut configurer: Configurer,
    views: watch::Sender<View>,
    metrics: Arc<ClusterMetrics>,
) -> impl FnMut(Delivery<'_>) -> bool {
    move |delivery| {
        for ms in &delivery.started_ms {
            metrics.pod_started(*ms);
        }
        // Resolving a large configuration takes milliseconds, and the engine is waited for.
        let is_wanted = tokio::task::block_in_place(|| {
            if !delivery.change.is_empty() && engine.apply_cluster(delivery.change).is_err() {
                return false;
            }
            delivery.documents.is_none_or(|documents| {
                configurer.apply(documents.iter().map(|document| -> &Document { document }))
            })
        });
        if let Some(view) = delivery.view {
            views.send_replace(view);
        }
        is_wanted
    }
}
