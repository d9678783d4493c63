//! The external metrics API behind a real kube-apiserver: who is let in, and an HPA of a real
//! kube-controller-manager that scales a Deployment on it with nothing between.

mod access;
#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/control_plane.rs"]
mod control_plane;
mod feed;
mod hpa;
#[path = "../support/process.rs"]
mod process;
mod sidecar;
