//! Settings per model: saturation thresholds, scale-to-zero and the queueing model.
//!
//! Input: the ConfigMaps of these roles. Output: a [`ModelConfig`] for any model. Fields that an entry
//! leaves out are inherited one by one. Must not know variants.

use super::read::{Book, Fields, Scope};
use super::tables::{Reach, Table, Tables};
use super::value::{
    Checked, duration_ms, not_negative, number, positive_duration_ms, ratio, show, text, truth,
};
use crate::config::objects::Object;
use crate::config::{
    Kept, MainConfig, Mode, ModelConfig, ModelKey, QueueingConfig, SaturationConfig, ScaleToZero, SloTargets,
    Stabilization,
};

const SATURATION: &[&str] = &[
    "model_id",
    "namespace",
    "kvCacheThreshold",
    "queueLengthThreshold",
    "kvSpareTrigger",
    "queueSpareTrigger",
    "scaleUpThreshold",
    "scaleDownBoundary",
    "analyzerName",
    "analyzers",
    "enableLimiter",
    "priority",
    "mode",
    "advisory",
    "scaleUpStabilization",
    "scaleDownStabilization",
];
const SCALE_TO_ZERO: &[&str] = &["model_id", "namespace", "enable_scale_to_zero", "retention_period"];
const QUEUEING: &[&str] =
    &["model_id", "namespace", "sloMultiplier", "tuningEnabled", "targetTTFT", "targetITL"];

/// What one entry of the saturation thresholds states.
#[derive(Clone, Default)]
struct SaturationRow {
    kv_cache_threshold: Option<f64>,
    queue_length_threshold: Option<f64>,
    kv_spare_trigger: Option<f64>,
    queue_spare_trigger: Option<f64>,
    scale_up_threshold: Option<f64>,
    scale_down_boundary: Option<f64>,
    analyzer_name: Option<String>,
    enable_limiter: Option<bool>,
    priority: Option<f64>,
    mode: Option<Mode>,
    advisory: Option<Mode>,
    up_ms: Option<i64>,
    down_ms: Option<i64>,
}

/// What one entry of the scale-to-zero policy states.
struct ScaleToZeroRow {
    enabled: Option<bool>,
    retention_ms: Option<i64>,
}

/// What one entry of the queueing model states.
struct QueueingRow {
    slo_multiplier: Option<f64>,
    tuning_enabled: Option<bool>,
    targets: Option<SloTargets>,
}

/// All settings that depend on the model.
pub(super) struct PerModel {
    saturation: Tables<SaturationRow>,
    scale_to_zero: Tables<ScaleToZeroRow>,
    queueing: Tables<QueueingRow>,
}

/// The ConfigMaps of the three roles.
pub(super) struct Sources<'o, 'v> {
    pub saturation: Vec<&'o Object<'v>>,
    pub scale_to_zero: Vec<&'o Object<'v>>,
    pub queueing: Vec<&'o Object<'v>>,
}

impl PerModel {
    /// Reads the ConfigMaps.
    pub fn read(book: &mut Book<'_>, sources: &Sources<'_, '_>, reach: Reach<'_>) -> Self {
        PerModel {
            saturation: Tables::read(book, &sources.saturation, reach, SATURATION, saturation, settle),
            scale_to_zero: Tables::read(
                book,
                &sources.scale_to_zero,
                reach,
                SCALE_TO_ZERO,
                scale_to_zero,
                |_, _| {},
            ),
            queueing: Tables::read(book, &sources.queueing, reach, QUEUEING, queueing, |_, _| {}),
        }
    }

    /// Everything for one model; `main` gives what its own entries leave open. `has_targets`: a service class states
    /// what its requests are to meet.
    pub fn of(&self, model: &ModelKey, main: &MainConfig, has_targets: bool) -> ModelConfig {
        let rows = self.scale_to_zero.chain(model);
        let fallback = ScaleToZero::default();
        let scale_to_zero = ScaleToZero {
            enabled: rows.iter().find_map(|row| row.enabled).unwrap_or(main.scale_to_zero),
            retention_ms: rows.iter().find_map(|row| row.retention_ms).unwrap_or(fallback.retention_ms),
        };
        let rows = self.queueing.chain(model);
        let queueing = (!rows.is_empty()).then(|| QueueingConfig {
            slo_multiplier: rows
                .iter()
                .find_map(|row| row.slo_multiplier)
                .unwrap_or(QueueingConfig::SLO_MULTIPLIER),
            tuning_enabled: rows.iter().find_map(|row| row.tuning_enabled).unwrap_or(true),
            targets: rows.iter().find_map(|row| row.targets).unwrap_or_default(),
        });
        let rows = self.saturation.chain(model);
        let saturation = merged(&rows);
        let stated = rows.iter().find_map(|row| row.mode);
        let mode = stated.unwrap_or_else(|| implied_mode(main, &saturation, queueing.is_some(), has_targets));
        // `slo` has a hold of its own, as long as a replica takes to start.
        let down_ms = if mode.sizes_by_demand() && !mode.slo { Stabilization::DEMAND_DOWN_MS } else { 0 };
        let stabilization = Stabilization {
            up_ms: rows.iter().find_map(|row| row.up_ms).unwrap_or(0),
            down_ms: rows.iter().find_map(|row| row.down_ms).unwrap_or(down_ms),
        };
        let advisory = rows.iter().find_map(|row| row.advisory).filter(|advisory| *advisory != mode);
        ModelConfig { mode, advisory, stabilization, saturation, scale_to_zero, queueing }
    }
}

/// The mode that the reference's own keys mean: the hybrid switch first, then the presence of a
/// queueing-model entry, then the analyzer's name. Where they mean nothing, targets are what to hold.
fn implied_mode(
    main: &MainConfig,
    saturation: &SaturationConfig,
    has_queueing: bool,
    has_targets: bool,
) -> Mode {
    match &*main.hybrid {
        "on" => Mode::HYBRID,
        "model-only" => Mode::MODEL,
        _ if has_queueing => Mode::MODEL,
        // The reference calls its token analyzer "saturation"; without a name its percentages decide.
        _ if &*saturation.analyzer_name == "saturation" => Mode::TOKENS,
        _ if has_targets => Mode::SLO,
        _ => Mode::SATURATION,
    }
}

/// One of the modes.
fn mode(value: &serde_json::Value) -> Checked<Mode> {
    let name = text(value)?;
    Mode::parse(&name).ok_or_else(|| format!("{} is not a mode", show(value)))
}

/// One of the modes that size by demand: one that goes step by step would need its steps to be taken.
fn advisory(value: &serde_json::Value) -> Checked<Mode> {
    mode(value).and_then(|found| match found.sizes_by_demand() {
        true => Ok(found),
        false => Err(format!("{} goes step by step, so it cannot only advise", show(value))),
    })
}

/// The thresholds of a chain of entries over the defaults.
fn merged(rows: &[&SaturationRow]) -> SaturationConfig {
    let default = SaturationConfig::default();
    fn first<T>(rows: &[&SaturationRow], field: impl Fn(&SaturationRow) -> Option<T>, default: T) -> T {
        rows.iter().find_map(|row| field(row)).unwrap_or(default)
    }
    SaturationConfig {
        kv_cache_threshold: first(rows, |row| row.kv_cache_threshold, default.kv_cache_threshold),
        queue_length_threshold: first(rows, |row| row.queue_length_threshold, default.queue_length_threshold),
        kv_spare_trigger: first(rows, |row| row.kv_spare_trigger, default.kv_spare_trigger),
        queue_spare_trigger: first(rows, |row| row.queue_spare_trigger, default.queue_spare_trigger),
        scale_up_threshold: first(rows, |row| row.scale_up_threshold, default.scale_up_threshold),
        scale_down_boundary: first(rows, |row| row.scale_down_boundary, default.scale_down_boundary),
        analyzer_name: first(rows, |row| row.analyzer_name.clone().map(Into::into), default.analyzer_name),
        enable_limiter: first(rows, |row| row.enable_limiter, default.enable_limiter),
        priority: first(rows, |row| row.priority, default.priority),
    }
}

fn saturation(scope: &mut Scope<'_, '_>, row: &Fields<'_>) -> SaturationRow {
    let share = "write a share between 0 and 1, e.g. 0.8";
    let count = "write a number of requests, at least 0";
    let window = "write a duration such as \"60s\" or \"5m\"; \"0\" follows at once";
    let mut read = |name, check, fix| scope.read(row, name, check, fix, Kept::Default);
    // The reference takes 0 as "not stated" in these two.
    let stated = |share: &f64| *share > 0.0;
    SaturationRow {
        kv_cache_threshold: read("kvCacheThreshold", ratio, share),
        queue_length_threshold: read("queueLengthThreshold", not_negative, count),
        kv_spare_trigger: read("kvSpareTrigger", ratio, share),
        queue_spare_trigger: read("queueSpareTrigger", not_negative, count),
        scale_up_threshold: read("scaleUpThreshold", ratio, share).filter(stated),
        scale_down_boundary: read("scaleDownBoundary", ratio, share).filter(stated),
        priority: read("priority", not_negative, "write a number of at least 0; 1 is usual"),
        analyzer_name: scope.read(row, "analyzerName", text, "write an analyzer's name", Kept::Default),
        enable_limiter: scope.read(row, "enableLimiter", truth, "write true or false", Kept::Default),
        mode: scope.read(row, "mode", mode, &format!("write {}", Mode::CHOICES), Kept::Default),
        advisory: scope.read(row, "advisory", advisory, "write slo, tokens, model or hybrid", Kept::Nothing),
        up_ms: scope.read(row, "scaleUpStabilization", duration_ms, window, Kept::Default),
        down_ms: scope.read(row, "scaleDownStabilization", duration_ms, window, Kept::Default),
    }
}

/// Checks the pairs that only make sense together, after inheritance.
fn settle(book: &mut Book<'_>, table: &mut Table<SaturationRow>) {
    for index in 0..table.rows.len() {
        let row = &table.rows[index];
        let above: Vec<SaturationRow> = match &row.model_id {
            Some(model) => {
                let chain = table.chain(model, row.namespace.as_deref().unwrap_or_default());
                let own = chain.iter().position(|other| std::ptr::eq(*other, row)).map_or(0, |at| at + 1);
                chain[own..].iter().map(|row| row.fields.clone()).collect()
            }
            None => Vec::new(),
        };
        let mut fields = row.fields.clone();
        let base = format!("data[{}]", row.entry);
        let mut scope = book.at(&row.origin.clone(), row.object.clone());
        let effective = |fields: &SaturationRow| {
            let chain: Vec<&SaturationRow> = std::iter::once(fields).chain(&above).collect();
            merged(&chain)
        };
        let now = effective(&fields);
        let [kv, spare] = pair(
            &mut scope,
            (&base, "kvSpareTrigger", "kvCacheThreshold"),
            [
                (fields.kv_cache_threshold, now.kv_cache_threshold),
                (fields.kv_spare_trigger, now.kv_spare_trigger),
            ],
        );
        (fields.kv_cache_threshold, fields.kv_spare_trigger) = (kv, spare);
        let [up, down] = pair(
            &mut scope,
            (&base, "scaleDownBoundary", "scaleUpThreshold"),
            [
                (fields.scale_up_threshold, now.scale_up_threshold),
                (fields.scale_down_boundary, now.scale_down_boundary),
            ],
        );
        (fields.scale_up_threshold, fields.scale_down_boundary) = (up, down);
        table.rows[index].fields = fields;
    }
}

/// Holds `low` below `high`. Numbers come as stated and as effective, `high` first.
fn pair(
    scope: &mut Scope<'_, '_>,
    (base, low_name, high_name): (&str, &str, &str),
    [(high, high_now), (low, low_now)]: [(Option<f64>, f64); 2],
) -> [Option<f64>; 2] {
    if high.is_none() && low.is_none() {
        return [None, None];
    }
    let reason = format!("{low_name} {low_now} is not below {high_name} {high_now}");
    let fix = "lower the first or raise the second; inherited values count";
    let refusal = (low_now >= high_now).then_some((reason, fix));
    let (path, key) = (format!("{base}.{low_name}"), format!("{base}.{low_name}<{high_name}"));
    scope.agreeing((&path, &key), [high, low], refusal, Kept::Default).unwrap_or_default()
}

fn scale_to_zero(scope: &mut Scope<'_, '_>, row: &Fields<'_>) -> ScaleToZeroRow {
    let duration = "write a positive duration such as \"10m\", \"1h30m\" or \"45s\"";
    ScaleToZeroRow {
        enabled: scope.read(row, "enable_scale_to_zero", truth, "write true or false", Kept::Default),
        retention_ms: scope.read(row, "retention_period", positive_duration_ms, duration, Kept::Default),
    }
}

/// A factor above 1; 0 means not stated, as in the reference.
fn multiplier(value: &serde_json::Value) -> Checked<f64> {
    let factor = number(value)?;
    if factor > 1.0 || factor == 0.0 { Ok(factor) } else { Err(format!("{} is not above 1", show(value))) }
}

fn queueing(scope: &mut Scope<'_, '_>, row: &Fields<'_>) -> QueueingRow {
    let factor = "write a factor above 1; 3 means two thirds of the capacity are used";
    let slo_multiplier = scope.read(row, "sloMultiplier", multiplier, factor, Kept::Default);
    let tuning_enabled = scope.read(row, "tuningEnabled", truth, "write true or false", Kept::Default);
    let target = "write milliseconds, a number of at least 0";
    let ttft = scope.read(row, "targetTTFT", not_negative, target, Kept::Default).filter(|ms| *ms > 0.0);
    let itl = scope.read(row, "targetITL", not_negative, target, Kept::Default).filter(|ms| *ms > 0.0);
    let refusal = (ttft.is_some() != itl.is_some()).then(|| {
        let (given, missing) =
            if ttft.is_some() { ("targetTTFT", "targetITL") } else { ("targetITL", "targetTTFT") };
        (format!("{given} is given without {missing}"), "give both targets, or neither to have them inferred")
    });
    let (path, key) = (row.path("targetTTFT"), row.key("targets"));
    let targets = scope.agreeing((&path, &key), [ttft, itl], refusal, Kept::Default).unwrap_or_default();
    let targets = match targets {
        [Some(ttft_ms), Some(itl_ms)] => Some(SloTargets { ttft_ms, itl_ms, tps: 0.0 }),
        _ => None,
    };
    QueueingRow { slo_multiplier: slo_multiplier.filter(|factor| *factor > 0.0), tuning_enabled, targets }
}
