//! One watch: a list, then changes for as long as it lives; a new list only when the API server has
//! forgotten where the watch was.
//!
//! Output: [`Told`] and state, over a channel. Must not know what objects mean.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Api, ApiResource, ListParams, WatchEvent, WatchParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use super::kinds::{Item, Kind, item, pod_item};
use super::store::{Told, WatchId};
use crate::config::cluster::ObjectName;
use crate::limits::CLUSTER_LIST_PAGE;

/// First wait after a failure; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Wait after an answer that only an administrator can change.
const BACKOFF_REFUSED: Duration = Duration::from_secs(15);
/// Lifetime of a watch, seconds; the API server ends it then and it is resumed where it was.
const WATCH_S: u32 = 290;
/// A watch without a word for this long is taken for dead: bookmarks come once a minute.
const SILENCE_MAX: Duration = Duration::from_secs(150);

/// A message of a watch.
#[derive(Debug)]
pub struct Message {
    /// Which watch.
    pub watch: WatchId,
    /// What it says.
    pub news: News,
}

/// What a watch says.
#[derive(Debug)]
pub enum News {
    /// Of objects.
    Told(Told),
    /// It follows the cluster.
    Connected,
    /// It does not, and why.
    Failed(Failure),
}

/// Why a watch does not follow the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A permission is missing.
    Forbidden(String),
    /// The API server does not know the kind.
    Unknown(String),
    /// Anything that passes by itself.
    Passing(String),
}

impl Failure {
    /// What was answered.
    pub fn text(&self) -> &str {
        let (Failure::Forbidden(text) | Failure::Unknown(text) | Failure::Passing(text)) = self;
        text
    }

    pub(super) fn of(error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                Failure::Forbidden(status.message.clone())
            }
            kube::Error::Api(status) if status.code == 404 => Failure::Unknown(status.message.clone()),
            kube::Error::Api(status) => Failure::Passing(format!("{} ({})", status.message, status.code)),
            other => Failure::Passing(chain(other)),
        }
    }
}

/// An error with its causes, which name the connection's trouble.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += ": ";
            text += &cause_text;
        }
        next = cause.source();
    }
    text
}

/// Follows what `watch` asks for until the channel closes.
pub async fn follow(client: Client, watch: WatchId, messages: Sender<Message>) {
    let line = Line { watch: watch.clone(), messages };
    let resource = watch.kind.api_resource();
    match watch.kind {
        Kind::Pod => line.run(api(client, &watch, &resource), pod_item).await,
        kind => line.run(api(client, &watch, &resource), |object| item(kind, object)).await,
    }
}

/// Access to what a watch asks for.
pub(super) fn api<K>(client: Client, watch: &WatchId, resource: &ApiResource) -> Api<K>
where
    K: Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
{
    match &watch.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, resource),
        None => Api::all_with(client, resource),
    }
}

/// The channel has closed.
struct Closed;

struct Line {
    watch: WatchId,
    messages: Sender<Message>,
}

impl Line {
    async fn say(&self, news: News) -> Result<(), Closed> {
        let message = Message { watch: self.watch.clone(), news };
        self.messages.send(message).await.map_err(|_| Closed)
    }

    fn watch_params(&self) -> WatchParams {
        let field_selector = field_selector(&self.watch);
        WatchParams { timeout: Some(WATCH_S), field_selector, ..WatchParams::default() }
    }

    async fn run<K>(self, api: Api<K>, read: impl Fn(K) -> Option<(ObjectName, Item)>)
    where
        K: Resource<DynamicType = ApiResource> + Clone + Debug + DeserializeOwned,
    {
        let mut backoff = BACKOFF_MIN;
        let mut version: Option<String> = None;
        loop {
            let failure = match self.pass(&api, &read, &mut version, &mut backoff).await {
                Ok(None) => continue,
                Ok(Some(failure)) => failure,
                Err(Closed) => return,
            };
            let wait = match failure {
                Failure::Passing(_) => backoff,
                Failure::Forbidden(_) | Failure::Unknown(_) => backoff.max(BACKOFF_REFUSED),
            };
            if self.say(News::Failed(failure)).await.is_err() {
                return;
            }
            tokio::time::sleep(wait.mul_f64(0.8 + 0.4 * rand::random::<f64>())).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Lists if need be, then watches until the watch ends: `None` when it ended in peace.
    async fn pass<K>(
        &self,
        api: &Api<K>,
        read: &impl Fn(K) -> Option<(ObjectName, Item)>,
        version: &mut Option<String>,
        backoff: &mut Duration,
    ) -> Result<Option<Failure>, Closed>
    where
        K: Resource<DynamicType = ApiResource> + Clone + Debug + DeserializeOwned,
    {
        let from = match version {
            Some(version) => version.clone(),
            None => match list(api, &self.watch, read).await {
                Ok((items, listed)) => {
                    self.say(News::Told(Told::All(items))).await?;
                    version.insert(listed).clone()
                }
                Err(error) => return Ok(Some(Failure::of(&error))),
            },
        };
        let params = self.watch_params();
        let mut stream = match api.watch(&params, &from).await {
            Ok(stream) => stream.boxed(),
            Err(error) => {
                if is_expired(&error) {
                    *version = None;
                    return Ok(None);
                }
                return Ok(Some(Failure::of(&error)));
            }
        };
        self.say(News::Connected).await?;
        *backoff = BACKOFF_MIN;
        loop {
            let event = match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return Ok(Some(Failure::of(&error))),
                Ok(None) | Err(_) => return Ok(None),
            };
            let (object, is_gone) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(bookmark) => {
                    *version = Some(bookmark.metadata.resource_version);
                    continue;
                }
                WatchEvent::Error(status) if status.code == 410 => {
                    *version = None;
                    return Ok(None);
                }
                WatchEvent::Error(status) => {
                    return Ok(Some(Failure::of(&kube::Error::Api(status))));
                }
            };
            if let Some(newest) = &object.meta().resource_version {
                *version = Some(newest.clone());
            }
            let name = ObjectName {
                namespace: object.meta().namespace.as_deref().unwrap_or_default().into(),
                name: object.meta().name.as_deref().unwrap_or_default().into(),
            };
            let told = match read(object).filter(|_| !is_gone) {
                Some((name, item)) => Told::Is(name, item),
                None => Told::Gone(name),
            };
            self.say(News::Told(told)).await?;
        }
    }
}

/// Everything that a watch asks for, page by page, with the version it is of.
pub(super) async fn list<K>(
    api: &Api<K>,
    watch: &WatchId,
    read: &impl Fn(K) -> Option<(ObjectName, Item)>,
) -> Result<(Vec<(ObjectName, Item)>, String), kube::Error>
where
    K: Resource<DynamicType = ApiResource> + Clone + Debug + DeserializeOwned,
{
    let field_selector = field_selector(watch);
    let mut params = ListParams { limit: Some(CLUSTER_LIST_PAGE), field_selector, ..ListParams::default() };
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items.into_iter().filter_map(read));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok((items, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}

fn field_selector(watch: &WatchId) -> Option<String> {
    watch.name.as_ref().map(|name| format!("metadata.name={name}"))
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}
