//! Whom to believe, as the cluster says in `kube-system/extension-apiserver-authentication`, watched.

use crate::tls::{SecretFile, provider};
use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace of the ConfigMap.
pub const NAMESPACE: &str = "kube-system";
/// Name of the ConfigMap.
pub const NAME: &str = "extension-apiserver-authentication";

/// Authorities of client certificates.
#[derive(Debug)]
pub struct Trust {
    /// Of clients that come themselves.
    pub clients: Option<Arc<dyn ClientCertVerifier>>,
    /// Of the front proxy.
    pub front_proxy: Option<FrontProxy>,
}

/// How to know the front proxy and read what it says.
#[derive(Debug)]
pub struct FrontProxy {
    /// Its authority.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// Common names that it may have; any if empty.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name, the first present counts; all header names are in lower case.
    pub username_headers: Vec<String>,
    /// Headers with groups.
    pub group_headers: Vec<String>,
    /// Headers with the user's unique ID.
    pub uid_headers: Vec<String>,
    /// Beginnings of headers with what else is known.
    pub extra_prefixes: Vec<String>,
}

impl FrontProxy {
    /// Whether a certificate of that common name is the front proxy's.
    pub fn allows(&self, common_name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|name| name == common_name)
    }
}

impl Trust {
    /// Reads the ConfigMap's data.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let clients = verifier(data, "client-ca-file")?;
        let lower = |key: &str, default: &str| -> Result<Vec<String>, String> {
            let mut names = names(data, key)?;
            if names.is_empty() && !default.is_empty() {
                names.push(default.into());
            }
            Ok(names.iter().map(|name| name.to_ascii_lowercase()).collect())
        };
        let front_proxy = match verifier(data, "requestheader-client-ca-file")? {
            None => None,
            Some(verifier) => Some(FrontProxy {
                verifier,
                allowed_names: names(data, "requestheader-allowed-names")?,
                username_headers: lower("requestheader-username-headers", "x-remote-user")?,
                group_headers: lower("requestheader-group-headers", "x-remote-group")?,
                uid_headers: lower("requestheader-uid-headers", "")?,
                extra_prefixes: lower("requestheader-extra-headers-prefix", "x-remote-extra-")?,
            }),
        };
        Ok(Trust { clients, front_proxy })
    }
}

fn verifier(
    data: &BTreeMap<String, String>,
    key: &str,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let Some(text) = data.get(key).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let roots = SecretFile::from_text(key, text).roots()?;
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    Ok(Some(built.map_err(|error| format!("{key}: {error}"))?))
}

/// A JSON list of texts.
fn names(data: &BTreeMap<String, String>, key: &str) -> Result<Vec<String>, String> {
    let Some(text) = data.get(key) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| format!("{key}: not a JSON list of texts: {error}"))
}

/// Keeps `trust` as the ConfigMap says, for ever. What cannot be read leaves the last good one in force.
pub async fn follow(client: Client, trust: Arc<ArcSwapOption<Trust>>) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut changes = std::pin::pin!(watcher::watch_object(api, NAME).default_backoff());
    let mut logged = None;
    while let Some(change) = changes.next().await {
        let read = match change {
            Ok(Some(object)) => Trust::read(&object.data.unwrap_or_default()),
            Ok(None) => Err("does not exist".into()),
            Err(error) => Err(format!("cannot be watched: {error}")),
        };
        match read {
            Ok(read) => {
                if read.front_proxy.is_none() {
                    tracing::warn!(
                        "{NAMESPACE}/{NAME} names no front proxy; the aggregation layer is not set up"
                    );
                }
                tracing::info!("external metrics: authentication of {NAMESPACE}/{NAME} in force");
                trust.store(Some(Arc::new(read)));
                logged = None;
            }
            // The same trouble is met again and again while it lasts.
            Err(error) if logged.as_ref() == Some(&error) => {}
            Err(error) => {
                tracing::warn!(
                    "external metrics: ConfigMap {NAMESPACE}/{NAME}: {error}; it needs the Role \
                     extension-apiserver-authentication-reader"
                );
                logged = Some(error);
            }
        }
    }
}
