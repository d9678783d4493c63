//! The answer to a what-if as text and as JSON. Input: question and answer. Output: text. Pure.

use super::Question;
use super::answer::{Answer, Outcome, Sized, Step, binds, in_words, is_decode_only, reason, replica_binds};
use crate::analyze::queueing::{AllocationInput, batch_limit};
use crate::config::PerfParms;
use serde_json::{Value, json};
use std::fmt::Write;

const MS_PER_S: f64 = 1000.0;
const S_PER_MIN: f64 = 60.0;

/// A number with eight significant digits, without trailing zeros.
pub(super) fn number(value: f64) -> String {
    const DIGITS: i32 = 8;
    if value == 0.0 || !value.is_finite() || !(1e-6..1e12).contains(&value.abs()) {
        return format!("{value}");
    }
    let decimals = (DIGITS - 1 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

fn short(value: f64) -> String {
    format!("{value:.2}")
}

fn count(replicas: u32) -> String {
    format!("{replicas} replica{}", if replicas == 1 { "" } else { "s" })
}

/// The answer for people.
pub(super) fn text(question: &Question, answer: &Answer) -> String {
    let input = &question.input;
    let mut out = String::new();
    match &answer.outcome {
        Outcome::Sized(sized) => {
            let _ = writeln!(out, "{}: {}\n", count(sized.here.replicas), reason(input, sized));
        }
        Outcome::Unreachable { target, without } => {
            let _ = writeln!(out, "{}", in_words(target));
            if let Some(step) = without {
                let replicas = count(step.replicas);
                let _ = writeln!(out, "without this target: {replicas}, {}", in_short(step));
            }
            out.push('\n');
        }
    }
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<22} {value}");
    };
    if let Some(variant) = &question.variant {
        line("variant", variant.to_string());
    }
    line("load", load(input));
    line("profile", profile(input));
    line("targets", targets(input));
    if let Outcome::Sized(sized) = &answer.outcome {
        for (name, value) in figures(input, sized) {
            line(name, value);
        }
        neighbours(&mut out, input, sized);
    }
    others(&mut out, question, answer);
    out
}

fn in_short(step: &Step) -> String {
    let first = match step.wait_p95_ms {
        Some(wait) => format!("95% of waits {} ms", number(wait)),
        None => format!("ttft {} ms", number(step.ttft_ms)),
    };
    format!("{first}, itl {} ms, cost {}", number(step.itl_ms), number(step.cost))
}

fn load(input: &AllocationInput) -> String {
    let (per_s, per_min) = (number(input.rate_per_s), number(input.rate_per_s * S_PER_MIN));
    let tokens = match is_decode_only(input) {
        true => format!("{} tokens each", number(input.tokens.output)),
        false => format!("{} in and {} out each", number(input.tokens.input), number(input.tokens.output)),
    };
    format!("{per_s} requests/s ({per_min}/min), {tokens}")
}

fn profile(input: &AllocationInput) -> String {
    let parameters: Vec<String> =
        parameters(input).iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    let batch = batch_limit(input.batch, input.tokens.output);
    format!("{} model, {}, batch limit {batch}", generation(input), parameters.join(", "))
}

fn generation(input: &AllocationInput) -> &'static str {
    match input.parms {
        PerfParms::Decode { .. } => "decode",
        PerfParms::DecodePrefill { .. } => "prefill",
        PerfParms::Iteration { .. } => "iteration",
    }
}

fn parameters(input: &AllocationInput) -> Vec<(&'static str, f64)> {
    match input.parms {
        PerfParms::Decode { alpha, beta } => vec![("alpha", alpha), ("beta", beta)],
        PerfParms::DecodePrefill { alpha, beta, gamma, delta } => {
            vec![("alpha", alpha), ("beta", beta), ("gamma", gamma), ("delta", delta)]
        }
        PerfParms::Iteration { alpha, beta, gamma } => {
            vec![("alpha", alpha), ("beta", beta), ("gamma", gamma)]
        }
    }
}

fn targets(input: &AllocationInput) -> String {
    let first = if is_decode_only(input) { "ttft (95% of waits)" } else { "ttft" };
    let all = [
        (first, input.targets.ttft_ms, "ms"),
        ("itl", input.targets.itl_ms, "ms"),
        ("tps", input.targets.tps, "tokens/s"),
    ];
    let stated: Vec<String> = all
        .iter()
        .filter(|(_, target, _)| *target > 0.0)
        .map(|(name, target, unit)| format!("{name} {} {unit}", number(*target)))
        .collect();
    match stated.is_empty() {
        true => "none: sized for the service limit of the batch".into(),
        false => stated.join(", "),
    }
}

fn figures(input: &AllocationInput, sized: &Sized) -> Vec<(&'static str, String)> {
    let at = &sized.allocation;
    let most_per_s = at.max_rate_per_replica_per_ms * MS_PER_S;
    let bounds = match input.max_replicas {
        Some(most) => format!("{} to {most}", input.min_replicas),
        None => format!("at least {}", input.min_replicas),
    };
    let missed = match sized.here.misses.as_slice() {
        [] => "met".into(),
        misses => format!("missed: {}", misses.join(", ")),
    };
    let ttft = match sized.here.wait_p95_ms {
        Some(wait) => format!("{} ms (95% of waits)", number(wait)),
        None => format!("{} ms", number(at.ttft_ms)),
    };
    vec![
        ("replicas", format!("{} ({bounds})", at.replicas)),
        ("binds", binds(at).to_string()),
        ("targets are", missed),
        (
            "max rate per replica",
            format!("{} requests/s ({}/min)", number(most_per_s), number(most_per_s * S_PER_MIN)),
        ),
        ("itl, service time", format!("{} ms/token", number(at.itl_ms))),
        ("ttft", ttft),
        ("wait", format!("{} ms", number(at.wait_ms))),
        ("rho", number(at.rho)),
        ("cost", format!("{} ({} each)", number(at.cost), number(input.cost_per_replica))),
    ]
}

/// The table of one replica fewer and one more, and what the next one costs and buys.
fn neighbours(out: &mut String, input: &AllocationInput, sized: &Sized) {
    let Some(more) = &sized.more else { return };
    let decode_only = is_decode_only(input);
    let first = if decode_only { "wait p95 ms" } else { "ttft ms" };
    let _ = writeln!(
        out,
        "\n  {:>8} {:>10} {first:>12} {:>10} {:>10} {:>7}  targets",
        "replicas", "cost", "itl ms", "wait ms", "rho"
    );
    for step in sized.fewer.iter().chain([&sized.here, more]) {
        let first_ms = step.wait_p95_ms.unwrap_or(step.ttft_ms);
        let state = match step.misses.as_slice() {
            [] => "met".into(),
            misses => format!("missed: {}", misses.join(", ")),
        };
        let mark = if step.replicas == sized.here.replicas { "  <- this" } else { "" };
        let _ = writeln!(
            out,
            "  {:>8} {:>10} {:>12} {:>10} {:>10} {:>7.3}  {state}{mark}",
            step.replicas,
            number(step.cost),
            short(first_ms),
            short(step.itl_ms),
            short(step.wait_ms),
            step.rho
        );
    }
    let _ = writeln!(
        out,
        "\n  The next replica costs {} and buys {} ms of itl and {} ms of {}.",
        number(more.cost - sized.here.cost),
        short(sized.here.itl_ms - more.itl_ms),
        short(if decode_only {
            sized.here.wait_ms - more.wait_ms
        } else {
            sized.here.ttft_ms - more.ttft_ms
        }),
        if decode_only { "mean wait" } else { "ttft" }
    );
}

/// The same load on the other variants of the model.
fn others(out: &mut String, question: &Question, answer: &Answer) {
    if answer.others.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n  The same load on the other variants of the model:");
    for (at, other) in answer.others.iter().enumerate() {
        let said = match &other.result {
            Ok(step) => {
                let missed = match step.misses.as_slice() {
                    [] => String::new(),
                    misses => format!(", missed: {}", misses.join(", ")),
                };
                let runner_up = if at == 0 { " (runner-up)" } else { "" };
                format!("{}, {}{missed}{runner_up}", count(step.replicas), in_short(step))
            }
            Err(reason) => reason.clone(),
        };
        let _ = writeln!(out, "  {:<22} {said}", other.variant.to_string());
    }
    if let (Outcome::Sized(sized), Some((runner_up, step)), Some(asked)) =
        (&answer.outcome, answer.runner_up(), &question.variant)
    {
        let (mine, theirs) = (sized.here.cost, step.cost);
        let gain = number((theirs - mine).abs());
        let said = match (step.misses.is_empty(), theirs < mine) {
            (false, _) => format!("{runner_up} misses the targets"),
            (true, true) => format!("{runner_up} would be {gain} cheaper"),
            (true, false) => format!("{asked} is {gain} cheaper than {runner_up}"),
        };
        let _ = writeln!(out, "  {said}.");
    }
}

/// The answer for programs.
pub(super) fn json(question: &Question, answer: &Answer) -> Value {
    let input = &question.input;
    let parameters: serde_json::Map<String, Value> =
        parameters(input).into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut report = json!({
        "variant": question.variant.as_ref().map(ToString::to_string),
        "load": {
            "rate_per_s": input.rate_per_s,
            "input_tokens": input.tokens.input,
            "output_tokens": input.tokens.output,
        },
        "profile": {
            "generation": generation(input),
            "parameters": parameters,
            "batch": batch_limit(input.batch, input.tokens.output),
        },
        "targets": {
            "ttft_ms": input.targets.ttft_ms,
            "itl_ms": input.targets.itl_ms,
            "tps": input.targets.tps,
        },
        "min_replicas": input.min_replicas,
        "max_replicas": input.max_replicas,
        "cost_per_replica": input.cost_per_replica,
        "targets_met": answer.targets_are_met(),
    });
    let fields = match &answer.outcome {
        Outcome::Sized(sized) => sized_json(input, sized),
        Outcome::Unreachable { target, without } => json!({
            "replicas": null,
            "reason": in_words(target),
            "unreachable": {
                "target": target.target.to_string(),
                "wanted_ms": target.wanted_ms,
                "best_ms": target.best_ms,
                "without": without.as_ref().map(step_json),
            },
        }),
    };
    let others: Vec<Value> = answer
        .others
        .iter()
        .map(|other| {
            let mut entry = match &other.result {
                Ok(step) => step_json(step),
                Err(reason) => json!({ "reason": reason }),
            };
            entry["variant"] = other.variant.to_string().into();
            entry
        })
        .collect();
    let runner_up = answer.runner_up().map(|(variant, _)| variant.to_string());
    for more in [fields, json!({ "others": others, "runner_up": runner_up })] {
        if let (Some(report), Value::Object(more)) = (report.as_object_mut(), more) {
            report.extend(more);
        }
    }
    report
}

fn sized_json(input: &AllocationInput, sized: &Sized) -> Value {
    let at = &sized.allocation;
    json!({
        "replicas": at.replicas,
        "binds": binds(at),
        "replica_binds": replica_binds(at.binding()),
        "reason": reason(input, sized),
        "replica_ratio": at.replica_ratio,
        "max_rate_per_replica_per_s": at.max_rate_per_replica_per_ms * MS_PER_S,
        "max_rate_per_replica_per_min": at.max_rate_per_replica_per_ms * MS_PER_S * S_PER_MIN,
        "prefill_ms": at.prefill_ms,
        "response_ms": at.response_ms,
        "predicted": step_json(&sized.here),
        "fewer": sized.fewer.as_ref().map(step_json),
        "more": sized.more.as_ref().map(step_json),
    })
}

fn step_json(step: &Step) -> Value {
    json!({
        "replicas": step.replicas,
        "cost": step.cost,
        "ttft_ms": step.ttft_ms,
        "itl_ms": step.itl_ms,
        "wait_ms": step.wait_ms,
        "wait_p95_ms": step.wait_p95_ms,
        "rho": step.rho,
        "misses": step.misses,
    })
}
