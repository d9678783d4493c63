//! One pass over the folder: every file read, parsed and put into one list.
//!
//! Input: a folder. Output: its documents, and the folders that have to be watched. Files that are
//! being written right now keep what they said before. Must not know watchers or channels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::config::objects::{Document, DocumentContent, documents};
use crate::limits::{CONFIG_FILE_MAX_BYTES, CONFIG_FILES_MAX, CONFIG_TOTAL_MAX_BYTES};

/// A file changed more recently than this may be half written.
const HOT: Duration = Duration::from_millis(10);
/// A file that changes all the time is read as it is after this time.
const HOT_MAX: Duration = Duration::from_millis(500);
/// An empty file counts as being written for this time: writing in place begins with truncation, and on
/// a busy machine the rest can be long in coming. Whoever means it can delete the file.
const EMPTY_MAX: Duration = Duration::from_secs(1);

/// Reads a folder again and again.
pub struct Scanner {
    dir: PathBuf,
    files: BTreeMap<String, Known>,
    /// Whether the folder was read before; at first everything is taken as it is.
    has_read: bool,
}

/// A file as it was last read.
struct Known {
    bytes: Vec<u8>,
    documents: Vec<Document>,
    /// Since when the file has been changing too fast to be read.
    hot_since: Option<Instant>,
    /// Since when the file has been empty without that being taken for meant.
    empty_since: Option<Instant>,
}

/// Outcome of one pass.
pub struct Scan {
    /// All documents, in the order of file names.
    pub documents: Vec<Document>,
    /// Folders in which a change matters.
    pub folders: BTreeSet<PathBuf>,
    /// Whether a file seemed to be in the middle of being written; look again soon.
    pub is_unsettled: bool,
}

/// A file to read: its name for messages and its path.
struct Found {
    name: String,
    path: PathBuf,
}

/// Reads a folder once.
pub fn read_folder(dir: &Path) -> Vec<Document> {
    Scanner::new(dir.to_path_buf()).scan(&BTreeSet::new()).documents
}

impl Scanner {
    /// A scanner of one folder, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Scanner { dir, files: BTreeMap::new(), has_read: false }
    }

    /// Reads the whole folder; `open` are files that somebody is known to be writing.
    pub fn scan(&mut self, open: &BTreeSet<PathBuf>) -> Scan {
        let mut folders = BTreeSet::new();
        let read = self.list(&mut folders).and_then(|found| self.read_all(found, open));
        let (documents, is_unsettled) = read.unwrap_or_else(|(reason, fix)| {
            let content = DocumentContent::SourceLost { reason, fix: fix.into() };
            (vec![Document { origin: self.dir.display().to_string(), content }], false)
        });
        Scan { documents, folders, is_unsettled }
    }

    /// Files of the folder and of the folders in it, sorted by name.
    fn list(&self, folders: &mut BTreeSet<PathBuf>) -> Result<Vec<Found>, Lost> {
        let mut found = Vec::new();
        let entries = visible(&self.dir).map_err(|error| lost_folder(&self.dir, &error))?;
        folders.insert(self.dir.clone());
        for (name, path) in entries {
            // A folder in the folder is a mounted ConfigMap; what is in it cannot hold another.
            if path.is_dir() {
                let inner = visible(&path).map_err(|error| lost_folder(&path, &error))?;
                folders.insert(path);
                let inner = inner.into_iter().map(|(file, path)| (format!("{name}/{file}"), path));
                found.extend(inner.filter(|(name, path)| is_configuration(name) && !path.is_dir()));
            } else if is_configuration(&name) {
                found.push((name, path));
            }
            if found.len() > CONFIG_FILES_MAX {
                let reason = format!("there are more than {CONFIG_FILES_MAX} files");
                return Err((reason, "move files that are no configuration elsewhere, or join small ones"));
            }
        }
        // Listing a folder may miss a file that is being replaced: those known before are asked for by name.
        let listed: BTreeSet<&String> = found.iter().map(|(name, _)| name).collect();
        let missed: Vec<(String, PathBuf)> = (self.files.keys().filter(|name| !listed.contains(name)))
            .map(|name| (name.clone(), self.dir.join(name)))
            .filter(|(_, path)| fs::symlink_metadata(path).is_ok() && !path.is_dir())
            .collect();
        found.extend(missed);
        for (_, path) in &found {
            // Changes behind a symbolic link happen in another folder.
            if path.is_symlink()
                && let Some(parent) = fs::canonicalize(path).ok().as_deref().and_then(Path::parent)
            {
                folders.insert(parent.to_path_buf());
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(name, path)| Found { name, path }).collect())
    }

    fn read_all(
        &mut self,
        found: Vec<Found>,
        open: &BTreeSet<PathBuf>,
    ) -> Result<(Vec<Document>, bool), Lost> {
        let mut files = BTreeMap::new();
        let mut total_bytes = 0;
        for Found { name, path } in found {
            let known = self.files.remove(&name).or_else(|| self.has_read.then(Known::nothing));
            let known = match read_file(&path) {
                Ok(Some((bytes, is_hot))) => settle(&name, bytes, is_hot || open.contains(&path), known),
                Ok(None) => continue,
                Err((reason, fix)) => Known {
                    bytes: Vec::new(),
                    documents: vec![Document {
                        origin: name.clone(),
                        content: DocumentContent::Broken { reason, fix: fix.into() },
                    }],
                    hot_since: None,
                    empty_since: None,
                },
            };
            total_bytes += known.bytes.len() as u64;
            files.insert(name, known);
        }
        self.files = files;
        self.has_read = true;
        if total_bytes > CONFIG_TOTAL_MAX_BYTES {
            let reason = format!("the files have {total_bytes} bytes, more than {CONFIG_TOTAL_MAX_BYTES}");
            return Err((reason, "move files that are no configuration elsewhere"));
        }
        let documents = self.files.values().flat_map(|known| known.documents.iter().cloned()).collect();
        Ok((documents, self.files.values().any(Known::is_unsettled)))
    }
}

/// Why something cannot be read, and what to do about it.
type Lost = (String, &'static str);

fn lost_folder(dir: &Path, error: &io::Error) -> Lost {
    let fix = "create the folder, or name another one with --config-dir; it is watched for";
    (format!("the folder {} cannot be read: {error}", dir.display()), fix)
}

/// Entries of a folder whose names do not begin with a dot, sorted.
fn visible(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
        // One more than allowed is enough to tell; the rest need not be held.
        if entries.len() > 2 * CONFIG_FILES_MAX {
            break;
        }
    }
    entries.sort();
    Ok(entries)
}

fn is_configuration(name: &str) -> bool {
    [".yaml", ".yml", ".json"].into_iter().any(|suffix| name.ends_with(suffix))
}

/// Content of a file and whether it may be half written; `None` when it has just gone.
fn read_file(path: &Path) -> Result<Option<(Vec<u8>, bool)>, Lost> {
    let unreadable =
        |error: io::Error| (format!("the file cannot be read: {error}"), "make it readable, or remove it");
    let before = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !before.is_file() {
        return Err(("it is no regular file".into(), "put a file there, or remove it"));
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(CONFIG_FILE_MAX_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    }
    if bytes.len() as u64 > CONFIG_FILE_MAX_BYTES {
        return Err((
            format!("the file has more than {CONFIG_FILE_MAX_BYTES} bytes"),
            "split it into several files",
        ));
    }
    let after = fs::metadata(path).ok();
    let is_same =
        |after: &Metadata| after.len() == before.len() && after.modified().ok() == before.modified().ok();
    let age = before.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    let is_hot = !after.as_ref().is_some_and(is_same) || age.is_some_and(|age| age < HOT);
    Ok(Some((bytes, is_hot)))
}

/// Decides whether what was read is meant: a file that seems to be in the middle of being written
/// keeps what it said before, for a limited time.
fn settle(name: &str, bytes: Vec<u8>, is_hot: bool, known: Option<Known>) -> Known {
    let Some(known) = known else { return Known::new(name, bytes) };
    if known.bytes == bytes {
        return Known { hot_since: None, empty_since: None, ..known };
    }
    let is_empty = bytes.iter().all(u8::is_ascii_whitespace);
    let now = Instant::now();
    let (hot_since, empty_since) = match (is_empty, is_hot) {
        // Truncated this moment: its time as an empty file begins anew.
        (true, true) => (known.hot_since, Some(now)),
        (true, false) => (known.hot_since, known.empty_since.or(Some(now))),
        (false, true) => (known.hot_since.or(Some(now)), None),
        (false, false) => return Known::new(name, bytes),
    };
    let is_over =
        |since: Option<Instant>, limit| since.is_some_and(|since| now.duration_since(since) >= limit);
    if is_over(empty_since, EMPTY_MAX) || !is_empty && is_over(hot_since, HOT_MAX) {
        return Known::new(name, bytes);
    }
    Known { hot_since, empty_since, ..known }
}

impl Known {
    /// A file that was not there before.
    fn nothing() -> Self {
        Known { bytes: Vec::new(), documents: Vec::new(), hot_since: None, empty_since: None }
    }

    fn is_unsettled(&self) -> bool {
        self.hot_since.is_some() || self.empty_since.is_some()
    }

    fn new(name: &str, bytes: Vec<u8>) -> Self {
        let documents = match std::str::from_utf8(&bytes) {
            Ok(text) => documents(name, text),
            Err(error) => {
                let content = DocumentContent::Broken {
                    reason: format!("the file is not UTF-8 text: {error}"),
                    fix: "save it as UTF-8".into(),
                };
                vec![Document { origin: name.into(), content }]
            }
        };
        Known { bytes, documents, hot_since: None, empty_since: None }
    }
}
