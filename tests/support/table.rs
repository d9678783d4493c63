//! Requests of remote-write 2.0, built over a symbol table.

use inferno_sidecar::proto::v2::{Request, Sample, TimeSeries};
use inferno_sidecar::proto::{self as v1};
use std::collections::HashMap;

/// What Prometheus sends with a remote-write 2.0 request.
pub const PROMETHEUS_2: [(&str, &str); 4] = [
    ("content-encoding", "snappy"),
    ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
    ("x-prometheus-remote-write-version", "2.0.0"),
    ("user-agent", "Prometheus/3.0.0"),
];

/// A symbol table under construction.
#[derive(Debug)]
pub struct Table {
    symbols: Vec<String>,
    index: HashMap<String, u32>,
}

impl Default for Table {
    fn default() -> Self {
        Table { symbols: vec![String::new()], index: HashMap::from([(String::new(), 0)]) }
    }
}

impl Table {
    /// Reference to a text.
    pub fn symbol(&mut self, text: &str) -> u32 {
        *self.index.entry(text.to_owned()).or_insert_with(|| {
            self.symbols.push(text.to_owned());
            self.symbols.len() as u32 - 1
        })
    }

    /// References to labels, in the given order.
    pub fn labels<N: AsRef<str>, V: AsRef<str>>(
        &mut self,
        labels: impl IntoIterator<Item = (N, V)>,
    ) -> Vec<u32> {
        let mut refs = Vec::new();
        for (name, value) in labels {
            refs.extend([self.symbol(name.as_ref()), self.symbol(value.as_ref())]);
        }
        refs
    }

    /// The request with these series.
    pub fn request(self, timeseries: Vec<TimeSeries>) -> Request {
        Request { symbols: self.symbols, timeseries }
    }
}

/// Labels and samples of 1.0 series as a 2.0 request.
pub fn request_of(series: &[v1::TimeSeries]) -> Request {
    let mut table = Table::default();
    let timeseries = series
        .iter()
        .map(|series| TimeSeries {
            labels_refs: table.labels(series.labels.iter().map(|label| (&label.name, &label.value))),
            samples: series
                .samples
                .iter()
                .map(|sample| Sample {
                    value: sample.value,
                    timestamp: sample.timestamp,
                    ..Sample::default()
                })
                .collect(),
            ..TimeSeries::default()
        })
        .collect();
    table.request(timeseries)
}
