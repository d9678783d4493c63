//! Asks the cluster who a token belongs to and what a user may do; answers are remembered for a short
//! time. Tokens are remembered as digests only.

use super::answer::Refusal;
use super::identity::Identity;
use super::selector::{Operator, Requirement, Selector};
use super::{GROUP, VERSION};
use crate::limits::{REVIEW_MAX_S, REVIEWS_REMEMBERED_MAX, REVIEWS_REMEMBERED_S, REVIEWS_UNDER_WAY_MAX};
use crate::serve::access::{Digest, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    LabelSelectorAttributes, NonResourceAttributes, ResourceAttributes, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What a user wants.
pub enum Asked<'a> {
    /// To get a path.
    Path(&'a str),
    /// To read a metric.
    Metric {
        /// Namespace of the path.
        namespace: &'a str,
        /// Name of the metric.
        metric: &'a str,
        /// Selector of the query, where it can be read.
        selector: Option<&'a Selector>,
    },
}

/// Allowed, or the reason why not.
type Verdict = Result<(), String>;

/// Asks the cluster, and remembers.
pub struct Reviewer {
    client: Client,
    tokens: Memory<Option<Identity>>,
    verdicts: Memory<Verdict>,
    under_way: Semaphore,
}

impl Reviewer {
    /// Asks with `client`, which needs the ClusterRole `system:auth-delegator`.
    pub fn new(client: Client) -> Self {
        let under_way = Semaphore::new(REVIEWS_UNDER_WAY_MAX);
        Reviewer { client, tokens: Memory::default(), verdicts: Memory::default(), under_way }
    }

    /// The user of a token; `None` if it is not valid.
    pub async fn token(&self, token: &str) -> Result<Option<Identity>, Refusal> {
        let key = digest(&["token", token]);
        if let Some(known) = self.tokens.get(&key) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let review = self.create(TokenReview { spec, ..TokenReview::default() }).await?;
        let status = review.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        let identity = user.map(from_user).filter(|identity| !identity.user.is_empty());
        self.tokens.put(key, identity.clone());
        Ok(identity)
    }

    /// Whether the user may do this.
    pub async fn access(&self, identity: &Identity, asked: &Asked<'_>) -> Result<Verdict, Refusal> {
        let spec = spec(identity, asked);
        let text = serde_json::to_string(&spec).unwrap_or_default();
        let key = digest(&["access", &text]);
        if let Some(known) = self.verdicts.get(&key) {
            return Ok(known);
        }
        let review = self.create(SubjectAccessReview { spec, ..SubjectAccessReview::default() }).await?;
        let status = review.status.unwrap_or_default();
        let is_allowed = status.allowed && status.denied != Some(true);
        let verdict = if is_allowed { Ok(()) } else { Err(status.reason.unwrap_or_default()) };
        self.verdicts.put(key, verdict.clone());
        Ok(verdict)
    }

    async fn create<K>(&self, review: K) -> Result<K, Refusal>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let failed = |why: &str| Refusal::unavailable(format!("the cluster could not be asked: {why}"));
        let _under_way =
            self.under_way.try_acquire().map_err(|_| failed("too many questions are under way"))?;
        let api: Api<K> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let answer = api.create(&parameters, &review);
        let limit = Duration::from_secs(REVIEW_MAX_S);
        let answer = tokio::time::timeout(limit, answer).await.map_err(|_| failed("no answer in time"))?;
        answer.map_err(|error| {
            // The error may name what was sent, so it is for the log of those who want detail.
            tracing::debug!(%error, "review failed");
            tracing::warn!("external metrics: a {} failed; it needs system:auth-delegator", K::kind(&()));
            failed("it answered with an error; see the sidecar's log")
        })
    }
}

fn from_user(user: UserInfo) -> Identity {
    Identity {
        user: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }
}

/// What the cluster is asked. Reading a metric is a `list` of a resource of that name.
fn spec(identity: &Identity, asked: &Asked<'_>) -> SubjectAccessReviewSpec {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut spec = SubjectAccessReviewSpec {
        user: text(&identity.user),
        uid: text(&identity.uid),
        groups: Some(identity.groups.clone()),
        extra: Some(identity.extra.clone()).filter(|extra| !extra.is_empty()),
        ..SubjectAccessReviewSpec::default()
    };
    match asked {
        Asked::Path(path) => {
            let attributes = NonResourceAttributes { path: text(path), verb: text("get") };
            spec.non_resource_attributes = Some(attributes);
        }
        Asked::Metric { namespace, metric, selector } => {
            let requirements: Vec<_> =
                selector.iter().flat_map(|s| &s.requirements).filter_map(requirement).collect();
            let selector = LabelSelectorAttributes { requirements: Some(requirements), raw_selector: None };
            let has_any = selector.requirements.as_ref().is_some_and(|requirements| !requirements.is_empty());
            spec.resource_attributes = Some(ResourceAttributes {
                namespace: text(namespace),
                verb: text("list"),
                group: text(GROUP),
                version: text(VERSION),
                resource: text(metric),
                label_selector: Some(selector).filter(|_| has_any),
                ..ResourceAttributes::default()
            });
        }
    }
    spec
}

/// Comparisons of numbers cannot be said.
fn requirement(requirement: &Requirement) -> Option<LabelSelectorRequirement> {
    let operator = match requirement.operator {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
        Operator::GreaterThan | Operator::LessThan => return None,
    };
    let values = requirement.values.clone();
    Some(LabelSelectorRequirement {
        key: requirement.key.clone(),
        operator: operator.into(),
        values: Some(values).filter(|values| !values.is_empty()),
    })
}

/// Answers with the time of their asking.
struct Memory<V> {
    answers: Mutex<HashMap<Digest, (Instant, V)>>,
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Memory { answers: Mutex::default() }
    }
}

impl<V: Clone> Memory<V> {
    fn get(&self, key: &Digest) -> Option<V> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(at, _)| is_fresh(*at)).map(|(_, answer)| answer.clone())
    }

    fn put(&self, key: Digest, answer: V) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= REVIEWS_REMEMBERED_MAX {
            answers.retain(|_, (at, _)| is_fresh(*at));
        }
        if answers.len() < REVIEWS_REMEMBERED_MAX {
            answers.insert(key, (Instant::now(), answer));
        }
    }
}

fn is_fresh(at: Instant) -> bool {
    at.elapsed() < Duration::from_secs(REVIEWS_REMEMBERED_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let memory = Memory::default();
        for number in 0..REVIEWS_REMEMBERED_MAX + 10 {
            memory.put(digest(&[&number.to_string()]), number);
        }
        assert_eq!(memory.get(&digest(&["7"])), Some(7));
        assert_eq!(memory.get(&digest(&[&REVIEWS_REMEMBERED_MAX.to_string()])), None);
        let answers = memory.answers.lock().unwrap();
        assert_eq!(answers.len(), REVIEWS_REMEMBERED_MAX);
    }

    #[test]
    fn texts_are_told_apart_by_their_lengths() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
    }
}
