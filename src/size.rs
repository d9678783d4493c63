//! The `size` subcommand: a what-if answered with the library's own allocation.
//!
//! Input: the flags, and for `--variant` the configuration folder. Output: text or JSON on standard
//! output, and the exit status: 0 when the targets are met, 1 when they cannot be met, 2 for bad input.
//! This module reads the folder and prints; `size/answer.rs` decides, `size/render.rs` words it.

mod answer;
mod render;

use crate::analyze::queueing::{AllocationInput, BatchSource, Revision, Tokens};
use crate::config::resolve::{Resolved, resolve};
use crate::config::{PerfParms, Profile, SloTargets, Snapshot, Variant, VariantKey};
use crate::mirror::files;
use crate::options::{Generation, SizeFlags};
use std::process::ExitCode;

/// Exit status for bad input, as that of the parser of the command line.
const BAD_INPUT: u8 = 2;
/// Cost of one replica when nothing states it: then costs count replicas.
const COST_DEFAULT: f64 = 1.0;

/// One load on one arrangement.
struct Question {
    /// Variant asked about; `None` when parameters are given.
    variant: Option<VariantKey>,
    input: AllocationInput,
}

/// Answers the what-if of the flags.
pub fn run(flags: &SizeFlags) -> anyhow::Result<ExitCode> {
    let asked = Asked::read(flags).and_then(|asked| {
        let question = asked.question(flags, asked.variant())?;
        let answer = answer::answer(&question, &asked.peers(flags))?;
        Ok((question, answer))
    });
    let (question, answer) = match asked {
        Ok(asked) => asked,
        Err(message) => {
            eprintln!("error: {message}");
            return Ok(ExitCode::from(BAD_INPUT));
        }
    };
    if flags.json {
        println!("{:#}", render::json(&question, &answer));
    } else {
        print!("{}", render::text(&question, &answer));
    }
    Ok(if answer.targets_are_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the flags refer to.
struct Asked {
    snapshot: Snapshot,
    /// The variant named, with its key.
    key: Option<VariantKey>,
}

impl Asked {
    fn read(flags: &SizeFlags) -> Result<Asked, String> {
        let Some(name) = &flags.variant else {
            return Ok(Asked { snapshot: Snapshot::default(), key: None });
        };
        let Resolved { snapshot, problems, .. } =
            resolve(&files::read_folder(&flags.config_dir), &Resolved::default());
        if !problems.is_empty() {
            let count = problems.len();
            eprintln!("note: {count} problem(s) in the configuration folder; `check` prints them");
        }
        let key = name.split_once('/').map(|(namespace, name)| VariantKey::new(namespace, name));
        match key.filter(|key| snapshot.variants.contains_key(key)) {
            Some(key) => Ok(Asked { snapshot, key: Some(key) }),
            None => Err(unknown_variant(name, &snapshot, &flags.config_dir.display().to_string())),
        }
    }

    fn variant(&self) -> Option<&Variant> {
        self.key.as_ref().and_then(|key| self.snapshot.variants.get(key)).map(|variant| &**variant)
    }

    fn question(&self, flags: &SizeFlags, variant: Option<&Variant>) -> Result<Question, String> {
        let rate_per_s = flags.rate.ok_or("--rate is missing; give the load, e.g. --rate 120/min")?;
        let output = flags
            .output_tokens
            .ok_or("--output-tokens is missing; give the average generated tokens of a request")?;
        let parms = profile_parms(flags, variant)?;
        let input = match (flags.input_tokens, parms) {
            (Some(input), _) => input,
            (None, PerfParms::Decode { .. }) => 0.0,
            (None, _) => {
                return Err("--input-tokens is missing; give the average prompt tokens of a request, or 0 \
                            for decode only"
                    .into());
            }
        };
        let load = Load { rate_per_s, tokens: Tokens { input, output } };
        let input = self.input(flags, variant, parms, load)?;
        Ok(Question { variant: variant.map(|variant| variant.key.clone()), input })
    }

    /// The other variants of the same model under the same load and targets, with their own profiles.
    fn peers(&self, flags: &SizeFlags) -> Vec<(VariantKey, Result<Question, String>)> {
        let Some(asked) = self.variant() else { return Vec::new() };
        let is_peer = |other: &&Variant| other.model() == asked.model() && other.key != asked.key;
        let others = self.snapshot.variants.values().map(|variant| &**variant).filter(is_peer);
        let flags = SizeFlags {
            alpha: None,
            beta: None,
            gamma: None,
            delta: None,
            model_generation: Generation::Auto,
            max_batch: None,
            at_tokens: None,
            cost: None,
            min_replicas: None,
            max_replicas: None,
            ..flags.clone()
        };
        let of = |other: &Variant| (other.key.clone(), self.question(&flags, Some(other)));
        others.map(of).collect()
    }

    fn input(
        &self,
        flags: &SizeFlags,
        variant: Option<&Variant>,
        parms: PerfParms,
        load: Load,
    ) -> Result<AllocationInput, String> {
        let stated = variant.and_then(|variant| variant.min_replicas);
        let may_be_idle = variant.and_then(|variant| self.snapshot.models.get(&variant.model()));
        let least = u32::from(!may_be_idle.is_some_and(|model| model.scale_to_zero.enabled));
        let min_replicas = flags.min_replicas.or(stated).unwrap_or(least);
        let max_replicas = flags.max_replicas.or(variant.and_then(|variant| variant.max_replicas));
        if let Some(most) = max_replicas.filter(|most| min_replicas > *most) {
            return Err(format!(
                "--min-replicas {min_replicas} is above --max-replicas {most}; lower the one or raise the other"
            ));
        }
        Ok(AllocationInput {
            parms,
            revision: Revision::default(),
            tokens: load.tokens,
            rate_per_s: load.rate_per_s,
            targets: self.targets(flags, variant),
            batch: batch(flags, variant)?,
            min_replicas,
            max_replicas,
            cost_per_replica: flags.cost.or(variant.map(|variant| variant.cost)).unwrap_or(COST_DEFAULT),
        })
    }

    /// Targets of the flags, else of the service class, else of the queueing-model entry.
    fn targets(&self, flags: &SizeFlags, variant: Option<&Variant>) -> SloTargets {
        let class = variant.and_then(|variant| variant.slo.as_ref()).map(|slo| slo.targets);
        let model = variant.and_then(|variant| self.snapshot.models.get(&variant.model()));
        let entry = || model.and_then(|model| model.queueing).map(|queueing| queueing.targets);
        let known = class.or_else(entry).unwrap_or_default();
        SloTargets {
            ttft_ms: flags.slo_ttft.unwrap_or(known.ttft_ms),
            itl_ms: flags.slo_itl.unwrap_or(known.itl_ms),
            tps: flags.slo_tps.unwrap_or(known.tps),
        }
    }
}

#[derive(Clone, Copy)]
struct Load {
    rate_per_s: f64,
    tokens: Tokens,
}

fn unknown_variant(name: &str, snapshot: &Snapshot, folder: &str) -> String {
    const NAMED_MAX: usize = 10;
    let known: Vec<String> = snapshot.variants.keys().take(NAMED_MAX).map(ToString::to_string).collect();
    let fix = match known.as_slice() {
        [] => format!("the folder {folder:?} has none; name another with --config-dir"),
        known => {
            let more = snapshot.variants.len() - known.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("write NAMESPACE/NAME of one in {folder:?}: {}{more}", known.join(", "))
        }
    };
    format!("--variant {name:?} is not configured; {fix}")
}

/// The variant's profile on its own accelerator.
fn own_profile(variant: &Variant) -> Option<&Profile> {
    variant.profiles.iter().find(|profile| profile.accelerator == variant.accelerator)
}

/// Performance parameters: those of the flags when any is given, else the variant's.
fn profile_parms(flags: &SizeFlags, variant: Option<&Variant>) -> Result<PerfParms, String> {
    let given = [flags.alpha, flags.beta, flags.gamma, flags.delta];
    if given.iter().any(Option::is_some) {
        return given_parms(flags);
    }
    let Some(variant) = variant else {
        return Err("--alpha is missing; give the performance model with --alpha and --beta (and --gamma, \
                    --delta), or name a configured variant with --variant"
            .into());
    };
    let Some(perf) = own_profile(variant).and_then(|profile| profile.perf) else {
        return Err(format!(
            "variant {} has no performance profile for its accelerator {:?}; add \
             modelProfile.accelerators[].perfParms to it, or give --alpha and --beta",
            variant.key, &*variant.accelerator
        ));
    };
    convert(perf, flags.model_generation)
        .ok_or_else(|| format!("--model-generation does not fit the profile of {}; use auto", variant.key))
}

/// The generation asked for, if the parameters give it.
fn convert(perf: PerfParms, wanted: Generation) -> Option<PerfParms> {
    match (wanted, perf) {
        (Generation::Auto, perf)
        | (Generation::Decode, perf @ PerfParms::Decode { .. })
        | (Generation::Prefill, perf @ PerfParms::DecodePrefill { .. })
        | (Generation::Iteration, perf @ PerfParms::Iteration { .. }) => Some(perf),
        (Generation::Decode, PerfParms::DecodePrefill { alpha, beta, .. }) => {
            Some(PerfParms::Decode { alpha, beta })
        }
        _ => None,
    }
}

fn given_parms(flags: &SizeFlags) -> Result<PerfParms, String> {
    let needed = |value: Option<f64>, name: &str| {
        value.ok_or_else(|| format!("--{name} is missing; the performance model needs it, in milliseconds"))
    };
    let unused = |value: Option<f64>, name: &str, generation: &str| match value {
        Some(_) => Err(format!(
            "--{name} has no meaning with --model-generation {generation}; leave it out, or choose another"
        )),
        None => Ok(()),
    };
    let (alpha, beta) = (needed(flags.alpha, "alpha")?, needed(flags.beta, "beta")?);
    let generation = match (flags.model_generation, flags.gamma, flags.delta) {
        (Generation::Auto, _, Some(_)) => Generation::Prefill,
        (Generation::Auto, Some(_), None) => Generation::Iteration,
        (Generation::Auto, None, None) => Generation::Decode,
        (stated, ..) => stated,
    };
    match generation {
        Generation::Auto | Generation::Decode => {
            unused(flags.gamma, "gamma", "decode")?;
            unused(flags.delta, "delta", "decode")?;
            Ok(PerfParms::Decode { alpha, beta })
        }
        Generation::Prefill => Ok(PerfParms::DecodePrefill {
            alpha,
            beta,
            gamma: needed(flags.gamma, "gamma")?,
            delta: needed(flags.delta, "delta")?,
        }),
        Generation::Iteration => {
            unused(flags.delta, "delta", "iteration")?;
            Ok(PerfParms::Iteration { alpha, beta, gamma: needed(flags.gamma, "gamma")? })
        }
    }
}

/// Batch limit of the flags, else of the variant's profile. Without tokens beside it, it holds for any.
fn batch(flags: &SizeFlags, variant: Option<&Variant>) -> Result<BatchSource, String> {
    let own = variant.and_then(own_profile);
    let limit = flags.max_batch.or(own.map(|profile| profile.max_batch)).filter(|limit| *limit > 0);
    let limit =
        limit.ok_or("--max-batch is missing; give the most requests that one replica runs together")?;
    let profile_tokens = own.map(|profile| profile.at_tokens).filter(|_| flags.max_batch.is_none());
    Ok(match flags.at_tokens.or(profile_tokens).unwrap_or(0) {
        0 => BatchSource { stated: limit, ..BatchSource::default() },
        at_tokens => BatchSource { stated: 0, profile: limit, at_tokens },
    })
}
