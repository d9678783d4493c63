//! The part of PromQL that autoscalers and dashboards ask, over present and recorded values.
//!
//! Parsed by a library, evaluated here over a [`Source`], at one moment at a time. What is not evaluated is an
//! error that names it. An error of a selector is an error of the whole query, whatever stands around it: `x or vector(0)`
//! gives no 0 while `x` is not known.

mod aggregate;
mod binary;
mod depth;
mod functions;
mod moment;
mod range;
#[cfg(test)]
mod tests;

pub use moment::{Moment, SelectorId, Use, id_of};
pub use range::Track;

use super::select::Selector;
use crate::limits::{QUERY_LEVELS_MAX, QUERY_SAMPLES_MAX};
use crate::units::TimeMs;
use promql_parser::label::METRIC_NAME;
use promql_parser::parser::{Expr, VectorSelector};
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
        "{0} is not evaluated here; selectors, aggregations, operators and the usual functions are, such as \
         sum by (exported_namespace) (max_over_time(inferno_desired_replicas{{variant_name=\"x\"}}[5m]))"
    )]
    Unsupported(String),
    /// PromQL that has no result for the values that there are. HTTP 422, `execution`.
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
    /// The samples of a range selector that is the whole query.
    Matrix(Vec<Track<'s>>),
}

/// A series with its samples within a range, oldest first; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Series<'p, 's> {
    /// Label pairs with `__name__`.
    pub labels: Labels<'s>,
    /// Times and values.
    pub points: &'p [(TimeMs, f64)],
}

/// Where samples come from.
pub trait Source<'s> {
    /// Samples that `selector` matches as of `at`, which takes its `offset` and `@` into account.
    fn select(&self, selector: &VectorSelector, at: TimeMs) -> Result<Vec<Sample<'s>>, QueryError>;

    /// Series that `selector` matches with samples after `after` and not after `until`.
    fn range(
        &self,
        selector: &VectorSelector,
        after: TimeMs,
        until: TimeMs,
    ) -> Result<Vec<Series<'_, 's>>, QueryError>;
}

/// A parsed query.
#[derive(Debug)]
pub struct Query {
    /// On the heap, where its selectors keep their place when the query moves.
    expression: Box<Expr>,
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
        Ok(Query { expression: Box::new(expression) })
    }

    /// The query as a plain selector, as `match[]` parameters are.
    pub fn into_selector(self) -> Result<Selector, QueryError> {
        match *self.expression {
            Expr::VectorSelector(selector) => Selector::new(&selector),
            other => Err(QueryError::BadData(format!("{other} is not a series selector"))),
        }
    }

    /// Evaluates at one moment.
    pub fn evaluate<'s>(&self, source: &dyn Source<'s>, moment: Moment) -> Result<Value<'s>, QueryError> {
        Ok(self.evaluate_counted(source, moment)?.0)
    }

    /// As [`Query::evaluate`], with the number of samples that it took.
    pub fn evaluate_counted<'s>(
        &self,
        source: &dyn Source<'s>,
        moment: Moment,
    ) -> Result<(Value<'s>, usize), QueryError> {
        let evaluation = Evaluation { source, moment, budget: Cell::new(QUERY_SAMPLES_MAX) };
        let value = match &*self.expression {
            Expr::MatrixSelector(matrix) => evaluation.raw(matrix).map(Value::Matrix),
            expression => evaluation.value(expression),
        };
        Ok((value?, QUERY_SAMPLES_MAX - evaluation.budget.get()))
    }

    /// What the selectors of the query read when it is evaluated from one moment to another.
    pub fn uses(&self, first: Moment, last: Moment) -> Result<Vec<Use>, QueryError> {
        moment::uses(&self.expression, first, last)
    }

    /// Whether the result is a matrix, which only one moment can have.
    pub fn is_matrix(&self) -> bool {
        matches!(*self.expression, Expr::MatrixSelector(_))
    }
}

pub(super) fn unsupported<T>(what: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError::Unsupported(what.into()))
}

/// One evaluation with what it may still use.
struct Evaluation<'e, 's> {
    source: &'e dyn Source<'s>,
    moment: Moment,
    /// Samples that selectors may still give.
    budget: Cell<usize>,
}

impl<'s> Evaluation<'_, 's> {
    fn value(&self, expression: &Expr) -> Result<Value<'s>, QueryError> {
        match expression {
            Expr::Paren(inner) => self.value(&inner.expr),
            Expr::NumberLiteral(number) => Ok(Value::Scalar(number.val)),
            Expr::VectorSelector(selector) => self.select(selector).map(Value::Vector),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate).map(Value::Vector),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Call(call) => self.call(call),
            Expr::Unary(unary) => match self.value(&unary.expr)? {
                Value::Scalar(value) => Ok(Value::Scalar(-value)),
                Value::Vector(vector) => mapped(vector, |value| -value).map(Value::Vector),
                Value::Matrix(_) => unsupported("minus a range selector"),
            },
            Expr::MatrixSelector(_) => unsupported("a range selector outside a function of one"),
            Expr::Subquery(_) => unsupported("a subquery"),
            Expr::StringLiteral(_) => unsupported("a string"),
            Expr::Extension(_) => unsupported("an extension"),
        }
    }

    fn select(&self, selector: &VectorSelector) -> Result<Vec<Sample<'s>>, QueryError> {
        let samples = self.source.select(selector, self.moment.of(selector))?;
        self.spend(samples.len())?;
        Ok(samples)
    }

    fn spend(&self, samples: usize) -> Result<(), QueryError> {
        let Some(rest) = self.budget.get().checked_sub(samples) else {
            let message = format!("the query selects more than {QUERY_SAMPLES_MAX} samples");
            return Err(QueryError::Failed(message));
        };
        self.budget.set(rest);
        Ok(())
    }

    fn vector(&self, expression: &Expr) -> Result<Vec<Sample<'s>>, QueryError> {
        match self.value(expression)? {
            Value::Vector(vector) => Ok(vector),
            Value::Scalar(_) | Value::Matrix(_) => {
                Err(QueryError::BadData(format!("{expression} is not an instant vector")))
            }
        }
    }

    fn scalar(&self, expression: &Expr) -> Result<f64, QueryError> {
        match self.value(expression)? {
            Value::Scalar(value) => Ok(value),
            Value::Vector(_) | Value::Matrix(_) => {
                Err(QueryError::BadData(format!("{expression} is not a scalar")))
            }
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
