//! Who may use what: three surfaces (write, read, admin), each open or asking for one of the ways to prove
//! oneself that are set up for it: a client certificate, a bearer token, a user name with a password.
//!
//! A token or password is kept and compared only as a keyed digest. Secrets are in no answer, log line or
//! error.

mod passwords;

pub use passwords::Passwords;

use super::connection::drain;
use super::rotation::{Current, Rotation};
use super::tls::Peer;
use super::{Context, api_error};
use crate::limits::BEARER_TOKENS_MAX;
use crate::tls::SecretFile;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::LazyLock;

/// A part of the HTTP interface with rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surface {
    /// Remote-write.
    Write,
    /// Everything that shows metrics, decisions or the list of paths, and KEDA's gRPC service.
    Read,
    /// What changes the process: reload.
    Admin,
}

impl Surface {
    /// The word for it in flags, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Surface::Write => "write",
            Surface::Read => "read",
            Surface::Admin => "admin",
        }
    }
}

/// Where the secrets of one surface are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurfaceSettings {
    /// File of bearer tokens, one per line.
    pub bearer_token_file: Option<PathBuf>,
    /// File of `user:hash` lines with bcrypt hashes.
    pub basic_auth_file: Option<PathBuf>,
}

/// Digest of a secret under a key of this process.
pub type Digest = [u8; 32];

static DIGEST_KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    let generated = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
    // Without random numbers there is no TLS either.
    generated.unwrap_or_else(|_| panic!("the system gives no random numbers"))
});

/// The digest of some texts, told apart by their lengths.
pub fn digest(texts: &[&str]) -> Digest {
    let mut context = hmac::Context::with_key(&DIGEST_KEY);
    for text in texts {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text.as_bytes());
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.sign().as_ref());
    digest
}

/// What one surface asks for. Any one of the ways is enough; without any the surface is open.
#[derive(Clone, Default)]
pub struct Guard {
    certificate: bool,
    tokens: Option<Current<HashSet<Digest>>>,
    passwords: Option<Current<Passwords>>,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nothing that proves who asks.
    Missing,
    /// Something that does not.
    Wrong,
    /// Too many passwords wait to be checked.
    Busy,
}

impl Denied {
    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Denied::Missing => "missing",
            Denied::Wrong => "wrong",
            Denied::Busy => "busy",
        }
    }
}

impl Guard {
    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        !self.certificate && !self.has_secrets()
    }

    /// Whether secrets are sent to this surface, which plain text would give away.
    pub fn has_secrets(&self) -> bool {
        self.tokens.is_some() || self.passwords.is_some()
    }

    /// Lets a request in or not. The certificate of `peer` has been checked by the listener.
    pub async fn check(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<(), Denied> {
        if self.is_open() || self.certificate && peer.is_some_and(|peer| peer.chain.is_some()) {
            return Ok(());
        }
        let Some(text) = headers.get(AUTHORIZATION) else { return Err(Denied::Missing) };
        let text = text.to_str().map_err(|_| Denied::Wrong)?;
        let (scheme, value) = text.split_once(' ').ok_or(Denied::Wrong)?;
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            let tokens = self.tokens.as_ref().ok_or(Denied::Wrong)?;
            return tokens.load().contains(&digest(&[value])).then_some(()).ok_or(Denied::Wrong);
        }
        let passwords = self.passwords.as_ref().filter(|_| scheme.eq_ignore_ascii_case("basic"));
        let passwords = passwords.ok_or(Denied::Wrong)?.load_full();
        let pair = STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.ok_or(Denied::Wrong)?;
        let (user, password) = pair.split_once(':').ok_or(Denied::Wrong)?;
        passwords.check(user, password).await
    }

    /// The answer to a request that is not let in.
    fn refusal(&self, denied: Denied) -> Response {
        if denied == Denied::Busy {
            let message = "too many passwords wait to be checked; try again";
            let mut response = api_error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(crate::limits::RETRY_AFTER_S));
            return response;
        }
        let mut ways = Vec::new();
        if self.certificate {
            ways.push("a client certificate");
        }
        if self.tokens.is_some() {
            ways.push("a bearer token");
        }
        if self.passwords.is_some() {
            ways.push("a user name and password");
        }
        let what = if denied == Denied::Missing { "missing" } else { "not valid" };
        let message = format!("credentials are {what}; this path asks for {}", ways.join(" or "));
        let mut response = api_error(StatusCode::UNAUTHORIZED, "unauthorized", &message);
        let challenges = [
            (self.tokens.is_some(), "Bearer realm=\"inferno-sidecar\""),
            (self.passwords.is_some(), "Basic realm=\"inferno-sidecar\", charset=\"UTF-8\""),
        ];
        for (_, challenge) in challenges.into_iter().filter(|(is_asked, _)| *is_asked) {
            response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// The guards of all surfaces.
#[derive(Clone, Default)]
pub struct Access {
    /// Of remote-write.
    pub write: Guard,
    /// Of everything that shows something.
    pub read: Guard,
    /// Of what changes the process.
    pub admin: Guard,
}

impl Access {
    /// The guard of a surface.
    pub fn guard(&self, surface: Surface) -> &Guard {
        match surface {
            Surface::Write => &self.write,
            Surface::Read => &self.read,
            Surface::Admin => &self.admin,
        }
    }

    /// Sets up a surface; its secrets follow their files. With `certificate`, a client certificate that
    /// the listener has checked is enough.
    pub fn set(
        &mut self,
        surface: Surface,
        settings: &SurfaceSettings,
        certificate: bool,
        rotation: &mut Rotation,
    ) -> Result<(), String> {
        let (tokens_name, passwords_name) = match surface {
            Surface::Write => ("bearer tokens of write", "passwords of write"),
            Surface::Read => ("bearer tokens of read", "passwords of read"),
            Surface::Admin => ("bearer tokens of admin", "passwords of admin"),
        };
        let tokens = settings.bearer_token_file.clone();
        let tokens =
            tokens.map(|path| rotation.follow(tokens_name, vec![path], |files| tokens_of(&files[0])));
        let passwords = settings.basic_auth_file.clone();
        let passwords = passwords
            .map(|path| rotation.follow(passwords_name, vec![path], |files| Passwords::read(&files[0])));
        let guard = Guard { certificate, tokens: tokens.transpose()?, passwords: passwords.transpose()? };
        match surface {
            Surface::Write => self.write = guard,
            Surface::Read => self.read = guard,
            Surface::Admin => self.admin = guard,
        }
        Ok(())
    }
}

/// Tokens of a file, one per line, so that an old and a new one are valid while they are changed over.
fn tokens_of(file: &SecretFile) -> Result<HashSet<Digest>, String> {
    file.secret()?;
    let lines = file.text()?.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens: HashSet<Digest> = lines.map(|token| digest(&[token])).collect();
    if tokens.len() > BEARER_TOKENS_MAX {
        return Err(format!("{}: more than {BEARER_TOKENS_MAX} tokens", file.path.display()));
    }
    Ok(tokens)
}

/// Lets requests of a surface in or answers them.
pub async fn guarded(
    State((context, surface)): State<(Context, Surface)>,
    mut request: Request,
    next: Next,
) -> Response {
    let guard = context.access.guard(surface);
    let is_grpc = is_grpc(request.headers());
    let checked = guard.check(request.extensions().get::<Peer>(), request.headers()).await;
    if let Err(denied) = checked {
        context.own.denied(surface.as_str(), denied.as_str());
        tracing::debug!(surface = surface.as_str(), why = denied.as_str(), "request not let in");
        drain(request.into_body()).await;
        return match is_grpc {
            true => grpc_refusal(denied),
            false => guard.refusal(denied),
        };
    }
    // Nothing further in has a use for it.
    request.headers_mut().remove(AUTHORIZATION);
    next.run(request).await
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(axum::http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn grpc_refusal(denied: Denied) -> Response {
    let status = match denied {
        Denied::Busy => tonic::Status::unavailable("too many passwords wait to be checked"),
        Denied::Missing => tonic::Status::unauthenticated("credentials are missing"),
        Denied::Wrong => tonic::Status::unauthenticated("credentials are not valid"),
    };
    status.into_http()
}
