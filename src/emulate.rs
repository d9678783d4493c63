//! An emulated vLLM fleet: pure, seeded, on virtual time.
//!
//! Input: an [`spec::FleetSpec`] (models, variants, engine profiles, arrival processes) and a time to
//! advance to. Output: what a scraper would see ([`exposition`]) and what the clients felt
//! ([`fleet::Fleet::take_finished`]). It knows no sockets, files, clock or runtime, and the same seed
//! gives the same bytes.
//!
//! # Map
//!
//! [`load`] makes requests; [`fleet`] routes them to replicas that start, serve, drain and disappear;
//! [`replica`] is one engine at iteration level; [`exposition`] renders all of it as metric families, from
//! which both the text formats and the remote-write series are made; [`standard`] is the demo's fleet.
//!
//! # Time
//!
//! The interface speaks [`crate::units::TimeMs`]. Inside, time is `i64` microseconds since the epoch
//! (names end in `_us`): engine iterations last a few milliseconds, so whole milliseconds would bias them,
//! and integers keep the arithmetic exact however long a run is.

pub mod exposition;
pub mod fleet;
pub mod histogram;
pub mod load;
pub mod profile;
pub mod replica;
pub mod request;
pub mod spec;
pub mod standard;

mod collect;
mod names;

use crate::units::TimeMs;

pub use collect::{Collector, STALE_NAN_BITS};

/// Microseconds per millisecond.
const US_PER_MS: i64 = 1000;

/// Microseconds since the epoch at `time`.
fn to_us(time: TimeMs) -> i64 {
    time.0.saturating_mul(US_PER_MS)
}

/// Milliseconds in `us` microseconds.
fn us_to_ms(us: i64) -> f64 {
    us as f64 / US_PER_MS as f64
}

/// `ms` milliseconds in whole microseconds; NaN and negative values count as 0.
fn ms_to_us(ms: f64) -> i64 {
    // A float-to-integer cast saturates, and takes NaN to 0.
    (ms * US_PER_MS as f64).round().max(0.0) as i64
}
