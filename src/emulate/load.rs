//! Arrival processes: who asks for what, when.
//!
//! Input: a rate as a function of time, request shapes and a seed, or a list of recorded requests.
//! Output: an endless or finite iterator of [`Arrival`]s in order of time.

use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1, LogNormal};
use rand_pcg::Pcg64Mcg;

use super::{ms_to_us, to_us};
use crate::units::TimeMs;

/// One request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it is sent, us since the epoch.
    pub at_us: i64,
    /// Prompt length, tokens.
    pub prompt_tokens: u32,
    /// Tokens it will generate.
    pub output_tokens: u32,
    /// Leading prompt tokens that any replica has in its prefix cache.
    pub cached_tokens: u32,
}

/// A source of arrivals, in order of time.
pub type Arrivals = Box<dyn Iterator<Item = Arrival> + Send>;

/// How the request rate changes, as a factor on the base rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scenario {
    /// The base rate throughout.
    Steady,
    /// A step up to `factor` at `from_ms` and back at `until_ms` (since the start of the load).
    Spike {
        /// Start of the step, ms.
        from_ms: i64,
        /// End of the step, ms.
        until_ms: i64,
        /// Rate during the step relative to the base rate.
        factor: f64,
    },
    /// A straight rise to `factor` from `from_ms` to `until_ms`; it stays there.
    Ramp {
        /// Start of the rise, ms.
        from_ms: i64,
        /// End of the rise, ms.
        until_ms: i64,
        /// Rate after the rise relative to the base rate.
        factor: f64,
    },
    /// A wave that starts in its trough at the base rate.
    Diurnal {
        /// From trough to trough, ms.
        period_ms: i64,
        /// Rate at the crest relative to the base rate.
        factor: f64,
    },
}

impl Scenario {
    /// Factor on the base rate `elapsed_ms` after the start of the load.
    pub fn factor(&self, elapsed_ms: f64) -> f64 {
        let value = match *self {
            Scenario::Steady => 1.0,
            Scenario::Spike { from_ms, until_ms, factor } => {
                if (from_ms as f64..until_ms as f64).contains(&elapsed_ms) { factor } else { 1.0 }
            }
            Scenario::Ramp { from_ms, until_ms, factor } => {
                let span = (until_ms.saturating_sub(from_ms)).max(1) as f64;
                1.0 + (factor - 1.0) * ((elapsed_ms - from_ms as f64) / span).clamp(0.0, 1.0)
            }
            Scenario::Diurnal { period_ms, factor } => {
                let phase = elapsed_ms / period_ms.max(1) as f64 * std::f64::consts::TAU;
                1.0 + (factor - 1.0) * (1.0 - phase.cos()) / 2.0
            }
        };
        if value.is_finite() { value.max(0.0) } else { 1.0 }
    }

    /// The largest factor that [`Scenario::factor`] ever returns, at least 1.
    pub fn peak(&self) -> f64 {
        match *self {
            Scenario::Steady => 1.0,
            Scenario::Spike { factor, .. }
            | Scenario::Ramp { factor, .. }
            | Scenario::Diurnal { factor, .. } => {
                if factor.is_finite() {
                    factor.max(1.0)
                } else {
                    1.0
                }
            }
        }
    }
}

/// Sizes of requests: log-normal around the means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestShape {
    /// Mean prompt length, tokens.
    pub prompt_tokens: f64,
    /// Mean generated length, tokens.
    pub output_tokens: f64,
    /// Standard deviation of both relative to the mean; 0 makes all requests equal.
    pub spread: f64,
    /// Longest prompt and longest generation, tokens.
    pub max_tokens: u32,
    /// Share of each prompt that is found in the prefix cache, 0..1.
    pub cached_share: f64,
}

/// Sampler of token counts with a given mean: log-normal.
#[derive(Clone, Copy, Debug)]
pub struct TokenCount {
    law: Option<LogNormal<f64>>,
    mean: f64,
    max: f64,
}

impl TokenCount {
    /// Counts from 1 to `max` around `mean`, with a standard deviation of `spread` times the mean; senseless
    /// values give equal counts.
    pub fn new(mean: f64, spread: f64, max: u32) -> Self {
        let mean = if mean.is_finite() { mean.max(1.0) } else { 1.0 };
        let law = if spread.is_finite() && spread > 0.0 {
            // Moments of the log-normal law: mean = exp(mu + s^2/2), spread^2 = exp(s^2) - 1.
            let variance = spread.mul_add(spread, 1.0).ln();
            LogNormal::new(mean.ln() - variance / 2.0, variance.sqrt()).ok()
        } else {
            None
        };
        TokenCount { law, mean, max: f64::from(max.max(1)) }
    }

    /// A count.
    pub fn sample(&self, random: &mut Pcg64Mcg) -> u32 {
        let value = self.law.map_or(self.mean, |law| law.sample(random));
        value.round().clamp(1.0, self.max) as u32
    }
}

/// Candidates that thinning drops in a row before it takes the load for over (a rate gone to 0).
const MAX_THINNED: u32 = 1_000_000;

/// Poisson arrivals whose rate follows a [`Scenario`]. Endless, unless the base rate is 0.
#[derive(Clone, Debug)]
pub struct PoissonLoad {
    scenario: Scenario,
    prompt: TokenCount,
    output: TokenCount,
    cached_share: f64,
    random: Pcg64Mcg,
    start_us: i64,
    /// Time of the newest candidate since the start, ms.
    elapsed_ms: f64,
    /// Rate of candidates, per ms.
    peak_per_ms: f64,
}

impl PoissonLoad {
    /// A load that starts at `start` with `base_per_s` requests per second.
    pub fn new(start: TimeMs, base_per_s: f64, scenario: Scenario, shape: RequestShape, seed: u64) -> Self {
        let base_per_s = if base_per_s.is_finite() { base_per_s.max(0.0) } else { 0.0 };
        let share = shape.cached_share;
        PoissonLoad {
            scenario,
            prompt: TokenCount::new(shape.prompt_tokens, shape.spread, shape.max_tokens),
            output: TokenCount::new(shape.output_tokens, shape.spread, shape.max_tokens),
            cached_share: if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 },
            random: Pcg64Mcg::seed_from_u64(seed),
            start_us: to_us(start),
            elapsed_ms: 0.0,
            peak_per_ms: base_per_s * scenario.peak() / 1000.0,
        }
    }
}

impl Iterator for PoissonLoad {
    type Item = Arrival;

    /// The next arrival by thinning: candidates come at the peak rate, and each is kept with the ratio of
    /// the present rate to the peak.
    fn next(&mut self) -> Option<Arrival> {
        if self.peak_per_ms <= 0.0 {
            return None;
        }
        let mut kept = false;
        for _ in 0..MAX_THINNED {
            let gap: f64 = Exp1.sample(&mut self.random);
            self.elapsed_ms += gap / self.peak_per_ms;
            let keep = self.scenario.factor(self.elapsed_ms) / self.scenario.peak();
            kept = self.random.random::<f64>() < keep;
            if kept {
                break;
            }
        }
        if !kept {
            return None;
        }
        let prompt_tokens = self.prompt.sample(&mut self.random);
        Some(Arrival {
            at_us: self.start_us.saturating_add(ms_to_us(self.elapsed_ms)),
            prompt_tokens,
            output_tokens: self.output.sample(&mut self.random),
            cached_tokens: (f64::from(prompt_tokens) * self.cached_share) as u32,
        })
    }
}

/// Arrivals of a recorded trace: `(arrival_ms since the start, prompt tokens, generated tokens)`.
pub fn trace<T>(start: TimeMs, requests: T) -> impl Iterator<Item = Arrival> + use<T>
where
    T: IntoIterator<Item = (f64, u32, u32)>,
{
    requests.into_iter().map(move |(arrival_ms, prompt_tokens, output_tokens)| Arrival {
        at_us: to_us(start).saturating_add(ms_to_us(arrival_ms)),
        prompt_tokens,
        output_tokens,
        cached_tokens: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: RequestShape = RequestShape {
        prompt_tokens: 800.0,
        output_tokens: 200.0,
        spread: 0.8,
        max_tokens: 16_000,
        cached_share: 0.25,
    };

    fn arrivals(scenario: Scenario, seed: u64, until_ms: i64) -> Vec<Arrival> {
        PoissonLoad::new(TimeMs(0), 20.0, scenario, SHAPE, seed)
            .take_while(|arrival| arrival.at_us < until_ms * 1000)
            .collect()
    }

    #[test]
    fn a_spike_multiplies_the_rate_and_leaves_the_shape() {
        let spike = Scenario::Spike { from_ms: 400_000, until_ms: 800_000, factor: 4.0 };
        let all = arrivals(spike, 1, 1_200_000);
        let during = all.iter().filter(|a| (400_000_000..800_000_000).contains(&a.at_us)).count() as f64;
        let outside = all.len() as f64 - during;
        assert!((during / 32_000.0 - 1.0).abs() < 0.02, "{during} arrivals during the spike");
        assert!((outside / 16_000.0 - 1.0).abs() < 0.03, "{outside} arrivals outside the spike");
        let mean =
            |f: fn(&Arrival) -> u32| all.iter().map(|a| f64::from(f(a))).sum::<f64>() / all.len() as f64;
        assert!((mean(|a| a.prompt_tokens) / 800.0 - 1.0).abs() < 0.03);
        assert!((mean(|a| a.output_tokens) / 200.0 - 1.0).abs() < 0.03);
        assert!((mean(|a| a.cached_tokens) / 200.0 - 1.0).abs() < 0.03);
        assert!(all.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
    }

    #[test]
    fn the_seed_decides_everything() {
        let ramp = Scenario::Ramp { from_ms: 0, until_ms: 100_000, factor: 3.0 };
        assert_eq!(arrivals(ramp, 7, 200_000), arrivals(ramp, 7, 200_000));
        assert_ne!(arrivals(ramp, 7, 200_000), arrivals(ramp, 8, 200_000));
    }

    #[test]
    fn senseless_parameters_give_no_or_plain_load() {
        let none = PoissonLoad::new(TimeMs(0), f64::NAN, Scenario::Steady, SHAPE, 1).next();
        assert_eq!(none, None);
        let odd = Scenario::Diurnal { period_ms: 0, factor: f64::INFINITY };
        let shape = RequestShape { prompt_tokens: f64::NAN, spread: -1.0, cached_share: f64::NAN, ..SHAPE };
        let arrival = PoissonLoad::new(TimeMs(0), 1.0, odd, shape, 1).next();
        assert_eq!(arrival.map(|a| (a.prompt_tokens, a.output_tokens, a.cached_tokens)), Some((1, 200, 0)));
    }

    #[test]
    fn a_wave_starts_low_and_peaks_half_way() {
        let wave = Scenario::Diurnal { period_ms: 1000, factor: 5.0 };
        assert_eq!((wave.factor(0.0), wave.factor(500.0), wave.factor(1000.0)), (1.0, 5.0, 1.0));
    }
}
