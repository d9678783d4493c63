//! Writes the status of VariantAutoscalings: only the leader, only when something worth it has changed, and
//! at most once per few seconds and object.

use super::conditions::{self, Known};
use super::outputs::{Complaints, Outputs};
use super::shape::fit;
use crate::config::cluster::{ObjectName, TargetName};
use crate::config::{Problem, VariantKey, VariantSource};
use crate::limits::CLUSTER_WRITES_MAX;
use crate::mirror::cluster::kinds::version;
use crate::mirror::cluster::{Kind, Mirrored, View};
use crate::publish::Board;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Who writes, for the API server's record of field owners.
const MANAGER: &str = "inferno-sidecar";
/// Shortest time between two writes of one object.
const WRITE_PERIOD: Duration = Duration::from_secs(3);
/// Changes are collected for this long before they are written: a load step is often several decisions.
const SETTLE: Duration = Duration::from_millis(250);
/// Load figures alone are written after this long, and only if they moved.
const LOAD_PERIOD: Duration = Duration::from_secs(60);
/// Relative change of the load that is worth a write.
const LOAD_CHANGE: f64 = 0.1;
/// Wait after a refusal that only a change by somebody can end.
const REFUSED_PERIOD: Duration = Duration::from_secs(60);
/// Tries of one write when others write at the same time.
const TRIES: u32 = 3;

/// What was written to an object last.
struct Written {
    uid: Arc<str>,
    at: Instant,
    /// Not before then again.
    next: Instant,
    status: Value,
    /// Version of the object that came of it.
    version: u64,
}

/// A write to be made.
struct Write {
    name: ObjectName,
    uid: Arc<str>,
    status: Value,
}

/// What became of a write.
enum Outcome {
    /// With the version that came of it.
    Done(u64),
    Gone,
    Refused(String),
    Failed(String),
}

/// Writes for as long as it runs.
pub async fn run(mut outputs: Outputs) {
    let mut written: HashMap<ObjectName, Written> = HashMap::new();
    let mut complaints = Complaints::default();
    loop {
        outputs.changed(SETTLE, WRITE_PERIOD).await;
        if !outputs.leadership.is_mine() {
            // Whoever leads writes; what the mirror shows is the start when we do.
            written.clear();
            continue;
        }
        let (view, board) = (outputs.views.borrow().clone(), outputs.engine.board());
        if !board.configured {
            continue;
        }
        written.retain(|name, _| view.variants.contains_key(name));
        let writes = due(&outputs, &view, &board, &written);
        let mut running = JoinSet::new();
        for write in writes {
            while running.len() >= CLUSTER_WRITES_MAX {
                note(&outputs, running.join_next().await, &mut written, &mut complaints);
            }
            if !outputs.leadership.is_mine() {
                break;
            }
            let (outputs, has_schema) = (outputs.clone(), !view.status_schema.is_null());
            running.spawn(async move {
                let outcome = send(&outputs, &write, has_schema).await;
                (write, outcome)
            });
        }
        while !running.is_empty() {
            note(&outputs, running.join_next().await, &mut written, &mut complaints);
        }
    }
}

/// The writes that are due now.
fn due(outputs: &Outputs, view: &View, board: &Board, written: &HashMap<ObjectName, Written>) -> Vec<Write> {
    let now = Instant::now();
    let mut problems: BTreeMap<&str, Vec<&Problem>> = BTreeMap::new();
    for problem in board.problems.iter() {
        problems.entry(&problem.object).or_default().push(problem);
    }
    let mut writes = Vec::new();
    for (name, object) in &view.variants {
        let last = written.get(name).filter(|last| last.uid == object.uid);
        if last.as_ref().is_some_and(|last| now < last.next) {
            continue;
        }
        // What was written says more than the mirror until the mirror has shown it.
        let known = last.filter(|last| last.version > object.version);
        let known = known.map_or_else(|| object.status.clone(), |last| last.status.clone());
        let problems = problems.get(object.document.origin.as_str()).map_or(&[][..], Vec::as_slice);
        let Some(status) = status_of(outputs, view, board, object, &known, problems) else { continue };
        let status = match view.status_schema.is_null() {
            true => Some(without_schema(status)),
            false => fit(&status, &view.status_schema),
        };
        let Some(status) = status else { continue };
        if conditions::significant(&status) != conditions::significant(&known)
            || is_load_due(&status, &known, written.get(name), now)
        {
            writes.push(Write { name: name.clone(), uid: object.uid.clone(), status });
        }
    }
    writes
}

fn is_load_due(status: &Value, known: &Value, last: Option<&Written>, now: Instant) -> bool {
    let (Some(is), Some(was)) = (conditions::shown_load(status), conditions::shown_load(known)) else {
        return false;
    };
    let is_old = last.is_none_or(|last| now.duration_since(last.at) >= LOAD_PERIOD);
    is_old && (is - was).abs() > LOAD_CHANGE * is.max(was)
}

/// Without knowing the shape, only what every shape has.
fn without_schema(mut status: Value) -> Value {
    if let Some(status) = status.as_object_mut() {
        status.remove("currentAlloc");
    }
    if let Some(desired) = status["desiredOptimizedAlloc"].as_object_mut() {
        desired.retain(|name, _| matches!(name.as_str(), "numReplicas" | "accelerator" | "lastRunTime"));
    }
    status
}

/// The status that an object should have; `None` when it is not ours to write.
fn status_of(
    outputs: &Outputs,
    view: &View,
    board: &Board,
    object: &Mirrored,
    status: &Value,
    problems: &[&Problem],
) -> Option<Value> {
    let model = object.body()["spec"]["modelID"].as_str().unwrap_or_default();
    if !outputs.scope.is_own(object) || !outputs.shard.holds(model) {
        return None;
    }
    let key = VariantKey { namespace: object.name.namespace.clone(), name: object.name.name.clone() };
    let entry = board.entries.get(&key).filter(|it| it.variant.source == VariantSource::VariantAutoscaling);
    if entry.is_none() && problems.is_empty() {
        // Excluded, or so new that the board does not have it yet.
        return None;
    }
    let target = entry.map(|entry| entry.variant.target.clone()).or_else(|| object.target.clone());
    let target = target.as_ref().map(|target| {
        let name = TargetName { namespace: object.name.namespace.clone(), target: target.clone() };
        (target, view.targets.get(&name).copied())
    });
    Some(conditions::status(&Known {
        object,
        status,
        entry: entry.map(|entry| &**entry),
        target,
        problems,
        has_stream: board.stream_time.is_some(),
        now: outputs.engine.clock.reader_now(board),
    }))
}

/// Sends one write. Conflicts are tried again; between tries leadership may be lost.
async fn send(outputs: &Outputs, write: &Write, has_schema: bool) -> Outcome {
    let resource = Kind::VariantAutoscaling.api_resource();
    let api: Api<DynamicObject> =
        Api::namespaced_with(outputs.client.clone(), &write.name.namespace, &resource);
    let object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        // Of an object that was made anew, the status is not this one.
        "metadata": {"name": &*write.name.name, "uid": &*write.uid},
        "status": write.status,
    });
    let (params, patch) = match has_schema {
        true => (PatchParams::apply(MANAGER).force(), Patch::Apply(&object)),
        // A merge lets the API server drop the fields that it does not know.
        false => {
            (PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() }, Patch::Merge(&object))
        }
    };
    for attempt in 1.. {
        if !outputs.leadership.is_mine() {
            return Outcome::Failed("leadership was lost".into());
        }
        match api.patch_status(&write.name.name, &params, &patch).await {
            Ok(object) => return Outcome::Done(version(&object.metadata)),
            Err(kube::Error::Api(status)) => match status.code {
                404 => return Outcome::Gone,
                409 if attempt < TRIES => tokio::time::sleep(Duration::from_millis(50) * attempt).await,
                400 | 401 | 403 | 422 => return Outcome::Refused(status.message.clone()),
                _ => return Outcome::Failed(status.message.clone()),
            },
            Err(error) => return Outcome::Failed(error.to_string()),
        }
    }
    unreachable!("every try but the last ends the loop or sleeps")
}

/// Notes what became of a write.
fn note(
    outputs: &Outputs,
    finished: Option<Result<(Write, Outcome), tokio::task::JoinError>>,
    written: &mut HashMap<ObjectName, Written>,
    complaints: &mut Complaints,
) {
    let Some(Ok((write, outcome))) = finished else { return };
    let at = Instant::now();
    let (label, wait) = match &outcome {
        Outcome::Done(_) => ("written", WRITE_PERIOD),
        Outcome::Gone => ("gone", WRITE_PERIOD),
        Outcome::Refused(_) => ("refused", REFUSED_PERIOD),
        Outcome::Failed(_) => ("failed", WRITE_PERIOD),
    };
    outputs.metrics.status_written(label);
    let before = written.remove(&write.name).filter(|before| before.uid == write.uid);
    let (status, version) = match outcome {
        Outcome::Done(version) => (write.status, version),
        Outcome::Gone => return,
        Outcome::Refused(error) | Outcome::Failed(error) => {
            if complaints.are_due() {
                let name = format!("{}/{}", write.name.namespace, write.name.name);
                tracing::warn!(
                    variant = name,
                    "the status cannot be written (patch variantautoscalings/status, see deploy/rbac/status.yaml): {error}"
                );
            }
            before.map_or((Value::Null, 0), |before| (before.status, before.version))
        }
    };
    written.insert(write.name, Written { uid: write.uid, at, next: at + wait, status, version });
}
