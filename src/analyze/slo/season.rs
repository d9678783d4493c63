//! Loads that recur: what came an hour, or a day, ago comes again.
//!
//! Input: the arrivals, minute by minute. Output: the highest rate that is to be expected before new replicas could
//! serve, once rises that were forecast by what came one period before have come.
//! Bounded: a day and a few minutes, two bytes a minute.

use std::collections::VecDeque;

use super::arrivals::{Arrivals, BIN_MS};

/// Length of a step, ms, and in bins of the arrivals.
const MINUTE_MS: i64 = 60_000;
const MINUTE_BINS: i64 = MINUTE_MS / BIN_MS;
/// Periods that are looked for, minutes: an hour and a day. A shorter one that divides the hour is found as an hour.
const PERIODS: [usize; 2] = [60, 1440];
/// Minutes kept: the longest period, a forecast and the level before it.
const KEPT: usize = 1440 + 24;
/// Minutes over which a level is averaged.
const LEVEL: usize = 3;
/// Longest forecast, minutes.
const AHEAD_MAX: usize = 16;
/// A forecast of at least so many times the level says that the load will rise.
const RISE: f64 = 1.25;
/// Rises that must have been forecast before one is believed, the share of them that came, and the factor by which
/// an old one counts less with each new one: a memory of some thirty.
const FORECASTS_MIN: f64 = 3.0;
const CAME_MIN: f64 = 0.7;
const FADE: f64 = 0.97;
/// How far the level of now may be from that of one period ago, as a factor.
const LEVELS_RANGE: (f64, f64) = (0.5, 2.0);
/// Rate that is added before rates are compared, so that nothing to nearly nothing is no rise, per s.
const NEARLY_NOTHING_PER_S: f64 = 0.05;
/// Steps per unit of the logarithm in which a rate is kept.
const CODE: f64 = 2000.0;

/// How the rises that one period forecast turned out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Record {
    forecasts: f64,
    came: f64,
}

impl Record {
    fn is_believed(&self) -> bool {
        self.forecasts >= FORECASTS_MIN && self.came >= CAME_MIN * self.forecasts
    }
}

/// The recurring shape of one model's load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Season {
    /// Arrivals per minute, the newest last, as logarithms.
    minutes: VecDeque<u16>,
    /// Index of the newest minute on the axis of sample time.
    newest: Option<i64>,
    records: [Record; PERIODS.len()],
}

impl Season {
    /// Takes in the minutes that have ended, and checks what was to be expected of them `horizon_ms` earlier.
    pub fn note(&mut self, arrivals: &Arrivals, horizon_ms: i64) {
        let newest_bin = arrivals.newest_full();
        let ended = (newest_bin + 1).div_euclid(MINUTE_BINS) - 1;
        let first = self.newest.map_or(ended, |newest| newest + 1);
        if ended - first > KEPT as i64 {
            *self = Season::default();
            return self.note(arrivals, horizon_ms);
        }
        for minute in first..=ended {
            let back = newest_bin - minute * MINUTE_BINS + 1;
            let count: f64 = arrivals.since(back as usize, MINUTE_BINS as usize).sum();
            if self.minutes.len() == KEPT {
                self.minutes.pop_front();
            }
            self.minutes.push_back(code(count * 1000.0 / MINUTE_MS as f64));
            self.newest = Some(minute);
            self.check(ahead(horizon_ms));
        }
    }

    /// Compares the newest minute with what was forecast for it.
    fn check(&mut self, ahead: usize) {
        let Some(came) = self.rate(0) else { return };
        let Some(level) = self.level(ahead) else { return };
        for (index, period) in PERIODS.into_iter().enumerate() {
            let Some(expected) = self.expected(period, ahead, 0) else { continue };
            if !is_rise(expected, level) {
                continue;
            }
            let has_come = came >= (level + expected) / 2.0;
            let record = &mut self.records[index];
            record.forecasts = record.forecasts * FADE + 1.0;
            record.came = record.came * FADE + f64::from(u8::from(has_come));
        }
    }

    /// The highest rate per second to be expected within `horizon_ms` and a minute, where that is a rise and such
    /// rises came before.
    pub fn expected_per_s(&self, horizon_ms: i64) -> Option<f64> {
        let level = self.level(0)?;
        let of = |period: usize| {
            let ratio = self.levels_ratio(period, 0)?;
            let then = (1..=ahead(horizon_ms) + 1).filter_map(|ahead| self.rate(period - ahead));
            then.map(|rate| rate * ratio).reduce(f64::max).filter(|expected| is_rise(*expected, level))
        };
        let believed = PERIODS.into_iter().zip(&self.records).filter(|(_, record)| record.is_believed());
        believed.filter_map(|(period, _)| of(period)).reduce(f64::max)
    }

    /// What was to be expected of the minute `back` ago, `ahead` minutes before it.
    fn expected(&self, period: usize, ahead: usize, back: usize) -> Option<f64> {
        Some(self.rate(back + period)? * self.levels_ratio(period, back + ahead)?)
    }

    /// Level `back` minutes ago over that of one period before.
    fn levels_ratio(&self, period: usize, back: usize) -> Option<f64> {
        let (now, then) = (self.level(back)?, self.level(back + period)?);
        let ratio = (now + NEARLY_NOTHING_PER_S) / (then + NEARLY_NOTHING_PER_S);
        Some(ratio.clamp(LEVELS_RANGE.0, LEVELS_RANGE.1))
    }

    /// Mean rate of the minutes that ended `back` minutes ago.
    fn level(&self, back: usize) -> Option<f64> {
        let sum: Option<f64> = (back..back + LEVEL).map(|back| self.rate(back)).sum();
        sum.map(|sum| sum / LEVEL as f64)
    }

    /// Rate of the minute `back` ago, per s.
    fn rate(&self, back: usize) -> Option<f64> {
        let at = self.minutes.len().checked_sub(back + 1)?;
        self.minutes.get(at).map(|code| (f64::from(*code) / CODE).exp_m1() * NEARLY_NOTHING_PER_S)
    }
}

fn is_rise(expected_per_s: f64, level_per_s: f64) -> bool {
    expected_per_s >= RISE * (level_per_s + NEARLY_NOTHING_PER_S)
}

fn code(rate_per_s: f64) -> u16 {
    ((rate_per_s / NEARLY_NOTHING_PER_S).ln_1p() * CODE).round() as u16
}

/// Minutes that a forecast looks ahead.
fn ahead(horizon_ms: i64) -> usize {
    (horizon_ms.max(1) as usize).div_ceil(MINUTE_MS as usize).min(AHEAD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TimeMs;

    /// What is expected within two minutes after so many minutes of a load, given by the minute.
    fn expected(minutes: i64, rate_per_s: impl Fn(i64) -> f64) -> Option<f64> {
        let (mut arrivals, mut season) = (Arrivals::default(), Season::default());
        for step in 0..minutes * 6 {
            let count = rate_per_s(step / 6) * 10.0;
            arrivals.add(TimeMs(step * 10_000), TimeMs((step + 1) * 10_000), count);
            season.note(&arrivals, 110_000);
        }
        assert!(season.minutes.len() <= KEPT);
        season.expected_per_s(110_000)
    }

    /// Five minutes of 20 per s in each hour, 2 per s else.
    fn hourly(minute: i64) -> f64 {
        if minute % 60 < 5 { 20.0 } else { 2.0 }
    }

    #[test]
    fn an_hourly_batch_is_expected_two_minutes_before_it_comes() {
        let before = expected(4 * 60 - 1, hourly).unwrap();
        assert!((before - 20.0).abs() < 1.0, "{before}");
        assert_eq!(expected(4 * 60 - 20, hourly), None);
        assert_eq!(expected(119, hourly), None, "one hour proves nothing");
    }

    #[test]
    fn a_daily_opening_is_expected_from_the_third_day_on_also_at_another_level() {
        let daily = |minute: i64| {
            let level = 1.0 + 0.3 * (minute / 1440) as f64;
            level * if (540..1080).contains(&(minute % 1440)) { 10.0 } else { 2.0 }
        };
        assert_eq!(expected(1440 + 539, daily), None);
        let before = expected(2 * 1440 + 539, daily).unwrap();
        assert!((before - 16.0).abs() < 1.5, "{before}");
    }

    #[test]
    fn noise_and_a_steady_load_recur_only_by_chance() {
        let noise =
            |minute: i64| 2.0 + (minute.wrapping_mul(2_654_435_761) >> 7).rem_euclid(100) as f64 / 10.0;
        assert_eq!(expected(600, noise), None);
        assert_eq!(expected(600, |_| 5.0), None);
    }
}
