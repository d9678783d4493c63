//! Functions of instant vectors and scalars.

use super::{Evaluation, QueryError, Sample, Value, mapped, unsupported};
use promql_parser::parser::{Call, Expr};

impl<'s> Evaluation<'_, 's> {
    pub(super) fn call(&self, call: &Call) -> Result<Value<'s>, QueryError> {
        let arguments: Vec<&Expr> = call.args.args.iter().map(|argument| &**argument).collect();
        let vector = match (call.func.name, &arguments[..]) {
            ("scalar", [of]) => return Ok(Value::Scalar(single(&self.vector(of)?))),
            ("vector", [of]) => vec![Sample { labels: Vec::new(), value: self.scalar(of)? }],
            ("abs", [of]) => mapped(self.vector(of)?, f64::abs)?,
            ("ceil", [of]) => mapped(self.vector(of)?, f64::ceil)?,
            ("floor", [of]) => mapped(self.vector(of)?, f64::floor)?,
            ("round", [of]) => mapped(self.vector(of)?, |value| nearest(value, 1.0))?,
            ("round", [of, to]) => {
                let to = self.scalar(to)?;
                mapped(self.vector(of)?, |value| nearest(value, to))?
            }
            ("clamp_min", [of, min]) => self.clamp(of, Some(min), None)?,
            ("clamp_max", [of, max]) => self.clamp(of, None, Some(max))?,
            ("clamp", [of, min, max]) => self.clamp(of, Some(min), Some(max))?,
            ("time", []) => return Ok(Value::Scalar(self.moment.time.as_secs_f64())),
            (name, [of]) => self.over_range(name, of)?,
            (name, _) => return unsupported(format!("the function {name}")),
        };
        Ok(Value::Vector(vector))
    }

    fn clamp(
        &self,
        of: &Expr,
        min: Option<&Expr>,
        max: Option<&Expr>,
    ) -> Result<Vec<Sample<'s>>, QueryError> {
        let vector = self.vector(of)?;
        let min = min.map(|min| self.scalar(min)).transpose()?.unwrap_or(f64::NEG_INFINITY);
        let max = max.map(|max| self.scalar(max)).transpose()?.unwrap_or(f64::INFINITY);
        if max < min {
            return Ok(Vec::new());
        }
        // A bound or a value that is no number makes the result none.
        let any_nan = |value: f64| min.is_nan() || max.is_nan() || value.is_nan();
        mapped(vector, |value| if any_nan(value) { f64::NAN } else { value.max(min).min(max) })
    }
}

/// The value of the only sample; NaN when there is none or several.
fn single(vector: &[Sample<'_>]) -> f64 {
    match vector {
        [only] => only.value,
        _ => f64::NAN,
    }
}

/// The nearest multiple of `to`; halves go up. Calculated as Prometheus does, so that the result is the
/// same to the last bit.
fn nearest(value: f64, to: f64) -> f64 {
    let inverse = 1.0 / to;
    (value * inverse + 0.5).floor() / inverse
}
