//! `replay`: decides anew from a recording, and what another configuration would have decided.
//!
//! The recorded events go through a fresh engine in the order and with the publications of the original, so
//! the same version reproduces every number and reason bit for bit; what was recorded of the publications
//! tells whether it did. With another configuration a second engine takes the same events. It sees the
//! fleet as it was: replicas that it would have started are not there to take load off the others.
//!
//! # Map
//! [`player`] feeds the engines; [`tally`] keeps the books of one of them; [`report`] and [`plot`] show both.

mod player;
mod plot;
mod report;
mod tally;

pub use player::{Outcome, play};

use crate::config::objects::{Document, documents};
use crate::config::resolve::{Resolved, resolve};
use crate::mirror::files;
use crate::options::ReplayFlags;
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Runs `replay`. Exit status 1 when the recording is complete and was not reproduced.
pub fn run(flags: &ReplayFlags) -> anyhow::Result<ExitCode> {
    let with = flags.with.as_deref().map(configuration).transpose()?;
    let outcome = play(&flags.dir, with)?;
    if let Some(path) = &flags.plot {
        let name = path.display();
        fs::write(path, plot::svg(&outcome)).with_context(|| format!("cannot write {name}"))?;
    }
    if flags.json {
        println!("{}", report::json(&outcome));
    } else {
        print!("{}", report::text(&outcome));
    }
    Ok(if outcome.is_reproduced() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The other configuration, from a folder or a file. Its problems go to standard error.
fn configuration(path: &Path) -> anyhow::Result<Resolved> {
    let resolved = resolve(&read(path)?, &Resolved::default());
    for problem in &resolved.problems {
        eprintln!("configuration problem: {problem}");
    }
    ensure!(
        !resolved.snapshot.variants.is_empty(),
        "--with {}: there is no valid variant; `inferno-sidecar check --config-dir {0}` says more",
        path.display()
    );
    Ok(resolved)
}

fn read(path: &Path) -> anyhow::Result<Vec<Document>> {
    let metadata = fs::metadata(path);
    if metadata.with_context(|| format!("--with {}", path.display()))?.is_dir() {
        return Ok(files::read_folder(path));
    }
    let text = fs::read_to_string(path).with_context(|| format!("--with {}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(documents(&name, &text))
}
