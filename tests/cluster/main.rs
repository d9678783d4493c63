//! The cluster as the source, against a real API server.

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/control_plane.rs"]
mod control_plane;
#[path = "../support/process.rs"]
mod process;

use control_plane::{ControlPlane, Wanted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_starts() {
    let Some(mut plane) = ControlPlane::start(Wanted { controllers: Some("*"), ..Wanted::default() }).await
    else {
        return;
    };
    plane.kill_api_server();
    plane.start_api_server().await;
    plane.kubectl(&["create", "deployment", "web", "--image=web"]);
    plane.kubectl(&["wait", "--for=jsonpath={.status.replicas}=1", "deployment/web", "--timeout=60s"]);
    assert!(plane.kubectl(&["get", "pods", "-o", "name"]).contains("pod/web-"));
    plane.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: sidecar, namespace: default}\n");
    assert!(!plane.kubectl(&["create", "token", "sidecar"]).is_empty());
}
