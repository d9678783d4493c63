//! From labels to meaning, by the row of the series' metric name.

use super::dialect::{Row, SubjectKind};
use super::labels::Labels;
use super::{Classified, Owner, Signal, Subject};

/// Why a series with a known name does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unused {
    /// A condition of the row does not hold, e.g. another tensor-parallel rank. This is by design.
    ConditionNotMet,
    /// No label names the namespace.
    NoNamespace,
    /// No label names the subject.
    NoSubject,
}

impl Unused {
    /// The `reason` label under which it is counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Unused::ConditionNotMet => "condition_not_met",
            Unused::NoNamespace => "no_namespace_label",
            Unused::NoSubject => "no_subject_label",
        }
    }
}

/// Understands one series of a known metric name.
pub fn classify(row: &Row, labels: &Labels<'_>) -> Result<Classified, Unused> {
    for (label, values) in &row.conditions {
        let value = labels.get(label);
        if !values.iter().any(|allowed| allowed == value) {
            return Err(Unused::ConditionNotMet);
        }
    }
    let optional = |names: &[String]| Some(labels.first(names)).filter(|v| !v.is_empty()).map(Into::into);
    let owner = row
        .owner
        .as_ref()
        .map(|[kind, name]| Owner { kind: labels.get(kind).into(), name: labels.get(name).into() });
    let kv_capacity_tokens = row.cache_shape.as_ref().and_then(|[size, count]| {
        let tokens = labels.get(size).parse::<f64>().ok()? * labels.get(count).parse::<f64>().ok()?;
        (tokens.is_finite() && tokens > 0.0).then_some(tokens)
    });
    let product = optional(&row.product);
    if row.signal == Signal::NodeLabels && product.is_none() {
        return Err(Unused::ConditionNotMet);
    }
    Ok(Classified {
        subject: subject(row, labels)?,
        signal: row.signal,
        rank: row.rank,
        scale: row.scale,
        model: optional(&row.model),
        variant: optional(&row.variant),
        owner,
        kv_capacity_tokens,
        product,
    })
}

fn subject(row: &Row, labels: &Labels<'_>) -> Result<Subject, Unused> {
    let name = labels.first(&row.name);
    if name.is_empty() {
        return Err(Unused::NoSubject);
    }
    if row.subject == SubjectKind::Node {
        return Ok(Subject::Node { name: name.into() });
    }
    let namespace = labels.first(&row.namespace);
    if namespace.is_empty() && row.subject != SubjectKind::Scheduler {
        return Err(Unused::NoNamespace);
    }
    let (namespace, name) = (namespace.into(), name.into());
    Ok(match row.subject {
        SubjectKind::Replica => Subject::Replica { namespace, pod: name },
        SubjectKind::ReplicaSet => Subject::ReplicaSet { namespace, name },
        SubjectKind::Scheduler => Subject::Scheduler { namespace, model: name },
        SubjectKind::Node => Subject::Node { name },
        kind @ (SubjectKind::Deployment | SubjectKind::StatefulSet | SubjectKind::LeaderWorkerSet) => {
            let kind = kind.target_kind().ok_or(Unused::NoSubject)?;
            Subject::Target { namespace, kind, name }
        }
    })
}
