//! Clocks that jump. The wall clock of the process is set by libfaketime; time since its start runs on.

use crate::sidecar::{Scrape, Sidecar};
use crate::{TURN, now_ms, wait_for};
use std::fs;
use std::path::{Path, PathBuf};

const HOUR_MS: i64 = 3_600_000;
/// Where Debian's package puts it, by architecture.
const LIBRARIES: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
/// Set to any value to skip the tests that need it.
const SKIP: &str = "INFERNO_TEST_SKIP_FAKETIME";

fn faketime() -> Option<PathBuf> {
    let found = LIBRARIES.map(|dir| Path::new(dir).join("faketime/libfaketimeMT.so.1"));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() && std::env::var_os(SKIP).is_some() {
        eprintln!("skipped: there is no libfaketime and {SKIP} is set");
        return None;
    }
    Some(found.unwrap_or_else(|| panic!("no libfaketime; tests/run installs it, {SKIP}=1 skips this test")))
}

/// A sidecar whose clock can be set.
struct Displaced {
    sidecar: Sidecar,
    file: PathBuf,
    _dir: tempfile::TempDir,
    offset_ms: i64,
}

impl Displaced {
    async fn start() -> Option<Self> {
        let library = faketime()?;
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let file = dir.path().join("offset");
        fs::write(&file, "+0").expect("the folder is ours");
        let sidecar = Sidecar::start_with(&[], &[], |command| {
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &file);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        })
        .await;
        Some(Displaced { sidecar, file, _dir: dir, offset_ms: 0 })
    }

    /// Sets the sidecar's clock to the machine's plus this.
    fn jump(&mut self, offset_ms: i64) {
        // At once, so that no half of it is read.
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, format!("{:+}", offset_ms / 1000)).expect("the folder is ours");
        fs::rename(fresh, &self.file).expect("the folder is ours");
        self.offset_ms = offset_ms;
    }

    /// Writes what pods report, by the machine's clock plus `offset_ms`.
    async fn write(&self, offset_ms: i64, pods: usize, kv: f64, waiting: f64) -> u16 {
        let scrape = Scrape::at(now_ms() + offset_ms, pods, kv, waiting);
        self.sidecar.write(&scrape).await.status.as_u16()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecars_clock_jumps_both_ways() {
    let _turn = TURN.lock().await;
    let Some(mut world) = Displaced::start().await else { return };
    assert_eq!(world.write(0, 2, 0.5, 2.0).await, 204);
    world.sidecar.until_desired(2).await;

    // Ahead: samples look old, and say so; they are what decides all the same.
    world.jump(2 * HOUR_MS);
    assert_eq!(world.write(0, 2, 0.5, 2.0).await, 204);
    assert_eq!(world.sidecar.desired().await, Some(2));
    let age_s = world.sidecar.figure("inferno_input_age_seconds").await.expect("it is published");
    assert!((7_190.0..7_300.0).contains(&age_s), "{age_s}");
    assert_eq!(world.write(0, 2, 0.95, 9.0).await, 204);
    world.sidecar.until_desired(3).await;

    // Back: samples are of the future and refused by name; the decision stands.
    world.jump(-2 * HOUR_MS);
    let refused = world.sidecar.write(&Scrape::now(2, 0.5, 0.0)).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("check the sender's clock"), "{}", refused.text());
    assert_eq!(world.sidecar.desired().await, Some(3));

    // Right again: everything goes on by itself.
    world.jump(0);
    wait_for("the third pod counted", async || {
        assert_eq!(world.write(0, 3, 0.5, 2.0).await, 204);
        (world.sidecar.figure("inferno_current_replicas").await == Some(3.0)).then_some(())
    })
    .await;
    assert_eq!(world.sidecar.desired().await, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machines_clock_jumps_both_ways() {
    let _turn = TURN.lock().await;
    let Some(mut world) = Displaced::start().await else { return };
    assert_eq!(world.write(0, 2, 0.5, 2.0).await, 204);
    world.sidecar.until_desired(2).await;
    for (offset_ms, kv, wanted) in [(2 * HOUR_MS, 0.5, 2), (0, 0.5, 2), (-2 * HOUR_MS, 0.5, 2), (0, 0.95, 3)]
    {
        world.jump(offset_ms);
        // A clock that was set back is noticed within a second, or by the first sample.
        wait_for("fresh input under the new clock", async || {
            assert_eq!(world.write(offset_ms, 2, kv, 2.0).await, 204);
            let age_s = world.sidecar.figure("inferno_input_age_seconds").await?;
            (age_s < 5.0).then_some(())
        })
        .await;
        world.sidecar.until_desired(wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_the_future_are_refused_and_the_rest_is_kept() {
    let _turn = TURN.lock().await;
    let sidecar = Sidecar::start().await;
    assert_eq!(sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status, 204);
    sidecar.until_desired(2).await;
    let far = sidecar.write(&Scrape::at(now_ms() + HOUR_MS, 2, 0.99, 50.0)).await;
    assert_eq!(far.status, 400, "{}", far.text());
    assert!(far.text().contains("ahead of the clock"), "{}", far.text());
    assert_eq!(sidecar.desired().await, Some(2));
    // A little ahead, as clocks of nodes are, is taken, and what comes on time after it is, too.
    assert_eq!(sidecar.write(&Scrape::at(now_ms() + 2_000, 2, 0.5, 2.0)).await.status, 204);
    wait_for("samples on time are taken again", async || {
        assert_eq!(sidecar.write(&Scrape::now(2, 0.95, 9.0)).await.status, 204);
        (sidecar.desired().await == Some(3)).then_some(())
    })
    .await;
}
