//! What kube-state-metrics and the inference scheduler say about the fleet, as tables.

use super::super::fleet::{Fleet, Model, Phase, Pod, Variant};
use super::{Family, Kind, Point};

type Labels = Vec<(&'static str, String)>;
type Row = (Labels, f64);

/// A kube-state-metrics gauge and how its rows come about.
struct ClusterMetric {
    name: &'static str,
    help: &'static str,
    rows: fn(&Fleet) -> Vec<Row>,
}

const CLUSTER_METRICS: &[ClusterMetric] = &[
    ClusterMetric {
        name: "kube_deployment_spec_replicas",
        help: "Replicas that the deployment asks for.",
        rows: |fleet| deployments(fleet, |variant| f64::from(variant.desired)),
    },
    ClusterMetric {
        name: "kube_deployment_status_replicas",
        help: "Replicas that the deployment has, terminating ones excluded.",
        rows: |fleet| deployments(fleet, |variant| count(variant, |phase| phase != Phase::Draining)),
    },
    ClusterMetric {
        name: "kube_deployment_status_replicas_ready",
        help: "Replicas of the deployment that are ready.",
        rows: |fleet| deployments(fleet, |variant| count(variant, |phase| phase == Phase::Ready)),
    },
    ClusterMetric {
        name: "kube_replicaset_owner",
        help: "Owner of the replica set.",
        rows: replica_set_owners,
    },
    ClusterMetric { name: "kube_pod_owner", help: "Owner of the pod.", rows: pod_owners },
    ClusterMetric {
        name: "kube_pod_status_ready",
        help: "Whether the pod is ready to serve requests.",
        rows: pod_conditions,
    },
    ClusterMetric {
        name: "kube_node_status_allocatable",
        help: "What the node can give to pods.",
        rows: allocatable,
    },
];

/// A gauge of the inference scheduler, under its present and its former name.
struct SchedulerMetric {
    names: [&'static str; 2],
    help: &'static str,
    read: fn(&Model) -> f64,
}

const SCHEDULER_METRICS: &[SchedulerMetric] = &[
    SchedulerMetric {
        names: ["llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size"],
        help: "Requests held back by flow control.",
        read: |model| model.queue.len() as f64,
    },
    SchedulerMetric {
        names: ["llm_d_epp_flow_control_queue_bytes", "inference_extension_flow_control_queue_bytes"],
        help: "Bytes of the requests held back by flow control.",
        read: |model| {
            let tokens: u64 = model.queue.iter().map(|request| u64::from(request.prompt_tokens)).sum();
            (tokens * BYTES_PER_TOKEN) as f64
        },
    },
];

/// Usual length of a token of English text, bytes.
const BYTES_PER_TOKEN: u64 = 4;

/// What kube-state-metrics exposes.
pub(super) fn families(fleet: &Fleet) -> Vec<Family> {
    let of_metric = |metric: &ClusterMetric| {
        let rows = (metric.rows)(fleet).into_iter();
        let points = rows.map(|(labels, value)| Point { suffix: "", labels, value }).collect();
        Family { name: metric.name, help: metric.help, kind: Kind::Gauge, points }
    };
    CLUSTER_METRICS.iter().map(of_metric).collect()
}

/// What the scheduler in front of `model` exposes.
pub(super) fn scheduler_families(model: &Model) -> Vec<Family> {
    let labels: Labels = vec![
        ("fairness_id", "default-flow".to_owned()),
        ("inference_pool", model.pool.clone()),
        ("model_name", model.model_id.clone()),
        ("priority", "0".to_owned()),
        ("target_model_name", model.model_id.clone()),
    ];
    let of_metric = |metric: &SchedulerMetric| {
        let point = Point { suffix: "", labels: labels.clone(), value: (metric.read)(model) };
        metric.names.map(|name| Family {
            name,
            help: metric.help,
            kind: Kind::Gauge,
            points: vec![point.clone()],
        })
    };
    SCHEDULER_METRICS.iter().flat_map(of_metric).collect()
}

fn count(variant: &Variant, phase: impl Fn(Phase) -> bool) -> f64 {
    variant.pods.iter().filter(|pod| phase(pod.phase)).count() as f64
}

fn deployments(fleet: &Fleet, value: impl Fn(&Variant) -> f64) -> Vec<Row> {
    let variants = fleet
        .models()
        .iter()
        .flat_map(|model| model.variants.iter().map(move |variant| (model.namespace.clone(), variant)));
    variants
        .map(|(namespace, variant)| {
            let labels = vec![("namespace", namespace), ("deployment", variant.spec.name.clone())];
            (labels, value(variant))
        })
        .collect()
}

/// Labels by which an object names its controlling owner.
fn owned_by(kind: &str, name: &str) -> Labels {
    vec![
        ("owner_kind", kind.to_owned()),
        ("owner_name", name.to_owned()),
        ("owner_is_controller", "true".to_owned()),
    ]
}

fn replica_set_owners(fleet: &Fleet) -> Vec<Row> {
    let of_model = |model: &Model| -> Vec<Row> {
        let of_variant = |variant: &Variant| {
            let own =
                vec![("namespace", model.namespace.clone()), ("replicaset", variant.replica_set.clone())];
            ([own, owned_by("Deployment", &variant.spec.name)].concat(), 1.0)
        };
        model.variants.iter().map(of_variant).collect()
    };
    fleet.models().iter().flat_map(of_model).collect()
}

fn pod_labels(model: &Model, pod: &Pod) -> Labels {
    vec![("namespace", model.namespace.clone()), ("pod", pod.name.clone())]
}

fn pod_owners(fleet: &Fleet) -> Vec<Row> {
    fleet
        .each_pod()
        .map(|(model, variant, pod)| {
            ([pod_labels(model, pod), owned_by("ReplicaSet", &variant.replica_set)].concat(), 1.0)
        })
        .collect()
}

fn pod_conditions(fleet: &Fleet) -> Vec<Row> {
    let of_pod = |(model, _, pod): (&Model, &Variant, &Pod)| {
        let ready = pod.phase == Phase::Ready;
        let row = |condition: &str, holds: bool| {
            let condition = vec![("condition", condition.to_owned())];
            ([pod_labels(model, pod), condition].concat(), f64::from(u8::from(holds)))
        };
        [row("true", ready), row("false", !ready), row("unknown", false)]
    };
    fleet.each_pod().flat_map(of_pod).collect()
}

fn allocatable(fleet: &Fleet) -> Vec<Row> {
    fleet
        .nodes
        .iter()
        .map(|node| {
            let labels = vec![
                ("node", node.name.clone()),
                ("resource", "nvidia_com_gpu".to_owned()),
                ("unit", "integer".to_owned()),
            ];
            (labels, f64::from(node.gpus))
        })
        .collect()
}
