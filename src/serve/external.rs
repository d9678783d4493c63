//! `external.metrics.k8s.io/v1beta1`: an aggregated API server, so that an HPA reads decisions with no
//! adapter between.
//!
//! Every request is authenticated (front proxy, client certificate, bearer token, else anonymous) and
//! authorized by the cluster before anything is looked up. Errors are `Status` objects. While a number
//! cannot be given the answer is 503, never an empty list or zero; without `Retry-After`, because the
//! HPA's client would sleep on it while every other HPA waits.

mod answer;
mod identity;
mod review;
mod selector;
mod trust;

pub use review::Reviewer;
pub use trust::{Trust, follow as follow_trust};

use super::OwnMetrics;
use super::connection::drain;
use super::tls::Peer;
use crate::config::VariantKey;
use crate::publish::gauges::{FAMILIES, Family, labels};
use crate::publish::{Board, Entry};
use crate::runner::Handle;
use crate::units::TimeMs;
use answer::{Item, Refusal, json_answer};
use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use identity::Identity;
use review::Asked;
use selector::{Operator, Selector};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// API group.
pub const GROUP: &str = "external.metrics.k8s.io";
/// API version.
pub const VERSION: &str = "v1beta1";

/// What the handlers share.
#[derive(Clone)]
pub struct External {
    /// Access to the board.
    pub engine: Handle,
    /// Serve the `wva_*` names too.
    pub wva_aliases: bool,
    /// The sidecar's own metrics.
    pub own: Arc<OwnMetrics>,
    /// Whom to believe; nothing until the cluster has said so.
    pub trust: Arc<ArcSwapOption<Trust>>,
    /// Asks the cluster about tokens and permissions.
    pub reviewer: Arc<Reviewer>,
}

/// All paths.
pub fn router(external: External) -> Router {
    Router::new().fallback(handle).with_state(external)
}

async fn handle(State(external): State<External>, request: Request) -> Response {
    let path = request.uri().path();
    if let "/healthz" | "/livez" = path {
        return "ok".into_response();
    }
    if path == "/readyz" {
        return match external.trust.load().is_some() {
            true => "ok".into_response(),
            false => not_trusting().into_response(),
        };
    }
    let response = match external.answer(request).await {
        Ok(body) => json_answer(axum::http::StatusCode::OK, &body),
        Err(refusal) => refusal.into_response(),
    };
    external.own.external_answered(response.status());
    response
}

fn not_trusting() -> Refusal {
    Refusal::unavailable(format!(
        "the ConfigMap {}/{} has not been read yet, so nobody can be authenticated; see the sidecar's log",
        trust::NAMESPACE,
        trust::NAME
    ))
}

/// What a path leads to.
enum Target<'p> {
    Groups,
    Group,
    Resources,
    Metric { namespace: &'p str, metric: &'p str },
}

impl<'p> Target<'p> {
    fn of(path: &'p str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_start_matches('/').trim_end_matches('/').split('/').collect();
        match parts[..] {
            ["apis"] => Some(Target::Groups),
            ["apis", GROUP] => Some(Target::Group),
            ["apis", GROUP, VERSION] => Some(Target::Resources),
            ["apis", GROUP, VERSION, "namespaces", namespace, metric] => {
                Some(Target::Metric { namespace, metric })
            }
            _ => None,
        }
    }
}

impl External {
    async fn answer(&self, request: Request) -> Result<Json, Refusal> {
        let (parts, body) = request.into_parts();
        // No request has a use for one.
        drain(body).await;
        let identity = self.authenticate(&parts).await?;
        let path = parts.uri.path();
        let target = Target::of(path);
        let selector = selector_of(&parts.uri);
        let asked = match &target {
            Some(Target::Metric { namespace, metric }) => {
                Asked::Metric { namespace, metric, selector: selector.as_ref().ok() }
            }
            _ => Asked::Path(path),
        };
        self.authorize(&identity, &asked).await?;
        if parts.method != Method::GET {
            return Err(Refusal::method_not_allowed());
        }
        match target {
            Some(Target::Groups) => {
                Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [answer::group()]}))
            }
            Some(Target::Group) => {
                let mut group = answer::group();
                (group["kind"], group["apiVersion"]) = (json!("APIGroup"), json!("v1"));
                Ok(group)
            }
            Some(Target::Resources) => Ok(answer::resources(self.families().map(|family| family.name))),
            Some(Target::Metric { namespace, metric }) => {
                self.values(namespace, metric, &selector.map_err(Refusal::bad_request)?)
            }
            None => Err(Refusal::not_found("the server could not find the requested resource".into())),
        }
    }

    async fn authenticate(&self, parts: &axum::http::request::Parts) -> Result<Identity, Refusal> {
        let trust = self.trust.load_full().ok_or_else(not_trusting)?;
        let chain = parts.extensions.get::<Peer>().and_then(|peer| peer.chain.clone());
        let found = match identity::by_certificate(&trust, chain.as_deref(), &parts.headers) {
            Ok(Some(identity)) => Ok(Some(identity)),
            by_certificate => match identity::bearer(&parts.headers) {
                Some(token) => self.reviewer.token(token).await?.map(Some).ok_or(()),
                None => by_certificate,
            },
        };
        match found {
            Ok(identity) => Ok(identity.unwrap_or_else(Identity::anonymous).completed()),
            Err(()) => {
                self.own.denied("external", "wrong");
                Err(Refusal::unauthorized())
            }
        }
    }

    async fn authorize(&self, identity: &Identity, asked: &Asked<'_>) -> Result<(), Refusal> {
        if identity.is_master() {
            return Ok(());
        }
        let Err(reason) = self.reviewer.access(identity, asked).await? else { return Ok(()) };
        self.own.denied("external", "forbidden");
        Err(Refusal::forbidden(&identity.user, asked, &reason))
    }

    fn families(&self) -> impl Iterator<Item = &'static Family> {
        let aliases = self.wva_aliases;
        FAMILIES.iter().filter(move |family| aliases || !family.alias)
    }

    fn values(&self, namespace: &str, metric: &str, selector: &Selector) -> Result<Json, Refusal> {
        let family = self.families().find(|family| family.name == metric);
        let family = family.ok_or_else(|| Refusal::no_such_metric(metric))?;
        let board = self.engine.board();
        let now = self.engine.clock.reader_now(&board);
        Ok(answer::list(&items(family, &board, now, namespace, selector)?))
    }
}

/// The selector of a request's query; without one everything is selected.
fn selector_of(uri: &Uri) -> Result<Selector, String> {
    let query = uri.query().unwrap_or_default();
    let texts = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "labelSelector");
    let mut all = Selector::default();
    for (_, text) in texts {
        all.and(Selector::parse(&text)?);
    }
    Ok(all)
}

/// Values of a family in a namespace. A variant that is selected and has no decision makes the whole
/// answer an error: the HPA adds up what it gets.
fn items(
    family: &Family,
    board: &Board,
    now: TimeMs,
    namespace: &str,
    selector: &Selector,
) -> Result<Vec<Item>, Refusal> {
    if let Some(why) = board.not_ready() {
        return Err(Refusal::unavailable(why));
    }
    let mut items = Vec::new();
    for entry in candidates(board, namespace, selector) {
        let base = base_labels(entry);
        if family.vital && entry.decision.is_none() && selector.matches(&base) {
            return Err(Refusal::unavailable(entry.undecided(now)));
        }
        family.samples(entry, now, |extra, value| {
            let mut labels = base.clone();
            labels.extend_from_slice(extra);
            if selector.matches(&labels) {
                let at = entry.health.newest_sample.unwrap_or(now).min(now);
                items.extend(Item::new(family.name, &labels, at, value));
            }
        });
    }
    Ok(items)
}

/// Entries of a namespace that can be selected at all: HPAs name their variant, which is one look-up.
fn candidates<'b>(board: &'b Board, namespace: &str, selector: &Selector) -> Vec<&'b Arc<Entry>> {
    let named = selector
        .requirements
        .iter()
        .find(|requirement| requirement.key == "variant_name" && requirement.operator == Operator::In);
    match named {
        Some(named) => {
            let names: BTreeSet<&String> = named.values.iter().collect();
            let found =
                names.into_iter().filter_map(|name| board.entries.get(&VariantKey::new(namespace, name)));
            found.collect()
        }
        None => {
            let all = board.entries.range(VariantKey::new(namespace, "")..);
            all.take_while(|(key, _)| &*key.namespace == namespace).map(|(_, entry)| entry).collect()
        }
    }
}

fn base_labels(entry: &Entry) -> Vec<(&str, &str)> {
    let mut base = Vec::with_capacity(8);
    labels(&entry.variant, &entry.variant_id, |name, value| base.push((name, value)));
    // As Prometheus names it after a scrape, and as selectors of the reference's HPAs do.
    base.push(("exported_namespace", &entry.variant.key.namespace));
    base
}
