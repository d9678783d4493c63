//! The inventory: cards per accelerator type, quotas, and how scarce cards are shared.
//!
//! Input: the ConfigMaps of this role. Output: an [`InventoryConfig`]. Must not know variants, nor who
//! claims the cards.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::read::{Book, Fields, Scope};
use super::tables::{entries, open_entry};
use super::value::{Checked, cards, meant, show, text, word};
use crate::config::objects::{Object, is_dns_name};
use crate::config::{InventoryConfig, InventoryQuota, Kept, SaturationPolicy};

const INVENTORY: &[&str] = &["mode", "saturationPolicy", "capacity", "quotas"];
const QUOTA: &[&str] = &["namespace", "accelerator", "cards"];
const MODES: &[&str] = &["unlimited", "limited"];
/// The only entry.
const ENTRY: &str = "default";

const MODE_FIX: &str = "write unlimited or limited";
const POLICY_FIX: &str = "write None, PriorityExhaustive, PriorityRoundRobin or RoundRobin";
const CAPACITY_FIX: &str = "write the number of cards that exist, a whole number of at least 0";
const QUOTA_FIX: &str = "write the most cards allowed, a whole number of at least 0";

/// Reads the inventory; where several ConfigMaps state one, the first applies. `is_limited` is what the
/// main configuration says (`WVA_LIMITED_MODE`): true there, or `mode: limited` here, is enough.
pub(super) fn inventory(book: &mut Book<'_>, objects: &[&Object<'_>], is_limited: bool) -> InventoryConfig {
    let mut found: Option<(InventoryConfig, String)> = None;
    for object in objects {
        let mut scope = book.at(&object.origin, object.id.to_string());
        for entry in entries(&mut scope, object) {
            let path = format!("data[{}]", entry.key.chars().take(64).collect::<String>());
            if entry.key != ENTRY {
                let reason = format!("unknown entry {}", show(&entry.key.as_str().into()));
                scope.problem(&path, reason, "write all settings into the entry `default`", Kept::Nothing);
                continue;
            }
            if let Some((_, first)) = &found {
                let reason = format!("{first} states the inventory already");
                scope.problem(&path, reason, "remove one of the two; the first applies", Kept::Nothing);
                continue;
            }
            let fields = open_entry(&mut scope, &entry, INVENTORY);
            let config = read(&mut scope, &fields, is_limited);
            found = Some((config, format!("{} ({})", object.id, object.origin)));
        }
    }
    found.map_or_else(|| InventoryConfig { limited: is_limited, ..Default::default() }, |(config, _)| config)
}

fn read(scope: &mut Scope<'_, '_>, fields: &Fields<'_>, is_limited: bool) -> InventoryConfig {
    let mode = scope.read(fields, "mode", mode, MODE_FIX, Kept::Default);
    if is_limited && mode == Some(false) {
        let fix = "write mode: limited, or WVA_LIMITED_MODE \"false\"; limited applies";
        scope.problem(&fields.path("mode"), "WVA_LIMITED_MODE says limited", fix, Kept::Nothing);
    }
    let policy = scope.read(fields, "saturationPolicy", policy, POLICY_FIX, Kept::Default);
    let capacity = capacity(scope, fields);
    let quotas = quotas(scope, fields, &capacity);
    InventoryConfig {
        limited: is_limited || mode == Some(true),
        policy: policy.unwrap_or_default(),
        capacity,
        quotas,
    }
}

/// Whether the mode is limited.
fn mode(value: &Value) -> Checked<bool> {
    let word = text(value)?.to_ascii_lowercase();
    match word.as_str() {
        "limited" => Ok(true),
        "unlimited" => Ok(false),
        _ => Err(format!("{} is no mode{}", show(value), hint(&word, MODES))),
    }
}

fn policy(value: &Value) -> Checked<SaturationPolicy> {
    let word = text(value)?;
    let known = SaturationPolicy::ALL.map(SaturationPolicy::name);
    let found = SaturationPolicy::ALL.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(&word));
    found.ok_or_else(|| format!("{} is no saturation policy{}", show(value), hint(&word, &known)))
}

fn hint(word: &str, known: &[&str]) -> String {
    meant(word, known).map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default()
}

/// Cards per accelerator type.
fn capacity(scope: &mut Scope<'_, '_>, fields: &Fields<'_>) -> BTreeMap<Arc<str>, u64> {
    let Some(stated) = scope.open_field(fields, "capacity", &[]) else { return BTreeMap::new() };
    let key = stated.own_key().to_owned();
    let names = match stated.is_unreadable() {
        true => scope.recall_names(&key),
        false => stated.names().map(Into::into).collect(),
    };
    let mut found = BTreeMap::new();
    for name in &names {
        if let Err(reason) = word(&name.as_str().into()) {
            scope.problem(stated.own_path(), reason, "write the accelerator's name", Kept::Nothing);
        } else if let Some(cards) = scope.require(&stated, name, cards, CAPACITY_FIX) {
            found.insert(name.as_str().into(), cards);
        }
    }
    scope.remember_names(&key, names.iter().map(String::as_str));
    found
}

/// The part of a quota that says what it is for.
#[derive(Clone, PartialEq)]
struct QuotaScope {
    namespace: Option<String>,
    accelerator: Option<String>,
}

impl QuotaScope {
    fn read(item: &Value) -> Result<QuotaScope, (&'static str, String)> {
        let part = |name: &'static str| match &item[name] {
            Value::Null => Ok(None),
            value => word(value).map(Some).map_err(|reason| (name, reason)),
        };
        let scope = QuotaScope { namespace: part("namespace")?, accelerator: part("accelerator")? };
        match &scope.namespace {
            Some(name) if !is_dns_name(name, 63) => {
                Err(("namespace", format!("{} is no valid namespace", show(&item["namespace"]))))
            }
            None if scope.accelerator.is_none() => {
                Err(("namespace", "neither a namespace nor an accelerator is given".into()))
            }
            _ => Ok(scope),
        }
    }

    /// Its name among the quotas; a namespace has no `/`.
    fn id(&self) -> String {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", part(&self.namespace), part(&self.accelerator))
    }

    fn from_id(id: &str) -> QuotaScope {
        let part = |part: &str| (!part.is_empty()).then(|| part.to_owned());
        let (namespace, accelerator) = id.split_once('/').unwrap_or((id, ""));
        QuotaScope { namespace: part(namespace), accelerator: part(accelerator) }
    }
}

/// Reads the list of quotas. One that does not say what it is for is a problem, and then those that were
/// there before stay.
fn quotas(
    scope: &mut Scope<'_, '_>,
    fields: &Fields<'_>,
    capacity: &BTreeMap<Arc<str>, u64>,
) -> Vec<InventoryQuota> {
    let (path, key) = (fields.path("quotas"), fields.key("quotas"));
    let raw = fields.raw("quotas");
    let list = raw.and_then(Value::as_array);
    let before = scope.recall_names(&key);
    let kept = if before.is_empty() { Kept::Nothing } else { Kept::LastGood };
    let mut is_complete = list.is_some() || !(raw.is_some() || fields.is_lost("quotas"));
    if let (Some(raw), None) = (raw, list) {
        let reason = format!("expected a list, found {}", show(raw));
        scope.problem(&path, reason, "write items that begin with `- `", kept);
    }
    let mut found: Vec<(QuotaScope, Fields<'_>)> = Vec::new();
    for (index, item) in list.into_iter().flatten().enumerate() {
        let item_path = format!("{path}[{index}]");
        let of = match QuotaScope::read(item) {
            Ok(of) => of,
            Err((field, reason)) => {
                is_complete = false;
                let fix = "say what the quota is for: a namespace, an accelerator, or both";
                scope.problem(&format!("{item_path}.{field}"), reason, fix, kept);
                continue;
            }
        };
        if found.iter().any(|(other, _)| *other == of) {
            let fix = "remove one of the two; the first applies";
            scope.problem(&item_path, "the same quota is there twice", fix, Kept::Nothing);
            continue;
        }
        let opened = scope.open(Some(item), &item_path, &format!("{key}[{}]", of.id()), QUOTA);
        // A quota for one must not become one for all because a word is misspelt.
        if opened.is_lost("namespace") || opened.is_lost("accelerator") {
            is_complete = false;
        } else {
            found.push((of, opened));
        }
    }
    if !is_complete {
        for id in before {
            let of = QuotaScope::from_id(&id);
            if found.iter().all(|(other, _)| *other != of) {
                let opened = scope.open(None, &path, &format!("{key}[{id}]"), QUOTA);
                found.push((of, opened));
            }
        }
    }
    let ids: Vec<String> = found.iter().map(|(of, _)| of.id()).collect();
    scope.remember_names(&key, ids.iter().map(String::as_str));
    let read = |(of, item): &(QuotaScope, Fields<'_>)| quota(scope, of, item, capacity);
    let mut quotas: Vec<InventoryQuota> = found.iter().filter_map(read).collect();
    quotas.sort();
    quotas
}

/// One quota, held against the capacity where one is stated.
fn quota(
    scope: &mut Scope<'_, '_>,
    of: &QuotaScope,
    item: &Fields<'_>,
    capacity: &BTreeMap<Arc<str>, u64>,
) -> Option<InventoryQuota> {
    let allowed = scope.require(item, "cards", cards, QUOTA_FIX)?;
    let name = of.accelerator.as_deref();
    let exist = match name {
        _ if capacity.is_empty() => None,
        None => Some(capacity.values().sum()),
        Some(name) => match capacity.get(name) {
            Some(cards) => Some(*cards),
            None => {
                let known: Vec<&str> = capacity.keys().map(|name| &**name).collect();
                let reason = format!("{} has no capacity{}", show(&name.into()), hint(name, &known));
                let fix = "name an accelerator of the capacity, or add it there";
                scope.problem(&item.path("accelerator"), reason, fix, Kept::Nothing);
                return None;
            }
        },
    };
    let above = exist.filter(|exist| allowed > *exist).map(|exist| {
        let fix = "lower the quota or raise the capacity; without the quota the capacity is the limit";
        (format!("{allowed} cards are above the capacity of {exist}"), fix)
    });
    let (path, key) = (item.path("cards"), item.key("cards<=capacity"));
    // Whole numbers of this size are exact as f64.
    let agreed = scope.agreeing((&path, &key), [Some(allowed as f64)], above, Kept::Nothing)?;
    Some(InventoryQuota {
        namespace: of.namespace.as_deref().map(Into::into),
        accelerator: name.map(Into::into),
        cards: agreed[0]? as u64,
    })
}
