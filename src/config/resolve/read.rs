//! Reading with memory: every leaf that was good is remembered under its object and field, and comes
//! back when the same leaf is bad later.
//!
//! Input: raw mappings and what was good before. Output: checked leaves, problems, and what is good
//! now. Must not know what any field means.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::value::{Checked, meant, show, word};
use crate::config::{Kept, Problem};

/// Identity of a remembered leaf: the object's name for messages, and the field with list items named
/// by what they stand for instead of by position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PieceKey {
    object: Arc<str>,
    field: String,
}

/// Good raw leaves of a configuration.
pub(super) type Pieces = BTreeMap<PieceKey, Value>;

/// What one resolution learns.
pub(super) struct Book<'p> {
    previous: &'p Pieces,
    /// Leaves that are in force now.
    pub good: Pieces,
    /// Everything that was refused.
    pub problems: Vec<Problem>,
}

impl<'p> Book<'p> {
    /// An empty book that falls back on `previous`.
    pub fn new(previous: &'p Pieces) -> Self {
        Book { previous, good: Pieces::new(), problems: Vec::new() }
    }

    /// Opens the book at one object.
    pub fn at<'b>(&'b mut self, origin: &Arc<str>, object: impl Into<Arc<str>>) -> Scope<'b, 'p> {
        Scope { book: self, origin: origin.clone(), object: object.into() }
    }
}

/// The book, opened at one object.
pub(super) struct Scope<'b, 'p> {
    book: &'b mut Book<'p>,
    origin: Arc<str>,
    object: Arc<str>,
}

/// A mapping being read: known fields only, each by name.
pub(super) struct Fields<'v> {
    map: Option<&'v Map<String, Value>>,
    path: String,
    key: String,
    /// Known fields of which the mapping holds a misspelling.
    misspelt: Vec<&'static str>,
}

impl<'v> Fields<'v> {
    /// The raw value of a field; `null` counts as absent.
    pub fn raw(&self, name: &str) -> Option<&'v Value> {
        self.map.and_then(|map| map.get(name)).filter(|value| !value.is_null())
    }

    /// Whether any of the fields is there.
    pub fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.raw(name).is_some())
    }

    /// The mapping's own path for messages.
    pub fn own_path(&self) -> &str {
        &self.path
    }

    /// The mapping's own path for memory.
    pub fn own_key(&self) -> &str {
        &self.key
    }

    /// Whether the mapping could not be read, so that its fields are what they last were.
    pub fn is_unreadable(&self) -> bool {
        self.map.is_none()
    }

    /// The field's path for messages.
    pub fn path(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// The field's path for memory.
    pub fn key(&self, name: &str) -> String {
        join(&self.key, name)
    }

    /// Whether an absent field has to be taken for a bad one: the mapping itself could not be read, or
    /// the field is there under a misspelt name.
    fn is_lost(&self, name: &str) -> bool {
        self.map.is_none() || self.misspelt.contains(&name)
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.into() } else { format!("{parent}.{name}") }
}

impl Scope<'_, '_> {
    /// Notes a problem.
    pub fn problem(&mut self, field: &str, reason: impl Into<String>, fix: impl Into<String>, kept: Kept) {
        self.book.problems.push(Problem {
            origin: self.origin.to_string(),
            object: self.object.to_string(),
            field: field.into(),
            reason: reason.into(),
            fix: fix.into(),
            kept,
        });
    }

    fn piece(&self, key: &str) -> PieceKey {
        PieceKey { object: self.object.clone(), field: key.into() }
    }

    /// What was good under that key before.
    pub fn recall(&self, key: &str) -> Option<&Value> {
        self.book.previous.get(&self.piece(key))
    }

    /// Notes what is good under that key.
    pub fn remember(&mut self, key: &str, value: Value) {
        let piece = self.piece(key);
        self.book.good.insert(piece, value);
    }

    /// Whether anything was good at or below that key before.
    pub fn remembers_below(&self, key: &str) -> bool {
        let starts_with = |prefix: &str| {
            let first = self.book.previous.range(self.piece(prefix)..).next();
            first.is_some_and(|(piece, _)| piece.object == self.object && piece.field.starts_with(prefix))
        };
        self.recall(key).is_some() || starts_with(&format!("{key}.")) || starts_with(&format!("{key}["))
    }

    /// What stays in force when everything at and below `key` is lost.
    pub fn kept_below(&self, key: &str, otherwise: Kept) -> Kept {
        if self.remembers_below(key) { Kept::LastGood } else { otherwise }
    }

    /// Reads a mapping. Unknown keys that look like a known one are problems; other unknown keys are
    /// none of our business. Something that is no mapping is a problem, and reading its fields gives
    /// what they last were.
    pub fn open<'v>(
        &mut self,
        value: Option<&'v Value>,
        path: &str,
        key: &str,
        known: &'static [&'static str],
    ) -> Fields<'v> {
        let map = value.and_then(Value::as_object);
        if let (Some(value), None) = (value, map) {
            let kept = self.kept_below(key, Kept::Nothing);
            self.problem(
                path,
                format!("expected a mapping, found {}", show(value)),
                "write `field: value` lines, indented below it",
                kept,
            );
        }
        let mut misspelt = Vec::new();
        for unknown in map.into_iter().flat_map(Map::keys).filter(|key| !known.contains(&key.as_str())) {
            let Some(name) = meant(unknown, known) else { continue };
            // A second spelling beside the right one costs nothing.
            let is_lost = map.is_some_and(|map| !map.contains_key(name));
            let kept = if is_lost { self.kept_below(&join(key, name), Kept::Nothing) } else { Kept::Nothing };
            let shown = show(&unknown.as_str().into());
            self.problem(
                &join(path, name),
                format!("unknown field {shown}"),
                format!("did you mean `{name}`?"),
                kept,
            );
            if is_lost {
                misspelt.push(name);
            }
        }
        Fields { map, path: path.into(), key: key.into(), misspelt }
    }

    /// Opens a field of a mapping that is a mapping itself; `None` when it is not there.
    pub fn open_field<'v>(
        &mut self,
        fields: &Fields<'v>,
        name: &'static str,
        known: &'static [&'static str],
    ) -> Option<Fields<'v>> {
        let value = fields.raw(name);
        let key = fields.key(name);
        if value.is_none() && !(fields.is_lost(name) && self.remembers_below(&key)) {
            return None;
        }
        Some(self.open(value, &fields.path(name), &key, known))
    }

    /// Opens a field that must be there and is a mapping. When it is not there, its fields are what they
    /// last were.
    pub fn require_open<'v>(
        &mut self,
        fields: &Fields<'v>,
        name: &'static str,
        known: &'static [&'static str],
        fix: &str,
    ) -> Fields<'v> {
        let (path, key) = (fields.path(name), fields.key(name));
        if fields.raw(name).is_none() && !fields.is_lost(name) {
            let kept = self.kept_below(&key, Kept::Nothing);
            self.problem(&path, "the field is missing", fix, kept);
        }
        self.open(fields.raw(name), &path, &key, known)
    }

    /// Reads an optional leaf. A bad one is a problem and gives its last good value, else `None`, for
    /// which `otherwise` names the consequence.
    pub fn read<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &'static str,
        check: fn(&Value) -> Checked<T>,
        fix: &str,
        otherwise: Kept,
    ) -> Option<T> {
        let key = fields.key(name);
        let Some(value) = fields.raw(name) else {
            return if fields.is_lost(name) { self.fall_back(&key, check) } else { None };
        };
        match check(value) {
            Ok(good) => {
                self.remember(&key, value.clone());
                Some(good)
            }
            Err(reason) => {
                let last = self.fall_back(&key, check);
                let kept = if last.is_some() { Kept::LastGood } else { otherwise };
                self.problem(&fields.path(name), reason, fix, kept);
                last
            }
        }
    }

    /// Reads a leaf that must be there.
    pub fn require<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &'static str,
        check: fn(&Value) -> Checked<T>,
        fix: &str,
    ) -> Option<T> {
        if fields.raw(name).is_some() || fields.is_lost(name) {
            return self.read(fields, name, check, fix, Kept::Nothing);
        }
        let last = self.fall_back(&fields.key(name), check);
        let kept = if last.is_some() { Kept::LastGood } else { Kept::Nothing };
        self.problem(&fields.path(name), "the field is missing", fix, kept);
        last
    }

    /// The last good value under a key, which stays remembered.
    fn fall_back<T>(&mut self, key: &str, check: fn(&Value) -> Checked<T>) -> Option<T> {
        let value = self.recall(key)?.clone();
        let good = check(&value).ok()?;
        self.remember(key, value);
        Some(good)
    }

    /// Numbers that must agree with each other: gives them back when they do, else the last numbers
    /// that did, else `None`. A disagreement is a problem of the field `path`.
    pub fn agreeing<const N: usize>(
        &mut self,
        (path, key): (&str, &str),
        numbers: [Option<f64>; N],
        refusal: Option<(String, &str)>,
        otherwise: Kept,
    ) -> Option<[Option<f64>; N]> {
        let Some((reason, fix)) = refusal else {
            self.remember(key, Value::from(numbers.map(Value::from).to_vec()));
            return Some(numbers);
        };
        let last = self.recall(key).cloned();
        let list = last.as_ref().and_then(Value::as_array).filter(|list| list.len() == N);
        let last_numbers = list.map(|list| std::array::from_fn(|index| list[index].as_f64()));
        let kept = if last_numbers.is_some() { Kept::LastGood } else { otherwise };
        self.problem(path, reason, fix, kept);
        if let (Some(_), Some(last)) = (last_numbers, last) {
            self.remember(key, last);
        }
        last_numbers
    }

    /// Notes the names of the items of a list or mapping.
    pub fn remember_names<'n>(&mut self, key: &str, names: impl Iterator<Item = &'n str>) {
        self.remember(&join(key, "#"), names.map(Value::from).collect());
    }

    /// The names of the items that a list or mapping had when it was last good.
    pub fn recall_names(&self, key: &str) -> Vec<String> {
        let names = self.recall(&join(key, "#")).and_then(Value::as_array);
        names.into_iter().flatten().filter_map(|name| name.as_str().map(Into::into)).collect()
    }

    /// Reads a list of mappings, each named by its field `id_field`. Items that cannot be named are
    /// problems, and then the items that were there before stay.
    pub fn items<'v>(
        &mut self,
        fields: &Fields<'v>,
        name: &'static str,
        id_field: &'static str,
        known: &'static [&'static str],
    ) -> Vec<(String, Fields<'v>)> {
        let (path, key) = (fields.path(name), fields.key(name));
        let raw = fields.raw(name);
        let list = raw.and_then(Value::as_array);
        let mut is_complete = list.is_some() || !fields.is_lost(name);
        let before = self.recall_names(&key);
        let kept = if before.is_empty() { Kept::Nothing } else { Kept::LastGood };
        if let (Some(raw), None) = (raw, list) {
            is_complete = false;
            self.problem(
                &path,
                format!("expected a list, found {}", show(raw)),
                "write items that begin with `- `",
                kept,
            );
        }
        let mut found: Vec<(String, Fields<'v>)> = Vec::new();
        for (index, item) in list.into_iter().flatten().enumerate() {
            let item_path = format!("{path}[{index}]");
            match word(&item[id_field]) {
                Ok(id) if found.iter().any(|(other, _)| *other == id) => {
                    let reason = format!("{} is there twice", show(&item[id_field]));
                    self.problem(
                        &item_path,
                        reason,
                        "remove one of the two; the first applies",
                        Kept::Nothing,
                    );
                }
                Ok(id) => {
                    let item = self.open(Some(item), &item_path, &format!("{key}[{id}]"), known);
                    found.push((id, item));
                }
                Err(reason) => {
                    is_complete = false;
                    let reason =
                        if item[id_field].is_null() { "the field is missing".into() } else { reason };
                    self.problem(&join(&item_path, id_field), reason, "say what the item is for", kept);
                }
            }
        }
        if !is_complete {
            for id in before {
                if found.iter().all(|(other, _)| *other != id) {
                    let item = self.open(None, &path, &format!("{key}[{id}]"), known);
                    found.push((id, item));
                }
            }
        }
        self.remember_names(&key, found.iter().map(|(id, _)| id.as_str()));
        found
    }
}
