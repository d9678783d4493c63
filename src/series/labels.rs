//! The label set of one relevant series: read once, checked against the data rules, sorted.

use crate::limits::{LABEL_MAX_BYTES, LABELS_PER_SERIES_MAX};
use crate::wire::WireError;

/// Labels that tell the senders of a high-availability pair apart. They are no part of a series' identity:
/// whichever of the pair sends it, it is the same series.
pub const REPLICA_LABELS: [&str; 3] = ["__replica__", "prometheus_replica", "replica"];

/// Why a series is refused; the rest of its request is still used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// No `__name__`, or an empty one.
    #[error("series without a metric name")]
    NoMetricName,
    /// A label with an empty name.
    #[error("series {metric}: label with an empty name")]
    EmptyName {
        /// Metric of the series.
        metric: String,
    },
    /// A label name occurs twice.
    #[error("series {metric}: label {label} occurs twice")]
    Duplicate {
        /// Metric of the series.
        metric: String,
        /// The repeated name.
        label: String,
    },
    /// A name or value is not UTF-8.
    #[error("series {metric}: label {label} is not valid UTF-8")]
    NotUtf8 {
        /// Metric of the series.
        metric: String,
        /// The name, with replacement characters.
        label: String,
    },
    /// A name or value is too long.
    #[error("series {metric}: label {label} has {bytes} bytes, over the limit of {limit}")]
    TooLong {
        /// Metric of the series.
        metric: String,
        /// The name, cut short.
        label: String,
        /// Its size.
        bytes: usize,
        /// Limit in force.
        limit: usize,
    },
    /// Too many labels.
    #[error("series {metric}: more than {limit} labels")]
    TooMany {
        /// Metric of the series.
        metric: String,
        /// Limit in force.
        limit: usize,
    },
    /// A reference of a 2.0 series that no symbol answers to.
    #[error("series {number} of the request: reference {reference} is beyond the {symbols} symbols")]
    RefOutOfRange {
        /// Number of the series in the request, from 1.
        number: u32,
        /// The reference.
        reference: u32,
        /// Symbols in the table.
        symbols: usize,
    },
    /// Label references of a 2.0 series that do not come in pairs.
    #[error("series {number} of the request: {refs} label references are not pairs of name and value")]
    OddRefs {
        /// Number of the series in the request, from 1.
        number: u32,
        /// How many there are.
        refs: usize,
    },
    /// The bytes of the label set are not a valid message.
    #[error("series with broken labels: {0}")]
    Broken(String),
}

/// Labels of one series, sorted by name, without `__name__` taken out.
#[derive(Clone, Debug, Default)]
pub struct Labels<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Labels<'a> {
    /// Reads and checks the labels of a series. Empty values count as absent, as in Prometheus, and
    /// [`REPLICA_LABELS`] are left out.
    pub fn read(
        labels: impl Iterator<Item = Result<(&'a [u8], &'a [u8]), WireError>>,
        metric: &[u8],
    ) -> Result<Self, LabelError> {
        let metric = || short(metric);
        let mut pairs: Vec<(&'a str, &'a str)> = Vec::with_capacity(16);
        for label in labels {
            let (name, value) = label.map_err(|error| LabelError::Broken(error.to_string()))?;
            if pairs.len() == LABELS_PER_SERIES_MAX {
                return Err(LabelError::TooMany { metric: metric(), limit: LABELS_PER_SERIES_MAX });
            }
            let bytes = name.len().max(value.len());
            if bytes > LABEL_MAX_BYTES {
                let limit = LABEL_MAX_BYTES;
                return Err(LabelError::TooLong { metric: metric(), label: short(name), bytes, limit });
            }
            let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
                return Err(LabelError::NotUtf8 { metric: metric(), label: short(name) });
            };
            if name.is_empty() {
                return Err(LabelError::EmptyName { metric: metric() });
            }
            pairs.push((name, value));
        }
        pairs.sort_unstable();
        if let Some(twice) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(LabelError::Duplicate { metric: metric(), label: short(twice[0].0.as_bytes()) });
        }
        pairs.retain(|(name, value)| !value.is_empty() && !REPLICA_LABELS.contains(name));
        Ok(Labels { pairs })
    }

    /// Value of a label; empty when absent.
    pub fn get(&self, name: &str) -> &'a str {
        match self.pairs.binary_search_by(|pair| pair.0.cmp(name)) {
            Ok(index) => self.pairs[index].1,
            Err(_) => "",
        }
    }

    /// Value of the first of `names` that is present.
    pub fn first(&self, names: &[String]) -> &'a str {
        names.iter().map(|name| self.get(name)).find(|value| !value.is_empty()).unwrap_or("")
    }

    /// The sorted pairs.
    pub fn pairs(&self) -> &[(&'a str, &'a str)] {
        &self.pairs
    }
}

/// A peer's text cut to a length that suits a log line.
pub(crate) fn short(text: &[u8]) -> String {
    const SHOWN: usize = 80;
    let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]);
    let ellipsis = if text.len() > SHOWN { "..." } else { "" };
    format!("{}{ellipsis}", shown.escape_debug())
}
