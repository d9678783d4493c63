//! The cluster as source and sink: the connection, the mirror that feeds the engine, and what is written
//! back by the instance that leads.

pub mod metrics;

use crate::app::Configurer;
use crate::config::objects::Document;
use crate::limits::CLUSTER_CONNECT_MAX_S;
use crate::mirror::cluster::{self as mirror, Delivery, Health, Scope, View};
use crate::options::ClusterSettings;
use crate::runner::Handle;
use crate::serve::OwnMetrics;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use metrics::ClusterMetrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A running connection to the cluster.
pub struct Cluster {
    /// URL of the API server.
    pub address: String,
    _views: watch::Receiver<View>,
}

/// Connects and starts the mirror. The first configuration follows when everything has been listed; an API
/// server that cannot be reached yet is waited for.
pub async fn start(
    settings: &ClusterSettings,
    engine: &Handle,
    own: &Arc<OwnMetrics>,
    configurer: Configurer,
) -> anyhow::Result<Cluster> {
    let mut config = kube::Config::infer().await.context(
        "cannot find the cluster: run in a pod with a service account, or point KUBECONFIG at a file",
    )?;
    config.connect_timeout = Some(Duration::from_secs(CLUSTER_CONNECT_MAX_S));
    // Retries are ours, with a wait that is ours.
    config.default_retry = false;
    let address = config.cluster_url.to_string();
    let home = settings.pod_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = kube::Client::try_from(config).context("cannot make a client for the API server")?;
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
    let deliver = deliverer(engine.clone(), configurer.at_home(&home), view_sender, metrics);
    tokio::spawn(mirror::run(client, scope, health, deliver));
    Ok(Cluster { address, _views: views })
}

impl Cluster {
    /// Ends it in good order.
    pub async fn end(self) {}
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
