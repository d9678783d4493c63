//! What one query reads: present values from the board, those of the past from what is recorded.

use super::Recorded;
use crate::limits::{LOOKBACK_MS, QUERY_NOW_MS};
use crate::publish::promql::{Labels, QueryError, Sample, SelectorId, Series, Source, id_of};
use crate::publish::select::{Selector, View};
use crate::units::TimeMs;
use crate::wire::is_stale_marker;
use ahash::{AHashMap, AHashSet};
use promql_parser::parser::VectorSelector;

/// Recorded samples of one series that a selector selects.
#[derive(Debug)]
struct Past<'s> {
    labels: Labels<'s>,
    /// In time order. Those of an instant selector include staleness markers.
    points: Vec<(TimeMs, f64)>,
}

/// What the record has for one selector.
#[derive(Debug)]
pub struct Selected<'r> {
    /// The selector.
    pub id: SelectorId,
    /// Time of the first sample that was asked for.
    pub from: TimeMs,
    /// Time of the last sample that was asked for.
    pub to: TimeMs,
    /// It is a range selector.
    pub is_range: bool,
    /// The series.
    pub series: &'r [Recorded],
}

/// Present and past, as one source of samples.
#[derive(Debug)]
pub struct Table<'s> {
    present: View<'s>,
    /// From when on the record is complete.
    since: Option<TimeMs>,
    /// Absence is an error: the answer may steer an autoscaler, who reads absence as zero.
    is_strict: bool,
    past: AHashMap<SelectorId, Vec<Past<'s>>>,
}

impl<'s> Table<'s> {
    /// A source for one query: strict for one point in time, with gaps where nothing is known for a range.
    pub fn new(
        present: View<'s>,
        since: Option<TimeMs>,
        is_strict: bool,
        selected: impl IntoIterator<Item = Selected<'s>>,
    ) -> Self {
        let past = selected.into_iter().map(|selected| {
            let Selected { id, from, to, is_range, series } = selected;
            let series = series.iter().map(|recorded| Past {
                labels: recorded.labels(),
                points: match is_range {
                    true => recorded.values(from, to).collect(),
                    false => recorded.points(from, to).collect(),
                },
            });
            (id, series.collect())
        });
        Table { present, since, is_strict, past: past.collect() }
    }

    /// Whether `at` means the present.
    pub fn is_present(at: TimeMs, now: TimeMs) -> bool {
        now.since(at) <= QUERY_NOW_MS
    }

    fn past(&self, selector: &VectorSelector) -> &[Past<'s>] {
        self.past.get(&id_of(selector)).map_or(&[], Vec::as_slice)
    }

    /// An answer for one point in time must not rest on what is not recorded.
    fn check_recorded(&self, at: TimeMs) -> Result<(), QueryError> {
        match self.since {
            _ if !self.is_strict => Ok(()),
            Some(since) if at >= since => Ok(()),
            Some(since) => Err(QueryError::Failed(format!(
                "nothing is recorded before {}, and {} is asked for; ask Prometheus for the time before",
                seconds(since),
                seconds(at)
            ))),
            None => Err(QueryError::Failed("nothing is recorded yet".into())),
        }
    }

    /// Within the lookback of now, every variant that is there now must have had its numbers then: a reader
    /// whose clock is late would take one that is left out for zero.
    fn check_vital(
        &self,
        selector: &VectorSelector,
        at: TimeMs,
        found: &[Sample<'s>],
    ) -> Result<(), QueryError> {
        if !self.is_strict || self.present.now.since(at) > LOOKBACK_MS {
            return Ok(());
        }
        let found: AHashSet<&Labels<'s>> = found.iter().map(|sample| &sample.labels).collect();
        self.present.vital(&Selector::new(selector)?, |labels, entry| {
            if found.contains(&labels) {
                return Ok(());
            }
            let (key, at) = (&entry.variant.key, seconds(at));
            Err(QueryError::NotReady(format!("variant {key} had no decision yet at {at}")))
        })
    }
}

fn seconds(time: TimeMs) -> String {
    format!("{}", time.as_secs_f64())
}

impl<'s> Source<'s> for Table<'s> {
    fn select(&self, selector: &VectorSelector, at: TimeMs) -> Result<Vec<Sample<'s>>, QueryError> {
        if Self::is_present(at, self.present.now) {
            match self.present.select(selector, at) {
                // Of a range the other points can still be told.
                Err(QueryError::NotReady(_)) if !self.is_strict => {}
                answer => return answer,
            }
        }
        self.check_recorded(at)?;
        let mut found = Vec::new();
        for past in self.past(selector) {
            let after = past.points.partition_point(|(time, _)| *time <= at);
            let last = after.checked_sub(1).map(|last| past.points[last]);
            let last = last.filter(|(time, value)| at.since(*time) < LOOKBACK_MS && !is_stale_marker(*value));
            found.extend(last.map(|(_, value)| Sample { labels: past.labels.clone(), value }));
        }
        self.check_vital(selector, at, &found)?;
        Ok(found)
    }

    fn range(
        &self,
        selector: &VectorSelector,
        after: TimeMs,
        until: TimeMs,
    ) -> Result<Vec<Series<'_, 's>>, QueryError> {
        let series = self.past(selector).iter().map(|past| {
            let from = past.points.partition_point(|(time, _)| *time <= after);
            let to = past.points.partition_point(|(time, _)| *time <= until);
            Series { labels: past.labels.clone(), points: &past.points[from..to.max(from)] }
        });
        Ok(series.filter(|series| !series.points.is_empty()).collect())
    }
}
