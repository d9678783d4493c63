//! The command `simulate`: reads what its flags name, runs, and prints.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::profiles::{self, NamedProfile};
use super::scenario::Scenario;
use super::suite::{self, Common};
use super::trace::Trace;
use super::{PolicyName, plot, report, run_all};
use crate::config::SloTargets;
use crate::options::SimulateFlags;

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or a name is unknown; the message says which and what there is.
pub fn execute(flags: &SimulateFlags) -> anyhow::Result<ExitCode> {
    let policies: Vec<PolicyName> = flags
        .policy
        .iter()
        .map(|name| PolicyName::parse(name.trim()))
        .collect::<Result<_, _>>()
        .map_err(anyhow::Error::msg)?;
    let scenarios = scenarios(flags)?;
    let live = std::io::stderr().is_terminal();
    let progress = |done: usize, all: usize, name: &str| {
        let bar: String = (0..30).map(|at| if at * all < done * 30 { '#' } else { '.' }).collect();
        match live {
            true => eprint!("\r[{bar}] {done}/{all} {name:<60.60}{}", if done == all { "\n" } else { "" }),
            false => eprintln!("{done}/{all} {name}"),
        }
    };
    let outcomes = run_all(&scenarios, &policies, &progress)?;
    match flags.json {
        true => println!("{}", report::to_json(&scenarios, &outcomes)),
        false => print!("{}", report::text(&scenarios, &outcomes)),
    }
    if let Some(path) = &flags.plot {
        std::fs::write(path, plot::svg(&scenarios, &outcomes))
            .with_context(|| format!("cannot write the picture {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn scenarios(flags: &SimulateFlags) -> anyhow::Result<Vec<Scenario>> {
    anyhow::ensure!(
        flags.min <= flags.max && flags.max > 0,
        "--min must not exceed --max, and --max not be 0"
    );
    anyhow::ensure!(flags.scrape > 0, "--scrape must be longer than 0");
    let mut known = profiles::built_in();
    if let Some(path) = &flags.profiles {
        let text = read(path)?;
        let text = String::from_utf8(text).with_context(|| format!("{} is not text", path.display()))?;
        let more = profiles::read(&path.display().to_string(), &text)?;
        known.retain(|profile| more.iter().all(|other| other.id != profile.id));
        known.extend(more);
    }
    let traces = traces(&flags.traces)?;
    let common = Common {
        startup_ms: flags.startup,
        scrape_ms: flags.scrape,
        replicas: (flags.min, flags.max),
        seed: flags.seed,
    };
    let scenarios = match flags.suite {
        true => suite::scenarios(&traces, &known, common),
        false => {
            let profile = find(&known, &flags.profile)?;
            let slo = SloTargets { ttft_ms: flags.ttft, itl_ms: flags.itl, tps: 0.0 };
            traces.iter().map(|trace| suite::scenario(trace, profile, slo, common)).collect()
        }
    };
    anyhow::ensure!(!scenarios.is_empty(), "none of the traces belongs to the suite; leave --suite away");
    scenarios.iter().for_each(warn);
    Ok(scenarios)
}

/// Says what makes a scenario pointless; it runs all the same.
fn warn(scenario: &Scenario) {
    let idle_ms = scenario.profile.engine.iteration.a_ms;
    if scenario.slo.itl_ms > 0.0 && scenario.slo.itl_ms <= idle_ms {
        eprintln!(
            "warning: {}: an ITL target of {} ms is below the {idle_ms} ms of an idle step; no fleet meets it",
            scenario.name(),
            scenario.slo.itl_ms
        );
    }
    if scenario.trace.requests.is_empty() {
        eprintln!("warning: {}: no request fits the profile's context", scenario.name());
    }
}

fn find<'a>(known: &'a [NamedProfile], id: &str) -> anyhow::Result<&'a NamedProfile> {
    known.iter().find(|profile| profile.id == id).with_context(|| {
        let names: Vec<&str> = known.iter().map(|profile| profile.id.as_str()).collect();
        format!("no profile {id:?}; there are {}", names.join(", "))
    })
}

fn traces(paths: &[PathBuf]) -> anyhow::Result<Vec<Arc<Trace>>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        let is_trace = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.ends_with(".csv") || name.ends_with(".csv.gz")
        };
        let mut found: Vec<PathBuf> =
            entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_trace).collect();
        anyhow::ensure!(!found.is_empty(), "no trace (*.csv, *.csv.gz) in {}", path.display());
        found.sort();
        files.append(&mut found);
    }
    files.iter().map(|path| Ok(Arc::new(Trace::read(&stem(path), &read(path)?)?))).collect()
}

/// Name of a trace: its file's without the endings.
fn stem(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.trim_end_matches(".gz").trim_end_matches(".csv").to_owned()
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}; check the path", path.display()))
}
