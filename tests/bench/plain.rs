//! The plain method of sizing, as a differential oracle and as the baseline of the benchmark: the full
//! state vector of `N + Q + 1` states, solved anew for every rate, and a bisection for each target.
//!
//! Restated from the description of the reference controller in double precision. Only the affine
//! service times are shared with the library.

use inferno_sidecar::analyze::queueing::{RANGE_HIGH, RANGE_LOW, ServiceTimes};

/// Queue of one replica, with its service rates and a buffer for the state probabilities.
pub struct Plain {
    service: ServiceTimes,
    tokens_out: f64,
    batch: usize,
    states: usize,
    service_rate: Vec<f64>,
    probability: Vec<f64>,
    /// Chain solutions so far.
    pub solutions: usize,
}

/// Steady state at one rate.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code)] // The benchmark reads less of it than the tests.
pub struct State {
    /// Throughput, requests/ms.
    pub throughput_per_ms: f64,
    /// Mean number in service.
    pub in_service: f64,
    /// Mean time in the system, ms.
    pub response_ms: f64,
    /// Mean time in service, ms.
    pub service_ms: f64,
    /// Mean wait, ms.
    pub wait_ms: f64,
    /// Decode step, ms, generation C.
    pub itl_ms: f64,
    /// Time to first token, ms, generation C.
    pub ttft_ms: f64,
}

impl Plain {
    /// A queue of generation C with `batch` in service and `queue` waiting at most.
    pub fn new(service: ServiceTimes, tokens_out: f64, batch: usize, queue: usize) -> Plain {
        let service_rate = (1..=batch).map(|n| n as f64 / service.service_ms(n as f64)).collect::<Vec<f64>>();
        let states = batch + queue;
        Plain {
            service,
            tokens_out,
            batch,
            states,
            service_rate,
            probability: vec![0.0; states + 1],
            solutions: 0,
        }
    }

    /// Lower and upper end of the search.
    pub fn range(&self) -> (f64, f64) {
        (RANGE_LOW * self.service_rate[0], RANGE_HIGH * self.service_rate[self.batch - 1])
    }

    /// Solves the chain at a rate.
    pub fn solve(&mut self, rate_per_ms: f64) -> State {
        self.solutions += 1;
        let p = &mut self.probability;
        p[0] = 1.0;
        for n in 1..=self.states {
            p[n] = p[n - 1] * (rate_per_ms / self.service_rate[n.min(self.batch) - 1]);
            if p[n] > 1e300 {
                p[..=n].iter_mut().for_each(|w| *w *= 1e-300);
            }
        }
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|w| *w /= sum);
        let (mut in_system, mut in_service) = (0.0, 0.0);
        for (n, w) in p.iter().enumerate() {
            in_system += n as f64 * w;
            in_service += n.min(self.batch) as f64 * w;
        }
        let throughput_per_ms = rate_per_ms * (1.0 - p[self.states]);
        let response_ms = in_system / throughput_per_ms;
        let service_ms = in_service / throughput_per_ms;
        let wait_ms = (response_ms - service_ms).max(0.0);
        let prefill_ms = self.service.prefill_ms(in_service);
        let itl_ms = (service_ms - prefill_ms) / self.tokens_out;
        State {
            throughput_per_ms,
            in_service,
            response_ms,
            service_ms,
            wait_ms,
            itl_ms,
            ttft_ms: wait_ms + prefill_ms + itl_ms,
        }
    }

    /// The largest rate at which a metric is at most `target`, by bisection; `None` when out of reach.
    pub fn search(&mut self, target: f64, metric: impl Fn(&State) -> f64) -> Option<f64> {
        let hit = |value: f64| value == target || ((value - target) / target).abs() <= 1e-6;
        let (mut low, mut high) = self.range();
        let at_low = metric(&self.solve(low));
        if hit(at_low) {
            return Some(low);
        }
        let at_high = metric(&self.solve(high));
        if hit(at_high) || at_high < target {
            return (at_low < target || hit(at_high)).then_some(high);
        }
        if at_low > target {
            return None;
        }
        let mut middle = low;
        for _ in 0..100 {
            middle = 0.5 * (low + high);
            let value = metric(&self.solve(middle));
            if hit(value) {
                break;
            }
            if value > target { high = middle } else { low = middle }
        }
        Some(middle)
    }

    /// Rates for both targets, and the state at the smaller one.
    pub fn size(&mut self, ttft_ms: f64, itl_ms: f64) -> Option<(f64, State)> {
        let by_ttft = self.search(ttft_ms, |state| state.ttft_ms)?;
        let by_itl = self.search(itl_ms, |state| state.itl_ms)?;
        let rate_per_ms = by_ttft.min(by_itl);
        Some((rate_per_ms, self.solve(rate_per_ms)))
    }
}
