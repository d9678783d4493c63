//! The scrape of a whole fleet as remote-write series, with staleness markers.

use ahash::AHashSet;

use super::exposition::{Target, Wanted, targets_with};
use super::fleet::Fleet;
use crate::proto::{Label, Sample, TimeSeries};
use crate::units::TimeMs;

/// Bits of the float that says "this series has ended". The emulator stands for the outside world, so it
/// shares no constant with the receiver that it tests.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Plays the scraping Prometheus: remembers which series the last scrape had, so that those which are
/// gone get one staleness marker.
#[derive(Debug, Default)]
pub struct Collector {
    last: Vec<Vec<Label>>,
    /// Metrics that are collected; `None` for all.
    only: Option<AHashSet<String>>,
}

impl Collector {
    /// A collector that has scraped nothing yet.
    pub fn new() -> Self {
        Collector::default()
    }

    /// A collector of some metrics only, by their full names, as by relabelling: whoever ignores the others
    /// need not wait for them.
    pub fn of(metrics: impl IntoIterator<Item = String>) -> Self {
        Collector { last: Vec::new(), only: Some(metrics.into_iter().collect()) }
    }

    /// Scrapes everything at `now`: one series with one sample each, then one staleness marker for every
    /// series of the last scrape that is gone. Labels are sorted by name.
    pub fn collect(&mut self, fleet: &Fleet, now: TimeMs) -> Vec<TimeSeries> {
        let mut series: Vec<TimeSeries> = Vec::with_capacity(self.last.len());
        let only = &self.only;
        let wanted = |name: &str| only.as_ref().is_none_or(|only| only.contains(name));
        for target in targets_with(fleet, &wanted) {
            scrape(&target, now, &wanted, &mut series);
        }
        let present: AHashSet<&[Label]> = series.iter().map(|one| one.labels.as_slice()).collect();
        let gone: Vec<Vec<Label>> =
            self.last.drain(..).filter(|labels| !present.contains(labels.as_slice())).collect();
        self.last = series.iter().map(|one| one.labels.clone()).collect();
        series.extend(gone.into_iter().map(|labels| one_sample(labels, f64::from_bits(STALE_NAN_BITS), now)));
        series
    }
}

fn scrape(target: &Target, now: TimeMs, wanted: Wanted<'_>, series: &mut Vec<TimeSeries>) {
    for family in &target.families {
        for point in &family.points {
            let name = [family.name, point.suffix].concat();
            if !wanted(&name) {
                continue;
            }
            let attached =
                target.labels.iter().filter(|(name, _)| !point.labels.iter().any(|(own, _)| own == name));
            let mut labels = vec![label("__name__", &name)];
            labels.extend(point.labels.iter().chain(attached).map(|(name, value)| label(name, value)));
            labels.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            series.push(one_sample(labels, point.value, now));
        }
    }
}

fn label(name: &str, value: &str) -> Label {
    Label { name: name.to_owned(), value: value.to_owned() }
}

fn one_sample(labels: Vec<Label>, value: f64, now: TimeMs) -> TimeSeries {
    let samples = vec![Sample { value, timestamp: now.0 }];
    TimeSeries { labels, samples, ..TimeSeries::default() }
}
