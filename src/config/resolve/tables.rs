//! ConfigMaps: which one means what, and their data as entries.
//!
//! Input: ConfigMap objects. Output: their [`Role`] and the parsed entries, and tables of entries with
//! a default and overrides by model and namespace. Must not know what the fields of an entry mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::read::{Book, Fields, Scope};
use super::value::{Checked, distance, show, text, word};
use crate::config::objects::{Object, is_dns_name, parse_yaml};
use crate::config::{Kept, ModelKey};

/// What a ConfigMap configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    ServiceClasses,
    AcceleratorCosts,
    Saturation,
    ScaleToZero,
    Queueing,
    Inventory,
    Main,
}

impl Role {
    /// Whether it has entries by model, which a namespace may have of its own.
    pub fn is_per_model(self) -> bool {
        matches!(self, Role::Saturation | Role::ScaleToZero | Role::Queueing)
    }
}

/// Names of ConfigMaps, without prefixes.
const NAMES: &[(&str, Role)] = &[
    ("service-classes-config", Role::ServiceClasses),
    ("accelerator-unit-costs", Role::AcceleratorCosts),
    ("capacity-scaling-config", Role::Saturation),
    ("saturation-scaling-config", Role::Saturation),
    ("model-scale-to-zero-config", Role::ScaleToZero),
    ("queueing-model-config", Role::Queueing),
    ("inventory-config", Role::Inventory),
    ("variantautoscaling-config", Role::Main),
];

/// Keys that only the main ConfigMap has.
const MAIN_KEYS: &[&str] = &[
    "GLOBAL_OPT_INTERVAL",
    "WVA_SCALE_TO_ZERO",
    "WVA_LIMITED_MODE",
    "EXPERIMENTAL_HYBRID_OPTIMIZATION",
    "PROMETHEUS_BASE_URL",
];

/// Whether a ConfigMap of that name, with that data, configures anything.
pub fn is_configuration(name: &str, data: &Value) -> bool {
    role_of(name, data).is_some()
}

/// Role of a ConfigMap by its name, which releases may prefix, or by its keys.
pub(super) fn role(object: &Object<'_>) -> Option<Role> {
    role_of(&object.id.name, &object.body["data"])
}

fn role_of(name: &str, data: &Value) -> Option<Role> {
    let by_name = NAMES.iter().find(|(known, _)| {
        name.strip_suffix(known).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('-'))
    });
    if let Some((_, role)) = by_name {
        return Some(*role);
    }
    let data = data.as_object()?;
    let inner = data.get("config.yaml").and_then(Value::as_str);
    let is_main =
        MAIN_KEYS.iter().any(|key| data.contains_key(*key) || inner.is_some_and(|text| has_key(text, key)));
    is_main.then_some(Role::Main)
}

fn has_key(text: &str, key: &str) -> bool {
    text.lines().any(|line| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'))
    })
}

/// The known name that the name of a ConfigMap without a role was probably meant to be.
pub(super) fn near_miss(name: &str) -> Option<&'static str> {
    let bare = name.strip_prefix("wva-").unwrap_or(name);
    NAMES.iter().map(|(known, _)| *known).find(|known| {
        // Prefixed names are compared by as many dash-separated words as the known name has.
        let words: Vec<&str> = bare.split('-').collect();
        let tail = words[words.len().saturating_sub(known.split('-').count())..].join("-");
        distance(bare, known) <= 3 || distance(&tail, known) <= 3
    })
}

const CONFIG_MAP: &[&str] = &["apiVersion", "kind", "metadata", "data", "binaryData", "immutable"];

/// One key of a ConfigMap's data with its parsed text; `None` when it cannot be read now.
pub(super) struct Entry {
    pub key: String,
    pub value: Option<Value>,
}

/// The data of a ConfigMap as raw values; `None` with a problem when it is no mapping.
pub(super) fn data<'v>(scope: &mut Scope<'_, '_>, object: &Object<'v>) -> Option<Fields<'v>> {
    let top = scope.open(Some(object.body), "", "", CONFIG_MAP);
    scope.open_field(&top, "data", &[])
}

/// Reads the data of a ConfigMap whose values are texts of YAML or JSON. Values that cannot be parsed
/// are problems; reading their fields gives what they last were.
pub(super) fn entries(scope: &mut Scope<'_, '_>, object: &Object<'_>) -> Vec<Entry> {
    let Some(fields) = data(scope, object) else { return Vec::new() };
    let mut found = Vec::new();
    match object.body["data"].as_object() {
        Some(map) => {
            for (key, value) in map {
                let value = match value {
                    Value::String(text) => parse_yaml(text, 0),
                    other => Err(format!("expected text, found {}", show(other))),
                };
                let (path, memory) = entry_paths(key);
                let value = match value {
                    Ok(value @ Value::Object(_)) => Some(value),
                    Ok(Value::Null) => Some(Value::Object(serde_json::Map::new())),
                    Ok(_) | Err(_) => {
                        let kept = scope.kept_below(&memory, Kept::Nothing);
                        let reason = match value {
                            Ok(other) => format!("expected a mapping, found {}", show(&other)),
                            Err(reason) => format!("the text cannot be read: {reason}"),
                        };
                        let fix = format!("write `{key}: |` and below it, indented, `field: value` lines");
                        scope.problem(&path, reason, fix, kept);
                        None
                    }
                };
                found.push(Entry { key: key.clone(), value });
            }
        }
        None => {
            let names = scope.recall_names(fields.own_key());
            found.extend(names.into_iter().map(|key| Entry { key, value: None }));
        }
    }
    found.sort_by(|left, right| left.key.cmp(&right.key));
    scope.remember_names(fields.own_key(), found.iter().map(|entry| entry.key.as_str()));
    found
}

fn entry_paths(key: &str) -> (String, String) {
    let path = format!("data[{}]", key.chars().take(64).collect::<String>());
    (path, format!("data[{key}]"))
}

/// Opens an entry.
pub(super) fn open_entry<'e>(
    scope: &mut Scope<'_, '_>,
    entry: &'e Entry,
    known: &'static [&'static str],
) -> Fields<'e> {
    let (path, memory) = entry_paths(&entry.key);
    scope.open(entry.value.as_ref(), &path, &memory, known)
}

/// One entry of a table: settings for one model, or the default.
pub(super) struct Row<F> {
    pub origin: Arc<str>,
    pub object: Arc<str>,
    pub entry: String,
    /// Model it is for; `None` for the default.
    pub model_id: Option<String>,
    /// Namespace it is for; `None` for all.
    pub namespace: Option<String>,
    pub fields: F,
}

/// Rows of the ConfigMaps that apply together.
pub(super) struct Table<F> {
    pub rows: Vec<Row<F>>,
}

impl<F> Table<F> {
    /// The rows for a model, the most specific first, the default last.
    pub fn chain<'t>(&'t self, model_id: &str, namespace: &str) -> Vec<&'t Row<F>> {
        let fits = |row: &Row<F>, model: Option<&str>, of: Option<&str>| {
            row.model_id.as_deref() == model && row.namespace.as_deref() == of
        };
        [(Some(model_id), Some(namespace)), (Some(model_id), None), (None, None)]
            .into_iter()
            .filter_map(|(model, of)| self.rows.iter().find(|row| fits(row, model, of)))
            .collect()
    }
}

/// Which namespaces a ConfigMap is for.
#[derive(Clone, Copy)]
pub(super) struct Reach<'a> {
    /// Namespace whose ConfigMaps are for everybody; `None` where that has to be guessed.
    pub home: Option<&'a str>,
    /// Namespaces that have variants.
    pub used: &'a BTreeSet<Arc<str>>,
}

/// Tables of one role: a ConfigMap in a namespace that has variants is for that namespace alone when
/// others of its role exist; the rest is for everybody else.
pub(super) struct Tables<F> {
    global: Table<F>,
    local: BTreeMap<Arc<str>, Table<F>>,
}

impl<F> Tables<F> {
    /// The rows for a model, the most specific first.
    pub fn chain(&self, model: &ModelKey) -> Vec<&F> {
        let table = self.local.get(&model.namespace).unwrap_or(&self.global);
        table.chain(&model.model_id, &model.namespace).into_iter().map(|row| &row.fields).collect()
    }

    /// Reads all ConfigMaps of one role, given in order of namespace and name.
    pub fn read(
        book: &mut Book<'_>,
        objects: &[&Object<'_>],
        reach: Reach<'_>,
        known: &'static [&'static str],
        fields: impl Fn(&mut Scope<'_, '_>, &Fields<'_>) -> F,
        settle: impl Fn(&mut Book<'_>, &mut Table<F>),
    ) -> Self {
        let is_used = |namespace: &str| reach.used.contains(namespace);
        let all_are_used = objects.iter().all(|object| is_used(&object.id.namespace));
        let global_namespace =
            if all_are_used { objects.first().map(|object| object.id.namespace.clone()) } else { None };
        let is_local = |object: &Object<'_>| {
            let namespace = &object.id.namespace;
            if let Some(home) = reach.home {
                return **namespace != *home;
            }
            is_used(namespace) && global_namespace.as_ref() != Some(namespace)
        };
        let mut tables = Tables { global: Table { rows: Vec::new() }, local: BTreeMap::new() };
        for object in objects {
            let table = if is_local(object) {
                tables.local.entry(object.id.namespace.clone()).or_insert_with(|| Table { rows: Vec::new() })
            } else {
                &mut tables.global
            };
            read_rows(book, object, known, &fields, table);
        }
        for table in tables.local.values_mut().chain([&mut tables.global]) {
            // The default comes first: the others are judged by it.
            table.rows.sort_by_key(|row| (row.model_id.is_some(), row.namespace.is_some()));
            settle(book, table);
        }
        tables
    }
}

fn namespace_name(value: &Value) -> Checked<String> {
    let name = text(value)?;
    if name.is_empty() || is_dns_name(&name, 63) {
        Ok(name)
    } else {
        Err(format!("{} is no valid namespace", show(value)))
    }
}

fn read_rows<F>(
    book: &mut Book<'_>,
    object: &Object<'_>,
    known: &'static [&'static str],
    read: &impl Fn(&mut Scope<'_, '_>, &Fields<'_>) -> F,
    table: &mut Table<F>,
) {
    let name: Arc<str> = object.id.to_string().into();
    let mut scope = book.at(&object.origin, name.clone());
    for entry in entries(&mut scope, object) {
        let row = open_entry(&mut scope, &entry, known);
        let (model_id, namespace) = if entry.key == "default" {
            (None, None)
        } else {
            let fix = "write the model that the entry is for, or name the entry `default`";
            let Some(model) = scope.require(&row, "model_id", word, fix) else { continue };
            let fix = "write the namespace that the entry is for, or leave the field out for all";
            let namespace = scope.read(&row, "namespace", namespace_name, fix, Kept::Nothing);
            if namespace.is_none() && row.raw("namespace").is_some() {
                // An entry for one namespace must not become one for all.
                continue;
            }
            (Some(model), namespace.filter(|namespace| !namespace.is_empty()))
        };
        let rival =
            table.rows.iter().find(|other| other.model_id == model_id && other.namespace == namespace);
        if let Some(rival) = rival {
            let what = if model_id.is_some() { "an entry for the same model" } else { "a default" };
            let reason =
                format!("{} has {what} already: data[{}] ({})", rival.object, rival.entry, rival.origin);
            scope.problem(&format!("data[{}]", entry.key), reason, "remove one of the two", Kept::Nothing);
            continue;
        }
        let fields = read(&mut scope, &row);
        let origin = object.origin.clone();
        table.rows.push(Row { origin, object: name.clone(), entry: entry.key, model_id, namespace, fields });
    }
}
