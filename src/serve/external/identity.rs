//! Who asks: from the front proxy's headers, a client certificate, or nobody.
//!
//! The headers are believed only behind a certificate of the front proxy's own authority; from anybody
//! else they mean nothing.

use super::trust::{FrontProxy, Trust};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::collections::BTreeMap;

const AUTHENTICATED: &str = "system:authenticated";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const MASTERS: &str = "system:masters";

/// A user of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name.
    pub user: String,
    /// Unique ID, where there is one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the cluster knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Identity { user: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Identity::default() }
    }

    /// With the group of all who are somebody: the front proxy's own requests come without any.
    pub fn completed(mut self) -> Self {
        if self.user != ANONYMOUS && !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.into());
        }
        self
    }

    /// Whether everything is allowed without asking.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// The user that a client certificate proves, directly or as the front proxy's; `None` without one, an
/// error when it proves nothing.
pub fn by_certificate(
    trust: &Trust,
    chain: Option<&[CertificateDer<'static>]>,
    headers: &HeaderMap,
) -> Result<Option<Identity>, ()> {
    let Some((end_entity, intermediates)) = chain.and_then(<[_]>::split_first) else { return Ok(None) };
    let is_signed = |verifier: &dyn ClientCertVerifier| {
        verifier.verify_client_cert(end_entity, intermediates, UnixTime::now()).is_ok()
    };
    let subject = subject(end_entity).ok_or(())?;
    if let Some(proxy) = &trust.front_proxy
        && is_signed(&*proxy.verifier)
        && proxy.allows(&subject.user)
        && let Some(identity) = from_headers(proxy, headers)
    {
        return Ok(Some(identity));
    }
    let is_client = trust.clients.as_ref().is_some_and(|verifier| is_signed(&**verifier));
    (is_client && !subject.user.is_empty()).then_some(Some(subject)).ok_or(())
}

/// Common name and organizations of a certificate, as user and groups.
fn subject(der: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    let groups = subject.iter_organization().filter_map(|name| name.as_str().ok());
    Some(Identity { user: user.into(), groups: groups.map(Into::into).collect(), ..Identity::default() })
}

/// The user that the front proxy names; `None` when it names none.
fn from_headers(proxy: &FrontProxy, headers: &HeaderMap) -> Option<Identity> {
    let texts = |name: &String| {
        let values = headers.get_all(name.as_str()).into_iter();
        values.filter_map(|value| Some(value.to_str().ok()?.to_owned())).filter(|text| !text.is_empty())
    };
    let first = |names: &[String]| names.iter().find_map(|name| texts(name).next());
    let mut identity = Identity {
        user: first(&proxy.username_headers)?,
        uid: first(&proxy.uid_headers).unwrap_or_default(),
        groups: proxy.group_headers.iter().flat_map(texts).collect(),
        extra: BTreeMap::new(),
    };
    for (name, value) in headers {
        let key = proxy.extra_prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(&**prefix));
        if let (Some(key), Ok(value)) = (key.filter(|key| !key.is_empty()), value.to_str()) {
            identity.extra.entry(percent_decoded(key)).or_default().push(value.to_owned());
        }
    }
    Some(identity)
}

/// Header names cannot carry every character of a key. What is not valid stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned()).to_lowercase()
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_where_they_are_encoded() {
        for (text, decoded) in [
            ("scopes", "scopes"),
            ("example.com%2fProject", "example.com/project"),
            ("a%", "a%"),
            ("a%2", "a%2"),
            ("a%zz", "a%zz"),
            ("%ff", "%ff"),
        ] {
            assert_eq!(percent_decoded(text), decoded);
        }
    }
}
