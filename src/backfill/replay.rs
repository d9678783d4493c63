//! From stored series to write requests in the order of time.

use super::SourceError;
use super::source::Stored;
use crate::limits::{BACKFILL_BATCH_MS, BACKFILL_REQUEST_BYTES};
use crate::runner::{Handle, RunnerError};
use crate::wire::Version;
use bytes::Bytes;
use prost::encoding::encode_varint;
use std::time::Duration;

/// Wait before a request that found the engine's queue full is handed over again.
const BUSY: Duration = Duration::from_millis(5);
/// Keys of the protobuf fields that a request is made of.
const SERIES_KEY: u8 = 1 << 3 | 2;
const SAMPLE_KEY: u8 = 2 << 3 | 2;
const VALUE_KEY: u8 = 1 << 3 | 1;
const TIME_KEY: u8 = 2 << 3;

/// Samples of a short time, as a request of remote-write 1.0.
#[derive(Debug)]
pub struct Batch {
    /// The request.
    pub message: Vec<u8>,
    /// Samples in it.
    pub samples: u64,
}

/// The samples of many series, in the order of time.
#[derive(Debug)]
pub struct Replay {
    /// Encoded labels by series.
    labels: Vec<Bytes>,
    /// Time, series, value, latest first.
    rest: Vec<(i64, u32, f64)>,
}

impl Replay {
    /// Takes series apart.
    pub fn new(series: Vec<Stored>) -> Self {
        let mut labels = Vec::with_capacity(series.len());
        let mut rest = Vec::with_capacity(series.iter().map(|series| series.samples.len()).sum());
        for stored in series {
            let index = labels.len() as u32;
            labels.push(stored.labels);
            rest.extend(stored.samples.iter().map(|(time, value)| (*time, index, *value)));
        }
        // By series within one time, as a scrape has them.
        rest.sort_unstable_by_key(|(time, index, _)| std::cmp::Reverse((*time, *index)));
        Replay { labels, rest }
    }

    /// The next batch; `None` at the end.
    pub fn next_batch(&mut self) -> Option<Batch> {
        let first = self.rest.last()?.0;
        let mut batch = Batch { message: Vec::new(), samples: 0 };
        while let Some((time, index, value)) = self.rest.last().copied() {
            if time.saturating_sub(first) >= BACKFILL_BATCH_MS || batch.message.len() > BACKFILL_REQUEST_BYTES
            {
                break;
            }
            self.rest.pop();
            let labels = &self.labels[index as usize];
            let mut sample = Vec::with_capacity(20);
            sample.push(VALUE_KEY);
            sample.extend(value.to_le_bytes());
            sample.push(TIME_KEY);
            encode_varint(time as u64, &mut sample);
            batch.message.push(SERIES_KEY);
            // A sample is shorter than 128 bytes, so its length is one byte.
            encode_varint((labels.len() + 2 + sample.len()) as u64, &mut batch.message);
            batch.message.extend(labels);
            batch.message.extend([SAMPLE_KEY, sample.len() as u8]);
            batch.message.extend(sample);
            batch.samples += 1;
        }
        Some(batch)
    }
}

/// Hands a batch to the engine, and waits until its decisions are made.
pub async fn write(engine: &Handle, batch: &Batch) -> Result<(), SourceError> {
    let length = batch.message.len();
    let answer = loop {
        match engine.write(Version::V1, batch.message.clone(), length) {
            Ok(answer) => break answer,
            Err(RunnerError::Busy) => tokio::time::sleep(BUSY).await,
            Err(RunnerError::Ended) => return Err(SourceError::Ended),
        }
    };
    // What is refused of it (a label set that breaks the rules, say) would be refused of a stream too.
    let done = answer.await.map_err(|_| SourceError::Ended)?;
    done.outcome.map(|_| ()).map_err(|error| SourceError::Answer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Label, TimeSeries, WriteRequest};
    use prost::Message;

    #[test]
    fn samples_are_written_in_the_order_of_time() {
        let series = |name: &str, times: &[i64]| {
            let labels = vec![Label { name: "__name__".into(), value: name.into() }];
            Stored {
                labels: TimeSeries { labels, ..TimeSeries::default() }.encode_to_vec().into(),
                samples: times.iter().map(|time| (*time, *time as f64)).collect(),
            }
        };
        let mut replay =
            Replay::new(vec![series("a", &[1_000, 16_000, 31_000]), series("b", &[1_400, 2_100])]);
        let mut batches = Vec::new();
        while let Some(batch) = replay.next_batch() {
            let request = WriteRequest::decode(&*batch.message).expect("the request is sound");
            assert_eq!(request.timeseries.len() as u64, batch.samples);
            let pair = |series: &TimeSeries| (series.labels[0].value.clone(), series.samples[0].timestamp);
            batches.push(request.timeseries.iter().map(pair).collect::<Vec<_>>());
        }
        let (a, b) = (|time| ("a".to_owned(), time), |time| ("b".to_owned(), time));
        assert_eq!(batches, [vec![a(1_000), b(1_400)], vec![b(2_100)], vec![a(16_000)], vec![a(31_000)]]);
    }
}
