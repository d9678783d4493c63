//! A small language for requests of either version, and the judgement of their answers.

use crate::client::Answer;
use crate::server::{PROMETHEUS, Server, compress, now_ms};
use crate::table::{PROMETHEUS_2, Table};
use inferno_sidecar::proto::v2::{self, BucketSpan, histogram::Count, histogram::ZeroCount};
use inferno_sidecar::proto::{self as v1, Label};
use prost::Message;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

pub use inferno_sidecar::proto::v2::Histogram;

/// Labels of the suite's target.
const TARGET: [(&str, &str); 2] = [("instance", "localhost:9090"), ("job", "test")];

/// One series of a request.
#[derive(Clone, Debug, Default)]
pub struct Series {
    labels: Vec<(String, String)>,
    samples: Vec<v2::Sample>,
    histograms: Vec<Histogram>,
    exemplars: Vec<Exemplar>,
    metadata: Option<(i32, String, String)>,
    /// Created timestamp where release candidates had it.
    created: Option<i64>,
}

#[derive(Clone, Debug)]
struct Exemplar {
    labels: Vec<(String, String)>,
    value: f64,
    timestamp: i64,
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A series of a name, with the labels of its target.
pub fn series(name: &str) -> Series {
    Series { labels: owned(&[&[("__name__", name)], &TARGET[..]].concat()), ..Series::default() }
}

/// A series with the labels of its target and no name.
pub fn nameless() -> Series {
    Series { labels: owned(&TARGET), ..Series::default() }
}

/// A series with no label at all.
pub fn without_labels() -> Series {
    Series::default()
}

impl Series {
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn sample(self, value: f64) -> Self {
        self.sample_at(value, now_ms())
    }

    pub fn sample_at(mut self, value: f64, timestamp: i64) -> Self {
        self.samples.push(v2::Sample { value, timestamp, start_timestamp: 0 });
        self
    }

    /// When the counter began, in both layouts that senders know.
    pub fn created(mut self, time: i64) -> Self {
        self.samples.iter_mut().for_each(|sample| sample.start_timestamp = time);
        self.histograms.iter_mut().for_each(|histogram| histogram.start_timestamp = time);
        self.created = Some(time);
        self
    }

    pub fn histogram(mut self, histogram: Histogram) -> Self {
        self.histograms.push(Histogram { timestamp: now_ms(), ..histogram });
        self
    }

    pub fn exemplar(self, value: f64, labels: &[(&str, &str)]) -> Self {
        self.exemplar_at(value, labels, now_ms())
    }

    pub fn exemplar_at(mut self, value: f64, labels: &[(&str, &str)], timestamp: i64) -> Self {
        self.exemplars.push(Exemplar { labels: owned(labels), value, timestamp });
        self
    }

    pub fn metadata(mut self, kind: i32, help: &str, unit: &str) -> Self {
        self.metadata = Some((kind, help.to_owned(), unit.to_owned()));
        self
    }

    fn encoded_2(&self, table: &mut Table, labels: &[(String, String)]) -> Vec<u8> {
        let exemplars = self.exemplars.iter().map(|exemplar| v2::Exemplar {
            labels_refs: table.labels(exemplar.labels.iter().map(|(name, value)| (name, value))),
            value: exemplar.value,
            timestamp: exemplar.timestamp,
        });
        let exemplars = exemplars.collect();
        let metadata = self.metadata.as_ref().map(|(kind, help, unit)| v2::Metadata {
            r#type: *kind,
            help_ref: table.symbol(help),
            unit_ref: table.symbol(unit),
        });
        let series = v2::TimeSeries {
            labels_refs: table.labels(labels.iter().map(|(name, value)| (name, value))),
            samples: self.samples.clone(),
            histograms: self.histograms.clone(),
            exemplars,
            metadata,
        };
        let mut bytes = series.encode_to_vec();
        if let Some(created) = self.created {
            bytes.push(6 << 3);
            prost::encoding::encode_varint(created as u64, &mut bytes);
        }
        bytes
    }

    fn message_1(&self, labels: &[(String, String)]) -> v1::TimeSeries {
        let plain = |labels: &[(String, String)]| -> Vec<Label> {
            labels.iter().map(|(name, value)| Label { name: name.clone(), value: value.clone() }).collect()
        };
        let sample = |sample: &v2::Sample| v1::Sample { value: sample.value, timestamp: sample.timestamp };
        let exemplar = |exemplar: &Exemplar| v1::Exemplar {
            labels: plain(&exemplar.labels),
            value: exemplar.value,
            timestamp: exemplar.timestamp,
        };
        // The fields of a histogram are the same, but for one that 1.0 skips.
        let histogram = |histogram: &Histogram| {
            v1::Histogram::decode(&*histogram.encode_to_vec()).expect("1.0 knows the fields")
        };
        v1::TimeSeries {
            labels: plain(labels),
            samples: self.samples.iter().map(sample).collect(),
            exemplars: self.exemplars.iter().map(exemplar).collect(),
            histograms: self.histograms.iter().map(histogram).collect(),
        }
    }
}

/// Samples, histograms and exemplars.
pub type Counts = [u64; 3];

fn counts(series: &[Series]) -> Counts {
    series.iter().fold([0; 3], |[samples, histograms, exemplars], series| {
        [
            samples + series.samples.len() as u64,
            histograms + series.histograms.len() as u64,
            exemplars + series.exemplars.len() as u64,
        ]
    })
}

/// The receiver under test.
pub struct Receiver {
    pub server: Server,
    order: Pcg64,
}

impl Receiver {
    pub async fn new() -> Self {
        Receiver { server: Server::ready().await, order: Pcg64::seed_from_u64(7) }
    }

    fn shuffled(&mut self, series: &Series) -> Vec<(String, String)> {
        let mut labels = series.labels.clone();
        labels.shuffle(&mut self.order);
        labels
    }

    /// The request as 2.0; the symbol table comes first or last.
    pub fn body_2(&mut self, series: &[Series]) -> Vec<u8> {
        let mut table = Table::default();
        let mut messages = Vec::new();
        for one in series {
            let labels = self.shuffled(one);
            let message = one.encoded_2(&mut table, &labels);
            messages.push(5 << 3 | 2);
            prost::encoding::encode_varint(message.len() as u64, &mut messages);
            messages.extend(message);
        }
        let symbols = table.request(Vec::new()).encode_to_vec();
        let parts = if self.order.random_bool(0.5) { [symbols, messages] } else { [messages, symbols] };
        compress(&parts.concat())
    }

    pub async fn send_2(&mut self, series: &[Series]) -> Answer {
        let body = self.body_2(series);
        self.server.post(&PROMETHEUS_2, body).await
    }

    pub async fn send_1(&mut self, series: &[Series]) -> Answer {
        let timeseries = series
            .iter()
            .map(|series| {
                let labels = self.shuffled(series);
                series.message_1(&labels)
            })
            .collect();
        let request = v1::WriteRequest { timeseries, ..Default::default() };
        self.server.post(&PROMETHEUS, compress(&request.encode_to_vec())).await
    }

    /// Both versions are accepted whole, and 2.0 says how much it was.
    pub async fn accepts(&mut self, what: &str, series: &[Series]) {
        let answer = self.send_2(series).await;
        assert_eq!(answer.status, 204, "{what}, 2.0: {}", answer.text());
        assert!(answer.body.is_empty());
        assert_eq!(written(&answer), Some(counts(series)), "{what}");
        let answer = self.send_1(series).await;
        assert_eq!(answer.status, 204, "{what}, 1.0: {}", answer.text());
        assert_eq!(written(&answer), None, "{what}: answers to 1.0 do not count");
    }

    /// Both versions are answered 400 with a text, and 2.0 says how much was kept.
    pub async fn refuses(&mut self, what: &str, series: &[Series], kept: Counts) {
        let answer = self.send_2(series).await;
        assert_eq!(answer.status, 400, "{what}, 2.0: {}", answer.text());
        assert!(answer.text().trim().len() > 10, "{what}: a readable reason");
        assert_eq!(written(&answer), Some(kept), "{what}");
        let answer = self.send_1(series).await;
        assert_eq!(answer.status, 400, "{what}, 1.0: {}", answer.text());
        assert_eq!(written(&answer), None, "{what}: answers to 1.0 do not count");
    }
}

/// The three counts of an answer, all or none.
pub fn written(answer: &Answer) -> Option<Counts> {
    let counts = ["samples", "histograms", "exemplars"].map(|what| {
        let text = answer.header(&format!("x-prometheus-remote-write-{what}-written"));
        (!text.is_empty()).then(|| text.parse().unwrap_or_else(|_| panic!("{text} is no whole number")))
    });
    match counts {
        [Some(samples), Some(histograms), Some(exemplars)] => Some([samples, histograms, exemplars]),
        [None, None, None] => None,
        some => panic!("some counts are missing: {some:?}"),
    }
}

pub fn span(offset: i32, length: u32) -> BucketSpan {
    BucketSpan { offset, length }
}

/// Exponential buckets on both sides.
pub fn basic() -> Histogram {
    Histogram {
        count: Some(Count::CountInt(22)),
        zero_count: Some(ZeroCount::ZeroCountInt(2)),
        sum: 100.5,
        schema: 0,
        zero_threshold: 0.001,
        negative_spans: vec![span(0, 2)],
        negative_deltas: vec![3, 4],
        positive_spans: vec![span(0, 2)],
        positive_deltas: vec![5, 0],
        ..Histogram::default()
    }
}

/// Buckets given by their bounds.
pub fn custom() -> Histogram {
    Histogram {
        count: Some(Count::CountInt(15)),
        sum: 30.0,
        schema: -53,
        positive_spans: vec![span(0, 3)],
        positive_deltas: vec![5, 0, 0],
        custom_values: vec![1.0, 2.5, 5.0],
        ..Histogram::default()
    }
}

/// Buckets above zero only.
pub fn positive_only() -> Histogram {
    Histogram {
        count: Some(Count::CountInt(6)),
        sum: 9.0,
        positive_spans: vec![span(0, 3)],
        positive_deltas: vec![1, 1, 1],
        ..Histogram::default()
    }
}
