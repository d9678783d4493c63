//! Service classes, accelerator costs and the main configuration.
//!
//! Input: the ConfigMaps of these roles. Output: the domain types of the snapshot. Must not know
//! variants.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::read::{Book, Fields, Scope};
use super::tables::{data, entries, open_entry};
use super::value::{
    Checked, attainment, not_negative, positive_duration_ms, priority, show, text, truth, word,
};
use crate::config::objects::{Object, parse_yaml};
use crate::config::{
    ATTAINMENT_DEFAULT, Accelerator, Kept, MainConfig, ServiceClass, SloTargets, miss_cost_of,
};

const CLASS: &[&str] = &["name", "priority", "attainment", "missCost", "data"];
const CLASS_ITEM: &[&str] = &["model", "slo-tpot", "slo-ttft", "slo-tps"];
const ACCELERATOR: &[&str] = &["device", "cost"];
/// Keys of the main configuration that mean something to us.
const MAIN: &[&str] = &[
    "GLOBAL_OPT_INTERVAL",
    "WVA_SCALE_TO_ZERO",
    "WVA_LIMITED_MODE",
    "EXPERIMENTAL_HYBRID_OPTIMIZATION",
    "PROMETHEUS_BASE_URL",
];

/// Priority of a class that states none: the lowest.
const PRIORITY_DEFAULT: u32 = 100;

/// Remembers who stated a key first, and makes later ones problems.
struct First {
    by_key: BTreeMap<String, String>,
}

impl First {
    fn new() -> Self {
        First { by_key: BTreeMap::new() }
    }

    fn admits(&mut self, scope: &mut Scope<'_, '_>, object: &Object<'_>, key: &str) -> bool {
        if let Some(first) = self.by_key.get(key) {
            let reason = format!("{first} has the same key already");
            scope.problem(&format!("data[{key}]"), reason, "remove one of the two", Kept::Nothing);
            return false;
        }
        self.by_key.insert(key.into(), format!("{} ({})", object.id, object.origin));
        true
    }
}

/// Reads service classes, by key of the ConfigMap's data.
pub(super) fn service_classes(
    book: &mut Book<'_>,
    objects: &[&Object<'_>],
) -> BTreeMap<Arc<str>, ServiceClass> {
    let mut classes = BTreeMap::new();
    let mut first = First::new();
    for object in objects {
        let mut scope = book.at(&object.origin, object.id.to_string());
        for entry in entries(&mut scope, object) {
            if first.admits(&mut scope, object, &entry.key) {
                let fields = open_entry(&mut scope, &entry, CLASS);
                let class = service_class(&mut scope, &fields, &entry.key);
                classes.insert(entry.key.as_str().into(), class);
            }
        }
    }
    classes
}

fn service_class(scope: &mut Scope<'_, '_>, fields: &Fields<'_>, key: &str) -> ServiceClass {
    let name = scope.read(fields, "name", word, "write the name of the class", Kept::Default);
    let priority =
        scope.read(fields, "priority", priority, "write 1 (highest) to 100 (lowest)", Kept::Default);
    let fix = "write the share of requests that are to meet the targets, 0.5 to 0.9999, e.g. 0.99";
    let attainment =
        scope.read(fields, "attainment", attainment, fix, Kept::Default).unwrap_or(ATTAINMENT_DEFAULT);
    let fix = "write what a missed request costs in costs of serving one, a number of at least 0, e.g. 130";
    let miss_cost = scope.read(fields, "missCost", not_negative, fix, Kept::Default);
    let fix = "write a number of at least 0; 0 means no target";
    let mut targets = BTreeMap::new();
    for (model, item) in scope.items(fields, "data", "model", CLASS_ITEM) {
        let mut read = |name| scope.read(&item, name, not_negative, fix, Kept::Default).unwrap_or(0.0);
        let slo = SloTargets { ttft_ms: read("slo-ttft"), itl_ms: read("slo-tpot"), tps: read("slo-tps") };
        targets.insert(model.into(), slo);
    }
    ServiceClass {
        name: name.as_deref().unwrap_or(class_key(key)).into(),
        priority: priority.unwrap_or(PRIORITY_DEFAULT),
        attainment,
        miss_cost: miss_cost.unwrap_or_else(|| miss_cost_of(attainment)),
        targets,
    }
}

/// The key of a class without the suffix of a file name.
pub(super) fn class_key(key: &str) -> &str {
    key.strip_suffix(".yaml").or_else(|| key.strip_suffix(".yml")).unwrap_or(key)
}

/// Reads accelerators with their costs.
pub(super) fn accelerators(book: &mut Book<'_>, objects: &[&Object<'_>]) -> BTreeMap<Arc<str>, Accelerator> {
    let mut accelerators = BTreeMap::new();
    let mut first = First::new();
    for object in objects {
        let mut scope = book.at(&object.origin, object.id.to_string());
        for entry in entries(&mut scope, object) {
            if !first.admits(&mut scope, object, &entry.key) {
                continue;
            }
            let fields = open_entry(&mut scope, &entry, ACCELERATOR);
            let fix = "write the cost of one accelerator per hour, a number of at least 0, e.g. \"40.00\"";
            let device = scope.read(&fields, "device", text, "write the device's name", Kept::Nothing);
            let Some(cost) = scope.require(&fields, "cost", not_negative, fix) else { continue };
            let name: Arc<str> = entry.key.as_str().into();
            let device = device.map_or_else(|| name.clone(), Into::into);
            accelerators.insert(name.clone(), Accelerator { name, device, cost });
        }
    }
    accelerators
}

/// Reads the main configuration; where several state the same key, the first applies.
pub(super) fn main_config(book: &mut Book<'_>, objects: &[&Object<'_>]) -> MainConfig {
    let mut draft = MainDraft::default();
    let mut stated: BTreeMap<&str, String> = BTreeMap::new();
    for object in objects {
        let mut scope = book.at(&object.origin, object.id.to_string());
        let Some(direct) = data(&mut scope, object) else { continue };
        // Opened again to find misspelt keys; keys of the environment beside ours are many.
        let direct = scope.open(object.body.get("data"), direct.own_path(), direct.own_key(), MAIN);
        let inner = inner_document(&mut scope, &direct);
        let inner = inner
            .as_ref()
            .map(|inner| scope.open(inner.as_ref(), "data[config.yaml]", "data[config.yaml]", MAIN));
        for fields in [Some(&direct), inner.as_ref()].into_iter().flatten() {
            for key in MAIN {
                let Some(value) = fields.raw(key) else { continue };
                match stated.get(key) {
                    Some(first) => {
                        let reason = format!("{} is stated by {first} already", show(value));
                        scope.problem(&fields.path(key), reason, "remove one of the two", Kept::Nothing);
                    }
                    None => drop(stated.insert(key, format!("{} ({})", object.id, object.origin))),
                }
            }
            draft.fill(&mut scope, fields);
        }
    }
    MainConfig {
        limited_mode: draft.limited_mode.unwrap_or(false),
        hybrid: draft.hybrid.as_deref().unwrap_or_default().into(),
        scale_to_zero: draft.scale_to_zero.unwrap_or(false),
        optimization_interval_ms: draft.optimization_interval_ms,
        prometheus_base_url: draft.prometheus_base_url.map(Into::into),
    }
}

/// The document inside the key `config.yaml`: `Some(None)` when it is there but cannot be read.
fn inner_document(scope: &mut Scope<'_, '_>, direct: &Fields<'_>) -> Option<Option<Value>> {
    let value = match direct.raw("config.yaml") {
        None => {
            let was_there = scope.kept_below("data[config.yaml]", Kept::Nothing) == Kept::LastGood;
            return (direct.is_unreadable() && was_there).then_some(None);
        }
        Some(Value::String(text)) => parse_yaml(text, 0),
        Some(other) => Err(format!("expected text, found {}", show(other))),
    };
    Some(match value {
        Ok(Value::Null) => Some(Value::Object(serde_json::Map::new())),
        Ok(value) => Some(value),
        Err(reason) => {
            let kept = scope.kept_below("data[config.yaml]", Kept::Default);
            let fix = "write `config.yaml: |` and below it, indented, `KEY: value` lines";
            scope.problem("data[config.yaml]", format!("the text cannot be read: {reason}"), fix, kept);
            None
        }
    })
}

fn hybrid(value: &Value) -> Checked<String> {
    let word = text(value)?.to_ascii_lowercase();
    match word.as_str() {
        "" | "off" | "false" => Ok("off".into()),
        "on" | "true" => Ok("on".into()),
        "model-only" => Ok(word),
        _ => Err(format!("{} is not on, off or model-only", show(value))),
    }
}

fn url(value: &Value) -> Checked<String> {
    let url = text(value)?;
    let is_http = url.is_empty() || url.starts_with("http://") || url.starts_with("https://");
    if is_http { Ok(url) } else { Err(format!("{} is no http or https address", show(value))) }
}

/// What the main configurations state together.
#[derive(Default)]
struct MainDraft {
    optimization_interval_ms: Option<i64>,
    scale_to_zero: Option<bool>,
    limited_mode: Option<bool>,
    hybrid: Option<String>,
    prometheus_base_url: Option<String>,
}

impl MainDraft {
    /// Fills what is not stated yet.
    fn fill(&mut self, scope: &mut Scope<'_, '_>, fields: &Fields<'_>) {
        let boolean = "write \"true\" or \"false\"";
        let duration = "write a positive duration such as \"60s\"";
        let mode = "write \"on\", \"off\" or \"model-only\"";
        let address = "write http://HOST:PORT or https://HOST:PORT";
        let interval =
            scope.read(fields, "GLOBAL_OPT_INTERVAL", positive_duration_ms, duration, Kept::Default);
        let zero = scope.read(fields, "WVA_SCALE_TO_ZERO", truth, boolean, Kept::Default);
        let limited = scope.read(fields, "WVA_LIMITED_MODE", truth, boolean, Kept::Default);
        let hybrid = scope.read(fields, "EXPERIMENTAL_HYBRID_OPTIMIZATION", hybrid, mode, Kept::Default);
        let url = scope.read(fields, "PROMETHEUS_BASE_URL", url, address, Kept::Nothing);
        self.optimization_interval_ms = self.optimization_interval_ms.or(interval);
        self.scale_to_zero = self.scale_to_zero.or(zero);
        self.limited_mode = self.limited_mode.or(limited);
        self.hybrid = self.hybrid.take().or(hybrid);
        self.prometheus_base_url = self.prometheus_base_url.take().or(url.filter(|url| !url.is_empty()));
    }
}
