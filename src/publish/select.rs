//! Instant vector selectors over the board: the part of PromQL that an autoscaler asks.

use super::exposition::write_value;
use super::gauges::{FAMILIES, Family, labels};
use super::{Board, Entry};
use crate::config::VariantKey;
use crate::units::TimeMs;
use promql_parser::label::{METRIC_NAME, MatchOp, Matcher};
use promql_parser::parser::{Expr, VectorSelector};
use std::sync::Arc;

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not PromQL. HTTP 400, `bad_data`.
    #[error("invalid parameter \"query\": {0}")]
    BadData(String),
    /// PromQL that is not evaluated here. HTTP 422, `execution`.
    #[error("{0}")]
    Unsupported(String),
    /// An answer now would be taken for zero. HTTP 503, `unavailable`.
    #[error("{0}")]
    NotReady(String),
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Label pairs with `__name__`, sorted by name.
    pub labels: Vec<(String, String)>,
    /// The value as text.
    pub value: String,
}

/// A parsed instant vector selector.
#[derive(Debug)]
pub struct Selector {
    name: Option<String>,
    matchers: Vec<Matcher>,
}

impl Selector {
    /// Parses a query. White space and line breaks are free, as in the KEDA samples.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        if query.trim().is_empty() {
            return Err(QueryError::BadData("the query is empty".into()));
        }
        Self::of(promql_parser::parser::parse(query).map_err(QueryError::BadData)?)
    }

    fn of(expression: Expr) -> Result<Self, QueryError> {
        let unsupported = |what: &str| {
            Err(QueryError::Unsupported(format!(
                "{what} is not evaluated here; only instant vector selectors are, such as \
                 inferno_desired_replicas{{variant_name=\"x\",exported_namespace=\"y\"}}"
            )))
        };
        match expression {
            Expr::Paren(inner) => Self::of(*inner.expr),
            Expr::VectorSelector(VectorSelector { offset: Some(_), .. }) => unsupported("offset"),
            Expr::VectorSelector(VectorSelector { at: Some(_), .. }) => unsupported("the @ modifier"),
            Expr::VectorSelector(VectorSelector { name, matchers, .. }) => {
                if !matchers.or_matchers.is_empty() {
                    return unsupported("or between matchers");
                }
                Ok(Selector { name, matchers: matchers.matchers })
            }
            Expr::MatrixSelector(_) => unsupported("a range selector"),
            Expr::Aggregate(aggregate) => unsupported(&format!("the aggregation {}", aggregate.op)),
            Expr::Call(call) => unsupported(&format!("the function {}", call.func.name)),
            Expr::Binary(binary) => unsupported(&format!("the operator {}", binary.op)),
            Expr::Unary(_) => unsupported("the unary minus"),
            Expr::Subquery(_) => unsupported("a subquery"),
            Expr::NumberLiteral(_) => unsupported("a number"),
            Expr::StringLiteral(_) => unsupported("a string"),
            Expr::Extension(_) => unsupported("an extension"),
        }
    }

    fn matches_name(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
            && self.matchers.iter().filter(|m| m.name == METRIC_NAME).all(|m| m.is_match(name))
    }

    /// Value of an equality matcher on `label`.
    fn equal(&self, label: &str) -> Option<&str> {
        let equal = |m: &&Matcher| m.name == label && m.op == MatchOp::Equal && !m.value.is_empty();
        self.matchers.iter().find(equal).map(|matcher| matcher.value.as_str())
    }

    /// Entries that can match at all: one lookup when namespace and name are given.
    fn candidates<'b>(&self, board: &'b Board) -> Vec<&'b Arc<Entry>> {
        let namespace = self.equal("exported_namespace").or_else(|| self.equal("namespace"));
        match (namespace, self.equal("variant_name")) {
            (Some(namespace), Some(name)) => {
                board.entries.get(&VariantKey::new(namespace, name)).into_iter().collect()
            }
            _ => board.entries.values().collect(),
        }
    }

    /// Evaluates at `now`. An answer that would lack a variant for want of a decision is an error: to
    /// KEDA an empty vector means zero replicas.
    pub fn evaluate(&self, board: &Board, now: TimeMs, aliases: bool) -> Result<Vec<Sample>, QueryError> {
        if let Some(why) = board.not_ready() {
            return Err(QueryError::NotReady(why));
        }
        let mut result = Vec::new();
        let candidates = self.candidates(board);
        for family in FAMILIES.iter().filter(|f| aliases || !f.alias).filter(|f| self.matches_name(f.name)) {
            for entry in &candidates {
                self.select(family, entry, now, &mut result)?;
            }
        }
        Ok(result)
    }

    fn select(
        &self,
        family: &Family,
        entry: &Entry,
        now: TimeMs,
        result: &mut Vec<Sample>,
    ) -> Result<(), QueryError> {
        let mut base: Vec<(&str, &str)> = Vec::with_capacity(8);
        labels(&entry.variant, &entry.variant_id, |name, value| base.push((name, value)));
        // Prometheus renames our `namespace` when it scrapes; a query written for it works here too.
        base.push(("exported_namespace", &entry.variant.key.namespace));
        if family.vital && entry.decision.is_none() && self.matches_labels(&base) {
            let fault = entry.health.worst_at(now).map(|fault| fault.explain(&entry.variant));
            return Err(QueryError::NotReady(format!(
                "variant {} has no decision yet: {}",
                entry.variant.key,
                fault.as_deref().unwrap_or("its inputs are incomplete")
            )));
        }
        family.samples(entry, now, |extra, value| {
            let mut all = base.clone();
            all.extend_from_slice(extra);
            if self.matches_labels(&all) {
                all.push((METRIC_NAME, family.name));
                all.sort_unstable();
                let labels = all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
                let mut text = String::new();
                write_value(&mut text, value);
                result.push(Sample { labels, value: text });
            }
        });
        Ok(())
    }

    /// A missing label counts as empty.
    fn matches_labels(&self, labels: &[(&str, &str)]) -> bool {
        self.matchers.iter().filter(|matcher| matcher.name != METRIC_NAME).all(|matcher| {
            let value = labels.iter().find(|(name, _)| *name == matcher.name).map_or("", |(_, value)| value);
            matcher.is_match(value)
        })
    }
}
