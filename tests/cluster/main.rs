//! The cluster as the source, against a real API server: each test starts its own, and the built sidecar.

#[path = "../support/certificates.rs"]
mod certificates;
mod check;
#[allow(dead_code)] // each test crate uses its part
#[path = "../support/client.rs"]
mod client;
#[path = "../support/control_plane.rs"]
mod control_plane;
mod mirror;
mod numbers;
#[path = "../support/process.rs"]
mod process;
mod shards;
mod status;
mod trouble;
mod world;
mod writers;

/// Prints a line even when the test passes: what was measured is part of the result.
#[macro_export]
macro_rules! say {
    ($($arguments:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($arguments)*);
    }};
}
