//! Flags of what `slo` starts from, and of what it keeps.

use super::{FileSettings, read};
use crate::limits::PROFILES_FILE_MAX_BYTES;
use clap::Args;
use std::path::PathBuf;

/// Flags of profiles.
#[derive(Clone, Debug, Default, Args)]
pub struct LearnedFlags {
    /// File of performance profiles (JSON), as `GET /api/v1/profiles` answers them: what `slo` takes for a variant of
    /// the same model and accelerators until it has learned its own.
    #[arg(long, value_name = "FILE", env = "INFERNO_PROFILES")]
    profiles: Option<PathBuf>,
    /// File that keeps what `slo` learns, read at the start and written every minute and at the end.
    #[arg(long, value_name = "FILE", env = "INFERNO_STATE")]
    state: Option<PathBuf>,
}

/// What is known at the start.
#[derive(Clone, Debug, Default)]
pub struct LearnedSettings {
    /// The profiles: name and text of the file.
    pub profiles: Option<(String, String)>,
    /// File of the state.
    pub state: Option<PathBuf>,
}

impl LearnedFlags {
    pub(super) fn settle(self, file: &FileSettings) -> anyhow::Result<LearnedSettings> {
        let profiles = match self.profiles.or_else(|| file.profiles.clone()) {
            Some(path) => {
                let text = read(&path, "profiles")?;
                let is_small = text.len() <= PROFILES_FILE_MAX_BYTES;
                anyhow::ensure!(is_small, "profiles {}: more than 64 MiB", path.display());
                Some((path.display().to_string(), text))
            }
            None => None,
        };
        Ok(LearnedSettings { profiles, state: self.state.or_else(|| file.state.clone()) })
    }
}
