//! A cumulative histogram with the fixed bucket bounds of the engine's own metrics.

/// Upper bounds of time to first token, s.
pub const TTFT_BOUNDS_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// How many of [`TTFT_BOUNDS_S`] the v0 engine has.
pub const TTFT_BOUNDS_V0: usize = 16;
/// Upper bounds of the time between two tokens, s.
pub const ITL_BOUNDS_S: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// How many of [`ITL_BOUNDS_S`] the v0 engine has.
pub const ITL_BOUNDS_V0: usize = 13;
/// Upper bounds of queue time and end-to-end time, s.
pub const REQUEST_BOUNDS_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
/// Upper bounds of token counts per request; an engine has those up to its longest sequence.
pub const TOKEN_BOUNDS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];

/// Counts per bucket plus sum. Counts here are per bucket; the exposition accumulates them.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One count per bound, and one for everything above the last.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram with upper bounds `bounds` (rising; `+Inf` is implied).
    pub fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// An empty histogram of tokens per request for sequences of at most `longest` tokens.
    pub fn of_tokens(longest: u32) -> Self {
        let used = TOKEN_BOUNDS.partition_point(|&bound| bound <= f64::from(longest));
        Histogram::new(&TOKEN_BOUNDS[..used])
    }

    /// Counts `times` observations of `value`.
    pub fn observe(&mut self, value: f64, times: u64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket] += times;
        self.sum += value * times as f64;
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of the observed values.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Mean of the observed values; 0 when there are none.
    pub fn mean(&self) -> f64 {
        let count = self.count();
        if count == 0 { 0.0 } else { self.sum / count as f64 }
    }

    /// The first `limit` bounds, each with the number of observations at or below it.
    pub fn cumulative(&self, limit: usize) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut below = 0;
        self.bounds.iter().zip(&self.counts).take(limit).map(move |(&bound, &count)| {
            below += count;
            (bound, below)
        })
    }
}
