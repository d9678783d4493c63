//! Operators between scalars and vectors: arithmetic, comparison, and sets.

use super::{Evaluation, Labels, QueryError, Sample, Value, distinct, unsupported};
use promql_parser::label::METRIC_NAME;
use promql_parser::parser::token::{
    T_ADD, T_ATAN2, T_DIV, T_EQLC, T_GTE, T_GTR, T_LAND, T_LOR, T_LSS, T_LTE, T_LUNLESS, T_MOD, T_MUL, T_NEQ,
    T_POW, T_SUB, TokenId,
};
use promql_parser::parser::{BinModifier, BinaryExpr, LabelModifier, VectorMatchCardinality};
use std::collections::{BTreeMap, BTreeSet};

/// What an operator makes of two numbers.
#[derive(Clone, Copy)]
enum Operator {
    Arithmetic(fn(f64, f64) -> f64),
    Comparison(fn(f64, f64) -> bool),
    Set(Set),
}

#[derive(Clone, Copy)]
enum Set {
    And,
    Or,
    Unless,
}

fn operator(id: TokenId) -> Option<Operator> {
    use Operator::{Arithmetic, Comparison};
    Some(match id {
        T_ADD => Arithmetic(|a, b| a + b),
        T_SUB => Arithmetic(|a, b| a - b),
        T_MUL => Arithmetic(|a, b| a * b),
        T_DIV => Arithmetic(|a, b| a / b),
        T_MOD => Arithmetic(|a, b| a % b),
        T_POW => Arithmetic(f64::powf),
        T_ATAN2 => Arithmetic(f64::atan2),
        T_EQLC => Comparison(|a, b| a == b),
        T_NEQ => Comparison(|a, b| a != b),
        T_LSS => Comparison(|a, b| a < b),
        T_GTR => Comparison(|a, b| a > b),
        T_LTE => Comparison(|a, b| a <= b),
        T_GTE => Comparison(|a, b| a >= b),
        T_LAND => Operator::Set(Set::And),
        T_LOR => Operator::Set(Set::Or),
        T_LUNLESS => Operator::Set(Set::Unless),
        _ => return None,
    })
}

/// Which labels say that two samples belong together.
struct Matching<'e> {
    labels: Option<&'e LabelModifier>,
    return_bool: bool,
}

impl<'e> Matching<'e> {
    fn new(modifier: Option<&'e BinModifier>) -> Result<Self, QueryError> {
        let Some(modifier) = modifier else { return Ok(Matching { labels: None, return_bool: false }) };
        match modifier.card {
            VectorMatchCardinality::ManyToOne(_) => return unsupported("group_left"),
            VectorMatchCardinality::OneToMany(_) => return unsupported("group_right"),
            VectorMatchCardinality::OneToOne | VectorMatchCardinality::ManyToMany => {}
        }
        if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
            return unsupported("fill");
        }
        Ok(Matching { labels: modifier.matching.as_ref(), return_bool: modifier.return_bool })
    }

    /// Whether a label counts; the metric name does only when it is named.
    fn counts(&self, name: &str) -> bool {
        match self.labels {
            Some(LabelModifier::Include(on)) => on.labels.iter().any(|label| label == name),
            Some(LabelModifier::Exclude(ignoring)) => {
                name != METRIC_NAME && !ignoring.labels.iter().any(|label| label == name)
            }
            None => name != METRIC_NAME,
        }
    }

    fn signature<'s>(&self, sample: &Sample<'s>) -> Labels<'s> {
        sample.labels.iter().copied().filter(|(name, _)| self.counts(name)).collect()
    }

    /// Labels of a result: the name stays where nothing was calculated, unless `on` leaves it out.
    fn result<'s>(&self, sample: &Sample<'s>, keep_name: bool) -> Labels<'s> {
        let on = matches!(self.labels, Some(LabelModifier::Include(_)));
        let stays = |name: &str| match name {
            METRIC_NAME => keep_name && (!on || self.counts(name)),
            _ => self.counts(name),
        };
        sample.labels.iter().copied().filter(|(name, _)| stays(name)).collect()
    }
}

impl<'s> Evaluation<'_, 's> {
    pub(super) fn binary(&self, binary: &BinaryExpr) -> Result<Value<'s>, QueryError> {
        let Some(operator) = operator(binary.op.id()) else {
            return unsupported(format!("the operator {}", binary.op));
        };
        let matching = Matching::new(binary.modifier.as_ref())?;
        // Both sides always: an error on either is an error of the whole.
        let (left, right) = (self.value(&binary.lhs)?, self.value(&binary.rhs)?);
        let vector = match (left, right, operator) {
            (Value::Vector(left), Value::Vector(right), Operator::Set(set)) => {
                combined(left, right, set, &matching)
            }
            (Value::Vector(left), Value::Vector(right), _) => joined(&left, &right, operator, &matching)?,
            (Value::Matrix(_), _, _) | (_, Value::Matrix(_), _) => {
                return Err(QueryError::BadData(format!("{} does not work on ranges", binary.op)));
            }
            (_, _, Operator::Set(_)) => {
                return Err(QueryError::BadData(format!("{} needs vectors on both sides", binary.op)));
            }
            (Value::Scalar(left), Value::Scalar(right), _) => {
                let value = match operator {
                    Operator::Comparison(compare) => f64::from(compare(left, right)),
                    Operator::Arithmetic(calculate) => calculate(left, right),
                    Operator::Set(_) => f64::NAN,
                };
                return Ok(Value::Scalar(value));
            }
            (Value::Vector(left), Value::Scalar(right), _) => {
                with_scalar(left, operator, matching.return_bool, |value| (value, right))?
            }
            (Value::Scalar(left), Value::Vector(right), _) => {
                with_scalar(right, operator, matching.return_bool, |value| (left, value))?
            }
        };
        Ok(Value::Vector(vector))
    }
}

/// The number that stands for `value` afterwards, if any: a comparison without `bool` is a filter.
fn applied(operator: Operator, return_bool: bool, (left, right): (f64, f64), value: f64) -> Option<f64> {
    match operator {
        Operator::Arithmetic(calculate) => Some(calculate(left, right)),
        Operator::Comparison(compare) if return_bool => Some(f64::from(compare(left, right))),
        Operator::Comparison(compare) => compare(left, right).then_some(value),
        Operator::Set(_) => None,
    }
}

/// A filter leaves its samples as they are, name included.
fn keeps_name(operator: Operator, return_bool: bool) -> bool {
    matches!(operator, Operator::Comparison(_)) && !return_bool
}

fn with_scalar<'s>(
    vector: Vec<Sample<'s>>,
    operator: Operator,
    return_bool: bool,
    sides: impl Fn(f64) -> (f64, f64),
) -> Result<Vec<Sample<'s>>, QueryError> {
    let keep_name = keeps_name(operator, return_bool);
    let mut result = Vec::with_capacity(vector.len());
    for mut sample in vector {
        if let Some(value) = applied(operator, return_bool, sides(sample.value), sample.value) {
            sample.labels.retain(|(name, _)| keep_name || *name != METRIC_NAME);
            sample.value = value;
            result.push(sample);
        }
    }
    distinct(result)
}

/// One sample of each side with equal labels.
fn joined<'s>(
    left: &[Sample<'s>],
    right: &[Sample<'s>],
    operator: Operator,
    matching: &Matching<'_>,
) -> Result<Vec<Sample<'s>>, QueryError> {
    let mut partners = BTreeMap::new();
    for sample in right {
        if partners.insert(matching.signature(sample), sample.value).is_some() {
            let message = "found duplicate series for the match group on the right hand-side of the \
                           operation; many-to-many matching is not allowed";
            return Err(QueryError::Failed(message.into()));
        }
    }
    let keep_name = keeps_name(operator, matching.return_bool);
    let mut matched = BTreeSet::new();
    let mut result = Vec::new();
    for sample in left {
        let signature = matching.signature(sample);
        let Some(partner) = partners.get(&signature) else { continue };
        let sides = (sample.value, *partner);
        let Some(value) = applied(operator, matching.return_bool, sides, sample.value) else { continue };
        if !matched.insert(signature) {
            let message = "multiple matches for labels: many-to-one matching is not evaluated here";
            return Err(QueryError::Failed(message.into()));
        }
        result.push(Sample { labels: matching.result(sample, keep_name), value });
    }
    Ok(result)
}

fn combined<'s>(
    left: Vec<Sample<'s>>,
    right: Vec<Sample<'s>>,
    set: Set,
    matching: &Matching<'_>,
) -> Vec<Sample<'s>> {
    let signatures = |vector: &[Sample<'s>]| -> BTreeSet<Labels<'s>> {
        vector.iter().map(|sample| matching.signature(sample)).collect()
    };
    match set {
        Set::Or => {
            let known = signatures(&left);
            let more = right.into_iter().filter(|sample| !known.contains(&matching.signature(sample)));
            left.into_iter().chain(more).collect()
        }
        Set::And | Set::Unless => {
            let known = signatures(&right);
            let wanted = matches!(set, Set::And);
            let stays = |sample: &Sample<'s>| known.contains(&matching.signature(sample)) == wanted;
            left.into_iter().filter(stays).collect()
        }
    }
}
