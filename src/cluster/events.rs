//! Events: what was decided, and what is wrong with the configuration, where people look with kubectl.
//!
//! The same thing said of the same object again is one Event that counts, not a new one; its text cannot be
//! changed, so with other figures there is a new one after a while. More than a few per second are dropped
//! and counted.

use super::outputs::{Complaints, Outputs};
use crate::config::cluster::{ObjectName, TargetName};
use crate::config::{Problem, VariantKey, VariantSource};
use crate::mirror::cluster::{Kind, Mirrored, View};
use crate::publish::{Board, Entry};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Who says it.
const CONTROLLER: &str = "inferno-sidecar";
/// Changes are collected for this long.
const SETTLE: Duration = Duration::from_millis(250);
/// Without news, it is looked at leadership this often.
const IDLE: Duration = Duration::from_secs(5);
/// The same thing said within this time is the same Event; the API server forgets Events after an hour.
const SERIES: Duration = Duration::from_secs(600);
/// With another text, it is a new Event after this time.
const FRESH: Duration = Duration::from_secs(60);
/// Most Events at once, and how many more per second.
const BURST: f64 = 100.0;
const RATE_PER_S: f64 = 5.0;
/// Longest text of an Event, bytes.
const NOTE_MAX: usize = 1000;

/// Something to say.
pub struct Saying {
    /// Of what.
    pub about: ObjectReference,
    /// Whether somebody has to do something.
    pub is_warning: bool,
    /// In a word.
    pub reason: &'static str,
    /// What was done.
    pub action: &'static str,
    /// In a sentence.
    pub note: String,
}

/// An Event that was written.
struct Said {
    name: String,
    note: String,
    created: Instant,
    count: i32,
    at: Instant,
}

/// Writes Events, the same ones together.
pub struct Recorder {
    outputs: Outputs,
    said: HashMap<(String, &'static str), Said>,
    allowance: f64,
    filled: Instant,
    complaints: Complaints,
}

impl Recorder {
    /// One that has said nothing yet.
    pub fn new(outputs: Outputs) -> Self {
        Recorder {
            outputs,
            said: HashMap::new(),
            allowance: BURST,
            filled: Instant::now(),
            complaints: Complaints::default(),
        }
    }

    /// Says something, if there have not been too many.
    pub async fn say(&mut self, saying: Saying) {
        let now = Instant::now();
        let earned = now.duration_since(self.filled).as_secs_f64() * RATE_PER_S;
        (self.allowance, self.filled) = ((self.allowance + earned).min(BURST), now);
        if self.allowance < 1.0 {
            return self.outputs.metrics.event_written("dropped");
        }
        self.allowance -= 1.0;
        self.said.retain(|_, said| now.duration_since(said.at) < SERIES);
        let key = (key_of(&saying.about), saying.reason);
        let before = self.said.remove(&key);
        let same = before.filter(|said| said.note == saying.note || said.created.elapsed() < FRESH);
        let outcome = match same {
            Some(said) => self.repeat(&saying, said).await,
            None => self.create(&saying).await,
        };
        match outcome {
            Ok(said) => {
                self.said.insert(key, said);
                self.outputs.metrics.event_written("written");
            }
            Err(error) => {
                self.outputs.metrics.event_written("failed");
                if self.complaints.are_due() {
                    tracing::warn!(
                        "Events cannot be written (create, patch events.events.k8s.io, see deploy/rbac/events.yaml): {error}"
                    );
                }
            }
        }
    }

    fn api(&self, about: &ObjectReference) -> Api<Event> {
        // Events about objects without a namespace live in this one.
        Api::namespaced(self.outputs.client.clone(), about.namespace.as_deref().unwrap_or("default"))
    }

    async fn create(&self, saying: &Saying) -> kube::Result<Said> {
        let now = Timestamp::now();
        let about = &saying.about;
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or(CONTROLLER), now.as_nanosecond());
        let event = Event {
            action: Some(saying.action.into()),
            reason: Some(saying.reason.into()),
            note: Some(cut(&saying.note)),
            type_: Some(if saying.is_warning { "Warning" } else { "Normal" }.into()),
            regarding: Some(about.clone()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(crate::options::host_name()).filter(|name| !name.is_empty()),
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: about.namespace.clone(),
                ..ObjectMeta::default()
            },
            ..Event::default()
        };
        self.api(about).create(&PostParams::default(), &event).await?;
        let at = Instant::now();
        Ok(Said { name, note: saying.note.clone(), created: at, count: 1, at })
    }

    async fn repeat(&self, saying: &Saying, said: Said) -> kube::Result<Said> {
        let count = said.count.saturating_add(1);
        let series = EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) };
        let change = serde_json::json!({"series": series});
        let api = self.api(&saying.about);
        match api.patch(&said.name, &PatchParams::default(), &Patch::Merge(&change)).await {
            Ok(_) => Ok(Said { count, at: Instant::now(), ..said }),
            // Forgotten there: it begins anew.
            Err(kube::Error::Api(status)) if status.code == 404 => self.create(saying).await,
            Err(error) => Err(error),
        }
    }
}

fn key_of(about: &ObjectReference) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}/{}/{}", part(&about.kind), part(&about.namespace), part(&about.name), part(&about.uid))
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(NOTE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Says what is decided and what is wrong, for as long as it runs.
pub async fn run(mut outputs: Outputs) {
    let mut recorder = Recorder::new(outputs.clone());
    let mut desired: BTreeMap<VariantKey, u32> = BTreeMap::new();
    let mut problems: BTreeSet<Problem> = BTreeSet::new();
    let mut led = false;
    loop {
        outputs.changed(SETTLE, IDLE).await;
        let (view, board) = (outputs.views.borrow().clone(), outputs.engine.board());
        let leads = outputs.leadership.is_mine();
        // Whoever led before has said what there was to say of decisions; problems are told again.
        let sayings = decisions(&board, &view, &mut desired);
        if leads && led {
            for saying in sayings {
                recorder.say(saying).await;
            }
        }
        if leads && board.configured {
            for problem in board.problems.iter().filter(|problem| !problems.contains(problem)) {
                if let Some(saying) = about_problem(problem, &view) {
                    recorder.say(saying).await;
                }
            }
            problems = board.problems.iter().cloned().collect();
        } else if !leads {
            problems.clear();
        }
        led = leads;
    }
}

/// Changes of desired counts since the last look.
fn decisions(board: &Board, view: &View, desired: &mut BTreeMap<VariantKey, u32>) -> Vec<Saying> {
    let mut sayings = Vec::new();
    desired.retain(|key, _| board.entries.contains_key(key));
    for (key, entry) in &board.entries {
        let Some(decision) = &entry.decision else { continue };
        let before = desired.insert(key.clone(), decision.desired);
        let before = before.or_else(|| Some(decision.previous?.0)).unwrap_or(decision.current);
        if before == decision.desired {
            continue;
        }
        let Some(about) = declarer(entry, view) else { continue };
        let reason = if decision.desired > before { "ScaleUp" } else { "ScaleDown" };
        let note = format!(
            "desired replicas {before} -> {} (current {}): {}",
            decision.desired,
            decision.current,
            decision.explain()
        );
        sayings.push(Saying { about, is_warning: false, reason, action: "Decide", note });
    }
    sayings
}

/// The object that declares a variant.
pub fn declarer(entry: &Entry, view: &View) -> Option<ObjectReference> {
    let VariantKey { namespace, name } = &entry.variant.key;
    let object = match entry.variant.source {
        VariantSource::VariantAutoscaling => {
            view.variants.get(&ObjectName { namespace: namespace.clone(), name: name.clone() })
        }
        VariantSource::HorizontalPodAutoscaler | VariantSource::ScaledObject => {
            let target = TargetName { namespace: namespace.clone(), target: entry.variant.target.clone() };
            view.scalers.get(&target)
        }
    };
    object.map(|object| reference(object))
}

/// A reference to a mirrored object.
pub fn reference(object: &Mirrored) -> ObjectReference {
    let mut reference = reference_to(object.kind, &object.name);
    reference.uid = Some(object.uid.to_string());
    reference
}

fn reference_to(kind: Kind, name: &ObjectName) -> ObjectReference {
    ObjectReference {
        api_version: Some(kind.api_resource().api_version),
        kind: Some(kind.name().into()),
        namespace: Some(name.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.name.to_string()),
        ..ObjectReference::default()
    }
}

/// A configuration problem, on its object.
fn about_problem(problem: &Problem, view: &View) -> Option<Saying> {
    let (kind, name) = problem.object.split_once(' ')?;
    let (namespace, name) = name.split_once('/')?;
    let name = ObjectName { namespace: namespace.into(), name: name.into() };
    let about = match kind {
        "VariantAutoscaling" => reference(view.variants.get(&name)?),
        "HorizontalPodAutoscaler" => reference_to(Kind::HorizontalPodAutoscaler, &name),
        "ScaledObject" => reference_to(Kind::ScaledObject, &name),
        "ConfigMap" => reference_to(Kind::ConfigMap, &name),
        _ => return None,
    };
    let scaler = view.scalers.values().find(|scaler| scaler.name == name && scaler.kind.name() == kind);
    let about = scaler.map_or(about, |scaler| reference(scaler));
    let place = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    let note = format!("{place}{}; {}", problem.reason, problem.fix);
    Some(Saying { about, is_warning: true, reason: "InvalidConfiguration", action: "Configure", note })
}
