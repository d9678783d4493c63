//! The `slo` policy in a closed loop: an emulated fleet, the engine, and an autoscaler that does what it says.
//! `starts` holds what a variant begins with, `restart` and `refill` what
//! survives one, `bridge` how a fast variant helps out while a cheap one starts.

mod bridge;
#[path = "../support/client.rs"]
#[allow(dead_code, reason = "shared")]
mod client;
mod closed_loop;
#[path = "../support/process.rs"]
mod process;
mod refill;
mod restart;
mod starts;
