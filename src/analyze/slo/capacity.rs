//! How many requests per second one replica carries within its targets.
//!
//! A request with `P` prompt tokens to compute and `G` generated ones asks for
//! `S = c P + b G + d G (P + G/2)` of engine time besides the base time `a` of every iteration. At
//! `lambda` requests per second the share `lambda S` of the time is work, the rest is left for bases, so
//! the mean iteration takes `T = a / (1 - lambda S)`, and by Little's law `lambda G T` requests decode.

use super::fit::Coefficients;
use super::ttft::TtftCorrection;

/// Share of the KV cache and of the sequences that the load and its fluctuations may fill.
const ROOM_SHARE: f64 = 0.95;
/// Largest share of the engine's time that is work: beyond it any burst becomes a queue.
const WORK_MAX: f64 = 0.92;
/// Halvings of the interval in which the capacity lies: down to one part in 67 million.
const STEPS: u32 = 26;

/// An average request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Prompt tokens that are computed: without those found in the prefix cache.
    pub computed: f64,
    /// Prompt tokens in all.
    pub prompt: f64,
    /// Generated tokens.
    pub output: f64,
    /// Squared coefficient of variation of the prompt tokens.
    pub prompt_cv2: f64,
    /// Squared coefficient of variation of the generated tokens.
    pub output_cv2: f64,
}

/// The share of the requests that are to meet the targets, as what it means for two laws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Standard deviations over the mean below which that share of a normal law lies.
    sigmas: f64,
    /// Multiple of the mean below which that share of an exponential law lies.
    means: f64,
}

impl Wanted {
    /// Of a share of at least one half and below 1. The normal quantile is within 0.0005 (Abramowitz and Stegun, 26.2.23).
    pub fn of(share: f64) -> Self {
        let beyond = (1.0 - share).clamp(1e-6, 0.5);
        let t = (-2.0 * beyond.ln()).sqrt();
        let over = 2.515517 + t * (0.802853 + t * 0.010328);
        let under = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
        Wanted { sigmas: t - over / under, means: -beyond.ln() }
    }
}

/// Limits of one replica and the targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Share of the requests that are to meet the targets.
    pub wanted: Wanted,
    /// What measured times to first token say of the computed ones.
    pub ttft: TtftCorrection,
    /// Target of the time to first token, ms; 0 for none.
    pub ttft_ms: f64,
    /// Target of the time per output token, ms; 0 for none.
    pub itl_ms: f64,
    /// KV cache, tokens; 0 when not known.
    pub kv_tokens: f64,
    /// Most sequences that run together; 0 when not known.
    pub max_seqs: f64,
}

/// Which limit binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Time to first token.
    Ttft,
    /// Time per output token.
    Itl,
    /// KV cache.
    Kv,
    /// Sequences that run together.
    Sequences,
    /// The engine's time.
    Work,
}

/// Capacity of one replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Requests per second.
    pub rate_per_s: f64,
    /// What binds at that rate.
    pub binding: Binding,
    /// Time that a request spends in the engine at that rate, s.
    pub residence_s: f64,
    /// Time of the engine that an average request asks for, ms.
    pub work_ms: f64,
}

/// Largest rate within all limits; `None` when not even an idle replica meets the targets.
pub fn capacity(time: &Coefficients, shape: &Shape, limits: &Limits) -> Option<Capacity> {
    let work_s = work_ms(time, shape) / 1000.0;
    if !(work_s > 0.0 && work_s.is_finite()) {
        return None;
    }
    violated(time, shape, limits, 0.0).is_none().then_some(())?;
    let (mut low, mut high) = (0.0, WORK_MAX / work_s);
    let mut binding = Binding::Work;
    if violated(time, shape, limits, high).is_none() {
        low = high;
    }
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        match violated(time, shape, limits, middle) {
            Some(limit) => (high, binding) = (middle, limit),
            None => low = middle,
        }
    }
    let residence_s = residence_ms(time, shape, low) / 1000.0;
    (low > 0.0).then_some(Capacity { rate_per_s: low, binding, residence_s, work_ms: work_s * 1000.0 })
}

fn work_ms(time: &Coefficients, shape: &Shape) -> f64 {
    time.c * shape.computed
        + time.b * shape.output
        + time.d * shape.output * (shape.prompt + shape.output / 2.0)
}

fn iteration_ms(time: &Coefficients, shape: &Shape, rate_per_s: f64) -> f64 {
    time.a / (1.0 - rate_per_s * work_ms(time, shape) / 1000.0).max(1e-6)
}

fn residence_ms(time: &Coefficients, shape: &Shape, rate_per_s: f64) -> f64 {
    shape.output * iteration_ms(time, shape, rate_per_s) + time.c * shape.computed
}

/// The limit that `rate_per_s` breaks first, if any.
fn violated(time: &Coefficients, shape: &Shape, limits: &Limits, rate_per_s: f64) -> Option<Binding> {
    if limits.itl_ms > 0.0
        && shape.output > 1.5
        && itl_ms(time, shape, rate_per_s, limits.wanted) > limits.itl_ms
    {
        return Some(Binding::Itl);
    }
    // Requests inside are about Poisson, and so are their tokens with the spread of their lengths.
    let inside = rate_per_s * residence_ms(time, shape, rate_per_s) / 1000.0;
    let sigmas = limits.wanted.sigmas;
    if limits.max_seqs > 0.0 && inside + sigmas * inside.sqrt() > ROOM_SHARE * limits.max_seqs {
        return Some(Binding::Sequences);
    }
    // A request that generates long stays long, so what is seen inside is longer than what arrives.
    let held = shape.prompt + shape.output * (1.0 + shape.output_cv2) / 2.0;
    let spread = (inside * (1.0 + shape.prompt_cv2)).sqrt();
    if limits.kv_tokens > 0.0 && (inside + sigmas * spread) * held > ROOM_SHARE * limits.kv_tokens {
        return Some(Binding::Kv);
    }
    let is_late = || {
        let computed_ms = Ttft::at(time, shape, rate_per_s).within_ms(shape, limits.wanted);
        limits.ttft.apply(computed_ms) > limits.ttft_ms
    };
    (limits.ttft_ms > 0.0 && is_late()).then_some(Binding::Ttft)
}

/// The mean time per output token that the wanted share of requests stay within: the mean iteration, and what the prompts that
/// happen to be computed during its life and the requests that happen to decode beside it add. The prompts are a
/// compound Poisson process, so over a life of `L` their work has the standard deviation
/// `c P sqrt(lambda L (1 + cv^2))`; those beside it are about Poisson in number.
fn itl_ms(time: &Coefficients, shape: &Shape, rate_per_s: f64, wanted: Wanted) -> f64 {
    let mean_ms = iteration_ms(time, shape, rate_per_s);
    let life_ms = (shape.output * mean_ms).max(1.0);
    let work_ms = time.c * shape.computed;
    let deviation = work_ms * (rate_per_s / 1000.0 * (1.0 + shape.prompt_cv2) / life_ms).sqrt();
    let inside = (rate_per_s * life_ms / 1000.0).max(1.0);
    let crowd = (1.0 - time.a / mean_ms).max(0.0) / inside.sqrt();
    // Neither is so large or small that its square would not do, and `hypot` takes ten times as long.
    mean_ms * (1.0 + wanted.sigmas * (deviation * deviation + crowd * crowd).sqrt())
}

/// Time to first token: the prompts ahead form a queue with one server, whose speed is what decoding leaves
/// (Pollaczek-Khinchine for the mean wait, taken as exponential), then the own prompt at the mean pace.
#[derive(Clone, Copy, Debug)]
pub struct Ttft {
    iteration_ms: f64,
    service_ms: f64,
    wait_ms: f64,
}

impl Ttft {
    /// At `rate_per_s` requests per replica.
    pub fn at(time: &Coefficients, shape: &Shape, rate_per_s: f64) -> Self {
        let decode_ms = work_ms(time, shape) - time.c * shape.computed;
        let left = (1.0 - rate_per_s * decode_ms / 1000.0).max(1e-6);
        let service_ms = (time.c * shape.computed + time.a.min(time.c * shape.computed)) / left;
        let busy = rate_per_s * service_ms / 1000.0;
        let wait_ms = match busy < 1.0 {
            true => busy * service_ms * (1.0 + shape.prompt_cv2) / (2.0 * (1.0 - busy)),
            false => f64::INFINITY,
        };
        Ttft { iteration_ms: iteration_ms(time, shape, rate_per_s), service_ms, wait_ms }
    }

    /// Mean, ms.
    pub fn mean_ms(&self) -> f64 {
        self.iteration_ms + self.service_ms + self.wait_ms
    }

    /// What the wanted share of requests stay within, ms.
    fn within_ms(&self, shape: &Shape, wanted: Wanted) -> f64 {
        let own_ms = self.service_ms * (1.0 + shape.prompt_cv2.sqrt());
        self.iteration_ms + own_ms.max(self.wait_ms * wanted.means) + self.service_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Coefficients = Coefficients { a: 16.5, b: 0.05, c: 0.075, d: 0.00013 };
    const SHAPE: Shape =
        Shape { computed: 500.0, prompt: 500.0, output: 200.0, prompt_cv2: 1.0, output_cv2: 1.0 };
    const LIMITS: Limits = Limits {
        wanted: Wanted { sigmas: 2.326, means: 4.605 },
        ttft: TtftCorrection::NONE,
        ttft_ms: 2000.0,
        itl_ms: 60.0,
        kv_tokens: 41_408.0,
        max_seqs: 256.0,
    };

    #[test]
    fn capacity_falls_with_tighter_targets_and_longer_requests() {
        let rate = |shape: &Shape, limits: &Limits| capacity(&TIME, shape, limits).unwrap().rate_per_s;
        let base = rate(&SHAPE, &LIMITS);
        assert!(base > 0.0);
        assert!(rate(&SHAPE, &Limits { itl_ms: 30.0, ..LIMITS }) < base);
        assert!(rate(&SHAPE, &Limits { ttft_ms: 300.0, ..LIMITS }) <= base);
        assert!(rate(&Shape { output: 400.0, ..SHAPE }, &LIMITS) < base);
        assert!(rate(&Shape { computed: 250.0, ..SHAPE }, &LIMITS) > base);
    }

    #[test]
    fn capacity_falls_with_the_share_that_is_wanted_and_with_slow_first_tokens() {
        let rate = |limits: &Limits| capacity(&TIME, &SHAPE, limits).unwrap().rate_per_s;
        let base = rate(&LIMITS);
        assert!(rate(&Limits { wanted: Wanted::of(0.999), ..LIMITS }) < base);
        assert!(rate(&Limits { wanted: Wanted::of(0.9), ..LIMITS }) > base);
        let tight = Limits { ttft_ms: 300.0, itl_ms: 0.0, ..LIMITS };
        let late = TtftCorrection { offset_ms: 100.0, factor: 1.0 };
        assert!(rate(&Limits { ttft: late, ..tight }) < rate(&tight));
    }

    #[test]
    fn quantiles_are_those_of_tables() {
        for (share, sigmas, means) in [(0.5, 0.0, 0.693), (0.9, 1.2816, 2.303), (0.99, 2.3263, 4.605)] {
            let wanted = Wanted::of(share);
            assert!(
                (wanted.sigmas - sigmas).abs() < 1e-3 && (wanted.means - means).abs() < 1e-3,
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn a_small_cache_binds_long_generations() {
        let long = Shape { output: 2000.0, ..SHAPE };
        assert_eq!(capacity(&TIME, &long, &LIMITS).unwrap().binding, Binding::Kv);
    }

    #[test]
    fn an_unreachable_target_has_no_capacity() {
        assert_eq!(capacity(&TIME, &SHAPE, &Limits { itl_ms: 10.0, ..LIMITS }), None);
        assert_eq!(capacity(&TIME, &Shape { computed: f64::NAN, ..SHAPE }, &LIMITS), None);
    }
}
