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
//! Everything from [`wire`] to [`publish`] and the [`engine`] that ties them together is pure: no
//! sockets, files, environment or clock; `now` is an argument. `tests/tidy.rs` holds this.

pub mod analyze;
pub mod app;
pub mod config;
pub mod demo;
pub mod emulate;
pub mod engine;
pub mod limits;
pub mod mirror;
pub mod optimize;
pub mod options;
pub mod publish;
pub mod runner;
pub mod series;
pub mod serve;
pub mod size;
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
}
