//! Documents to configuration: one immutable [`Snapshot`] and everything that was refused on the way.
//!
//! Input: all documents of a source, and the result of the resolution before. Output: [`Resolved`].
//! The order of the documents does not matter. Must not know where documents come from: no files, no
//! environment, no clock.
//!
//! A bad piece keeps its last good value at the finest grain possible: a leaf of an object, an item of
//! a list, an entry of a ConfigMap, or, when a file cannot be read, every object that came from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

mod assemble;
mod classes;
pub mod hardware;
mod inventory;
mod profile;
mod read;
mod tables;
mod thresholds;
pub(in crate::config) mod value;
mod variant;

pub use tables::is_configuration;
pub use value::go_duration_ms;

use super::objects::{Document, DocumentContent, Keep, Kind, Object, ObjectId, Refused, file_of, objects};
use super::{Kept, Problem, Snapshot};
use read::{Book, Pieces};

/// Outcome of a resolution, and the memory that the next one falls back on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// The configuration in force.
    pub snapshot: Snapshot,
    /// Everything that was refused, sorted, each once.
    pub problems: Vec<Problem>,
    /// What was good, for the next resolution.
    memory: Memory,
}

/// What is kept between resolutions.
#[derive(Clone, Debug, Default, PartialEq)]
struct Memory {
    /// Good leaves.
    pieces: Pieces,
    /// Objects as they were last read, with their origins.
    objects: BTreeMap<ObjectId, (Arc<str>, Arc<Value>)>,
}

/// Resolves all documents of a source. `previous` is the outcome before, or the default at the start;
/// variants and models that did not change are the same `Arc`s as there.
pub fn resolve<'d>(documents: impl IntoIterator<Item = &'d Document>, previous: &Resolved) -> Resolved {
    resolve_at(documents, previous, None)
}

/// The same for a cluster: ConfigMaps of the namespace `home` are for everybody, those of another one for
/// that namespace alone.
pub fn resolve_at<'d>(
    documents: impl IntoIterator<Item = &'d Document>,
    previous: &Resolved,
    home: Option<&str>,
) -> Resolved {
    let mut book = Book::new(&previous.memory.pieces);
    let mut documents: Vec<&Document> = documents.into_iter().collect();
    documents.sort_by(|left, right| origin_order(&left.origin).cmp(&origin_order(&right.origin)));
    let found = collect(&documents, &previous.memory, &mut book);
    let mut snapshot = assemble::snapshot(&mut book, &found, home);
    share(&mut snapshot.variants, &previous.snapshot.variants);
    share(&mut snapshot.models, &previous.snapshot.models);
    let mut problems = std::mem::take(&mut book.problems);
    problems.sort_by(|left, right| {
        origin_order(&left.origin).cmp(&origin_order(&right.origin)).then_with(|| left.cmp(right))
    });
    problems.dedup();
    let remembered = found.iter().map(|object| {
        let before = previous.memory.objects.get(&object.id).filter(|(_, value)| **value == *object.body);
        let value = before.map_or_else(|| Arc::new(object.body.clone()), |(_, value)| value.clone());
        (object.id.clone(), (object.origin.clone(), value))
    });
    let memory = Memory { objects: remembered.collect(), pieces: book.good };
    Resolved { snapshot, problems, memory }
}

/// Keeps the very values of before where nothing changed, so that change can be told by pointer.
fn share<K: Ord, V: PartialEq>(now: &mut BTreeMap<K, Arc<V>>, before: &BTreeMap<K, Arc<V>>) {
    for (key, value) in now {
        if let Some(before) = before.get(key).filter(|before| *before == value) {
            *value = before.clone();
        }
    }
}

/// Documents of one file in the order of their numbers, not of their digits.
fn origin_order(origin: &str) -> (&str, u32) {
    let file = file_of(origin);
    (file, origin[file.len()..].trim_start_matches('#').parse().unwrap_or(0))
}

/// All objects: those of the documents, and those that stay because their file cannot be read.
fn collect<'v>(documents: &[&'v Document], memory: &'v Memory, book: &mut Book<'_>) -> Vec<Object<'v>> {
    let mut found: BTreeMap<ObjectId, Object<'v>> = BTreeMap::new();
    let mut refusals: Vec<(&str, Refused)> = Vec::new();
    for document in documents {
        let origin: Arc<str> = document.origin.as_str().into();
        let value = match content_of(&document.content) {
            Ok(value) => value,
            Err(refused) => {
                refusals.push((&document.origin, refused));
                continue;
            }
        };
        for object in objects(&origin, value) {
            match object {
                Err(refused) => refusals.push((&document.origin, refused)),
                Ok(object) => match found.get(&object.id) {
                    None => drop(found.insert(object.id.clone(), object)),
                    Some(first) => {
                        let reason = format!("the same object is in {} already", first.origin);
                        let mut scope = book.at(&origin, object.id.to_string());
                        scope.problem(
                            "metadata.name",
                            reason,
                            "remove one of the two; the first applies",
                            Kept::Nothing,
                        );
                    }
                },
            }
        }
    }
    for (origin, refused) in refusals {
        keep_file(origin, refused, memory, &mut found, book);
    }
    found.into_values().collect()
}

/// The value of a document, or why there is none.
fn content_of(content: &DocumentContent) -> Result<&Value, Refused> {
    let (reason, fix, keep) = match content {
        DocumentContent::Object(value) => return Ok(value),
        DocumentContent::Broken { reason, fix } => (reason.clone(), fix.clone(), Keep::File),
        DocumentContent::SourceLost { reason, fix } => (reason.clone(), fix.clone(), Keep::Everything),
    };
    Err(Refused { object: String::new(), field: "", reason, fix, keep })
}

/// Notes a document that is no object, and keeps what its file said before.
fn keep_file<'v>(
    origin: &str,
    refused: Refused,
    memory: &'v Memory,
    found: &mut BTreeMap<ObjectId, Object<'v>>,
    book: &mut Book<'_>,
) {
    let mut kept_objects = BTreeSet::new();
    for (id, (from, value)) in &memory.objects {
        let stays = match refused.keep {
            Keep::Nothing => false,
            Keep::File => file_of(from) == file_of(origin),
            Keep::Everything => true,
        };
        if stays && !found.contains_key(id) {
            found.insert(id.clone(), Object::new(id.clone(), from.clone(), value));
        }
        if stays && found.get(id).is_some_and(|object| std::ptr::eq(object.body, &**value)) {
            kept_objects.insert(id);
        }
    }
    let kept = if kept_objects.is_empty() { Kept::Nothing } else { Kept::LastGood };
    let mut fix = refused.fix;
    if !kept_objects.is_empty() {
        const NAMED_MAX: usize = 3;
        let names: Vec<String> = kept_objects.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        fix += &format!("; kept from before: {}", names.join(", "));
        if kept_objects.len() > NAMED_MAX {
            fix += &format!(" and {} more", kept_objects.len() - NAMED_MAX);
        }
    }
    let object = if refused.object.is_empty() { origin.to_string() } else { refused.object };
    book.problems.push(Problem {
        origin: origin.into(),
        object,
        field: refused.field.into(),
        reason: refused.reason,
        fix,
        kept,
    });
}

/// Whether an object of that kind can declare a variant or bound one.
fn is_scaler(kind: Kind) -> bool {
    matches!(kind, Kind::HorizontalPodAutoscaler | Kind::ScaledObject)
}
