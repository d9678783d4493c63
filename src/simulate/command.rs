//! The command `simulate`: reads what its flags name, runs, and prints.
//!
//! What is wrong with one of the inputs is named and left out; the other runs go on, and the exit status is 1.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::problem::Problem;
use super::profiles::{self, NamedProfile};
use super::report::{self, Provenance, Study};
use super::scenario::Scenario;
use super::suite::{self, Common};
use super::{PolicyName, Progress, input, plot, run_all};
use crate::config::SloTargets;
use crate::options::SimulateFlags;

/// Steps of the progress bar per run.
const STEPS: u64 = 100;

/// Runs the command.
///
/// # Errors
/// When the flags contradict each other, or a result cannot be written.
pub fn execute(flags: &SimulateFlags) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        flags.min <= flags.max && flags.max > 0,
        "--min must not exceed --max, and --max not be 0"
    );
    anyhow::ensure!(flags.scrape > 0, "--scrape must be longer than 0");
    let mut problems = Vec::new();
    let policies = policies(flags, &mut problems);
    let scenarios = scenarios(flags, &mut problems);
    for problem in &problems {
        eprintln!("left out: {problem}");
    }
    remarks(&scenarios);
    if scenarios.is_empty() || policies.is_empty() {
        anyhow::bail!("nothing is left to simulate");
    }
    let already_said = problems.len();
    let results = observed(&scenarios, &policies)?;
    let mut outcomes = Vec::new();
    for (scenario, results) in scenarios.iter().zip(results) {
        let mut row = Vec::new();
        for (policy, result) in policies.iter().zip(results) {
            match result {
                Ok(outcome) => row.push(outcome),
                Err(error) => problems.push(Problem::new(
                    format!("{} under {}", scenario.name(), policy.name()),
                    format!("{error:#}"),
                    "the other runs are not affected",
                )),
            }
        }
        outcomes.push(row);
    }
    for problem in &problems[already_said..] {
        eprintln!("left out: {problem}");
    }
    let is_complete = problems.is_empty();
    let study = Study { provenance: Provenance::now(), scenarios, outcomes, problems };
    match flags.json {
        true => println!("{}", report::to_json(&study)),
        false => print!("{}", report::text(&study)),
    }
    if let Some(path) = &flags.plot {
        std::fs::write(path, plot::svg(&study)?)
            .with_context(|| format!("cannot write the picture {}", path.display()))?;
    }
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs everything and shows how far it is.
fn observed(scenarios: &[Scenario], policies: &[PolicyName]) -> anyhow::Result<super::Results> {
    let all = scenarios.len() * policies.len();
    if !std::io::stderr().is_terminal() {
        let done = Mutex::new(0);
        return Ok(run_all(scenarios, policies, &|progress| {
            if let Progress::Done { scenario, policy } = progress {
                let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *done += 1;
                eprintln!("{done}/{all} {} under {}", scenarios[scenario].name(), policies[policy].name());
            }
        }));
    }
    let bar = ProgressBar::new(all as u64 * STEPS);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {percent:>3} %  {elapsed} of about {duration}  {wide_msg}",
    )?);
    let results = run_all(scenarios, policies, &|progress| match progress {
        Progress::Share { share } => bar.set_position((share * (all as u64 * STEPS) as f64) as u64),
        Progress::Done { scenario, policy } => {
            bar.set_message(format!("{} under {}", scenarios[scenario].name(), policies[policy].name()));
        }
    });
    bar.finish_and_clear();
    Ok(results)
}

fn policies(flags: &SimulateFlags, problems: &mut Vec<Problem>) -> Vec<PolicyName> {
    let mut policies = Vec::new();
    for name in flags.policy.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        match PolicyName::parse(name) {
            Ok(policy) if policies.contains(&policy) => {}
            Ok(policy) => policies.push(policy),
            Err(problem) => problems.push(problem),
        }
    }
    policies
}

fn scenarios(flags: &SimulateFlags, problems: &mut Vec<Problem>) -> Vec<Scenario> {
    let known = known(flags, problems);
    let (traces, unreadable) = input::traces(&flags.traces, flags.seed, flags.seeds);
    problems.extend(unreadable);
    let slo = SloTargets { ttft_ms: flags.ttft, itl_ms: flags.itl, tps: 0.0 };
    let chosen: Vec<&NamedProfile> = match flags.suite {
        true => Vec::new(),
        false => flags.profile.iter().filter_map(|id| find(&known, id.trim(), problems)).collect(),
    };
    let mut found = Vec::new();
    for startup_ms in &flags.startup {
        for variations in &traces {
            for (step, trace) in variations.iter().enumerate() {
                let common = Common {
                    attainment: flags.attainment,
                    startup_ms: *startup_ms,
                    scrape_ms: flags.scrape,
                    replicas: (flags.min, flags.max),
                    seed: flags.seed.wrapping_add(step as u64),
                };
                match flags.suite {
                    true => found.extend(suite::scenarios(trace, &known, common)),
                    false => found.extend(chosen.iter().map(|one| suite::scenario(trace, one, slo, common))),
                }
            }
        }
    }
    if flags.suite {
        suite::in_order(&mut found);
        let is_used = |name: &str| found.iter().any(|scenario| scenario.trace.name == name);
        for trace in traces.iter().filter_map(|variations| variations.first()) {
            if !is_used(&trace.name) {
                let fix = "leave --suite away and choose --profile and targets for it";
                problems.push(Problem::new(&*trace.name, "does not belong to the suite", fix));
            }
        }
    }
    found.retain(|scenario| match scenario.impossible() {
        None => true,
        Some(problem) => {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            false
        }
    });
    found
}

/// The built-in profiles and those of `--profiles`, which win.
fn known(flags: &SimulateFlags, problems: &mut Vec<Problem>) -> Vec<NamedProfile> {
    let mut known = profiles::built_in();
    let Some(path) = &flags.profiles else { return known };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let (more, wrong) = profiles::read(&name, &text);
            known.retain(|profile| more.iter().all(|other| other.id != profile.id));
            known.extend(more);
            problems.extend(wrong);
        }
        Err(error) => {
            problems.push(Problem::new(name, format!("cannot be read: {error}"), "check --profiles"))
        }
    }
    known
}

fn find<'a>(known: &'a [NamedProfile], id: &str, problems: &mut Vec<Problem>) -> Option<&'a NamedProfile> {
    let found = known.iter().find(|profile| profile.id == id);
    if found.is_none() {
        let names: Vec<&str> = known.iter().map(|profile| profile.id.as_str()).collect();
        let fix = format!("there are {}; more come with --profiles FILE", names.join(", "));
        problems.push(Problem::new(format!("--profile {id}"), "there is no such profile", fix));
    }
    found
}

/// Says, once per trace, which rows are not as they should be, and what no fleet could hold.
fn remarks(scenarios: &[Scenario]) {
    let mut said = Vec::new();
    for scenario in scenarios {
        for remark in scenario.remarks() {
            let text = remark.to_string();
            if !said.contains(&text) {
                eprintln!("note: {text}");
                said.push(text);
            }
        }
    }
}
