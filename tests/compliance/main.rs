//! The cases of the published receiver suite for remote-write, each with the code that the specification
//! wants (the suite itself lets 400 pass where success is due) and with exact counts.
//!
//! Labels come in random order, as in the suite; the order is the test's own, so a failure repeats.

#[allow(dead_code)] // each test crate uses its part
#[path = "../support/client.rs"]
mod client;
mod combined;
mod exemplars;
mod histograms;
mod metadata;
mod metrics;
mod requests;
mod rw1;
#[allow(dead_code)]
#[path = "../support/server.rs"]
mod server;
mod suite;
#[allow(dead_code)]
#[path = "../support/table.rs"]
mod table;
