//! Certificates of a control plane that lives for one test: an authority for servers and clients, one
//! for the front proxy, and the key that signs service-account tokens.

#![allow(dead_code, reason = "each test uses a part")]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::path::{Path, PathBuf};

/// An authority that signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("the parameters are valid");
        Authority { issuer }
    }

    /// The authority's certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes the authority's certificate to `dir/NAME.crt`.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        write(dir, &format!("{name}.crt"), &self.pem())
    }

    /// Certificate and key of a server or client, as PEM. Without `hosts` it is a client.
    pub fn issue_pem(&self, common_name: &str, organization: &str, hosts: &[&str]) -> (String, String) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let usage = match hosts.is_empty() {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        };
        let mut params = CertificateParams::new(hosts).expect("the host names are valid");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are valid");
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes certificate and key of a server or client to `dir/NAME.crt` and `dir/NAME.key`.
    pub fn issue(&self, dir: &Path, name: &str, common_name: &str, hosts: &[&str]) -> Pair {
        let (certificate, key) = self.issue_pem(common_name, "", hosts);
        Pair {
            certificate: write(dir, &format!("{name}.crt"), &certificate),
            key: write(dir, &format!("{name}.key"), &key),
        }
    }
}

/// Writes a fresh key and its public half to `dir/NAME.key` and `dir/NAME.pub`.
pub fn signing_key(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = new_key();
    let public = write(dir, &format!("{name}.pub"), &key.public_key_pem());
    (write(dir, &format!("{name}.key"), &key.serialize_pem()), public)
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the machine gives random numbers")
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("the folder is ours");
    path
}
