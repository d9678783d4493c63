//! Queueing model of one replica: a state-dependent M/M/1/K queue with a batch limit.
//!
//! Input: performance parameters, token counts, batch limit and queue length. Output: latency and
//! throughput at a rate ([`Queue::metrics_at`]), the largest rate within targets ([`Queue::size`]) and
//! the replicas that a load needs ([`allocate`]). Knows nothing of configuration objects, servers or
//! time.
//!
//! # The chain
//!
//! `n = 0..K` requests are in the system, `K = N + Q` with batch limit `N` and queue length `Q`.
//! Requests arrive at rate `L` while `n < K` and leave at rate `m(n) = mu(min(n, N))`, where
//! `mu(j) = j / service(j)`. In all three generations of the model the service time is affine,
//! `service(j) = a + b j` with `a, b >= 0`, so `m` never decreases and the weights
//! `w(n) = product of L / m(i)` have a single peak. `p(n) = w(n) / sum of w`.
//!
//! # Why it is fast
//!
//! - `L / m(n) = L b + L a / n`: nothing is tabulated, so nothing is allocated and a [`Queue`] is `Copy`.
//! - Weights are built outwards from their peak, which is set to 1, so nothing overflows; below the peak
//!   the sum stops when the weights no longer count.
//! - Above `N` the weights are geometric. Their sums are doubled (`2m` terms from `m`), which adds only
//!   positive numbers and so is exact near ratio 1.
//! - The same sums give the derivatives in `ln L`: a sizing takes a handful of bracketed Newton steps,
//!   and one evaluation serves all targets.
//!
//! # Generations
//!
//! See [`ServiceTimes`]. Where the published controller has a fault, this module does what its
//! documentation says was meant; the golden test lists each such deviation.

mod allocate;
mod chain;
mod service;
mod size;

pub use allocate::{
    Allocation, AllocationInput, BatchSource, MAX_REPLICAS, SetBy, WAIT_P95_OVER_MEAN, allocate,
    allocate_again, allocate_warm, batch_limit, replicas_for,
};
pub use service::{Revision, ServiceTimes, Tokens};
pub use size::{Binding, Rates, SizeError, Sizing, Target, Unreachable};

use chain::Moments;

/// Largest batch limit accepted; real engines stay far below.
pub const MAX_BATCH: u32 = 65_536;
/// Largest queue length accepted.
pub const MAX_QUEUE: u32 = 16 * MAX_BATCH;
/// Queue places per unit of batch limit on the allocation path: `Q = 10 N`, in generation A `K = 10 N`.
pub const QUEUE_PER_BATCH: u32 = 10;
/// Lower end of the rate range as a share of `mu(1)`; the value is 0.001 in single precision, as
/// published.
pub const RANGE_LOW: f64 = 0.001_f32 as f64;
/// Upper end of the rate range as a share of `mu(N)`: `1 - RANGE_LOW`.
pub const RANGE_HIGH: f64 = 1.0 - RANGE_LOW;

/// Why a queue cannot be built or evaluated. Every message carries the offending value.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum QueueError {
    /// A performance parameter is negative, NaN or infinite.
    #[error("parameter {name} must be finite and not negative, not {value}")]
    Parameter {
        /// Name of the parameter, e.g. `alpha`.
        name: &'static str,
        /// Its value, ms.
        value: f64,
    },
    /// A token count is negative, NaN or infinite.
    #[error("average {name} tokens must be finite and not negative, not {value}")]
    Tokens {
        /// `input` or `output`.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// Requests that produce no tokens: the load is unknown, not zero.
    #[error("average output tokens must be positive, not {0}")]
    NoOutput(f64),
    /// The service time is zero, or too small or too large for a rate to exist: a missing profile.
    #[error("service time of one request must be positive and finite, not {0} ms")]
    ServiceTime(f64),
    /// The batch limit is zero or above [`MAX_BATCH`].
    #[error("batch limit must be in [1, {max}], not {0}", max = MAX_BATCH)]
    Batch(u32),
    /// The queue length is above [`MAX_QUEUE`].
    #[error("queue length must be at most {max}, not {0}", max = MAX_QUEUE)]
    QueueLength(u32),
    /// A rate is zero, negative, NaN or infinite.
    #[error("request rate must be positive and finite, not {0} per ms")]
    Rate(f64),
    /// A rate is above the service limit of the replica.
    #[error("request rate {rate_per_ms} per ms is above the limit {max_per_ms} per ms")]
    RateAboveLimit {
        /// Rate asked for, requests/ms.
        rate_per_ms: f64,
        /// Upper end of the range, requests/ms.
        max_per_ms: f64,
    },
    /// The rate of a whole load is negative, NaN or infinite.
    #[error("request rate of the load must be finite and not negative, not {0} per s")]
    Load(f64),
    /// The cost of a replica is negative, NaN or infinite.
    #[error("cost of one replica must be finite and not negative, not {0}")]
    Cost(f64),
    /// A target is negative, NaN or infinite.
    #[error("target {name} must be finite and not negative, not {value}")]
    Target {
        /// `ttft`, `itl` or `tps`.
        name: &'static str,
        /// Its value.
        value: f64,
    },
}

/// Steady state of one replica at one arrival rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Rate of completed requests `X = L (1 - p(K))`, requests/ms.
    pub throughput_per_ms: f64,
    /// Mean time from arrival to completion `T = Ls / X`, ms.
    pub response_ms: f64,
    /// Mean time in service `S = B / X`, ms.
    pub service_ms: f64,
    /// Mean time in the queue `W = T - S`, ms; computed without the subtraction.
    pub wait_ms: f64,
    /// Mean time of one decode step, ms.
    pub itl_ms: f64,
    /// Mean time of the prefill, ms; 0 without input tokens and in generation A.
    pub prefill_ms: f64,
    /// Time to first token, ms: wait and prefill, in generation C with the first decode step.
    pub ttft_ms: f64,
    /// Mean number of requests in the system `Ls`.
    pub in_system: f64,
    /// Mean number of requests in service `B`, in `[0, N]`.
    pub in_service: f64,
    /// Share of the batch in use, `B / N`, in `[0, 1]`.
    pub occupancy_ratio: f64,
    /// Probability that at least one request is present, `1 - p(0)`, in `[0, 1]`.
    pub busy_ratio: f64,
    /// Utilisation as the generation reports it: busy ratio in A, occupancy in B and C.
    pub rho: f64,
}

/// One replica under a load shape: service times, batch limit, queue length. Cheap to build and copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Queue {
    service: ServiceTimes,
    batch: u32,
    queue_length: u32,
    min_per_ms: f64,
    max_per_ms: f64,
}

impl Queue {
    /// A queue with `batch` requests in service and `queue_length` more waiting at most.
    ///
    /// Errors when the batch limit or the queue length is out of range, or the range of rates that
    /// follows from the service times is not representable.
    pub fn new(service: ServiceTimes, batch: u32, queue_length: u32) -> Result<Self, QueueError> {
        if batch == 0 || batch > MAX_BATCH {
            return Err(QueueError::Batch(batch));
        }
        if queue_length > MAX_QUEUE {
            return Err(QueueError::QueueLength(queue_length));
        }
        let min_per_ms = RANGE_LOW / service.service_ms(1.0);
        let max_per_ms = RANGE_HIGH * f64::from(batch) / service.service_ms(f64::from(batch));
        if !(min_per_ms.is_normal() && max_per_ms.is_normal()) {
            return Err(QueueError::ServiceTime(service.service_ms(f64::from(batch))));
        }
        Ok(Queue { service, batch, queue_length, min_per_ms, max_per_ms })
    }

    /// Service times of the requests.
    pub fn service(&self) -> &ServiceTimes {
        &self.service
    }

    /// Batch limit `N`.
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// Lower end of the rate range, `0.001 mu(1)`, requests/ms: the lightest load at which a target is
    /// tested.
    pub fn min_rate_per_ms(&self) -> f64 {
        self.min_per_ms
    }

    /// Upper end of the rate range, `0.999 mu(N)`, requests/ms: the most that a replica is given.
    pub fn max_rate_per_ms(&self) -> f64 {
        self.max_per_ms
    }

    /// Whether `rate_per_ms` is positive and within the service limit.
    pub fn check_rate(&self, rate_per_ms: f64) -> Result<(), QueueError> {
        if !(rate_per_ms > 0.0 && rate_per_ms.is_finite()) {
            return Err(QueueError::Rate(rate_per_ms));
        }
        if rate_per_ms > self.max_per_ms {
            return Err(QueueError::RateAboveLimit { rate_per_ms, max_per_ms: self.max_per_ms });
        }
        Ok(())
    }

    /// Steady state at `rate_per_ms` requests/ms, which may be above the service limit (requests that
    /// find the queue full are then lost). Errors when the rate is not positive and finite.
    pub fn metrics_at(&self, rate_per_ms: f64) -> Result<Metrics, QueueError> {
        if !(rate_per_ms > 0.0 && rate_per_ms.is_finite()) {
            return Err(QueueError::Rate(rate_per_ms));
        }
        Ok(self.metrics_from(&self.moments(rate_per_ms)))
    }

    fn moments(&self, rate_per_ms: f64) -> Moments {
        let service = &self.service;
        Moments::at(service.base_ms(), service.slope_ms(), self.batch, self.queue_length, rate_per_ms)
    }

    /// Latency of a request that is alone, which also is the limit of low load.
    fn lone_request(&self) -> service::Latency {
        self.service.latency(self.service.service_ms(1.0), 0.0, self.batch)
    }

    /// Turns the moments of the chain into metrics.
    fn metrics_from(&self, at: &Moments) -> Metrics {
        let latency = self.service.latency(at.service_ms, at.in_service, self.batch);
        let occupancy_ratio = (at.in_service / f64::from(self.batch)).clamp(0.0, 1.0);
        Metrics {
            throughput_per_ms: at.throughput_per_ms,
            response_ms: at.service_ms + at.wait_ms,
            service_ms: at.service_ms,
            wait_ms: at.wait_ms,
            itl_ms: latency.itl_ms,
            prefill_ms: latency.prefill_ms,
            ttft_ms: at.wait_ms + latency.first_token_ms,
            in_system: at.in_service + at.waiting,
            in_service: at.in_service,
            occupancy_ratio,
            busy_ratio: at.busy_ratio,
            rho: if self.service.rho_is_busy_ratio() { at.busy_ratio } else { occupancy_ratio },
        }
    }
}

#[cfg(test)]
mod tests;
