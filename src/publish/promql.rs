//! The part of PromQL that autoscalers and dashboards ask, over present values.
//!
//! Parsed by a library, evaluated here over a [`Source`]. What is not evaluated is an error that names
//! it. An error of a selector is an error of the whole query, whatever stands around it: `x or vector(0)`
//! gives no 0 while `x` is not known.

mod aggregate;
mod binary;
mod depth;
mod functions;
#[cfg(test)]
mod tests;

use super::select::Selector;
use crate::limits::{QUERY_LEVELS_MAX, QUERY_SAMPLES_MAX};
use promql_parser::label::METRIC_NAME;
use promql_parser::parser::Expr;
use std::cell::Cell;
use std::collections::BTreeSet;

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not PromQL. HTTP 400, `bad_data`.
    #[error("invalid parameter \"query\": {0}")]
    BadData(String),
    /// PromQL that is not evaluated here. HTTP 422, `execution`.
    #[error(
        "{0} is not evaluated here; selectors, aggregations, operators and a few functions over present \
         values are, such as sum by (exported_namespace) (inferno_desired_replicas{{variant_name=\"x\"}})"
    )]
    Unsupported(String),
    /// PromQL that has no result for the present values. HTTP 422, `execution`.
    #[error("{0}")]
    Failed(String),
    /// An answer now would be taken for zero. HTTP 503, `unavailable`.
    #[error("{0}")]
    NotReady(String),
}

/// Label pairs, sorted by name. Everything is borrowed from the source.
pub type Labels<'s> = Vec<(&'s str, &'s str)>;

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'s> {
    /// Label pairs with `__name__`, if the sample still has one.
    pub labels: Labels<'s>,
    /// The value.
    pub value: f64,
}

/// Result of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'s> {
    /// A number without labels.
    Scalar(f64),
    /// Any number of samples.
    Vector(Vec<Sample<'s>>),
}

/// Where samples come from.
pub trait Source<'s> {
    /// Present samples that `selector` matches.
    fn select(&self, selector: &Selector) -> Result<Vec<Sample<'s>>, QueryError>;
}

/// A parsed query.
#[derive(Debug)]
pub struct Query {
    expression: Expr,
}

impl Query {
    /// Parses a query. White space and line breaks are free, as in the KEDA samples.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        if query.trim().is_empty() {
            return Err(QueryError::BadData("the query is empty".into()));
        }
        if depth::levels(query) > QUERY_LEVELS_MAX {
            return unsupported(format!("a query with more than {QUERY_LEVELS_MAX} operators and brackets"));
        }
        let expression = promql_parser::parser::parse(query).map_err(QueryError::BadData)?;
        Ok(Query { expression })
    }

    /// The query as a plain selector, as `match[]` parameters are.
    pub fn into_selector(self) -> Result<Selector, QueryError> {
        match self.expression {
            Expr::VectorSelector(selector) => Selector::new(&selector),
            other => Err(QueryError::BadData(format!("{other} is not a series selector"))),
        }
    }

    /// Evaluates over present values.
    pub fn evaluate<'s>(&self, source: &dyn Source<'s>) -> Result<Value<'s>, QueryError> {
        let budget = Cell::new(QUERY_SAMPLES_MAX);
        Evaluation { source, budget }.value(&self.expression)
    }
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError::Unsupported(what.into()))
}

/// One evaluation with what it may still use.
struct Evaluation<'e, 's> {
    source: &'e dyn Source<'s>,
    /// Samples that selectors may still give.
    budget: Cell<usize>,
}

impl<'s> Evaluation<'_, 's> {
    fn value(&self, expression: &Expr) -> Result<Value<'s>, QueryError> {
        match expression {
            Expr::Paren(inner) => self.value(&inner.expr),
            Expr::NumberLiteral(number) => Ok(Value::Scalar(number.val)),
            Expr::VectorSelector(selector) => {
                if selector.offset.is_some() {
                    return unsupported("offset into a past that is not recorded");
                }
                if selector.at.is_some() {
                    return unsupported("the @ modifier");
                }
                self.select(&Selector::new(selector)?).map(Value::Vector)
            }
            Expr::Aggregate(aggregate) => self.aggregate(aggregate).map(Value::Vector),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Call(call) => self.call(call),
            Expr::Unary(unary) => match self.value(&unary.expr)? {
                Value::Scalar(value) => Ok(Value::Scalar(-value)),
                Value::Vector(vector) => mapped(vector, |value| -value).map(Value::Vector),
            },
            Expr::MatrixSelector(_) => unsupported("a range selector"),
            Expr::Subquery(_) => unsupported("a subquery"),
            Expr::StringLiteral(_) => unsupported("a string"),
            Expr::Extension(_) => unsupported("an extension"),
        }
    }

    fn select(&self, selector: &Selector) -> Result<Vec<Sample<'s>>, QueryError> {
        let samples = self.source.select(selector)?;
        let Some(rest) = self.budget.get().checked_sub(samples.len()) else {
            let message = format!("the query selects more than {QUERY_SAMPLES_MAX} samples");
            return Err(QueryError::Failed(message));
        };
        self.budget.set(rest);
        Ok(samples)
    }

    fn vector(&self, expression: &Expr) -> Result<Vec<Sample<'s>>, QueryError> {
        match self.value(expression)? {
            Value::Vector(vector) => Ok(vector),
            Value::Scalar(_) => Err(QueryError::BadData(format!("{expression} is not an instant vector"))),
        }
    }

    fn scalar(&self, expression: &Expr) -> Result<f64, QueryError> {
        match self.value(expression)? {
            Value::Scalar(value) => Ok(value),
            Value::Vector(_) => Err(QueryError::BadData(format!("{expression} is not a scalar"))),
        }
    }
}

/// Applies `change` to every value. What has been calculated with has no metric name any more.
fn mapped<'s>(
    mut vector: Vec<Sample<'s>>,
    change: impl Fn(f64) -> f64,
) -> Result<Vec<Sample<'s>>, QueryError> {
    for sample in &mut vector {
        sample.labels.retain(|(name, _)| *name != METRIC_NAME);
        sample.value = change(sample.value);
    }
    distinct(vector)
}

/// No two samples of a vector can have the same labels.
fn distinct(vector: Vec<Sample<'_>>) -> Result<Vec<Sample<'_>>, QueryError> {
    let mut seen = BTreeSet::new();
    if vector.iter().all(|sample| seen.insert(&sample.labels)) {
        return Ok(vector);
    }
    Err(QueryError::Failed("vector cannot contain metrics with the same labelset".into()))
}
