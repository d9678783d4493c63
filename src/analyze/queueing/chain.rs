//! The stationary distribution of the chain, reduced to its moments and their derivatives in the
//! logarithm of the rate. Input: affine service time, batch limit, queue length, rate. Knows nothing of
//! tokens or targets.
//!
//! With weights `w(n)` and `p(n) = w(n)/Z`, the derivative of a mean `E[f]` in `ln L` is the covariance
//! of `f` and `n`, because `w(n)` is proportional to `L^n`.

/// Weights below this share of the peak no longer count in a sum of positive terms.
const NEGLIGIBLE: f64 = 1e-22;
/// `-ln` of about that share.
const NEGLIGIBLE_LOG: f64 = 50.0;
/// Weights are dropped before they become subnormal, which would be slow.
const VANISHING: f64 = 1e-290;

/// Moments of the chain at one rate. Derivatives (`*_slope`) are with respect to `ln L`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moments {
    /// Throughput `X`, requests/ms.
    pub(super) throughput_per_ms: f64,
    /// Mean number in service `B`.
    pub(super) in_service: f64,
    /// Mean number waiting.
    pub(super) waiting: f64,
    /// `1 - p(0)`.
    pub(super) busy_ratio: f64,
    /// Mean time in service `S`, ms.
    pub(super) service_ms: f64,
    /// Mean wait `W`, ms.
    pub(super) wait_ms: f64,
    /// Derivative of `B`.
    pub(super) in_service_slope: f64,
    /// Derivative of `S`, ms.
    pub(super) service_slope: f64,
    /// Derivative of `W`, ms.
    pub(super) wait_slope: f64,
    /// Derivative of `ln X`.
    throughput_growth: f64,
}

impl Moments {
    /// Moments for service time `base_ms + slope_ms n`, batch limit `batch >= 1`, queue length
    /// `queue_length` and a positive finite rate. The caller has checked the ranges.
    pub(super) fn at(base_ms: f64, slope_ms: f64, batch: u32, queue_length: u32, rate_per_ms: f64) -> Self {
        let chain = Chain { slope: rate_per_ms * slope_ms, base: rate_per_ms * base_ms };
        let limit = f64::from(batch);
        let sums = Sums::of(&chain, limit, queue_length);
        let Sums { origin, served_one, served_two, tail_zero, tail_one, tail_two, .. } = sums;
        let depth = limit - origin;
        let total = sums.at_origin + sums.beside_origin + tail_zero;

        // Offsets from the origin: of min(n, N), of n, and of n above N.
        let served = (served_one + depth * tail_zero) / total;
        let waiting = tail_one / total;
        let number = served + waiting;
        let in_service = origin + served;
        // Up to N the arrivals of a state balance the departures of the next; above, mu(N) leaves.
        let limit_per_ms = limit / (base_ms + slope_ms * limit);
        let throughput_per_ms = (rate_per_ms * sums.below_limit + limit_per_ms * tail_zero) / total;

        let in_service_slope =
            (served_two + depth * (depth * tail_zero + tail_one)) / total - served * number;
        let waiting_slope = (depth * tail_one + tail_two) / total - waiting * number;
        let states_above_origin = depth + f64::from(queue_length);
        let lost_ratio = sums.full / total;
        let throughput_growth =
            1.0 - lost_ratio * (states_above_origin - number) * rate_per_ms / throughput_per_ms;

        let (service_ms, service_slope) = match (slope_ms == 0.0, batch) {
            (true, _) => (base_ms, 0.0),
            (false, 1) => (base_ms + slope_ms, 0.0),
            (false, _) => {
                let service_ms = in_service / throughput_per_ms;
                (service_ms, service_ms * (in_service_slope / in_service - throughput_growth))
            }
        };
        let wait_ms = waiting / throughput_per_ms;
        Moments {
            throughput_per_ms,
            in_service,
            waiting,
            busy_ratio: if origin == 0.0 {
                (total - sums.at_origin) / total
            } else {
                1.0 - sums.empty / total
            },
            service_ms,
            wait_ms,
            in_service_slope,
            service_slope,
            wait_slope: waiting_slope / throughput_per_ms - wait_ms * throughput_growth,
            throughput_growth,
        }
    }

    /// Moments a small `step` in `ln L` away, to first order: the wait and the throughput in their
    /// logarithms, whose curvature is far smaller, the others as they are.
    pub(super) fn nearby(&self, step: f64) -> Moments {
        let wait_growth = if self.wait_ms > 0.0 { self.wait_slope / self.wait_ms } else { 0.0 };
        let throughput_per_ms = self.throughput_per_ms * (1.0 + self.throughput_growth * step);
        let wait_ms = self.wait_ms * (wait_growth * step).exp();
        let in_system = self.in_service + self.waiting;
        Moments {
            throughput_per_ms,
            wait_ms,
            waiting: wait_ms * throughput_per_ms,
            in_service: self.in_service + self.in_service_slope * step,
            service_ms: self.service_ms + self.service_slope * step,
            // The probability of the empty state falls by the mean number in the system.
            busy_ratio: self.busy_ratio + (1.0 - self.busy_ratio) * in_system * step,
            ..*self
        }
    }
}

/// Ratios of successive weights, `w(n)/w(n-1) = L / m(n) = slope + base / n` for `n <= N`.
struct Chain {
    /// `L b`.
    slope: f64,
    /// `L a`.
    base: f64,
}

/// Sums over the weights, scaled so that the weight of the origin, or in overload of the full state, is 1.
struct Sums {
    /// State from which others are counted.
    origin: f64,
    /// Weight of the origin.
    at_origin: f64,
    /// Sum of the other weights in `0..=N`.
    beside_origin: f64,
    /// Sum of the weights below `N`.
    below_limit: f64,
    /// Sum of `(n - origin) w(n)` over `0..=N`.
    served_one: f64,
    /// Sum of `(n - origin)^2 w(n)` over `0..=N`.
    served_two: f64,
    /// Weight of the empty state, 0 when negligible.
    empty: f64,
    /// Weight of the full state `K`.
    full: f64,
    /// Sum of `w(N + j)` over `j = 1..=Q`.
    tail_zero: f64,
    /// Sum of `j w(N + j)`.
    tail_one: f64,
    /// Sum of `j^2 w(N + j)`.
    tail_two: f64,
}

impl Sums {
    fn of(chain: &Chain, limit: f64, queue_length: u32) -> Sums {
        let load_ratio = chain.ratio(limit);
        let overload = load_ratio > 1.0;
        let origin = if overload { limit } else { chain.first(limit) };
        let (below, above) = match overload {
            true => (chain.sum_down(limit), Side::EMPTY),
            false => (Side::none_from(origin), chain.sum_up(origin as u32, limit as u32)),
        };
        let length = f64::from(queue_length);
        // Scale of 0..=N, weight of the full state, and the tail's sums over j = 1..=Q.
        let (scale, full, zero, one, two);
        if !overload {
            let up = Geometric::sums(load_ratio, queue_length);
            let first = above.last * load_ratio;
            scale = 1.0;
            full = above.last * up.next;
            (zero, one, two) =
                (first * up.zero, first * (up.one + up.zero), first * (up.two + 2.0 * up.one + up.zero));
        } else {
            // Overload: weights grow up to the full state, which gets weight 1; count downwards from it.
            let down = Geometric::sums(1.0 / load_ratio, queue_length);
            scale = down.next;
            full = 1.0;
            zero = down.zero;
            one = length * down.zero - down.one;
            two = length * (length * down.zero - 2.0 * down.one) + down.two;
        }
        let beside_origin = scale * (below.zero + above.zero);
        let below_limit =
            if origin < limit { beside_origin + scale * (1.0 - above.last) } else { beside_origin };
        Sums {
            origin,
            at_origin: scale,
            beside_origin,
            below_limit,
            served_one: scale * (above.one - below.one),
            served_two: scale * (above.two + below.two),
            empty: scale * below.last,
            full,
            tail_zero: zero,
            tail_one: one,
            tail_two: two,
        }
    }
}

/// Sums over the states on one side of the origin, the origin itself (weight 1) left out.
struct Side {
    /// Sum of the weights.
    zero: f64,
    /// Sum of weight times distance from the origin.
    one: f64,
    /// Sum of weight times squared distance.
    two: f64,
    /// Weight of the last state of the side (the origin's when there is no other); 0 when negligible.
    last: f64,
}

impl Side {
    const EMPTY: Side = Side { zero: 0.0, one: 0.0, two: 0.0, last: 1.0 };

    /// The lower side when nothing below the origin counts.
    fn none_from(origin: f64) -> Side {
        Side { last: if origin == 0.0 { 1.0 } else { 0.0 }, ..Side::EMPTY }
    }

    /// Adds four states at distances `distance + 1..=distance + 4`, given the ratios of their weights.
    #[inline(always)]
    fn add_four(&mut self, distance: f64, ratios: [f64; 4]) {
        let two = ratios[0] * ratios[1];
        let four = two * (ratios[2] * ratios[3]);
        let weights =
            [self.last * ratios[0], self.last * two, self.last * (two * ratios[2]), self.last * four];
        let first = weights[0] + weights[1] + weights[2] + weights[3];
        let second = (weights[0] + 3.0 * weights[2]) + (2.0 * weights[1] + 4.0 * weights[3]);
        let third = (weights[0] + 9.0 * weights[2]) + (4.0 * weights[1] + 16.0 * weights[3]);
        self.zero += first;
        self.one += distance * first + second;
        self.two += distance * (distance * first + 2.0 * second) + third;
        self.last = weights[3];
    }

    /// Adds one state at `distance`.
    #[inline(always)]
    fn add_one(&mut self, distance: f64, ratio: f64) {
        self.last *= ratio;
        self.zero += self.last;
        self.one += distance * self.last;
        self.two += distance * distance * self.last;
    }
}

impl Chain {
    /// `w(n)/w(n-1)` for `1 <= n <= N`.
    #[inline(always)]
    fn ratio(&self, n: f64) -> f64 {
        self.slope + self.base / n
    }

    /// `w(n-1)/w(n)` for `1 <= n <= N`.
    #[inline(always)]
    fn ratio_down(&self, n: f64) -> f64 {
        n / (self.slope * n + self.base)
    }

    /// The first state that counts, for a load ratio of at most 1. With the peak at `m = q/(1 - z)`
    /// (`q`, `z` base and slope of the ratio, `m` at most `N`) the ratio `i` states below it is at least
    /// `1 + (1 - z) i/(m - i)`, whose logarithm is at least `(1 - z) i/m`; so `d` states below the peak the
    /// weight has fallen by more than `exp(-(1 - z) d^2/(2 m))`.
    fn first(&self, limit: f64) -> f64 {
        let rest = 1.0 - self.slope;
        let peak = (self.base / rest).min(limit);
        let distance = (2.0 * NEGLIGIBLE_LOG * peak / rest).sqrt();
        (peak - distance - 1.0).max(0.0).floor()
    }

    /// States above `origin` up to `limit`. All count: what waits hangs on the last weight.
    fn sum_up(&self, origin: u32, limit: u32) -> Side {
        let mut side = Side::EMPTY;
        let mut n = origin as usize;
        let mut distance = 0.0;
        let limit = limit as usize;
        while n + 4 <= limit {
            let inverses = inverses(n);
            side.add_four(distance, inverses.map(|inverse| self.slope + self.base * inverse));
            n += 4;
            distance += 4.0;
            if side.last < VANISHING {
                return Side { last: 0.0, ..side };
            }
        }
        while n < limit {
            n += 1;
            distance += 1.0;
            side.add_one(distance, self.ratio(n as f64));
        }
        side
    }

    /// States below the origin, until they no longer count.
    fn sum_down(&self, origin: f64) -> Side {
        let mut side = Side::EMPTY;
        let mut n = origin;
        while n >= 4.0 {
            side.add_four(
                origin - n,
                [
                    self.ratio_down(n),
                    self.ratio_down(n - 1.0),
                    self.ratio_down(n - 2.0),
                    self.ratio_down(n - 3.0),
                ],
            );
            n -= 4.0;
            if side.last < NEGLIGIBLE {
                return Side { last: 0.0, ..side };
            }
        }
        while n > 0.0 {
            side.add_one(origin - n + 1.0, self.ratio_down(n));
            n -= 1.0;
        }
        side
    }
}

/// Entries of [`INVERSES`].
const INVERSE_COUNT: usize = 1025;

/// `1/n`, because a multiplication is several times cheaper than a division; entry 0 is not used.
static INVERSES: [f64; INVERSE_COUNT] = {
    let mut table = [0.0; INVERSE_COUNT];
    let mut n = 1;
    while n < INVERSE_COUNT {
        table[n] = 1.0 / n as f64;
        n += 1;
    }
    table
};

/// `1/n` for the four numbers after `n`.
#[inline(always)]
fn inverses(n: usize) -> [f64; 4] {
    match INVERSES.get(n + 1..n + 5) {
        Some(&[a, b, c, d]) => [a, b, c, d],
        _ => [1.0, 2.0, 3.0, 4.0].map(|ahead| 1.0 / (n as f64 + ahead)),
    }
}

/// Sums over a geometric sequence `r^j`, `j = 0..m`.
struct Geometric {
    /// Sum of `r^j`.
    zero: f64,
    /// Sum of `j r^j`.
    one: f64,
    /// Sum of `j^2 r^j`.
    two: f64,
    /// `r^m`.
    next: f64,
}

impl Geometric {
    /// Sums of `terms` terms for `0 <= ratio <= 1`, by doubling: the second half of `2m` terms is the
    /// first, times `r^m` and shifted by `m`. Only positive numbers are added, so nothing cancels,
    /// whether the ratio is near 1 or not.
    fn sums(ratio: f64, terms: u32) -> Geometric {
        let mut all = Geometric { zero: 0.0, one: 0.0, two: 0.0, next: 1.0 };
        let mut count = 0.0;
        for bit in (0..u32::BITS - terms.leading_zeros()).rev() {
            let Geometric { zero, one, two, next } = all;
            all.zero += next * zero;
            all.one += next * (one + count * zero);
            all.two += next * (two + count * (2.0 * one + count * zero));
            all.next = next * next;
            count *= 2.0;
            if terms >> bit & 1 == 1 {
                all.zero += all.next;
                all.one += count * all.next;
                all.two += count * count * all.next;
                all.next *= ratio;
                count += 1.0;
            }
            if all.next < VANISHING {
                return Geometric { next: 0.0, ..all };
            }
        }
        all
    }
}
