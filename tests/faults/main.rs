//! What goes wrong around a sidecar, done to the binary as built, with a real Prometheus where one is part of it.
//! The README's table of faults names each test. Further faults are held elsewhere: Prometheus restarts and
//! replays its WAL, and SIGKILL with backfill (`tests/prometheus`), damaged recordings (`tests/replay.rs`), every
//! way of changing files (`tests/config`), an API server that goes away (`tests/cluster`).

/// Prints a line even when the test passes: what was measured is part of the result.
macro_rules! say {
    ($($arguments:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($arguments)*);
    }};
}

#[path = "../support/client.rs"]
#[allow(dead_code, reason = "shared")]
mod client;
mod clocks;
mod configuration;
mod disks;
mod fleet;
mod overload;
#[path = "../support/process.rs"]
mod process;
mod processes;
#[path = "../record/real.rs"]
mod real;
mod senders;
mod sidecar;
#[path = "../support/tools.rs"]
#[allow(dead_code, reason = "shared")]
mod tools;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest wait for something that is to happen.
const SOON: Duration = Duration::from_secs(30);

/// One system at a time: two would slow each other down.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The machine's clock, ms.
fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    since_epoch.as_millis() as i64
}

/// Waits until `probe` gives something.
async fn wait_for<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < until, "not seen within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Calls `look` every few milliseconds for as long.
async fn all_along(time: Duration, mut look: impl AsyncFnMut()) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        look().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
