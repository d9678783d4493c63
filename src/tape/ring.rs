//! The folder of segment files, kept within a size: the oldest segments make room for new ones.

use super::segment;
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What follows the number in a segment's name.
const SUFFIX: &str = ".inferno-recording";
/// Held while somebody records into the folder.
const LOCK: &str = "recording.lock";
/// A ring consists of this many segments, so that this share of it is lost when room is made.
const SEGMENTS: u64 = 16;

/// Segment files of a folder, oldest first.
pub fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(SUFFIX).and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The ring as its writer sees it.
pub struct Ring {
    dir: PathBuf,
    max_bytes: u64,
    /// Number and size of each segment, oldest first; the last one is being written while `file` is open.
    segments: VecDeque<(u64, u64)>,
    file: Option<BufWriter<File>>,
    _lock: File,
}

impl Ring {
    /// Opens or makes the folder. Fails when it cannot be written, or when somebody records there already.
    pub fn open(dir: &Path, max_bytes: u64) -> anyhow::Result<Self> {
        let doing = |what: &str, error: io::Error| {
            anyhow::anyhow!("--record {}: {what}: {error}; name a folder that can be written", dir.display())
        };
        // Recordings hold names and configuration of the cluster: they are for their owner.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| doing("cannot make the folder", e))?;
        let lock = dir.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(lock);
        let lock = lock.map_err(|error| doing("cannot write there", error))?;
        lock.try_lock().map_err(|_| {
            anyhow::anyhow!("--record {}: another process records there; name another folder", dir.display())
        })?;
        let found = segments(dir).map_err(|error| doing("cannot read the folder", error))?;
        let sized = found.into_iter().map(|(number, path)| {
            let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
            (number, bytes)
        });
        let segments = sized.collect();
        Ok(Ring { dir: dir.to_owned(), max_bytes, segments, file: None, _lock: lock })
    }

    /// Bytes on disk, as far as they are known.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether the current segment has no room for `more` bytes.
    pub fn is_full(&self, more: usize) -> bool {
        let current = self.segments.back().map_or(0, |(_, bytes)| *bytes);
        self.file.is_none() || current + more as u64 > self.segment_bytes()
    }

    fn segment_bytes(&self) -> u64 {
        self.max_bytes / SEGMENTS
    }

    /// Begins a segment; the old ones that have no room any more are removed first.
    pub fn begin(&mut self) -> io::Result<()> {
        self.end();
        while self.bytes() + self.segment_bytes() > self.max_bytes {
            let Some((number, _)) = self.segments.front().copied() else { break };
            match fs::remove_file(self.path(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.segments.pop_front()),
            }
        }
        let number = self.segments.back().map_or(1, |(number, _)| number.saturating_add(1));
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(self.path(number))?;
        let mut file = BufWriter::new(file);
        self.segments.push_back((number, segment::MAGIC.len() as u64));
        segment::begin(&mut file)?;
        self.file = Some(file);
        Ok(())
    }

    /// Appends framed records to the current segment. After an error the segment is closed.
    pub fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotConnected.into()) };
        if let Err(error) = file.write_all(frames) {
            self.abandon();
            return Err(error);
        }
        if let Some((_, bytes)) = self.segments.back_mut() {
            *bytes += frames.len() as u64;
        }
        Ok(())
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().inspect_err(|_| self.abandon())
    }

    /// Ends the current segment and sees it to the disk.
    pub fn end(&mut self) {
        if let Some(mut file) = self.file.take() {
            // What cannot be written now is missing at the end of the segment; readers expect that.
            let _ = file.flush().and_then(|()| file.get_ref().sync_data());
        }
    }

    /// Gives up the current segment with what is buffered: writing that once more would fail again.
    fn abandon(&mut self) {
        if let Some(file) = self.file.take() {
            drop(file.into_parts());
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:010}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_segments_make_room_and_numbers_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(dir.path(), 16 * 1000).unwrap();
        for _ in 0..40 {
            ring.begin().unwrap();
            ring.append(&[0; 900]).unwrap();
            assert!(ring.is_full(200) && !ring.is_full(50));
            ring.end();
            let on_disk: u64 =
                segments(dir.path()).unwrap().iter().map(|(_, path)| fs::metadata(path).unwrap().len()).sum();
            assert_eq!(on_disk, ring.bytes());
            assert!(on_disk <= 16_000);
        }
        let numbers = |dir: &Path| segments(dir).unwrap().iter().map(|(n, _)| *n).collect::<Vec<_>>();
        assert_eq!(numbers(dir.path()).last(), Some(&40));
        assert!(numbers(dir.path()).len() >= 15);
        let other = Ring::open(dir.path(), 1000).err().expect("locked").to_string();
        assert!(other.contains("another process records there"), "{other}");
        drop(ring);
        let mut ring = Ring::open(dir.path(), 16_000).unwrap();
        ring.begin().unwrap();
        assert_eq!(numbers(dir.path()).last(), Some(&41));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Ring::open(&file.path().join("below"), 1000).err().expect("no folder").to_string();
        assert!(error.contains("--record ") && error.contains("name a folder"), "{error}");
    }
}
