//! Flags and settings of TLS, authentication and the external metrics API.

use crate::serve::access::{Surface, SurfaceSettings};
use crate::serve::tls::{CertificateFiles, ClientCertificates};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Name that a certificate made at start is for, unless others are given.
const EXTERNAL_NAME: &str = "inferno-sidecar-external-metrics.monitoring.svc";

/// Flags of `serve` about security; in the settings file their names, with underscores, stand under
/// `security:`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[command(next_help_heading = "Security and external metrics")]
#[serde(deny_unknown_fields, default)]
pub struct SecurityFlags {
    /// PEM file of the certificate (chain) of `--listen`; with it the port speaks TLS only. Files are
    /// followed when they change.
    #[arg(long, value_name = "FILE", env = "INFERNO_TLS_CERT_FILE")]
    tls_cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", env = "INFERNO_TLS_PRIVATE_KEY_FILE")]
    tls_private_key_file: Option<PathBuf>,
    /// PEM file of the authorities of client certificates; a certificate of theirs lets a client in.
    #[arg(long, value_name = "FILE", env = "INFERNO_TLS_CLIENT_CA_FILE")]
    tls_client_ca_file: Option<PathBuf>,
    /// Surfaces that ask for a client certificate: write, read, admin [default: all, with
    /// --tls-client-ca-file].
    #[arg(
        long,
        value_enum,
        value_name = "SURFACES",
        value_delimiter = ',',
        env = "INFERNO_TLS_CLIENT_CERT_FOR"
    )]
    tls_client_cert_for: Vec<Surface>,
    /// File of bearer tokens (one per line) for remote-write.
    #[arg(long, value_name = "FILE", env = "INFERNO_WRITE_BEARER_TOKEN_FILE")]
    write_bearer_token_file: Option<PathBuf>,
    /// File of user:hash lines (bcrypt, as htpasswd -B writes them) for remote-write.
    #[arg(long, value_name = "FILE", env = "INFERNO_WRITE_BASIC_AUTH_FILE")]
    write_basic_auth_file: Option<PathBuf>,
    /// File of bearer tokens for queries, metrics, decisions and KEDA.
    #[arg(long, value_name = "FILE", env = "INFERNO_READ_BEARER_TOKEN_FILE")]
    read_bearer_token_file: Option<PathBuf>,
    /// File of user:hash lines for queries, metrics, decisions and KEDA.
    #[arg(long, value_name = "FILE", env = "INFERNO_READ_BASIC_AUTH_FILE")]
    read_basic_auth_file: Option<PathBuf>,
    /// File of bearer tokens for /-/reload.
    #[arg(long, value_name = "FILE", env = "INFERNO_ADMIN_BEARER_TOKEN_FILE")]
    admin_bearer_token_file: Option<PathBuf>,
    /// File of user:hash lines for /-/reload.
    #[arg(long, value_name = "FILE", env = "INFERNO_ADMIN_BASIC_AUTH_FILE")]
    admin_basic_auth_file: Option<PathBuf>,
    /// Address of the Kubernetes external metrics API, always TLS [default: not served].
    #[arg(long, value_name = "ADDR", env = "INFERNO_EXTERNAL_METRICS_LISTEN")]
    external_metrics_listen: Option<SocketAddr>,
    /// PEM file of its certificate [default: one made at start, its authority in the log].
    #[arg(long, value_name = "FILE", env = "INFERNO_EXTERNAL_METRICS_CERT_FILE")]
    external_metrics_cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", env = "INFERNO_EXTERNAL_METRICS_PRIVATE_KEY_FILE")]
    external_metrics_private_key_file: Option<PathBuf>,
    /// Name that the certificate made at start is for; may be repeated
    /// [default: inferno-sidecar-external-metrics.monitoring.svc].
    #[arg(
        long = "external-metrics-name",
        value_name = "DNS",
        env = "INFERNO_EXTERNAL_METRICS_NAMES",
        value_delimiter = ','
    )]
    external_metrics_names: Vec<String>,
}

impl ValueEnum for Surface {
    fn value_variants<'a>() -> &'a [Self] {
        &[Surface::Write, Surface::Read, Surface::Admin]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.as_str().into())
    }
}

/// Checked settings of TLS and authentication on the main listener.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Certificate; plain text without.
    pub tls: Option<CertificateFiles>,
    /// Authorities of client certificates.
    pub client_ca_file: Option<PathBuf>,
    /// Surfaces that ask for a client certificate.
    pub certificate_for: Vec<Surface>,
    /// Secrets of remote-write.
    pub write: SurfaceSettings,
    /// Secrets of everything that shows something.
    pub read: SurfaceSettings,
    /// Secrets of what changes the process.
    pub admin: SurfaceSettings,
}

/// Checked settings of the external metrics API.
#[derive(Clone, Debug)]
pub struct ExternalMetrics {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Certificate; without one it is made at start.
    pub tls: Option<CertificateFiles>,
    /// Names of the certificate made at start.
    pub names: Vec<String>,
}

impl Security {
    /// What the main listener does with client certificates.
    pub fn client_certificates(&self) -> ClientCertificates {
        self.client_ca_file.clone().map_or(ClientCertificates::Ignored, ClientCertificates::Checked)
    }

    /// Every surface with where its secrets are.
    pub fn surfaces(&self) -> [(Surface, &SurfaceSettings); 3] {
        [(Surface::Write, &self.write), (Surface::Read, &self.read), (Surface::Admin, &self.admin)]
    }
}

impl SecurityFlags {
    /// A flag wins over the file.
    fn or(self, file: Self) -> Self {
        let list = |flag: Vec<Surface>, file| if flag.is_empty() { file } else { flag };
        let names = |flag: Vec<String>, file| if flag.is_empty() { file } else { flag };
        SecurityFlags {
            tls_cert_file: self.tls_cert_file.or(file.tls_cert_file),
            tls_private_key_file: self.tls_private_key_file.or(file.tls_private_key_file),
            tls_client_ca_file: self.tls_client_ca_file.or(file.tls_client_ca_file),
            tls_client_cert_for: list(self.tls_client_cert_for, file.tls_client_cert_for),
            write_bearer_token_file: self.write_bearer_token_file.or(file.write_bearer_token_file),
            write_basic_auth_file: self.write_basic_auth_file.or(file.write_basic_auth_file),
            read_bearer_token_file: self.read_bearer_token_file.or(file.read_bearer_token_file),
            read_basic_auth_file: self.read_basic_auth_file.or(file.read_basic_auth_file),
            admin_bearer_token_file: self.admin_bearer_token_file.or(file.admin_bearer_token_file),
            admin_basic_auth_file: self.admin_basic_auth_file.or(file.admin_basic_auth_file),
            external_metrics_listen: self.external_metrics_listen.or(file.external_metrics_listen),
            external_metrics_cert_file: self.external_metrics_cert_file.or(file.external_metrics_cert_file),
            external_metrics_private_key_file: self
                .external_metrics_private_key_file
                .or(file.external_metrics_private_key_file),
            external_metrics_names: names(self.external_metrics_names, file.external_metrics_names),
        }
    }

    /// Checks what was given on the command line and in the settings file.
    pub fn settle(self, file: Self) -> anyhow::Result<(Security, Option<ExternalMetrics>)> {
        let all = self.or(file);
        let tls = pair(all.tls_cert_file, all.tls_private_key_file, "tls")?;
        anyhow::ensure!(
            tls.is_some() || all.tls_client_ca_file.is_none(),
            "--tls-client-ca-file needs --tls-cert-file and --tls-private-key-file"
        );
        anyhow::ensure!(
            all.tls_client_ca_file.is_some() || all.tls_client_cert_for.is_empty(),
            "--tls-client-cert-for needs --tls-client-ca-file"
        );
        let certificate_for = match (&all.tls_client_ca_file, all.tls_client_cert_for.is_empty()) {
            (Some(_), true) => Surface::value_variants().to_vec(),
            _ => all.tls_client_cert_for,
        };
        let surface =
            |bearer_token_file, basic_auth_file| SurfaceSettings { bearer_token_file, basic_auth_file };
        let security = Security {
            tls,
            client_ca_file: all.tls_client_ca_file,
            certificate_for,
            write: surface(all.write_bearer_token_file, all.write_basic_auth_file),
            read: surface(all.read_bearer_token_file, all.read_basic_auth_file),
            admin: surface(all.admin_bearer_token_file, all.admin_basic_auth_file),
        };
        let files =
            pair(all.external_metrics_cert_file, all.external_metrics_private_key_file, "external-metrics")?;
        let Some(listen) = all.external_metrics_listen else {
            anyhow::ensure!(
                files.is_none() && all.external_metrics_names.is_empty(),
                "--external-metrics-cert-file and --external-metrics-name need --external-metrics-listen"
            );
            return Ok((security, None));
        };
        anyhow::ensure!(
            files.is_none() || all.external_metrics_names.is_empty(),
            "--external-metrics-name is for a certificate made at start; leave it or --external-metrics-cert-file"
        );
        let mut names = all.external_metrics_names;
        if names.is_empty() {
            names.push(EXTERNAL_NAME.into());
        }
        Ok((security, Some(ExternalMetrics { listen, tls: files, names })))
    }
}

fn pair(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    prefix: &str,
) -> anyhow::Result<Option<CertificateFiles>> {
    match (cert, key) {
        (Some(cert_file), Some(key_file)) => Ok(Some(CertificateFiles { cert_file, key_file })),
        (None, None) => Ok(None),
        _ => anyhow::bail!("--{prefix}-cert-file and --{prefix}-private-key-file belong together; give both"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(flags: &str, file: &str) -> anyhow::Result<(Security, Option<ExternalMetrics>)> {
        let read = |text| serde_yaml::from_str::<SecurityFlags>(text).map_err(anyhow::Error::from);
        read(flags)?.settle(read(file)?)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_what_lacks_its_other_half_is_refused() {
        let file = "{tls_cert_file: a.crt, tls_private_key_file: a.key, tls_client_ca_file: ca.crt}";
        let (security, external) = from("{tls_cert_file: b.crt, write_bearer_token_file: t}", file).unwrap();
        assert_eq!(security.tls.clone().unwrap().cert_file, PathBuf::from("b.crt"));
        assert_eq!(security.certificate_for.len(), 3, "all surfaces unless some are named");
        assert!(security.write.bearer_token_file.is_some() && external.is_none());
        let (security, _) = from("{tls_client_cert_for: [write]}", file).unwrap();
        assert_eq!(security.certificate_for, [Surface::Write]);
        let (_, external) = from("{external_metrics_listen: '127.0.0.1:0'}", "{}").unwrap();
        assert_eq!(external.unwrap().names, [EXTERNAL_NAME]);
        for wrong in [
            "{tls_cert_file: a}",
            "{tls_client_ca_file: a}",
            "{tls_client_cert_for: [read]}",
            "{tls_client_cert_for: [everything]}",
            "{external_metrics_cert_file: a, external_metrics_private_key_file: b}",
            "{tls_certfile: a}",
        ] {
            assert!(from(wrong, "{}").is_err() && from("{}", wrong).is_err(), "{wrong}");
        }
    }
}
