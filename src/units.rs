//! Units of time. Data time (sample timestamps, the engine's `now`) is a type of its own, so that it
//! cannot be mixed up with process time (`std::time::Instant`), which the core never sees.

use std::fmt;
use std::ops::{Add, Sub};

/// A point in data time: milliseconds since the Unix epoch, as in Prometheus samples.
///
/// Differences between two points are plain `i64` milliseconds and carry `_ms` in their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeMs(pub i64);

impl TimeMs {
    /// The earliest representable time; older than any sample.
    pub const MIN: TimeMs = TimeMs(i64::MIN);
    /// The latest representable time; used as "no deadline".
    pub const MAX: TimeMs = TimeMs(i64::MAX);

    /// Milliseconds from `earlier` to `self`; negative when `self` is the earlier one. Saturates.
    pub fn since(self, earlier: TimeMs) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Seconds since the Unix epoch.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl Add<i64> for TimeMs {
    type Output = TimeMs;
    fn add(self, ms: i64) -> TimeMs {
        TimeMs(self.0.saturating_add(ms))
    }
}

impl Sub<i64> for TimeMs {
    type Output = TimeMs;
    fn sub(self, ms: i64) -> TimeMs {
        TimeMs(self.0.saturating_sub(ms))
    }
}

impl fmt::Display for TimeMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}
