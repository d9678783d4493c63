//! Dialects: tables from metric names to signals, read from YAML. Adding an engine is adding a table.

use super::Signal;
use crate::config::TargetKind;
use ahash::AHashMap;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The tables that come with the sidecar.
const BUILT_IN: [&str; 4] = [
    include_str!("dialects/vllm.yaml"),
    include_str!("dialects/sglang.yaml"),
    include_str!("dialects/kube-state-metrics.yaml"),
    include_str!("dialects/llm-d-scheduler.yaml"),
];

/// What a row's series describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// A serving pod.
    Replica,
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A LeaderWorkerSet.
    LeaderWorkerSet,
    /// A ReplicaSet.
    ReplicaSet,
    /// The inference scheduler's queue of a model.
    Scheduler,
    /// A node.
    Node,
}

impl SubjectKind {
    /// The scale target kind, for the subjects that are one.
    pub fn target_kind(self) -> Option<TargetKind> {
        match self {
            SubjectKind::Deployment => Some(TargetKind::Deployment),
            SubjectKind::StatefulSet => Some(TargetKind::StatefulSet),
            SubjectKind::LeaderWorkerSet => Some(TargetKind::LeaderWorkerSet),
            _ => None,
        }
    }
}

/// Labels to read, in order of preference: the first one present and not empty counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLabels {
    namespace: Vec<String>,
    name: Vec<String>,
    model: Vec<String>,
    variant: Vec<String>,
}

type Conditions = BTreeMap<String, Vec<String>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDialect {
    name: String,
    subject: SubjectKind,
    labels: RawLabels,
    #[serde(default, rename = "where")]
    conditions: Conditions,
    series: Vec<RawRow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    metric: String,
    signal: Signal,
    #[serde(default)]
    rank: u8,
    scale: Option<f64>,
    subject: Option<SubjectKind>,
    name: Option<Vec<String>>,
    #[serde(default, rename = "where")]
    conditions: Conditions,
    owner: Option<[String; 2]>,
    cache_shape: Option<[String; 2]>,
    #[serde(default)]
    product: Vec<String>,
}

/// One metric name with all that is needed to understand its series.
#[derive(Clone, Debug)]
pub struct Row {
    /// Dialect that the row comes from.
    pub dialect: String,
    /// Metric name.
    pub metric: String,
    /// What the series says.
    pub signal: Signal,
    /// Preference among names with the same signal; 0 first.
    pub rank: u8,
    /// Factor from the series' unit to the signal's.
    pub scale: f64,
    /// What the series describes.
    pub subject: SubjectKind,
    /// Labels that carry the namespace, in order of preference.
    pub namespace: Vec<String>,
    /// Labels that carry the subject's name, in order of preference.
    pub name: Vec<String>,
    /// Labels that carry the model name, in order of preference.
    pub model: Vec<String>,
    /// Labels that name the variant outright, in order of preference.
    pub variant: Vec<String>,
    /// Labels that must have one of the given values (absent = empty) for the series to count.
    pub conditions: Vec<(String, Vec<String>)>,
    /// Labels with the owner's kind and name.
    pub owner: Option<[String; 2]>,
    /// Labels with the block size in tokens and the number of blocks.
    pub cache_shape: Option<[String; 2]>,
    /// Labels with the product name of a node's accelerators, in order of preference.
    pub product: Vec<String>,
}

/// A table that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// Not YAML of the right form.
    #[error("dialect table is not valid: {0}")]
    Form(String),
    /// Two rows claim one metric name.
    #[error("metric {metric} is claimed by dialects {first} and {second}; remove one of the rows")]
    Claimed {
        /// The name claimed twice.
        metric: String,
        /// Dialect of the first row.
        first: String,
        /// Dialect of the second row.
        second: String,
    },
    /// A scale that is no usable factor.
    #[error("metric {metric} of dialect {dialect}: scale {scale} must be finite and positive")]
    Scale {
        /// Dialect of the row.
        dialect: String,
        /// Metric of the row.
        metric: String,
        /// The offending value.
        scale: String,
    },
}

/// All rows by metric name.
#[derive(Clone, Debug)]
pub struct Dialects {
    rows: Vec<Row>,
    by_metric: AHashMap<Box<[u8]>, u16>,
    /// Bit `n` is set when some metric name is `n` bytes long: most foreign names fail here already.
    lengths: u128,
}

impl Dialects {
    /// The tables that come with the sidecar.
    pub fn built_in() -> Self {
        // Covered by a test: these texts are part of the program.
        Self::parse(&BUILT_IN).unwrap_or_else(|error| unreachable!("built-in dialects: {error}"))
    }

    /// The built-in tables and `extra` ones, each a YAML text.
    pub fn with_extra(extra: &[&str]) -> Result<Self, DialectError> {
        let mut tables = BUILT_IN.to_vec();
        tables.extend_from_slice(extra);
        Self::parse(&tables)
    }

    /// Parses tables from YAML texts.
    pub fn parse(tables: &[&str]) -> Result<Self, DialectError> {
        let mut dialects = Dialects { rows: Vec::new(), by_metric: AHashMap::new(), lengths: 0 };
        for text in tables {
            let raw: RawDialect =
                serde_yaml::from_str(text).map_err(|error| DialectError::Form(error.to_string()))?;
            for row in &raw.series {
                dialects.add(expand(&raw, row)?)?;
            }
        }
        Ok(dialects)
    }

    fn add(&mut self, row: Row) -> Result<(), DialectError> {
        let key: Box<[u8]> = row.metric.as_bytes().into();
        if let Some(&first) = self.by_metric.get(&key) {
            return Err(DialectError::Claimed {
                metric: row.metric,
                first: self.rows[usize::from(first)].dialect.clone(),
                second: row.dialect,
            });
        }
        self.lengths |= 1u128.checked_shl(key.len() as u32).unwrap_or(0);
        self.by_metric.insert(key, self.rows.len() as u16);
        self.rows.push(row);
        Ok(())
    }

    /// The row of a metric name, if it is ours.
    #[inline]
    pub fn row(&self, metric: &[u8]) -> Option<&Row> {
        self.number(metric).map(|row| &self.rows[usize::from(row)])
    }

    /// Number of that row among [`Dialects::rows`].
    #[inline]
    pub fn number(&self, metric: &[u8]) -> Option<u16> {
        if !self.has_length(metric) {
            return None;
        }
        self.by_metric.get(metric).copied()
    }

    /// Whether some name of ours is as long.
    #[inline]
    pub fn has_length(&self, metric: &[u8]) -> bool {
        metric.len() < 128 && self.lengths >> metric.len() & 1 != 0
    }

    /// All rows, in the order of the tables.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

fn expand(dialect: &RawDialect, row: &RawRow) -> Result<Row, DialectError> {
    let scale = row.scale.unwrap_or(1.0);
    if !(scale.is_finite() && scale > 0.0) {
        return Err(DialectError::Scale {
            dialect: dialect.name.clone(),
            metric: row.metric.clone(),
            scale: scale.to_string(),
        });
    }
    let mut conditions = dialect.conditions.clone();
    conditions.extend(row.conditions.clone());
    Ok(Row {
        dialect: dialect.name.clone(),
        metric: row.metric.clone(),
        signal: row.signal,
        rank: row.rank,
        scale,
        subject: row.subject.unwrap_or(dialect.subject),
        namespace: dialect.labels.namespace.clone(),
        name: row.name.clone().unwrap_or_else(|| dialect.labels.name.clone()),
        model: dialect.labels.model.clone(),
        variant: dialect.labels.variant.clone(),
        conditions: conditions.into_iter().collect(),
        owner: row.owner.clone(),
        cache_shape: row.cache_shape.clone(),
        product: row.product.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_tables_parse_and_know_both_vllm_generations() {
        let dialects = Dialects::built_in();
        let new = dialects.row(b"vllm:kv_cache_usage_perc").unwrap();
        let old = dialects.row(b"vllm:gpu_cache_usage_perc").unwrap();
        assert_eq!((new.signal, old.signal), (Signal::KvCacheUsage, Signal::KvCacheUsage));
        assert!(new.rank < old.rank);
        assert!(dialects.row(b"go_goroutines").is_none());
    }

    #[test]
    fn a_user_table_adds_an_engine_and_a_double_claim_is_refused() {
        let tgi = "
name: tgi
subject: replica
labels: {namespace: [namespace], name: [pod]}
series:
  - {metric: tgi_queue_size, signal: RequestsWaiting}
";
        let dialects = Dialects::with_extra(&[tgi]).unwrap();
        assert_eq!(dialects.row(b"tgi_queue_size").unwrap().signal, Signal::RequestsWaiting);
        let error = Dialects::with_extra(&[tgi, tgi]).unwrap_err();
        assert!(error.to_string().contains("tgi_queue_size is claimed"), "{error}");
        let error = Dialects::with_extra(&["name: x\nsubject: pod"]).unwrap_err();
        assert!(matches!(error, DialectError::Form(_)), "{error}");
    }
}
