//! What `slo` has learned, kept in a file so that it survives a restart: read at the start, written every minute
//! and at the end, whole and at once, so that a crash leaves the last one.
//!
//! It is the answer of `GET /api/v1/profiles`, so any of these files may be given to another instance, to
//! `--profiles` and to `simulate`. A file that cannot be read or written costs what it would have told, and no more.

use crate::limits::{PROFILES_FILE_MAX_BYTES, STATE_PROFILES_MAX};
use crate::options::LearnedSettings;
use crate::publish::{Board, json};
use crate::runner::Handle;
use crate::simulate::profiles;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time between two writes.
const INTERVAL: Duration = Duration::from_secs(60);

/// What is known at the start: the texts of the state and of the profiles, what is wrong with them said.
pub fn known(settings: &LearnedSettings) -> (Vec<String>, Option<State>) {
    let state = settings.state.as_deref().map(State::open);
    let mut texts = Vec::new();
    if let Some((state, text)) = &state
        && is_sound(&state.path.display().to_string(), text)
    {
        texts.push(text.clone());
    }
    if let Some((name, text)) = &settings.profiles {
        is_sound(name, text);
        texts.push(text.clone());
    }
    (texts, state.map(|(state, _)| state))
}

/// Says what is wrong; whether anything is right.
fn is_sound(name: &str, text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    let (known, problems) = profiles::read(name, text);
    for problem in &problems {
        tracing::warn!("{problem}");
    }
    tracing::info!(file = name, profiles = known.len(), "profiles to start from");
    !known.is_empty()
}

/// The file.
pub struct State {
    path: PathBuf,
    /// What it holds, by name of the variant: those that are not there just now are kept.
    held: BTreeMap<String, Value>,
    written: String,
    is_failing: bool,
}

impl State {
    /// The file with its text, empty where there is none yet.
    fn open(path: &Path) -> (Self, String) {
        let mut text = String::new();
        let read = File::open(path)
            .and_then(|file| file.take(PROFILES_FILE_MAX_BYTES as u64 + 1).read_to_string(&mut text));
        match read {
            Ok(_) if text.len() > PROFILES_FILE_MAX_BYTES => {
                tracing::warn!(file = %path.display(), "the state is larger than 64 MiB; starting without");
                text.clear();
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "the state cannot be read; starting without");
                text.clear();
            }
            Ok(_) | Err(_) => {}
        }
        let mut state =
            State { path: path.into(), held: BTreeMap::new(), written: text.clone(), is_failing: false };
        state.hold(serde_json::from_str(&text).unwrap_or_default());
        (state, text)
    }

    fn hold(&mut self, mut profiles: Value) {
        let Some(variants) = profiles["variants"].as_array_mut() else { return };
        for profile in variants.drain(..) {
            if let Some(id) = profile["id"].as_str() {
                self.held.insert(id.to_owned(), profile);
            }
        }
    }

    /// Writes what has been learned by now, if that is news.
    fn keep(&mut self, board: &Board) {
        let learned = json::profiles(board);
        if self.held.len() > STATE_PROFILES_MAX {
            self.held.clear();
        }
        self.hold(learned);
        let text = json!({"variants": self.held.values().collect::<Vec<_>>()}).to_string();
        if text == self.written || self.held.is_empty() {
            return;
        }
        match write_whole(&self.path, &text) {
            Ok(()) => (self.written, self.is_failing) = (text, false),
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::warn!(file = %self.path.display(), %error, "the state cannot be written; trying again");
            }
            Err(_) => {}
        }
    }

    /// Keeps the file up to date until `closing` is closed, and once more then.
    pub async fn follow(mut self, engine: Handle, mut closing: watch::Receiver<()>) {
        loop {
            let goes_on = tokio::time::timeout(INTERVAL, closing.changed()).await.is_err();
            let board: Arc<Board> = engine.board();
            // A disk may be slow; nothing else waits for it.
            let kept = tokio::task::spawn_blocking(move || {
                self.keep(&board);
                self
            });
            match kept.await {
                Ok(state) if goes_on => self = state,
                _ => return,
            }
        }
    }
}

/// Replaces the file at once: whoever reads it sees the old text or the new one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let next = path.with_file_name(name);
    let mut file = File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(next, path)
}
