//! `check --cluster`: the cluster read once, and what keeps the sidecar from its work there, in plain words.
//!
//! Input: the mirror's one reading, access reviews, and a running sidecar's own view. Output: findings, each with
//! the object, the field and the fix. Nothing is written.

mod permissions;
mod pointers;
mod running;

use crate::config::check;
use crate::config::objects::Document;
use crate::config::resolve::{Resolved, resolve_at};
use crate::mirror::cluster::once::{self, Failure, Reading};
use crate::mirror::cluster::{Kind, Scope};
use crate::options::CheckFlags;
use serde_json::{Value, json};
use std::fmt;
use std::process::ExitCode;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something does not work.
    Problem,
    /// It works, but most likely not as meant.
    Warning,
}

/// Something to be put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The object concerned, as `Kind namespace/name`, or the part of the cluster.
    pub object: String,
    /// Path of its field; may be empty.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
}

impl Finding {
    fn problem(object: impl Into<String>, field: &str, reason: String, fix: impl Into<String>) -> Self {
        let (object, fix) = (object.into(), fix.into());
        Finding { severity: Severity::Problem, object, field: field.into(), reason, fix }
    }

    fn warning(object: impl Into<String>, field: &str, reason: String, fix: impl Into<String>) -> Self {
        Finding { severity: Severity::Warning, ..Finding::problem(object, field, reason, fix) }
    }

    fn json(&self) -> Value {
        let severity = match self.severity {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
        };
        json!({
            "severity": severity, "object": self.object, "field": self.field, "reason": self.reason,
            "fix": self.fix,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.severity == Severity::Warning {
            write!(f, "warning: ")?;
        }
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}", self.reason, self.fix)
    }
}

/// Reads the cluster and prints the report; exit status 1 if there is a problem.
pub async fn run(flags: &CheckFlags) -> anyhow::Result<ExitCode> {
    let within = &flags.within;
    let (client, address, namespace) = super::connect().await?;
    let home = within.pod_namespace.clone().filter(|name| !name.is_empty()).unwrap_or(namespace);
    let names = within.namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
    let scope = Scope {
        namespaces: names.map(Into::into).collect(),
        home: home.as_str().into(),
        instance: within.controller_instance.clone().filter(|name| !name.is_empty()),
    };
    let reading = once::read(&client, &scope).await;
    let unreachable = |(_, failure): &(_, Failure)| match failure {
        Failure::Passing(text) => Some(text.clone()),
        _ => None,
    };
    if let Some(text) = reading.failures.iter().find_map(unreachable) {
        anyhow::bail!("the cluster at {address} cannot be read: {text}");
    }
    let documents = reading.store.documents(&scope);
    let documents = documents.iter().map(|document| -> &Document { document });
    let resolved = resolve_at(documents, &Resolved::default(), Some(&home));
    let mut findings = definitions(&reading);
    findings.extend(permissions::findings(&client, &scope, &reading, within).await?);
    findings.extend(pointers::findings(&resolved.snapshot, &reading, within.actuation.unwrap_or_default()));
    if let Some(url) = &within.sidecar {
        findings.extend(running::findings(url, &resolved.snapshot).await);
    }
    findings.sort();
    findings.dedup();
    print(flags.json, &address, &findings, &resolved);
    let has_problem = findings.iter().any(|finding| finding.severity == Severity::Problem);
    let is_good = !has_problem && resolved.problems.is_empty();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(as_json: bool, address: &str, findings: &[Finding], resolved: &Resolved) {
    if as_json {
        let mut report = check::render_json(resolved);
        report["cluster"] = address.into();
        report["findings"] = findings.iter().map(Finding::json).collect();
        return println!("{report}");
    }
    for finding in findings {
        println!("{finding}");
    }
    print!("{}", check::render(resolved));
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    println!(
        "cluster {address}: {} to put right, {} to look at",
        of(Severity::Problem) + resolved.problems.len(),
        of(Severity::Warning)
    );
}

/// Definitions of custom kinds that are missing, or not in the version that is read.
fn definitions(reading: &Reading) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = Kind::VariantAutoscaling;
    let fix = "kubectl apply -f charts/inferno-sidecar/crds";
    let name = own.definition().unwrap_or_default();
    for kind in &reading.unserved {
        let reason = format!("{} is defined, but {} is not served", kind.name(), kind.version());
        findings.push(Finding::problem(
            "definitions",
            "",
            reason,
            format!("install a definition with it: {fix}"),
        ));
    }
    if !reading.defined.contains(&own) && !reading.unserved.contains(&own) {
        let reason = format!("the kind {} ({name}) is not defined", own.name());
        findings.push(Finding::problem("definitions", "", reason, fix));
    }
    findings
}
