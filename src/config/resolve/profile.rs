//! Performance profiles of a VariantAutoscaling, in every published form.
//!
//! Input: the `spec` of the object. Output: [`Profile`]s. Must not know service classes or costs.

use super::read::{Fields, Scope};
use super::value::{accelerator_count, not_negative, size};
use crate::config::{Kept, PerfParms, Profile};

const MODEL_PROFILE: &[&str] = &["accelerators"];
const ACCELERATOR: &[&str] = &[
    "acc",
    "accCount",
    "perfParms",
    "decodeParms",
    "prefillParms",
    "alpha",
    "beta",
    "gamma",
    "maxBatchSize",
    "atTokens",
];
const VARIANT_PROFILE: &[&str] = &["perfParms", "maxBatchSize", "atTokens"];
const PERF_PARMS: &[&str] = &["decodeParms", "prefillParms", "alpha", "beta", "gamma"];
const DECODE_PARMS: &[&str] = &["alpha", "beta", "gamma"];
const PREFILL_PARMS: &[&str] = &["gamma", "delta"];

const PARAMETER_FIX: &str = "write the measured time in milliseconds, a number of at least 0";
const BATCH_FIX: &str = "write the most requests that one replica runs together, or leave the field out";
const TOKENS_FIX: &str = "write the tokens per request at which the batch size holds, or leave the field out";
/// How to correct a count of accelerators.
pub(super) const COUNT_FIX: &str = "write the number of accelerators that one replica uses, at least 1";

/// Reads `modelProfile` and `variantProfile`; `accelerator` and `count` describe the latter.
pub(super) fn profiles(
    scope: &mut Scope<'_, '_>,
    spec: &Fields<'_>,
    accelerator: Option<&str>,
    count: Option<u32>,
) -> Vec<Profile> {
    let mut found = Vec::new();
    if let Some(profile) = scope.open_field(spec, "modelProfile", MODEL_PROFILE) {
        for (name, item) in scope.items(&profile, "accelerators", "acc", ACCELERATOR) {
            let acc_count = scope.read(&item, "accCount", accelerator_count, COUNT_FIX, Kept::Default);
            found.push(profile_of(scope, &item, &name, acc_count));
        }
    }
    if let Some(profile) = scope.open_field(spec, "variantProfile", VARIANT_PROFILE) {
        let name = accelerator.unwrap_or("unknown");
        if found.iter().all(|other| &*other.accelerator != name) {
            found.push(profile_of(scope, &profile, name, count));
        }
    }
    found
}

fn profile_of(scope: &mut Scope<'_, '_>, item: &Fields<'_>, name: &str, count: Option<u32>) -> Profile {
    Profile {
        accelerator: name.into(),
        acc_count: count.unwrap_or(1),
        perf: parameters(scope, item),
        max_batch: scope.read(item, "maxBatchSize", size, BATCH_FIX, Kept::Nothing).unwrap_or(0),
        at_tokens: scope.read(item, "atTokens", size, TOKENS_FIX, Kept::Nothing).unwrap_or(0),
    }
}

/// The parameters lie in `perfParms.decodeParms` and `perfParms.prefillParms`; older objects have them
/// in `perfParms` or in the item itself.
fn parameters(scope: &mut Scope<'_, '_>, item: &Fields<'_>) -> Option<PerfParms> {
    let perf = scope.open_field(item, "perfParms", PERF_PARMS);
    let holder = perf.as_ref().unwrap_or(item);
    let decode = scope.open_field(holder, "decodeParms", DECODE_PARMS);
    let prefill = scope.open_field(holder, "prefillParms", PREFILL_PARMS);
    let decode = match &decode {
        Some(decode) => decode,
        None if perf.is_some() || holder.has_any(DECODE_PARMS) => holder,
        // The oldest form has lost its parameters in a broken item: they may be remembered.
        None => return read_flat_from_memory(scope, item),
    };
    let alpha = scope.require(decode, "alpha", not_negative, PARAMETER_FIX);
    let beta = scope.require(decode, "beta", not_negative, PARAMETER_FIX);
    let per_token = scope.read(decode, "gamma", not_negative, PARAMETER_FIX, Kept::Nothing);
    let prefill = prefill.map(|prefill| {
        let gamma = scope.require(&prefill, "gamma", not_negative, PARAMETER_FIX);
        let delta = scope.require(&prefill, "delta", not_negative, PARAMETER_FIX);
        gamma.zip(delta)
    });
    let (alpha, beta) = alpha.zip(beta)?;
    match (prefill, per_token) {
        (Some(prefill), also) => {
            if also.is_some() {
                let fix = "leave one of the two out: decodeParms.gamma belongs to the iteration-time model, \
                           prefillParms to the model with separate prefill; prefillParms applies";
                scope.problem(
                    &decode.path("gamma"),
                    "both decodeParms.gamma and prefillParms are given",
                    fix,
                    Kept::Nothing,
                );
            }
            let (gamma, delta) = prefill?;
            Some(PerfParms::DecodePrefill { alpha, beta, gamma, delta })
        }
        (None, Some(gamma)) => Some(PerfParms::Iteration { alpha, beta, gamma }),
        (None, None) => Some(PerfParms::Decode { alpha, beta }),
    }
}

/// An item without any parameter: none, unless the item could not be read and had them before.
fn read_flat_from_memory(scope: &mut Scope<'_, '_>, item: &Fields<'_>) -> Option<PerfParms> {
    let mut read = |name| scope.read(item, name, not_negative, PARAMETER_FIX, Kept::Nothing);
    let (alpha, beta, gamma) = (read("alpha"), read("beta"), read("gamma"));
    let (alpha, beta) = alpha.zip(beta)?;
    Some(match gamma {
        Some(gamma) => PerfParms::Iteration { alpha, beta, gamma },
        None => PerfParms::Decode { alpha, beta },
    })
}
