//! When things go wrong: the API server away, its history forgotten, permissions missing.

use crate::control_plane::{ControlPlane, Wanted};
use crate::world::*;
use serde_json::json;
use std::time::Duration;

async fn plane(wanted: Wanted) -> Option<ControlPlane> {
    let plane = ControlPlane::start(wanted).await?;
    for namespace in [HOME, "llm"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    define(&plane, OWN_DEFINITION);
    Some(plane)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_freezes_the_mirror_and_shows_its_age() {
    // Little history, so that the watches are older than what is remembered.
    let flags = vec!["--etcd-compaction-interval=1s".into()];
    let Some(mut plane) = plane(Wanted { api_flags: flags, ..Wanted::default() }).await else { return };
    deployment(&plane, "llama", 2, 2);
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));
    plane.apply(&variant_yaml("doomed", ""));
    let sidecar = Sidecar::start(&plane, &[]).await;
    sidecar.report("llama", "model-of-llama", 2, IDLE).await;
    sidecar.variant_where("llama", |it| it["decision"]["current"] == 2).await;
    assert_eq!(sidecar.metric("inferno_sidecar_cluster_age_seconds").await, Some(0.0));
    let lists = sidecar.metric("inferno_sidecar_cluster_lists{kind=\"deployments\"}").await;

    plane.kill_api_server();
    wait_for("the mirror's age", async || {
        sidecar.metric("inferno_sidecar_cluster_age_seconds").await.filter(|age| *age > 1.0)
    })
    .await;
    // What was mirrored stays, and decisions go on.
    sidecar.report("llama", "model-of-llama", 2, BUSY).await;
    sidecar.variant_where("llama", |it| it["decision"]["desired"] == 3).await;
    assert!(sidecar.variant("doomed").await.is_some());

    plane.start_api_server().await;
    wait_for("a mirror up to date", async || {
        sidecar.metric("inferno_sidecar_cluster_age_seconds").await.filter(|age| *age == 0.0)
    })
    .await;
    plane.kubectl(&["delete", "va", "-n", "llm", "doomed"]);
    sidecar.variant_gone("doomed").await;
    status(&plane, "llama", 3, 3);
    sidecar.variant_where("llama", |it| it["decision"]["current"] == 3).await;
    crate::say!(
        "lists of deployments before the outage {lists:?}, after it {:?}",
        sidecar.metric("inferno_sidecar_cluster_lists{kind=\"deployments\"}").await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_history_is_listed_anew_and_nothing_is_half_empty() {
    let flags = vec!["--etcd-compaction-interval=1s".into()];
    let Some(mut plane) = plane(Wanted { api_flags: flags, ..Wanted::default() }).await else { return };
    let many: Vec<String> = (0..50).map(|number| variant_yaml(&format!("v{number}"), "")).collect();
    plane.apply(&many.join("---\n"));
    let sidecar = Sidecar::start(&plane, &["--write-status", "false"]).await;
    sidecar.variant_where("v49", |_| true).await;
    let lists = async || {
        sidecar.metric("inferno_sidecar_cluster_lists{kind=\"variantautoscalings\"}").await.unwrap_or(0.0)
    };
    let before = lists().await;
    // While the sidecar cannot look, one is deleted, and then the history of that is forgotten.
    let address = plane.address;
    plane.kill_api_server();
    plane.start_api_server_at(crate::control_plane::free_addresses::<1>()[0]).await;
    plane.kubectl(&["delete", "va", "-n", "llm", "v7"]);
    for number in 0..20 {
        plane.kubectl(&["annotate", "va", "-n", "llm", "v8", &format!("n={number}"), "--overwrite"]);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    plane.kill_api_server();
    let watched = tokio::spawn({
        let sidecar = sidecar.address;
        async move {
            let mut fewest = usize::MAX;
            loop {
                let Ok(answer) = crate::client::get(sidecar, "/api/v1/variants").await else { return fewest };
                let count = answer.json()["variants"].as_array().map_or(0, Vec::len);
                fewest = fewest.min(count);
                if count == 49 {
                    return fewest;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    plane.start_api_server_at(address).await;
    sidecar.variant_gone("v7").await;
    assert_eq!(watched.await.expect("no panic"), 49, "never less than what there is");
    assert!(lists().await > before, "the history was forgotten, so there was a new list");
    assert!(sidecar.variant("v8").await.is_some());
}

/// The rules without the line that has `part`.
fn without(part: &str) -> impl Fn(String) -> String {
    move |rules| rules.lines().filter(|line| !line.contains(part)).map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_permissions_are_enough_for_everything() {
    let Some(plane) = plane(Wanted::default()).await else { return };
    define(&plane, include_str!("crds/others.yaml"));
    let token = grant(&plane, |rules| rules);
    deployment(&plane, "llama", 2, 2);
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));
    let sidecar = Sidecar::start_as(&plane, &token, &["--actuation", "direct"]).await;
    sidecar.variant_where("llama", |_| true).await;
    sidecar.report("llama", "model-of-llama", 2, IDLE).await;
    sidecar.variant_where("llama", |it| it["input"]["joinedBy"] == json!({"owner": 2})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    sidecar.report("llama", "model-of-llama", 2, BUSY).await;
    for metric in ["status_writes", "events", "scale_requests"] {
        let (name, outcome) = match metric {
            "scale_requests" => (metric, "done"),
            _ => (metric, "written"),
        };
        let line = format!("inferno_sidecar_{name}_total{{outcome=\"{outcome}\"}}");
        wait_for(&line, async || sidecar.metric(&line).await).await;
    }
    assert_eq!(sidecar.process.lines("a permission is missing"), Vec::<String>::new());
    assert_eq!(sidecar.process.lines("cannot be"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaced_permissions_are_enough_for_one_namespace() {
    let Some(plane) = plane(Wanted::default()).await else { return };
    let token = grant(&plane, |_| include_str!("../../deploy/rbac/mirror-namespaced.yaml").to_owned());
    deployment(&plane, "llama", 2, 2);
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));
    let arguments = ["--namespaces", "llm", "--write-status", "false", "--write-events", "false"];
    let sidecar = Sidecar::start_as(&plane, &token, &arguments).await;
    sidecar.variant_where("llama", |_| true).await;
    sidecar.report("llama", "model-of-llama", 2, IDLE).await;
    sidecar.variant_where("llama", |it| it["input"]["joinedBy"] == json!({"owner": 2})).await;
    // Only nodes are not seen.
    let lacks = sidecar.process.lines("a permission is missing");
    assert!(lacks.iter().all(|line| line.contains("watch nodes ")), "{lacks:#?}");

    // Also without leave to look at definitions and namespaces.
    plane.kubectl(&["delete", "clusterrole", "inferno-sidecar-definitions"]);
    let sidecar = Sidecar::start_as(&plane, &token, &arguments).await;
    sidecar.variant_where("llama", |_| true).await;
    let line = sidecar.process.line("watch customresourcedefinitions ").await;
    assert!(line.contains("it works without"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named() {
    let Some(plane) = plane(Wanted::default()).await else { return };
    deployment(&plane, "llama", 2, 2);
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));

    // Without nodes and pods it works on with less.
    let token = grant(&plane, |rules| without("[pods]")(without("[nodes]")(rules)));
    let sidecar = Sidecar::start_as(&plane, &token, &[]).await;
    sidecar.synced().await;
    for kind in ["nodes", "pods"] {
        let line =
            sidecar.process.line(&format!("a permission is missing: get, list and watch {kind} ")).await;
        assert!(line.contains("it works without"), "{line}");
    }
    drop(sidecar);

    // Without scale targets it waits, and goes on when the permission is there.
    let token = grant(&plane, without("[deployments, statefulsets]"));
    let mut sidecar = Sidecar::start_as(&plane, &token, &[]).await;
    let line = sidecar.process.line("a permission is missing: get, list and watch deployments ").await;
    assert!(line.contains("it waits for it"), "{line}");
    assert_eq!(sidecar.get("/-/ready").await.status, 503);
    sidecar.process.assert_running();
    let token = grant(&plane, without("variantautoscalings/status"));
    sidecar.synced().await;
    sidecar.process.line("patch variantautoscalings/status").await;
    drop(sidecar);

    let token_without_lease = {
        drop(token);
        plane.kubectl(&["delete", "role", "-n", HOME, "inferno-sidecar-lease"]);
        plane.kubectl(&["create", "token", "-n", HOME, "inferno-sidecar"]).trim().to_owned()
    };
    let sidecar = Sidecar::start_as(&plane, &token_without_lease, &[]).await;
    sidecar.process.line("see deploy/rbac/lease.yaml").await;
    assert_eq!(sidecar.metric("inferno_sidecar_leader").await, Some(0.0));
}
