//! When a query is evaluated, and what its selectors read then.

use super::range::range_ms;
use super::{QueryError, unsupported};
use crate::limits::LOOKBACK_MS;
use crate::publish::select::Selector;
use crate::units::TimeMs;
use promql_parser::parser::{AtModifier, Expr, Offset, VectorSelector};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One evaluation of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time of this evaluation.
    pub time: TimeMs,
    /// Time of the first evaluation, which `@ start()` means.
    pub start: TimeMs,
    /// Time of the last evaluation, which `@ end()` means.
    pub end: TimeMs,
}

impl Moment {
    /// The only evaluation of an instant query.
    pub fn at(time: TimeMs) -> Self {
        Moment { time, start: time, end: time }
    }

    /// The time that a selector reads: this one, or that of its `@`, moved by its `offset`.
    pub fn of(&self, selector: &VectorSelector) -> TimeMs {
        let time = match selector.at {
            None => self.time,
            Some(AtModifier::Start) => self.start,
            Some(AtModifier::End) => self.end,
            Some(AtModifier::At(time)) => since_epoch(time),
        };
        match selector.offset {
            None => time,
            Some(Offset::Pos(back)) => time - ms(back),
            Some(Offset::Neg(ahead)) => time + ms(ahead),
        }
    }
}

fn since_epoch(time: SystemTime) -> TimeMs {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => TimeMs(ms(after)),
        Err(before) => TimeMs(-ms(before.duration())),
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Which of a query's selectors: its place in memory, which does not change while the query lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelectorId(usize);

/// The identity of a selector within its query.
pub fn id_of(selector: &VectorSelector) -> SelectorId {
    SelectorId(std::ptr::from_ref(selector).addr())
}

/// What one selector of a query reads.
#[derive(Clone, Debug)]
pub struct Use {
    /// The selector.
    pub id: SelectorId,
    /// What it selects.
    pub selector: Selector,
    /// Time of the first sample that can matter.
    pub from: TimeMs,
    /// Earliest and latest time as of which it is read.
    pub times: (TimeMs, TimeMs),
    /// It is a range selector.
    pub is_range: bool,
}

/// What the selectors of an expression read between two evaluations.
pub(super) fn uses(expression: &Expr, first: Moment, last: Moment) -> Result<Vec<Use>, QueryError> {
    let mut found = Vec::new();
    visit(expression, &mut |selector, range_ms| {
        let times = (first.of(selector), last.of(selector));
        // Both edges are open: a sample as old as the range or the lookback does not count.
        let from = times.0 - range_ms.unwrap_or(LOOKBACK_MS) + 1;
        let (id, selector) = (id_of(selector), Selector::new(selector)?);
        found.push(Use { id, selector, from, times, is_range: range_ms.is_some() });
        Ok(())
    })?;
    Ok(found)
}

type Visit<'v> = dyn FnMut(&VectorSelector, Option<i64>) -> Result<(), QueryError> + 'v;

fn visit(expression: &Expr, found: &mut Visit<'_>) -> Result<(), QueryError> {
    match expression {
        Expr::VectorSelector(selector) => found(selector, None),
        Expr::MatrixSelector(matrix) => found(&matrix.vs, Some(range_ms(matrix))),
        Expr::Paren(inner) => visit(&inner.expr, found),
        Expr::Unary(unary) => visit(&unary.expr, found),
        Expr::Aggregate(aggregate) => visit(&aggregate.expr, found),
        Expr::Binary(binary) => {
            visit(&binary.lhs, found)?;
            visit(&binary.rhs, found)
        }
        Expr::Call(call) => call.args.args.iter().try_for_each(|argument| visit(argument, found)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
        Expr::Subquery(_) => unsupported("a subquery"),
        Expr::Extension(_) => unsupported("an extension"),
    }
}
