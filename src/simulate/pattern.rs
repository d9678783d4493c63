//! Synthetic traces: `pattern:rate=2,peak=8,shape=sine,duration=1h,prompt=1000,output=200`.

use std::f64::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1};
use rand_pcg::Pcg64Mcg;

use super::problem::Problem;
use super::trace::{ROWS_MAX, Skipped, Trace, TraceRequest};
use crate::config::resolve::go_duration_ms;
use crate::emulate::load::TokenCount;

/// How a pattern begins on the command line.
pub const PREFIX: &str = "pattern:";
/// The keys of a pattern, for `--help` and messages.
pub const KEYS: &str = "rate (requests per second), peak, shape (steady, step, ramp, sine, spikes), period, \
                        duration, prompt and output (mean tokens), spread (of the tokens, relative), burst \
                        (requests that come together)";
/// Longest pattern, ms.
const DURATION_MAX_MS: f64 = 30.0 * 86_400_000.0;
/// Longest prompt and generation, tokens.
const TOKENS_MAX: u32 = 1_000_000;

/// How the rate goes between base and peak within a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It stays at the base.
    Steady,
    /// Base in the first half, peak in the second.
    Step,
    /// A straight rise from base to peak, then at once back.
    Ramp,
    /// A wave that starts in its trough.
    Sine,
    /// Base, and the peak for a tenth of the period in its middle.
    Spikes,
}

/// A synthetic load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pattern {
    /// Lowest and highest rate, requests per second.
    pub rate_per_s: (f64, f64),
    /// Course in between.
    pub shape: Shape,
    /// Period of the course, ms.
    pub period_ms: f64,
    /// Length, ms.
    pub duration_ms: f64,
    /// Mean prompt length, tokens.
    pub prompt_tokens: f64,
    /// Mean generated length, tokens.
    pub output_tokens: f64,
    /// Standard deviation of both relative to the mean.
    pub spread: f64,
    /// Mean number of requests that come together; 1 is a Poisson process.
    pub burst: f64,
}

impl Pattern {
    /// Reads what follows [`PREFIX`]: pairs `key=value` separated by commas, all of them optional.
    ///
    /// # Errors
    /// The key that is unknown or has no sensible value, and what there is.
    pub fn parse(text: &str) -> Result<Pattern, Problem> {
        let wrong = |part: &str, reason: &str, fix: String| {
            Problem::new(format!("{PREFIX}{text}"), format!("{part:?} {reason}"), fix)
        };
        let (mut peak, mut shape, mut period_ms) = (None, None, None);
        let mut pattern = Pattern {
            rate_per_s: (1.0, 1.0),
            shape: Shape::Steady,
            period_ms: 0.0,
            duration_ms: 3_600_000.0,
            prompt_tokens: 1000.0,
            output_tokens: 200.0,
            spread: 0.6,
            burst: 1.0,
        };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = |least: f64, most: f64| {
                let found = value.parse::<f64>().ok().filter(|value| (least..=most).contains(value));
                found.ok_or_else(|| {
                    wrong(part, "has no sensible value", format!("give a number from {least} to {most}"))
                })
            };
            let duration = || {
                let found = go_duration_ms(value);
                let found = found.or_else(|| value.parse::<f64>().ok().map(|s| s * 1000.0));
                let found = found.filter(|ms| (1000.0..=DURATION_MAX_MS).contains(ms));
                found.ok_or_else(|| {
                    wrong(part, "has no sensible value", "give a time such as 90s, 30m or 2h".to_owned())
                })
            };
            match key.trim() {
                "rate" => pattern.rate_per_s.0 = number(0.0, 1e5)?,
                "peak" => peak = Some(number(0.0, 1e5)?),
                "period" => period_ms = Some(duration()?),
                "duration" => pattern.duration_ms = duration()?,
                "prompt" => pattern.prompt_tokens = number(1.0, f64::from(TOKENS_MAX))?,
                "output" => pattern.output_tokens = number(1.0, f64::from(TOKENS_MAX))?,
                "spread" => pattern.spread = number(0.0, 10.0)?,
                "burst" => pattern.burst = number(1.0, 1e4)?,
                "shape" => {
                    let there = "there are steady, step, ramp, sine and spikes";
                    shape =
                        Some(shape_of(value).ok_or_else(|| wrong(part, "is no shape", there.to_owned()))?);
                }
                _ => return Err(wrong(part, "is unknown", format!("there are {KEYS}"))),
            }
        }
        pattern.rate_per_s.1 = peak.unwrap_or(pattern.rate_per_s.0);
        pattern.shape = shape.unwrap_or(if peak.is_some() { Shape::Sine } else { Shape::Steady });
        pattern.period_ms = period_ms.unwrap_or(pattern.duration_ms);
        let expected = pattern.highest_per_s() * pattern.duration_ms / 1000.0;
        if expected <= 0.0 || expected > ROWS_MAX as f64 {
            let reason = format!("gives {expected:.0} requests at most");
            let fix = format!("choose a rate and a duration with 1 to {ROWS_MAX}");
            return Err(Problem::new(format!("{PREFIX}{text}"), reason, fix));
        }
        Ok(pattern)
    }

    fn highest_per_s(&self) -> f64 {
        match self.shape {
            Shape::Steady => self.rate_per_s.0,
            _ => self.rate_per_s.0.max(self.rate_per_s.1),
        }
    }

    /// The rate `at_ms` after the start, requests per second.
    pub fn rate_per_s(&self, at_ms: f64) -> f64 {
        let (base, peak) = self.rate_per_s;
        let phase = (at_ms / self.period_ms).fract();
        let share = match self.shape {
            Shape::Steady => 0.0,
            Shape::Step => f64::from(u8::from(phase >= 0.5)),
            Shape::Ramp => phase,
            Shape::Sine => (1.0 - (phase * TAU).cos()) / 2.0,
            Shape::Spikes => f64::from(u8::from((0.45..0.55).contains(&phase))),
        };
        base + (peak - base) * share
    }

    /// The requests that a seed gives: bursts by thinning a Poisson process of the highest rate, each with a
    /// geometric number of requests, log-normal lengths.
    pub fn trace(&self, name: &str, seed: u64) -> Trace {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let highest = self.highest_per_s();
        let [prompt, output] = [self.prompt_tokens, self.output_tokens]
            .map(|mean| TokenCount::new(mean, self.spread, TOKENS_MAX));
        let mut requests = Vec::new();
        let mut at_ms = 0.0;
        loop {
            let gap: f64 = Exp1.sample(&mut random);
            at_ms += gap * 1000.0 * self.burst / highest;
            if at_ms > self.duration_ms || requests.len() >= ROWS_MAX {
                break;
            }
            if random.random::<f64>() * highest >= self.rate_per_s(at_ms) {
                continue;
            }
            loop {
                let (prompt_tokens, output_tokens) = (prompt.sample(&mut random), output.sample(&mut random));
                requests.push(TraceRequest { arrival_ms: at_ms, prompt_tokens, output_tokens });
                if random.random::<f64>() * self.burst < 1.0 {
                    break;
                }
            }
        }
        Trace { name: name.to_owned(), requests, skipped: Skipped::default(), remarks: Vec::new() }
    }
}

fn shape_of(name: &str) -> Option<Shape> {
    Some(match name {
        "steady" => Shape::Steady,
        "step" => Shape::Step,
        "ramp" => Shape::Ramp,
        "sine" => Shape::Sine,
        "spikes" => Shape::Spikes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(text: &str, from_s: f64, until_s: f64) -> usize {
        let trace = Pattern::parse(text).unwrap().trace("p", 1);
        let within = |r: &&TraceRequest| (from_s * 1000.0..until_s * 1000.0).contains(&r.arrival_ms);
        trace.requests.iter().filter(within).count()
    }

    #[test]
    fn the_rate_follows_the_shape() {
        let text = |shape: &str| format!("rate=10,peak=40,shape={shape},duration=2h,period=1h");
        let near = |count: usize, expected: f64| (count as f64 / expected - 1.0).abs() < 0.05;
        assert!(near(arrivals(&text("steady"), 0.0, 7200.0), 72_000.0));
        assert!(near(arrivals(&text("step"), 1800.0, 3600.0), 72_000.0));
        assert!(near(arrivals(&text("step"), 3600.0, 5400.0), 18_000.0));
        assert!(near(arrivals(&text("ramp"), 0.0, 7200.0), 180_000.0));
        assert!(near(arrivals(&text("sine"), 0.0, 7200.0), 180_000.0));
        assert!(near(arrivals(&text("spikes"), 1620.0, 1980.0), 14_400.0));
        assert!(near(arrivals(&text("spikes"), 0.0, 1600.0), 16_000.0));
    }

    #[test]
    fn bursts_keep_the_rate_and_the_lengths_have_their_mean() {
        let trace = Pattern::parse("rate=10,burst=5,duration=2h,prompt=300,output=50").unwrap().trace("p", 3);
        assert!((trace.requests.len() as f64 / 72_000.0 - 1.0).abs() < 0.05, "{}", trace.requests.len());
        let together =
            trace.requests.windows(2).filter(|pair| pair[0].arrival_ms == pair[1].arrival_ms).count();
        assert!((together as f64 / trace.requests.len() as f64 - 0.8).abs() < 0.02, "{together}");
        let mean = trace.requests.iter().map(|r| f64::from(r.prompt_tokens)).sum::<f64>()
            / trace.requests.len() as f64;
        assert!((mean / 300.0 - 1.0).abs() < 0.03, "{mean}");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_there_is() {
        for (text, part, fix) in [
            ("rat=2", "\"rat=2\" is unknown", "there are rate"),
            ("rate=-1", "\"rate=-1\" has no sensible value", "from 0"),
            ("rate=NaN", "\"rate=NaN\"", "a number"),
            ("shape=saw", "\"shape=saw\" is no shape", "there are steady"),
            ("duration=x", "\"duration=x\"", "such as 90s"),
            ("rate=0", "0 requests", "choose a rate"),
            ("rate=99999,duration=700h", "requests at most", "choose a rate"),
        ] {
            let problem = Pattern::parse(text).unwrap_err().to_string();
            assert!(problem.contains(part) && problem.contains(fix), "{problem}");
        }
    }
}
