//! Service times of the three generations of the performance model, and how a mean service time is
//! split into prefill and decode step. All are affine in the number of requests served together.

use super::QueueError;
use crate::config::PerfParms;

/// Average tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Prompt tokens, >= 0; 0 means decode only. Not used by generation A.
    pub input: f64,
    /// Generated tokens, > 0; the tokens per request of generation A.
    pub output: f64,
}

/// How generation B treats requests without prefill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revision {
    /// As published in v0.0.1: `out - 1` decode steps always, `gamma` counted as prefill even without
    /// input tokens when a service time is split.
    V0_0_1,
    /// As published from v0.4.1: as before, but a request of no input and one output token takes one
    /// decode step.
    V0_4_1,
    /// At least one decode step without input tokens (for whole tokens as v0.4.1), and the split undoes
    /// exactly what made up the service time.
    #[default]
    Corrected,
}

/// Service times of one kind of request, `service(n) = base + slope n` ms.
///
/// | generation | prefill(n) | decode(n) | service(n) |
/// | --- | --- | --- | --- |
/// | A | none | `alpha + beta n` | `out decode(n)` |
/// | B | `gamma + delta in n`, 0 if `in = 0` | `alpha + beta n` | `prefill(n) + (out - 1) decode(n)` |
/// | C | `T(n) + (beta + gamma) in`, 0 if `in = 0` | `T(n) + beta + gamma (in + out/2)` | `prefill(n) + out decode(n)` |
///
/// with `T(n) = alpha + n (beta (in + out)/(out + 1) + gamma (in + out/2))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceTimes {
    /// Service time: base and slope per request served together, ms.
    service: Line,
    /// Prefill time, ms.
    prefill: Line,
    /// Time of one decode step, ms.
    decode: Line,
    split: Split,
}

/// How a mean service time becomes a prefill and a decode step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    /// Generation A: decode step = service time / tokens.
    PerToken { tokens: f64 },
    /// Generation B: both at the concurrency `e = (S - base) / slope`.
    Concurrency { base_ms: f64, slope_ms: f64, exact: bool },
    /// Generation C: prefill at the mean number in service, the rest over the tokens.
    Remainder { tokens: f64 },
}

/// A straight line in the number of requests served together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    base: f64,
    slope: f64,
}

impl Line {
    const ZERO: Line = Line { base: 0.0, slope: 0.0 };

    fn at(self, n: f64) -> f64 {
        self.base + self.slope * n
    }
}

/// Prefill and decode step that follow from a mean service time, ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Latency {
    /// Prefill time.
    pub(super) prefill_ms: f64,
    /// One decode step.
    pub(super) itl_ms: f64,
    /// Time to first token without the wait.
    pub(super) first_token_ms: f64,
}

impl ServiceTimes {
    /// Service times for a profile and token counts; generation B as [`Revision::Corrected`].
    ///
    /// Errors when a parameter or token count is negative or not finite, when there are no output
    /// tokens, or when the service time comes out as 0 (no profile) or not finite.
    pub fn new(parms: &PerfParms, tokens: Tokens) -> Result<Self, QueueError> {
        ServiceTimes::with_revision(parms, tokens, Revision::default())
    }

    /// As [`ServiceTimes::new`], with a stated revision of generation B.
    pub fn with_revision(parms: &PerfParms, tokens: Tokens, revision: Revision) -> Result<Self, QueueError> {
        check_tokens(tokens)?;
        let times = match *parms {
            PerfParms::Decode { alpha, beta } => {
                check_parms(&[("alpha", alpha), ("beta", beta)])?;
                decode_only(alpha, beta, tokens.output)
            }
            PerfParms::DecodePrefill { alpha, beta, gamma, delta } => {
                check_parms(&[("alpha", alpha), ("beta", beta), ("gamma", gamma), ("delta", delta)])?;
                let decode = Line { base: alpha, slope: beta };
                decode_prefill(decode, Line { base: gamma, slope: delta * tokens.input }, tokens, revision)
            }
            PerfParms::Iteration { alpha, beta, gamma } => {
                check_parms(&[("alpha", alpha), ("beta", beta), ("gamma", gamma)])?;
                iteration(alpha, beta, gamma, tokens)
            }
        };
        let one_ms = times.service_ms(1.0);
        if one_ms.is_normal() && one_ms > 0.0 { Ok(times) } else { Err(QueueError::ServiceTime(one_ms)) }
    }

    /// Time to serve one request when `n` are served together, ms.
    pub fn service_ms(&self, n: f64) -> f64 {
        self.service.at(n)
    }

    /// Time of the prefill when `n` are served together, ms.
    pub fn prefill_ms(&self, n: f64) -> f64 {
        self.prefill.at(n)
    }

    /// Time of one decode step when `n` are served together, ms.
    pub fn decode_ms(&self, n: f64) -> f64 {
        self.decode.at(n)
    }

    /// Base `a` of the service time, ms.
    pub fn base_ms(&self) -> f64 {
        self.service.base
    }

    /// Growth `b` of the service time per request served together, ms.
    pub fn slope_ms(&self) -> f64 {
        self.service.slope
    }

    /// Base and slope of the decode step in the effective concurrency `e`, ms. In generation C an
    /// approximation that sets the mean number in service to `e - 1`, as without a batch limit.
    pub(super) fn decode_line(&self) -> (f64, f64) {
        let offset = match self.split {
            Split::Remainder { tokens } => self.prefill.slope / tokens,
            _ => 0.0,
        };
        (self.decode.base + offset, self.decode.slope)
    }

    /// Base and slope of the time to first token without the wait, as [`ServiceTimes::decode_line`].
    pub(super) fn first_token_line(&self) -> (f64, f64) {
        let (decode_base, decode_slope) = self.decode_line();
        let Line { base, slope } = self.prefill;
        match self.split {
            Split::PerToken { .. } => (0.0, 0.0),
            Split::Concurrency { .. } => (base, slope),
            Split::Remainder { .. } => (base - slope + decode_base, slope + decode_slope),
        }
    }

    /// Whether the generation reports the busy ratio as its utilisation.
    pub(super) fn rho_is_busy_ratio(&self) -> bool {
        matches!(self.split, Split::PerToken { .. })
    }

    /// Splits the mean service time at a mean number in service, with batch limit `batch`. A decode step
    /// that cannot depend on the load comes out exact, without rounding from the mean.
    pub(super) fn latency(&self, service_ms: f64, in_service: f64, batch: u32) -> Latency {
        match self.split {
            Split::PerToken { tokens } => {
                let itl_ms = match (self.service.slope == 0.0, batch) {
                    (true, _) => self.decode.base,
                    (false, 1) => self.decode.at(1.0),
                    (false, _) => service_ms / tokens,
                };
                Latency { prefill_ms: 0.0, itl_ms, first_token_ms: 0.0 }
            }
            Split::Concurrency { .. } => {
                let together = self.concurrency(service_ms, in_service, batch);
                let prefill_ms = self.prefill.at(together);
                Latency { prefill_ms, itl_ms: self.decode.at(together), first_token_ms: prefill_ms }
            }
            Split::Remainder { tokens } => {
                let prefill_ms = self.prefill.at(in_service);
                let flat = self.service.slope == 0.0;
                let itl_ms = if flat { self.decode.base } else { (service_ms - prefill_ms) / tokens };
                Latency { prefill_ms, itl_ms, first_token_ms: prefill_ms + itl_ms }
            }
        }
    }

    /// Derivative of [`ServiceTimes::latency`]'s decode step and time to first token, given the
    /// derivatives of the service time and of the number in service.
    pub(super) fn latency_slope(&self, service_slope: f64, in_service_slope: f64) -> (f64, f64) {
        match self.split {
            Split::PerToken { tokens } => (service_slope / tokens, 0.0),
            Split::Concurrency { slope_ms, .. } if slope_ms > 0.0 => {
                let together = service_slope / slope_ms;
                (self.decode.slope * together, self.prefill.slope * together)
            }
            Split::Concurrency { .. } => (self.decode.slope * in_service_slope, 0.0),
            Split::Remainder { tokens } => {
                let prefill = self.prefill.slope * in_service_slope;
                let itl = (service_slope - prefill) / tokens;
                (itl, prefill + itl)
            }
        }
    }

    /// Effective concurrency of generation B: the number served together at which the service time
    /// would be `service_ms`. Without any dependence on it, the mean number in service.
    fn concurrency(&self, service_ms: f64, in_service: f64, batch: u32) -> f64 {
        let Split::Concurrency { base_ms, slope_ms, exact } = self.split else { return in_service };
        let most = f64::from(batch);
        if exact && batch == 1 {
            return 1.0;
        }
        if slope_ms > 0.0 { ((service_ms - base_ms) / slope_ms).clamp(0.0, most) } else { in_service }
    }
}

fn check_tokens(tokens: Tokens) -> Result<(), QueueError> {
    for (name, value) in [("input", tokens.input), ("output", tokens.output)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(QueueError::Tokens { name, value });
        }
    }
    if tokens.output == 0.0 { Err(QueueError::NoOutput(tokens.output)) } else { Ok(()) }
}

fn check_parms(parms: &[(&'static str, f64)]) -> Result<(), QueueError> {
    for &(name, value) in parms {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(QueueError::Parameter { name, value });
        }
    }
    Ok(())
}

/// Generation A.
fn decode_only(alpha: f64, beta: f64, tokens: f64) -> ServiceTimes {
    ServiceTimes {
        service: Line { base: tokens * alpha, slope: tokens * beta },
        prefill: Line::ZERO,
        decode: Line { base: alpha, slope: beta },
        split: Split::PerToken { tokens },
    }
}

/// Generation B; `prefill` is the line of a request with input tokens.
fn decode_prefill(decode: Line, prefill: Line, tokens: Tokens, revision: Revision) -> ServiceTimes {
    let steps = (tokens.output - 1.0).max(0.0);
    let no_prefill = tokens.input == 0.0;
    let served = match revision {
        Revision::V0_4_1 if no_prefill && tokens.output == 1.0 => 1.0,
        Revision::Corrected if no_prefill => steps.max(1.0),
        _ => steps,
    };
    let actual = if no_prefill { Line::ZERO } else { prefill };
    let service =
        Line { base: actual.base + served * decode.base, slope: actual.slope + served * decode.slope };
    let split = match revision {
        Revision::Corrected => {
            Split::Concurrency { base_ms: service.base, slope_ms: service.slope, exact: true }
        }
        Revision::V0_0_1 | Revision::V0_4_1 => Split::Concurrency {
            base_ms: prefill.base + steps * decode.base,
            slope_ms: prefill.slope + steps * decode.slope,
            exact: false,
        },
    };
    ServiceTimes { service, prefill: actual, decode, split }
}

/// Generation C.
fn iteration(alpha: f64, beta: f64, gamma: f64, tokens: Tokens) -> ServiceTimes {
    let Tokens { input, output } = tokens;
    let resident = input + output / 2.0;
    let slope = beta * (input + output) / (output + 1.0) + gamma * resident;
    let prefill =
        if input == 0.0 { Line::ZERO } else { Line { base: alpha + (beta + gamma) * input, slope } };
    let decode = Line { base: alpha + beta + gamma * resident, slope };
    ServiceTimes {
        service: Line {
            base: prefill.base + output * decode.base,
            slope: prefill.slope + output * decode.slope,
        },
        prefill,
        decode,
        split: Split::Remainder { tokens: output },
    }
}
