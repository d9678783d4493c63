//! TLS and authentication of the listeners, put together from the settings, and what is to be said about
//! them at start.

use crate::options::{ExternalMetrics, Security};
use crate::serve::access::{Access, Guard};
use crate::serve::external::{self, External, Reviewer};
use crate::serve::rotation::{Current, Rotation};
use crate::serve::tls::{self, ClientCertificates};
use crate::serve::{self, Context, OwnMetrics};
use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// What guards the main listener.
pub struct Guards {
    /// TLS, unless it speaks plain text.
    pub tls: Option<Current<ServerConfig>>,
    /// Who may use what.
    pub access: Access,
}

impl Guards {
    /// Reads the files that the settings name; they are followed by `rotation`.
    pub fn new(security: &Security, own: &Arc<OwnMetrics>, rotation: &mut Rotation) -> Result<Self, String> {
        let clients = security.client_certificates();
        let own = own.clone();
        let loaded = move |ends_s| own.certificate_loaded("main", ends_s);
        let tls = security.tls.as_ref();
        let tls = tls.map(|files| tls::from_files(rotation, "TLS certificate", files, &clients, loaded));
        let tls = tls.transpose()?;
        let mut access = Access::default();
        for (surface, settings) in security.surfaces() {
            let certificate = security.certificate_for.contains(&surface);
            access.set(surface, settings, certificate, rotation)?;
        }
        Ok(Guards { tls, access })
    }

    /// What others than this machine can do, or read on the way; to be said loudly at start.
    pub fn warnings(&self, security: &Security, address: SocketAddr) -> Vec<String> {
        if address.ip().is_loopback() {
            return Vec::new();
        }
        let surfaces = security.surfaces().map(|(surface, _)| (surface, self.access.guard(surface)));
        let named = |wanted: &dyn Fn(&Guard) -> bool| {
            let names = surfaces.iter().filter(|(_, guard)| wanted(guard));
            names.map(|(surface, _)| surface.as_str()).collect::<Vec<_>>().join(", ")
        };
        let mut warnings = Vec::new();
        let open = named(&|guard| guard.is_open());
        if !open.is_empty() {
            warnings.push(format!(
                "LISTENING BEYOND LOOPBACK ON {address}, OPEN TO EVERYBODY: {open}; set a bearer token file or \
                 basic auth file for each (--write-bearer-token-file ...), or --tls-client-ca-file"
            ));
        }
        if self.tls.is_none() {
            let secrets = named(&|guard| guard.has_secrets());
            let also = match secrets.is_empty() {
                true => " can be read on the way".into(),
                false => format!(", with the credentials of {secrets}, can be read on the way"),
            };
            warnings.push(format!(
                "LISTENING BEYOND LOOPBACK ON {address} WITHOUT TLS: everything sent{also}; set --tls-cert-file \
                 and --tls-private-key-file"
            ));
        }
        warnings
    }
}

/// Serves the external metrics API until `shutdown` completes. Fails when it cannot begin; trouble with
/// the cluster later on is logged and answered 503.
pub async fn serve_external_metrics(
    settings: &ExternalMetrics,
    context: &Context,
    rotation: &mut Rotation,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let files = settings.tls.as_ref();
    let tls = match files {
        Some(files) => {
            let (what, own) = ("external metrics certificate", context.own.clone());
            let loaded = move |ends_s| own.certificate_loaded("external", ends_s);
            tls::from_files(rotation, what, files, &ClientCertificates::Taken, loaded)
                .map_err(anyhow::Error::msg)?
        }
        None => {
            let made = tls::self_made(settings.names.clone(), &ClientCertificates::Taken);
            let made = made.map_err(anyhow::Error::msg)?;
            tracing::info!(
                names = settings.names.join(","),
                ca_bundle = STANDARD.encode(&made.ca_pem),
                "external metrics: certificate made for this run; ca_bundle is the APIService's caBundle, \
                 or set insecureSkipTLSVerify",
            );
            made.config
        }
    };
    let listener = TcpListener::bind(settings.listen).await.with_context(|| {
        format!("cannot listen on {}; choose another with --external-metrics-listen", settings.listen)
    })?;
    let address = listener.local_addr()?;
    let config = kube::Config::infer().await.context(
        "external metrics need the cluster: run inside it, or name a kubeconfig file in KUBECONFIG",
    )?;
    let client = kube::Client::try_from(config).context("cannot use the cluster's credentials")?;
    let trust = Arc::new(ArcSwapOption::empty());
    tokio::spawn(external::follow_trust(client.clone(), trust.clone()));
    let external = External {
        engine: context.engine.clone(),
        wva_aliases: context.wva_aliases,
        own: context.own.clone(),
        trust,
        reviewer: Arc::new(Reviewer::new(client)),
    };
    tracing::info!(%address, "external metrics API listening");
    let connections = Arc::new(Semaphore::new(context.limits.connections));
    Ok(tokio::spawn(serve::serve_on(listener, Some(tls), connections, external::router(external), shutdown)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::access::SurfaceSettings;

    #[test]
    fn a_listener_for_others_says_what_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "secret").unwrap();
        let own = Arc::new(OwnMetrics::new().unwrap());
        let warnings = |security: &Security, address: &str| {
            let guards = Guards::new(security, &own, &mut Rotation::default()).unwrap();
            guards.warnings(security, address.parse().unwrap())
        };
        let open = Security::default();
        assert!(warnings(&open, "127.0.0.1:1").is_empty() && warnings(&open, "[::1]:1").is_empty());
        let said = warnings(&open, "0.0.0.0:1").join("\n");
        assert!(said.contains("OPEN TO EVERYBODY: write, read, admin;"), "{said}");
        assert!(said.contains("WITHOUT TLS"), "{said}");
        let secret = SurfaceSettings { bearer_token_file: Some(token), ..SurfaceSettings::default() };
        let half = Security { write: secret.clone(), admin: secret, ..Security::default() };
        let said = warnings(&half, "[::]:1").join("\n");
        assert!(said.contains("OPEN TO EVERYBODY: read;"), "{said}");
        assert!(said.contains("credentials of write, admin"), "{said}");
    }
}
