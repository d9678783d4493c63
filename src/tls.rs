//! What the sidecar's servers and clients share of TLS: certificates and keys from PEM files.
//!
//! Input: paths and the bytes found there. Output: what rustls wants, or one sentence that names the file
//! and what is wrong with it. No sentence ever contains what a file contains.

use crate::limits::SECRET_FILE_MAX_BYTES;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The cryptography in use; named everywhere, so that no process-wide default is needed.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A file as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Where it was read.
    pub path: PathBuf,
    bytes: Vec<u8>,
}

/// The bytes stay out of logs.
impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretFile({})", self.path.display())
    }
}

impl SecretFile {
    /// Reads a file of at most [`SECRET_FILE_MAX_BYTES`].
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(SECRET_FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > SECRET_FILE_MAX_BYTES {
            return Err(format!("{}: larger than {SECRET_FILE_MAX_BYTES} bytes", path.display()));
        }
        Ok(SecretFile { path: path.to_owned(), bytes })
    }

    /// What did not come from a file; `name` stands for the path in errors.
    pub fn from_text(name: &str, text: &str) -> Self {
        SecretFile { path: name.into(), bytes: text.into() }
    }

    fn error(&self, what: &str) -> String {
        format!("{}: {what}", self.path.display())
    }

    /// The file as text.
    pub fn text(&self) -> Result<&str, String> {
        std::str::from_utf8(&self.bytes).map_err(|_| self.error("not UTF-8 text"))
    }

    /// The first line that is not empty: a token or a password.
    pub fn secret(&self) -> Result<&str, String> {
        let line = self.text()?.lines().map(str::trim).find(|line| !line.is_empty());
        line.ok_or_else(|| self.error("is empty"))
    }

    /// All certificates of a PEM file; at least one.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) => Err(self.error("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")),
            Err(_) => Err(self.error("holds a PEM section that is damaged")),
        }
    }

    /// The private key of a PEM file, in any of the usual forms.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|_| self.error("holds no PEM private key that is not encrypted"))
    }

    /// The certificates as authorities to trust.
    pub fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| self.error(&format!("holds a certificate that is unusable: {error}")))?;
        }
        Ok(roots)
    }
}
