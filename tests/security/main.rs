//! TLS, credentials and limits as clients and attackers meet them: the built sidecar on loopback.

mod abuse;
mod certificates;
mod credentials;
mod pki;
#[path = "../support/process.rs"]
mod process;
mod prometheus;
mod rotation;
mod sidecar;
