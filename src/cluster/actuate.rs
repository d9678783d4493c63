//! Opt-in: changes the replicas of scale targets through their scale subresource.
//!
//! `direct` follows every decision; `from-zero-only` starts the first replica when the scheduler holds
//! requests. Guarded: bounds, replicas that are still starting, an autoscaler that would undo it, a rate.

use super::events::{Recorder, Saying, declarer};
use super::outputs::{Complaints, Outputs};
use crate::config::TargetKind;
use crate::config::cluster::{TargetName, TargetReplicas};
use crate::limits::CLUSTER_WRITES_MAX;
use crate::mirror::cluster::{Kind, View};
use crate::options::Actuation;
use crate::publish::{Decision, Entry};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};

/// Shortest time between two changes of one target.
const SCALE_PERIOD: Duration = Duration::from_secs(5);
/// Without news, targets are looked at this often.
const IDLE: Duration = Duration::from_secs(1);

/// Scales for as long as it runs.
pub async fn run(mut outputs: Outputs, mode: Actuation, mut recorder: Option<Recorder>) {
    let mut scaled: HashMap<TargetName, Instant> = HashMap::new();
    let mut told: BTreeSet<TargetName> = BTreeSet::new();
    let mut complaints = Complaints::default();
    loop {
        outputs.changed(Duration::ZERO, IDLE).await;
        if !outputs.leadership.is_mine() {
            continue;
        }
        let (view, board) = (outputs.views.borrow().clone(), outputs.engine.board());
        scaled.retain(|_, at| at.elapsed() < SCALE_PERIOD);
        let mut running = JoinSet::new();
        for entry in board.entries.values() {
            let name = TargetName {
                namespace: entry.variant.key.namespace.clone(),
                target: entry.variant.target.clone(),
            };
            let Some(replicas) = view.targets.get(&name) else { continue };
            let Some(wanted) = wanted(mode, entry, *replicas) else { continue };
            if scaled.contains_key(&name) || !outputs.leadership.is_mine() {
                continue;
            }
            if mode == Actuation::Direct && is_scaled_by_another(&view, &name) {
                if told.insert(name.clone()) {
                    warn_of_rival(entry, &view, recorder.as_mut()).await;
                }
                continue;
            }
            told.remove(&name);
            if running.len() >= CLUSTER_WRITES_MAX {
                note(&outputs, running.join_next().await, &mut complaints);
            }
            scaled.insert(name.clone(), Instant::now());
            let outputs = outputs.clone();
            running.spawn(async move { scale(&outputs, &name, replicas_of(&name, &outputs), wanted).await });
        }
        while !running.is_empty() {
            note(&outputs, running.join_next().await, &mut complaints);
        }
    }
}

/// Replicas that the target is to have, if that is to be changed now.
fn wanted(mode: Actuation, entry: &Entry, replicas: TargetReplicas) -> Option<u32> {
    let decision = entry.decision.as_ref()?;
    let wanted = match mode {
        Actuation::None => return None,
        Actuation::Direct => directly(decision, replicas)?,
        Actuation::FromZeroOnly => from_zero(decision, replicas)?,
    };
    let (min, max) =
        (entry.variant.min_replicas.unwrap_or(0), entry.variant.max_replicas.unwrap_or(u32::MAX));
    let wanted = wanted.clamp(min.min(max), max);
    (wanted != replicas.spec).then_some(wanted)
}

fn directly(decision: &Decision, replicas: TargetReplicas) -> Option<u32> {
    // Decisions rest on replicas that the engine has seen; those that were asked for since come first.
    let is_seen = decision.current == replicas.status;
    let is_starting = replicas.ready < replicas.spec.max(replicas.status);
    match decision.desired.cmp(&replicas.spec) {
        std::cmp::Ordering::Greater => Some(decision.desired),
        // What is starting was asked for a moment ago: it is not given up before it has served.
        std::cmp::Ordering::Less if is_seen && !is_starting => Some(decision.desired),
        _ => None,
    }
}

fn from_zero(decision: &Decision, replicas: TargetReplicas) -> Option<u32> {
    let is_queued = decision.evidence.scheduler_queue.is_some_and(|queue| queue > 0.0);
    (is_queued && decision.desired > 0 && replicas.spec == 0 && replicas.status == 0).then_some(1)
}

fn is_scaled_by_another(view: &View, target: &TargetName) -> bool {
    view.scalers.contains_key(target)
}

fn replicas_of(target: &TargetName, outputs: &Outputs) -> Option<TargetReplicas> {
    outputs.views.borrow().targets.get(target).copied()
}

async fn warn_of_rival(entry: &Entry, view: &View, recorder: Option<&mut Recorder>) {
    let target = &entry.variant.target;
    let note = format!(
        "{} {} is scaled by an autoscaler already, so it is left alone; delete that, or run without --actuation direct",
        target.kind.as_str(),
        target.name
    );
    tracing::warn!(variant = %entry.variant.key, "{note}");
    if let (Some(recorder), Some(about)) = (recorder, declarer(entry, view)) {
        let reason = "ActuationSkipped";
        recorder.say(Saying { about, is_warning: true, reason, action: "Scale", note }).await;
    }
}

/// Changes one target; says what is wrong if it cannot be changed.
async fn scale(
    outputs: &Outputs,
    target: &TargetName,
    before: Option<TargetReplicas>,
    replicas: u32,
) -> Result<(), String> {
    let kind = match target.target.kind {
        TargetKind::Deployment => Kind::Deployment,
        TargetKind::StatefulSet => Kind::StatefulSet,
        TargetKind::LeaderWorkerSet => Kind::LeaderWorkerSet,
    };
    let (namespace, name) = (&target.namespace, &target.target.name);
    let api: Api<DynamicObject> =
        Api::namespaced_with(outputs.client.clone(), namespace, &kind.api_resource());
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let target = format!("{} {namespace}/{name}", kind.name());
    match api.patch_scale(name, &PatchParams::default(), &patch).await {
        Ok(_) => {
            tracing::info!(target, from = before.map(|before| before.spec), to = replicas, "scaled");
            Ok(())
        }
        Err(error) => {
            let right = format!("patch {}/scale, see deploy/rbac/actuation.yaml", kind.plural());
            Err(format!("{target} cannot be scaled ({right}): {error}"))
        }
    }
}

fn note(
    outputs: &Outputs,
    finished: Option<Result<Result<(), String>, JoinError>>,
    complaints: &mut Complaints,
) {
    let Some(Ok(outcome)) = finished else { return };
    outputs.metrics.scaled(if outcome.is_ok() { "done" } else { "failed" });
    if let Err(error) = outcome
        && complaints.are_due()
    {
        tracing::warn!("{error}");
    }
}
