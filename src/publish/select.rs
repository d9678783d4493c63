//! Instant vector selectors over the board: the part of PromQL that an autoscaler asks.

use super::exposition::write_value;
use super::gauges::{FAMILIES, Family, labels};
use super::{Board, Entry};
use crate::config::VariantKey;
use crate::limits::QUERY_LEVELS_MAX;
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
        if levels(query) > QUERY_LEVELS_MAX {
            return Err(QueryError::Unsupported(format!(
                "a query with more than {QUERY_LEVELS_MAX} operators and brackets is not evaluated here"
            )));
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
            return Err(QueryError::NotReady(entry.undecided(now)));
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

/// Upper bound on the depth of a query's syntax tree. The parser recurses over the tree, so an unbounded
/// one would overflow the stack, which ends the process.
fn levels(query: &str) -> usize {
    let mut levels = 0;
    let mut rest = query;
    while let Some(character) = rest.chars().next() {
        let length = match character {
            '"' | '\'' | '`' => quoted(rest, character),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
                let word = &rest[..length.unwrap_or(rest.len())];
                let operators = ["and", "or", "unless", "atan2"];
                levels += usize::from(operators.iter().any(|operator| word.eq_ignore_ascii_case(operator)));
                word.len()
            }
            _ => {
                let is_level =
                    "([+-*/%^<>".contains(character) || rest.starts_with("==") || rest.starts_with("!=");
                levels += usize::from(is_level);
                character.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    levels
}

/// Length of the string literal at the start of `text`; only the back quote knows no escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == quote {
            return at + 1;
        } else {
            escaped = character == '\\' && quote != '`';
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_query_is_refused_before_it_is_parsed() {
        let times = |text: &str| text.repeat(20_000);
        for deep in [
            format!("{}x{}", times("("), times(")")),
            format!("{}x", times("-")),
            format!("x{}", times("+x")),
            format!("x{}", times(" or x")),
            format!("x{}", times("==x")),
            format!("{}x{}", times("sum("), times(")")),
            format!("x{}", times("[5m:1m]")),
            format!("# \"\n{}", times("(")),
            format!("x{{a=\"\\\"\"}} {}", times("-")),
        ] {
            let error = Selector::parse(&deep).unwrap_err();
            assert!(matches!(error, QueryError::Unsupported(_)), "{error}");
        }
    }

    #[test]
    fn long_regular_expressions_are_not_deep() {
        let names = "(a-b+)|".repeat(500);
        let query = format!("inferno_desired_replicas{{variant_name=~\"{names}x\",a!~'({names}y)'}}");
        Selector::parse(&query).unwrap();
    }
}
