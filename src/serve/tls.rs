//! TLS of the listeners: certificate, key and client authorities from files, or a certificate made at
//! start.

use super::rotation::{Current, Rotation};
use crate::tls::{SecretFile, provider};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;

/// What a listener does with the certificate that a client shows. None has to show one: what may be done
/// without is decided per request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Asks for none.
    Ignored,
    /// One that the authorities of this file did not sign ends the handshake.
    Checked(PathBuf),
    /// Taken as shown, with proof that the client has its key; checked by whoever reads it.
    Taken,
}

/// Files of a listener's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file of the certificate and what leads from it to its authority.
    pub cert_file: PathBuf,
    /// PEM file of its key.
    pub key_file: PathBuf,
}

/// Settings of a TLS listener that follow their files; `loaded` hears when the certificate in use ends,
/// seconds since the epoch.
pub fn from_files(
    rotation: &mut Rotation,
    what: &'static str,
    files: &CertificateFiles,
    clients: &ClientCertificates,
    loaded: impl Fn(i64) + Send + 'static,
) -> Result<Current<ServerConfig>, String> {
    let mut paths = vec![files.cert_file.clone(), files.key_file.clone()];
    let is_taken = *clients == ClientCertificates::Taken;
    if let ClientCertificates::Checked(path) = clients {
        paths.push(path.clone());
    }
    rotation.follow(what, paths, move |files| {
        let (cert, key, authorities) = (&files[0], &files[1], files.get(2));
        let config = config(cert.certificates()?, key.private_key()?, verifier(is_taken, authorities)?)
            .map_err(|error| format!("{} with {}: {error}", cert.path.display(), key.path.display()))?;
        loaded(check_validity(what, cert)?);
        Ok(config)
    })
}

/// When the first certificate ends. One that is not valid now is served all the same, because a client may
/// not care; but not silently.
fn check_validity(what: &str, file: &SecretFile) -> Result<i64, String> {
    let path = file.path.display();
    let certificates = file.certificates()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&certificates[0])
        .map_err(|error| format!("{path}: the certificate cannot be read: {error}"))?;
    let validity = certificate.validity();
    if !validity.is_valid() {
        let (from, to) = (validity.not_before, validity.not_after);
        tracing::warn!("{what}: {path} is not valid now, only from {from} to {to}; clients will refuse it");
    }
    Ok(validity.not_after.timestamp())
}

fn verifier(is_taken: bool, authorities: Option<&SecretFile>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    if is_taken {
        return Ok(Arc::new(TakenAsShown));
    }
    let Some(file) = authorities else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(file.roots()?), provider());
    let verifier = verifier.allow_unauthenticated().build();
    verifier.map_err(|error| format!("{}: {error}", file.path.display()))
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A certificate made for this process, and the authority to trust in order to believe it.
pub struct SelfMade {
    /// Settings of the listener.
    pub config: Current<ServerConfig>,
    /// The authority's certificate, PEM.
    pub ca_pem: String,
}

/// Makes an authority and a certificate for `names`; both end with the process.
pub fn self_made(names: Vec<String>, clients: &ClientCertificates) -> Result<SelfMade, String> {
    let (ca_pem, chain, key) = make(names).map_err(|error| format!("cannot make a certificate: {error}"))?;
    let verifier = verifier(*clients == ClientCertificates::Taken, None)?;
    let config = Arc::new(arc_swap::ArcSwap::from_pointee(config(chain, key, verifier)?));
    Ok(SelfMade { config, ca_pem })
}

type Made = (String, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn make(names: Vec<String>) -> Result<Made, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "inferno-sidecar");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "inferno-sidecar external metrics");
    params.insert_extended_key_usage(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let certificate = params.signed_by(&key, &issuer)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((issuer.pem(), vec![certificate.der().clone()], der))
}

/// The certificate that a client showed in its handshake, if any.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The client's certificate first, then what it sent to lead to an authority.
    pub chain: Option<Arc<[CertificateDer<'static>]>>,
}

/// Checks nothing but that the client has its certificate's key.
#[derive(Debug)]
struct TakenAsShown;

impl ClientCertVerifier for TakenAsShown {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
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
