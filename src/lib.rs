//! The inferno sidecar: a streaming autoscaling brain for LLM inference.
//!
//! Prometheus streams vLLM series in by remote-write; the library keeps rolling windows in memory,
//! re-optimises every touched variant and publishes one immutable board of decisions.
//!
//! # Map
//!
//! `bytes --wire--> samples --series--> (variant, replica, signal) --window--> demand --analyze-->
//! capacity --optimize--> plan --publish--> board --serve--> readers`
//!
//! * [`engine`] ties the pure modules together as one state machine; [`runner`] owns it on a thread,
//!   [`recorder`] keeps what it published.
//! * [`config`] turns Kubernetes objects into a snapshot; [`mirror`] finds and watches the objects.
//! * [`serve`] is what comes in, guarded by [`serve::access`]; [`client`] is what goes out; both read [`tls`].
//! * [`backfill`] fills the windows at the start; [`client`] and [`tls`] are its connections.
//! * [`app`] is the composition root; [`options`] the command line; [`size`] and [`demo`] are commands.
//! * [`tape`] keeps what drives the engine in files; [`replay`] decides anew from them.
//! * [`emulate`] is a vLLM fleet on virtual time, for the demo and the tests.
//!
//! # Invariants, and the tests that hold them
//!
//! * Everything from [`wire`] to [`publish`], the [`engine`] and [`emulate`] is pure: no sockets, files,
//!   environment or clock; `now` is an argument (`tests/tidy.rs`).
//! * An incremental result equals a recomputation of everything, and recomputing changes nothing
//!   (`tests/engine/oracle.rs`).
//! * The analyzers agree with the reference controller, or deviate for a stated reason (`tests/golden`).
//! * A write is answered 2xx only after its decisions can be read; readers get an error, never an empty
//!   vector, while there is no decision (`tests/http`, `tests/prometheus`).
//! * A rotated certificate or token breaks no request, and a broken one changes nothing (`tests/security`).
//! * A query of the past has the answer that Prometheus gives for the same samples (`tests/record`).
//! * Filled from Prometheus after a restart, the engine decides like one that heard the stream
//!   (`tests/backfill.rs`, `tests/prometheus/restart.rs`).

// The links lead readers of the source.
#![allow(rustdoc::private_intra_doc_links)]
// What a peer, a user or the cluster sends must never end the process.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod analyze;
pub mod app;
pub mod backfill;
pub mod client;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod emulate;
pub mod engine;
pub mod limits;
pub mod logs;
pub mod mirror;
pub mod optimize;
pub mod options;
pub mod publish;
pub mod recorder;
pub mod replay;
pub mod runner;
pub mod series;
pub mod serve;
pub mod simulate;
pub mod size;
pub mod tape;
pub mod tls;
pub mod units;
pub mod window;
pub mod wire;

/// Message types generated from `proto/`.
pub mod proto {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/prometheus.rs"));

    /// Remote-write 2.0.
    pub mod v2 {
        include!(concat!(env!("OUT_DIR"), "/io.prometheus.write.v2.rs"));
    }

    /// Records of `--record`.
    pub mod recording {
        include!(concat!(env!("OUT_DIR"), "/inferno.recording.rs"));
    }
}
