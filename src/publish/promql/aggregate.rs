//! Aggregations: `sum`, `min`, `max`, `avg`, `count`, with `by` and `without`.

use super::{Evaluation, Labels, QueryError, Sample, unsupported};
use promql_parser::label::METRIC_NAME;
use promql_parser::parser::token::{T_AVG, T_COUNT, T_MAX, T_MIN, T_SUM};
use promql_parser::parser::{AggregateExpr, LabelModifier};
use std::collections::BTreeMap;

/// What any of the aggregations needs of a group.
#[derive(Default)]
struct Group {
    count: f64,
    sum: f64,
    min: Option<f64>,
    max: Option<f64>,
}

impl Group {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
        // A NaN gives way to any number, as in Prometheus.
        if self.min.is_none_or(|min| value < min || min.is_nan()) {
            self.min = Some(value);
        }
        if self.max.is_none_or(|max| value > max || max.is_nan()) {
            self.max = Some(value);
        }
    }
}

impl<'s> Evaluation<'_, 's> {
    pub(super) fn aggregate(&self, aggregate: &AggregateExpr) -> Result<Vec<Sample<'s>>, QueryError> {
        let result: fn(&Group) -> f64 = match aggregate.op.id() {
            T_SUM => |group| group.sum,
            T_AVG => |group| group.sum / group.count,
            T_COUNT => |group| group.count,
            T_MIN => |group| group.min.unwrap_or(f64::NAN),
            T_MAX => |group| group.max.unwrap_or(f64::NAN),
            _ => return unsupported(format!("the aggregation {}", aggregate.op)),
        };
        let mut groups: BTreeMap<Labels<'s>, Group> = BTreeMap::new();
        for mut sample in self.vector(&aggregate.expr)? {
            sample.labels.retain(|(name, _)| match &aggregate.modifier {
                None => false,
                Some(LabelModifier::Include(by)) => by.labels.iter().any(|label| label == name),
                Some(LabelModifier::Exclude(without)) => {
                    *name != METRIC_NAME && !without.labels.iter().any(|label| label == name)
                }
            });
            groups.entry(sample.labels).or_default().add(sample.value);
        }
        Ok(groups.into_iter().map(|(labels, group)| Sample { labels, value: result(&group) }).collect())
    }
}
