//! Connections that the sidecar opens: HTTP and HTTPS with a CA, a client certificate, a bearer or
//! password file and an own server name.
//!
//! The files are looked at before every request, so a rotated one counts from the next request on; a
//! broken replacement leaves the last good one in use and says so in the log. Secrets are in no error.

use crate::limits::CONNECT_MAX_S;
use crate::tls::{SecretFile, provider};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, Response};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How to reach a server and what to show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSettings {
    /// PEM file of the authorities that may have signed the server's certificate; without it, those of the
    /// system.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate and what leads from it to its authority.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    pub key_file: Option<PathBuf>,
    /// File with a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    /// User name of basic authentication.
    pub username: Option<String>,
    /// File with the password of basic authentication.
    pub password_file: Option<PathBuf>,
    /// Name that the server's certificate must bear, where it is not the URL's host.
    pub server_name: Option<String>,
    /// Believe any certificate.
    pub insecure_skip_verify: bool,
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The settings, or a file that they name, cannot be used.
    #[error("{0}")]
    Settings(String),
    /// No connection, or one that broke: with the whole chain of causes.
    #[error("{0}")]
    Connection(String),
    /// The answer is larger than the caller wants.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What the files of the settings hold.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    ca: Option<SecretFile>,
    cert: Option<SecretFile>,
    key: Option<SecretFile>,
    bearer: Option<SecretFile>,
    password: Option<SecretFile>,
}

impl Files {
    fn read(settings: &ClientSettings) -> Result<Self, String> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(SecretFile::read).transpose();
        Ok(Files {
            ca: read(&settings.ca_file)?,
            cert: read(&settings.cert_file)?,
            key: read(&settings.key_file)?,
            bearer: read(&settings.bearer_token_file)?,
            password: read(&settings.password_file)?,
        })
    }
}

type Connections = HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// What is in use until a file changes.
#[derive(Clone)]
struct Current {
    connections: Connections,
    authorization: Option<HeaderValue>,
}

struct State {
    /// What was looked at last; an error once logged is not logged again.
    seen: Result<Files, String>,
    current: Current,
}

/// A client of one server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    settings: Arc<ClientSettings>,
    state: Arc<Mutex<State>>,
}

impl Client {
    /// Reads and checks the settings' files.
    pub fn new(settings: ClientSettings) -> Result<Self, ClientError> {
        check(&settings).map_err(ClientError::Settings)?;
        let files = Files::read(&settings).map_err(ClientError::Settings)?;
        let current = build(&settings, &files).map_err(ClientError::Settings)?;
        if settings.insecure_skip_verify {
            tracing::warn!(
                "insecure_skip_verify: the server's certificate is not checked; set ca_file instead"
            );
        }
        let state = Arc::new(Mutex::new(State { seen: Ok(files), current }));
        Ok(Client { settings: Arc::new(settings), state })
    }

    /// Sends a request with an absolute URI; the authorization is added. The answer's body is the caller's
    /// to bound.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let this = self.clone();
        // Files may lie on a slow file system.
        let current = tokio::task::spawn_blocking(move || this.current())
            .await
            .map_err(|error| ClientError::Connection(error.to_string()))??;
        if let Some(authorization) = current.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        current.connections.request(request).await.map_err(|error| ClientError::Connection(chain(&error)))
    }

    /// Sends a request and reads the whole answer, of at most `max_bytes` and within `timeout`.
    pub async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        max_bytes: usize,
        timeout: Duration,
    ) -> Result<Response<Bytes>, ClientError> {
        let whole = async {
            let (parts, body) = self.send(request).await?.into_parts();
            let body = Limited::new(body, max_bytes).collect().await.map_err(|error| {
                match error.downcast_ref::<http_body_util::LengthLimitError>() {
                    Some(_) => ClientError::TooLarge(max_bytes),
                    None => ClientError::Connection(chain(&*error)),
                }
            })?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(timeout, whole).await.map_err(|_| ClientError::Timeout(timeout))?
    }

    /// What to use now: built anew when a file has changed.
    fn current(&self) -> Result<Current, ClientError> {
        let found = Files::read(&self.settings);
        let mut state =
            self.state.lock().map_err(|_| ClientError::Settings("an earlier request ended badly".into()))?;
        if state.seen != found {
            match found.as_ref().map_err(Clone::clone).and_then(|files| build(&self.settings, files)) {
                Ok(current) => state.current = current,
                Err(error) => {
                    tracing::warn!(%error, "a changed file of a client cannot be used; the last good one stays");
                }
            }
            state.seen = found;
        }
        Ok(state.current.clone())
    }
}

fn check(settings: &ClientSettings) -> Result<(), String> {
    if settings.cert_file.is_some() != settings.key_file.is_some() {
        return Err("cert_file and key_file belong together; set both or none".into());
    }
    if settings.username.is_some() != settings.password_file.is_some() {
        return Err("username and password_file belong together; set both or none".into());
    }
    if settings.username.is_some() && settings.bearer_token_file.is_some() {
        return Err("set either bearer_token_file or username and password_file".into());
    }
    if settings.username.as_ref().is_some_and(|name| name.contains(':')) {
        return Err("username must not contain a colon".into());
    }
    Ok(())
}

fn build(settings: &ClientSettings, files: &Files) -> Result<Current, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(Duration::from_secs(CONNECT_MAX_S)));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(settings, files)?).https_or_http();
    let connector = match &settings.server_name {
        None => builder.enable_http1().wrap_connector(http),
        Some(name) => {
            let fixed = ServerName::try_from(name.clone())
                .map_err(|_| format!("server_name {} is no DNS name or address", name.escape_debug()))?;
            let resolver = FixedServerNameResolver::new(fixed);
            builder.with_server_name_resolver(resolver).enable_http1().wrap_connector(http)
        }
    };
    let connections =
        HyperClient::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
    Ok(Current { connections, authorization: authorization(settings, files)? })
}

fn tls(settings: &ClientSettings, files: &Files) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if settings.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything))
    } else {
        builder.with_root_certificates(match &files.ca {
            Some(file) => file.roots()?,
            None => system_roots(),
        })
    };
    let (Some(cert), Some(key)) = (&files.cert, &files.key) else { return Ok(builder.with_no_client_auth()) };
    builder
        .with_client_auth_cert(cert.certificates()?, key.private_key()?)
        .map_err(|error| format!("{} and {}: {error}", cert.path.display(), key.path.display()))
}

/// The system's authorities. Where there are none, every certificate is unknown, which the connection's
/// error says; plain HTTP works all the same.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn authorization(settings: &ClientSettings, files: &Files) -> Result<Option<HeaderValue>, String> {
    let (text, path) = match (&files.bearer, &settings.username, &files.password) {
        (Some(file), _, _) => (format!("Bearer {}", file.secret()?), &file.path),
        (None, Some(user), Some(file)) => {
            (format!("Basic {}", STANDARD.encode(format!("{user}:{}", file.secret()?))), &file.path)
        }
        _ => return Ok(None),
    };
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| format!("{}: holds a character that no header can carry", path.display()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// An error with its causes: hyper's own text alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Believes every certificate, for those who ask for it.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
