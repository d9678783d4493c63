//! Flags of the recorder and of `replay`.

use clap::Args;
use std::path::PathBuf;

/// Default of `--record-size`, bytes.
const SIZE: u64 = 1 << 30;
/// Smallest recording, bytes: a segment must hold some requests.
const SIZE_MIN: u64 = 1 << 20;

/// Flags of the recorder.
#[derive(Clone, Debug, Default, Args)]
pub struct RecordFlags {
    /// Folder in which to record everything that drives decisions, for `replay`.
    #[arg(long, value_name = "DIR", env = "INFERNO_RECORD")]
    pub record: Option<PathBuf>,
    /// Most bytes of the recording; the oldest part makes room: 64MiB, 1GiB ... [default: 1GiB].
    #[arg(long, value_name = "SIZE", env = "INFERNO_RECORD_SIZE", value_parser = size)]
    pub record_size: Option<u64>,
}

impl RecordFlags {
    /// Folder and size, with those of the settings file where no flag says otherwise.
    pub(super) fn over(
        self,
        dir: Option<PathBuf>,
        size_text: Option<&str>,
    ) -> anyhow::Result<Option<(PathBuf, u64)>> {
        let from_file = size_text.map(size).transpose();
        let from_file = from_file.map_err(|why| anyhow::anyhow!("setting record_size: {why}"))?;
        let bytes = self.record_size.or(from_file).unwrap_or(SIZE);
        Ok(self.record.or(dir).map(|dir| (dir, bytes)))
    }

    /// Folder and size by the flags alone.
    pub fn setup(&self) -> Option<(PathBuf, u64)> {
        self.record.clone().map(|dir| (dir, self.record_size.unwrap_or(SIZE)))
    }
}

/// Flags of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayFlags {
    /// Folder of the recording.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Another configuration, a folder or a file: what would it have decided, at which cost?
    #[arg(long, value_name = "CONFIG")]
    pub with: Option<PathBuf>,
    /// Print one JSON object with every change instead of text.
    #[arg(long)]
    pub json: bool,
    /// Also draw the counts over time, as SVG.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Bytes with an optional unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].trim_end_matches(['i', 'B']) {
        "" => Some(0),
        "K" | "k" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let bytes =
        digits.parse::<u64>().ok().zip(shift).and_then(|(count, shift)| count.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if bytes >= SIZE_MIN => Ok(bytes),
        _ => Err("must be a size such as 64MiB or 1GiB, at least 1MiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2000000"), Ok(2_000_000));
        for wrong in ["", "1", "x", "-1M", "1Q", "1 GiB", "99999999999999999999", "99999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
