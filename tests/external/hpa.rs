//! An HPA on `inferno_desired_replicas`, with nothing between it and the sidecar: it follows up and down,
//! ignores what is within its tolerance unless told otherwise, and goes to zero and back.

use crate::control_plane::{ADMIN_TOKEN, ControlPlane, Wanted, http_get};
use crate::feed::{Feed, NAME, configure};
use crate::sidecar::{METRICS, Sidecar, wait};
use serde_json::Value;
use std::time::Instant;

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat, namespace: llm}
spec:
  replicas: 1
  selector: {matchLabels: {app: chat}}
  template:
    metadata: {labels: {app: chat}}
    spec: {containers: [{name: engine, image: engine}]}
";

/// As in the README, and faster.
const HPA: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: chat, namespace: llm}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 0
  maxReplicas: 40
  metrics:
    - type: External
      external:
        metric:
          name: inferno_desired_replicas
          selector: {matchLabels: {variant_name: chat}}
        target: {type: AverageValue, averageValue: \"1\"}
  behavior:
    scaleUp: {policies: [{type: Pods, value: 40, periodSeconds: 1}]}
    scaleDown: {stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 40, periodSeconds: 1}]}
";

struct World {
    plane: ControlPlane,
    client: kube::Client,
    sidecar: Sidecar,
    feed: Feed,
    config: tempfile::TempDir,
}

impl World {
    async fn start() -> Option<Self> {
        let gates = "--feature-gates=HPAScaleToZero=true,HPAConfigurableTolerance=true".to_owned();
        let wanted = Wanted {
            controllers: Some(
                "deployment-controller,replicaset-controller,horizontal-pod-autoscaler-controller",
            ),
            controller_flags: vec![
                gates.clone(),
                "--horizontal-pod-autoscaler-sync-period=1s".into(),
                // As in every installed cluster: the HPA's controller asks as itself, not as an administrator.
                "--use-service-account-credentials=true".into(),
            ],
            api_flags: vec![gates],
            ..Wanted::default()
        };
        let plane = ControlPlane::start(wanted).await?;
        let config = tempfile::tempdir().expect("a temporary folder can be made");
        configure(config.path(), 1, 40, "1h");
        let client = plane.client(ADMIN_TOKEN).await;
        let sidecar = Sidecar::start(&plane, config.path()).await;
        let feed = Feed::new(sidecar.address);
        plane.apply(DEPLOYMENT);
        Some(World { plane, client, sidecar, feed, config })
    }

    async fn read(&self, path: &str) -> Value {
        let text =
            self.client.request_text(http_get(path)).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&text).expect("the API answers JSON")
    }

    /// Pods that the Deployment has; none of them ever runs, because there is no kubelet.
    async fn pods(&self) -> u32 {
        let deployment = self.read("/apis/apps/v1/namespaces/llm/deployments/chat").await;
        deployment["status"]["replicas"].as_u64().unwrap_or(0) as u32
    }

    async fn hpa(&self) -> Value {
        self.read("/apis/autoscaling/v2/namespaces/llm/horizontalpodautoscalers/chat").await
    }

    /// Feeds what the cluster has until it has that many pods and the HPA is content.
    async fn settles(&mut self, pods: u32) {
        let started = Instant::now();
        let what = format!("{pods} pods");
        let until = started + crate::sidecar::WAIT_MAX;
        loop {
            let found = self.pods().await;
            self.feed.step(found).await;
            let hpa = self.hpa().await;
            if found == pods && hpa["status"]["desiredReplicas"].as_u64() == Some(u64::from(pods)) {
                println!("{what} after {:?}", started.elapsed());
                return;
            }
            assert!(Instant::now() < until, "{what}: {found} pods, {:#}", hpa["status"]);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Has the sidecar want exactly that many.
    fn want(&self, replicas: u32) {
        configure(self.config.path(), replicas, replicas.max(1), "1h");
    }
}

/// Status and reason of a condition of the HPA.
fn condition(hpa: &Value, kind: &str) -> String {
    let conditions = hpa["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found
        .map_or_else(String::new, |found| format!("{} {}", found["status"], found["reason"]).replace('"', ""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hpa_scales_a_deployment_on_our_numbers_with_nothing_between() {
    let Some(mut world) = World::start().await else { return };

    // Before there is a number the HPA gets an error and holds; it never reads zero.
    world.plane.apply(HPA);
    let hpa = wait("the HPA fails", async || {
        let hpa = world.hpa().await;
        condition(&hpa, "ScalingActive").starts_with("False FailedGetExternalMetric").then_some(hpa)
    })
    .await;
    assert!(hpa["status"]["conditions"].to_string().contains("no remote-write sample"), "{hpa:#}");
    assert_eq!(world.pods().await, 1);

    world.want(3);
    world.settles(3).await;
    world.want(10);
    world.settles(10).await;

    // One more is 10 % more: within the tolerance, so nothing happens ...
    world.want(11);
    let seen = wait_average(&mut world, "1100m").await;
    assert_eq!(condition(&seen, "ScalingActive"), "True ValidMetricFound");
    assert_eq!((world.pods().await, &seen["status"]["desiredReplicas"]), (10, &Value::from(10)));
    // ... unless the HPA is told to follow exactly.
    let exact = HPA.replace("scaleUp: {", "scaleUp: {tolerance: \"0\", ");
    world.plane.apply(&exact.replace("scaleDown: {", "scaleDown: {tolerance: \"0\", "));
    world.settles(11).await;
    world.want(10);
    world.settles(10).await;

    // Nobody asked for anything during the whole retention period.
    configure(world.config.path(), 0, 40, "60s");
    world.settles(0).await;
    assert_eq!(condition(&world.hpa().await, "ScalingActive"), "True ValidMetricFound");
    // The first request that waits brings the first pod.
    world.feed.queued = 3.0;
    world.settles(1).await;

    // Without the sidecar nothing moves.
    world.sidecar.process.kill();
    wait("the HPA notices", async || {
        condition(&world.hpa().await, "ScalingActive")
            .starts_with("False FailedGetExternalMetric")
            .then_some(())
    })
    .await;
    assert_eq!(world.pods().await, 1);
}

/// Feeds until the HPA has seen that average value, and acted on it if it were to.
async fn wait_average(world: &mut World, average: &str) -> Value {
    let until = Instant::now() + crate::sidecar::WAIT_MAX;
    let mut syncs = 0;
    loop {
        let pods = world.pods().await;
        world.feed.step(pods).await;
        let hpa = world.hpa().await;
        syncs +=
            u32::from(hpa["status"]["currentMetrics"][0]["external"]["current"]["averageValue"] == average);
        // The status is written after the decision of the same sync, and a sync comes every second.
        if syncs >= 30 {
            return hpa;
        }
        assert!(Instant::now() < until, "the HPA does not see {average}: {:#}", hpa["status"]);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_reads_metrics_and_errors_through_the_aggregation_layer() {
    let Some(plane) = ControlPlane::start(Wanted::default()).await else { return };
    let config = tempfile::tempdir().expect("a temporary folder can be made");
    configure(config.path(), 3, 3, "1h");
    let sidecar = Sidecar::start(&plane, config.path()).await;
    let raw = |path: &str| plane.try_kubectl(&["get", "--raw", path]);
    let value = format!("{METRICS}/namespaces/llm/inferno_desired_replicas");
    let early = raw(&value).expect_err("there is no number yet");
    assert!(early.contains("ServiceUnavailable") || early.contains("no remote-write sample"), "{early}");
    let mut feed = Feed::new(sidecar.address);
    feed.step(1).await;
    feed.step(1).await;
    for selector in
        ["", "?labelSelector=variant_name%3Dchat", "?labelSelector=variant_name+in+(chat,x),!nothing"]
    {
        let list: Value = serde_json::from_str(&raw(&format!("{value}{selector}")).unwrap()).unwrap();
        assert_eq!(list["kind"], "ExternalMetricValueList");
        let items = list["items"].as_array().unwrap();
        assert_eq!((items.len(), &items[0]["value"]), (1, &Value::from("3")), "{selector}: {list:#}");
        assert_eq!(items[0]["metricLabels"]["variant_name"], NAME);
        assert!(items[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    let none: Value =
        serde_json::from_str(&raw(&format!("{value}?labelSelector=variant_name%3Dx")).unwrap()).unwrap();
    assert_eq!(none["items"], serde_json::json!([]));
    let other = format!("{METRICS}/namespaces/default/inferno_desired_replicas");
    assert_eq!(serde_json::from_str::<Value>(&raw(&other).unwrap()).unwrap()["items"], serde_json::json!([]));
    assert!(raw(&format!("{METRICS}/namespaces/llm/unknown")).unwrap_err().contains("unknown"));
    assert!(raw(&format!("{value}?labelSelector=a+b")).unwrap_err().contains("labelSelector"));
    // Discovery, as kubectl does it.
    let resources = plane.kubectl(&["api-resources", "--api-group=external.metrics.k8s.io", "-o", "name"]);
    assert!(resources.contains("inferno_desired_replicas"), "{resources}");
    assert!(plane.kubectl(&["api-versions"]).contains("external.metrics.k8s.io/v1beta1"));
}
