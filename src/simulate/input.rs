//! Where traces come from: CSV files, folders of them, patterns, and recordings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pattern::{self, Pattern};
use super::problem::Problem;
use super::recording;
use super::trace::Trace;

/// Where the traces of one argument come from.
#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Recording(PathBuf),
    Pattern(Pattern, String),
}

/// Everything that the arguments name, each trace once per seed; the first seed leaves recorded traces as they
/// are. What cannot be read is left out and named.
pub fn traces(arguments: &[PathBuf], seed: u64, seeds: u32) -> (Vec<Vec<Arc<Trace>>>, Vec<Problem>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for argument in arguments {
        match sources(argument) {
            Ok(sources) => {
                for source in sources {
                    source
                        .read(seed, seeds)
                        .unwrap_or_else(|problem| {
                            problems.push(problem);
                            Vec::new()
                        })
                        .into_iter()
                        .for_each(|trace| found.push(trace));
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    (found, problems)
}

fn sources(argument: &Path) -> Result<Vec<Source>, Problem> {
    if let Some(text) = argument.to_str().and_then(|text| text.strip_prefix(pattern::PREFIX)) {
        return Ok(vec![Source::Pattern(Pattern::parse(text)?, argument.display().to_string())]);
    }
    if !argument.is_dir() {
        return Ok(vec![Source::File(argument.to_owned())]);
    }
    if recording::is_one(argument) {
        return Ok(vec![Source::Recording(argument.to_owned())]);
    }
    let name = argument.display().to_string();
    let entries = std::fs::read_dir(argument)
        .map_err(|error| Problem::new(&*name, format!("cannot be read: {error}"), "check the path"))?;
    let is_trace = |path: &PathBuf| {
        let name = file_name(path);
        name.ends_with(".csv") || name.ends_with(".csv.gz")
    };
    let mut files: Vec<PathBuf> =
        entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_trace).collect();
    files.sort();
    if files.is_empty() {
        let reason = "there is no trace in it (*.csv, *.csv.gz), and no recording";
        return Err(Problem::new(name, reason, "name a folder of traces, or one of `serve --record DIR`"));
    }
    Ok(files.into_iter().map(Source::File).collect())
}

impl Source {
    /// The traces of the source, each with its variations by seed.
    fn read(&self, seed: u64, seeds: u32) -> Result<Vec<Vec<Arc<Trace>>>, Problem> {
        let more = || (1..u64::from(seeds)).map(move |step| seed.wrapping_add(step));
        let recorded = |trace: Trace| -> Vec<Arc<Trace>> {
            let varied: Vec<Arc<Trace>> = more().map(|seed| Arc::new(trace.varied(seed))).collect();
            std::iter::once(Arc::new(trace)).chain(varied).collect()
        };
        Ok(match self {
            Source::File(path) => {
                let name = path.display().to_string();
                let bytes = std::fs::read(path).map_err(|error| {
                    Problem::new(&*name, format!("cannot be read: {error}"), "check the path")
                })?;
                vec![recorded(Trace::read(&stem(path), &name, &bytes)?)]
            }
            Source::Recording(dir) => recording::read(dir, seed)?.into_iter().map(recorded).collect(),
            Source::Pattern(pattern, name) => {
                let seeds = std::iter::once(seed).chain(more());
                vec![seeds.map(|seed| Arc::new(pattern.trace(name, seed))).collect()]
            }
        })
    }
}

/// Name of a trace: its file's without the endings.
fn stem(path: &Path) -> String {
    file_name(path).trim_end_matches(".gz").trim_end_matches(".csv").to_owned()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
