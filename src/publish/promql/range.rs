//! Functions over ranges of recorded samples, calculated as Prometheus does.

use super::{Evaluation, Labels, QueryError, Sample, Series, distinct, unsupported};
use crate::units::TimeMs;
use promql_parser::label::METRIC_NAME;
use promql_parser::parser::{Expr, MatrixSelector};

/// A sample this much later than the average distance from a range's edge is not extrapolated to it.
const EXTRAPOLATED_MAX: f64 = 1.1;

/// A range: its end, inclusive, and its length.
#[derive(Clone, Copy)]
struct Span {
    until: TimeMs,
    ms: i64,
}

type Points<'p> = &'p [(TimeMs, f64)];

/// What a function makes of the samples of one series within a range; `None` where they are too few.
type Function = fn(Points<'_>, Span) -> Option<f64>;

fn function(name: &str) -> Option<Function> {
    Some(match name {
        "rate" => |points, span| extrapolated(points, span, true, true),
        "increase" => |points, span| extrapolated(points, span, true, false),
        "delta" => |points, span| extrapolated(points, span, false, false),
        "irate" => |points, _| last_two(points, true).map(|(change, seconds)| change / seconds),
        "idelta" => |points, _| last_two(points, false).map(|(change, _)| change),
        "count_over_time" => |points, _| Some(points.len() as f64),
        "last_over_time" => |points, _| points.last().map(|(_, value)| *value),
        "present_over_time" => |_, _| Some(1.0),
        "sum_over_time" => |points, _| Some(sum(points)),
        "avg_over_time" => |points, _| Some(average(points)),
        "min_over_time" => |points, _| extreme(points, |value, min| value < min),
        "max_over_time" => |points, _| extreme(points, |value, max| value > max),
        "stddev_over_time" => |points, _| Some(variance(points).sqrt()),
        "stdvar_over_time" => |points, _| Some(variance(points)),
        "changes" => |points, _| {
            let differ = |a: f64, b: f64| a != b && !(a.is_nan() && b.is_nan());
            Some(points.windows(2).filter(|two| differ(two[0].1, two[1].1)).count() as f64)
        },
        "resets" => |points, _| Some(points.windows(2).filter(|two| two[1].1 < two[0].1).count() as f64),
        _ => return None,
    })
}

impl<'s> Evaluation<'_, 's> {
    /// A function of one range selector.
    pub(super) fn over_range(&self, name: &str, argument: &Expr) -> Result<Vec<Sample<'s>>, QueryError> {
        let Some(function) = function(name) else { return unsupported(format!("the function {name}")) };
        let matrix = match inner(argument) {
            Expr::MatrixSelector(matrix) => matrix,
            Expr::Subquery(_) => return unsupported(format!("a subquery, as in {name}")),
            other => return Err(QueryError::BadData(format!("{other} is not a range selector"))),
        };
        let (series, span) = self.matrix(matrix)?;
        let keep_name = name == "last_over_time";
        let mut result = Vec::with_capacity(series.len());
        for Series { mut labels, points } in series {
            if let Some(value) = function(points, span) {
                labels.retain(|(label, _)| keep_name || *label != METRIC_NAME);
                result.push(Sample { labels, value });
            }
        }
        distinct(result)
    }

    fn matrix(&self, matrix: &MatrixSelector) -> Result<(Vec<Series<'_, 's>>, Span), QueryError> {
        let until = self.moment.of(&matrix.vs);
        let span = Span { until, ms: range_ms(matrix) };
        let series = self.source.range(&matrix.vs, until - span.ms, until)?;
        self.spend(series.iter().map(|series| series.points.len()).sum())?;
        Ok((series, span))
    }

    /// The samples of a range selector as they are.
    pub(super) fn raw(&self, matrix: &MatrixSelector) -> Result<Vec<Track<'s>>, QueryError> {
        let (series, _) = self.matrix(matrix)?;
        Ok(series.into_iter().map(|series| (series.labels, series.points.to_vec())).collect())
    }
}

/// A series with its samples.
pub type Track<'s> = (Labels<'s>, Vec<(TimeMs, f64)>);

/// Length of a range, ms.
pub(super) fn range_ms(matrix: &MatrixSelector) -> i64 {
    i64::try_from(matrix.range.as_millis()).unwrap_or(i64::MAX)
}

fn inner(expression: &Expr) -> &Expr {
    match expression {
        Expr::Paren(paren) => inner(&paren.expr),
        other => other,
    }
}

/// Change over the whole range, judged from the samples in it: a little beyond the first and the last one, but
/// not below zero for a counter, whose falls are restarts from zero.
fn extrapolated(
    points: Points<'_>,
    Span { until, ms }: Span,
    is_counter: bool,
    per_second: bool,
) -> Option<f64> {
    let [(first_at, first), .., (last_at, last)] = *points else { return None };
    let mut change = last - first;
    if is_counter {
        change += points.windows(2).filter(|two| two[1].1 < two[0].1).map(|two| two[0].1).sum::<f64>();
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let sampled = seconds(last_at.since(first_at));
    let average = sampled / (points.len() - 1) as f64;
    let reach = |gap: f64| if gap >= average * EXTRAPOLATED_MAX { average / 2.0 } else { gap };
    let mut before = reach(seconds(first_at.since(until - ms)));
    if is_counter && change > 0.0 && first >= 0.0 {
        before = before.min(sampled * (first / change));
    }
    let behind = reach(seconds(until.since(last_at)));
    let mut factor = (sampled + before + behind) / sampled;
    if per_second {
        factor /= seconds(ms);
    }
    Some(change * factor)
}

/// Change between the last two samples, and the seconds between them.
fn last_two(points: Points<'_>, is_counter: bool) -> Option<(f64, f64)> {
    let [.., (before_at, before), (last_at, last)] = *points else { return None };
    let change = if is_counter && last < before { last } else { last - before };
    Some((change, last_at.since(before_at) as f64 / 1000.0))
}

/// A sum that keeps track of what rounding takes from it.
fn sum(points: Points<'_>) -> f64 {
    let (mut sum, mut rest) = (0.0_f64, 0.0);
    for (_, value) in points {
        let next = sum + value;
        if next.is_infinite() {
            rest = 0.0;
        } else if sum.abs() >= value.abs() {
            rest += (sum - next) + value;
        } else {
            rest += (value - next) + sum;
        }
        sum = next;
    }
    sum + rest
}

fn average(points: Points<'_>) -> f64 {
    sum(points) / points.len() as f64
}

fn variance(points: Points<'_>) -> f64 {
    let mean = average(points);
    points.iter().map(|(_, value)| (value - mean).powi(2)).sum::<f64>() / points.len() as f64
}

/// A NaN gives way to any number.
fn extreme(points: Points<'_>, beats: fn(f64, f64) -> bool) -> Option<f64> {
    let values = points.iter().map(|(_, value)| *value);
    values.reduce(|kept, value| if beats(value, kept) || kept.is_nan() { value } else { kept })
}
