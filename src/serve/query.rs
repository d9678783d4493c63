//! `/api/v1/query` and `/api/v1/query_range`: PromQL over the board and the record.
//!
//! A query that needs present values only is answered at once. One that needs the past asks the record for the
//! samples that it can touch, and is evaluated over these on a thread for blocking work, a few at a time.

pub mod render;

use super::form::{Form, Refusal};
use super::{Context, json_text};
use crate::limits::{
    QUERY_ANSWER_MAX, QUERY_POINTS_MAX, QUERY_RECORDED_MAX, QUERY_WAIT_MAX_S, QUERY_WORK_MAX,
};
use crate::publish::Board;
use crate::publish::history::{Selected, Table, Want};
use crate::publish::promql::{Labels, Moment, Query, QueryError, Track, Use, Value};
use crate::publish::select::View;
use crate::recorder::Past;
use crate::units::TimeMs;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// What is said when an answer was cut to its limit.
const TRUNCATED: &str = "results truncated due to limit";

/// `/api/v1/query`.
pub async fn instant(State(context): State<Context>, form: Form) -> Response {
    context.own.query_asked();
    answer(&context, &form, Asked::instant).await.into_response()
}

/// `/api/v1/query_range`.
pub async fn range(State(context): State<Context>, form: Form) -> Response {
    context.own.query_asked();
    answer(&context, &form, Asked::range).await.into_response()
}

/// When a query is to be evaluated.
#[derive(Clone, Copy)]
enum Asked {
    At(TimeMs),
    Range { start: TimeMs, step_ms: i64, points: i64 },
}

impl Asked {
    fn instant(form: &Form, now: TimeMs) -> Result<Self, Refusal> {
        Ok(Asked::At(form.time("time")?.unwrap_or(now)))
    }

    fn range(form: &Form, _: TimeMs) -> Result<Self, Refusal> {
        let start = form.time("start")?.ok_or_else(|| Refusal::missing("start"))?;
        let end = form.time("end")?.ok_or_else(|| Refusal::missing("end"))?;
        let step_ms = form.duration_ms("step")?.ok_or_else(|| Refusal::missing("step"))?;
        if end < start {
            return Err(Refusal::invalid("end", "end timestamp must not be before start timestamp"));
        }
        let points = end.since(start) / step_ms + 1;
        if points > QUERY_POINTS_MAX {
            let message = format!("more than {QUERY_POINTS_MAX} points per series; take a larger step");
            return Err(Refusal::invalid("step", &message));
        }
        Ok(Asked::Range { start, step_ms, points })
    }

    /// The evaluations.
    fn moments(self) -> impl Iterator<Item = Moment> {
        let (start, step_ms, points) = match self {
            Asked::At(time) => (time, 0, 1),
            Asked::Range { start, step_ms, points } => (start, step_ms, points),
        };
        let end = start + step_ms * (points - 1);
        (0..points).map(move |point| Moment { time: start + step_ms * point, start, end })
    }

    /// The first and the last evaluation.
    fn edges(self) -> (Moment, Moment) {
        let first = self.moments().next().unwrap_or(Moment::at(TimeMs(0)));
        (first, Moment { time: first.end, ..first })
    }
}

/// A query with all that its evaluation needs but the past.
struct Job {
    query: Query,
    asked: Asked,
    limit: usize,
    board: Arc<Board>,
    now: TimeMs,
    aliases: bool,
    /// Selectors that read the past.
    past: Vec<Use>,
}

async fn answer(
    context: &Context,
    form: &Form,
    asked: impl Fn(&Form, TimeMs) -> Result<Asked, Refusal>,
) -> Result<Response, Refusal> {
    let board = context.engine.board();
    let now = context.engine.clock.reader_now(&board);
    let query = Query::parse(form.text("query").ok_or_else(|| Refusal::missing("query"))?)?;
    let asked = asked(form, now)?;
    if query.is_matrix() && matches!(asked, Asked::Range { .. }) {
        let message = "the result of a range query's expression must be a scalar or an instant vector";
        return Err(Refusal::invalid("query", message));
    }
    let (first, last) = asked.edges();
    let mut past = query.uses(first, last)?;
    past.retain(|used| used.is_range || !Table::is_present(used.times.0, now));
    let limit = form.limit()?;
    let job = Job { query, asked, limit, board, now, aliases: context.wva_aliases, past };
    let text = if job.past.is_empty() && matches!(asked, Asked::At(_)) {
        job.text(&Past::default())?
    } else {
        let _place = place(context).await?;
        let wants = job.past.iter().map(|used| Want {
            selector: used.selector.clone(),
            from: used.from,
            to: used.times.1,
            aliases: job.aliases,
        });
        let past = context.engine.record().ask(wants.collect(), QUERY_RECORDED_MAX).await?;
        let work = tokio::task::spawn_blocking(move || job.text(&past));
        work.await.map_err(|_| Refusal::execution("the evaluation failed"))??
    };
    Ok(json_text(StatusCode::OK, text))
}

/// A place among the queries over the record that are worked on.
pub async fn place(context: &Context) -> Result<OwnedSemaphorePermit, Refusal> {
    let wait = Duration::from_secs(QUERY_WAIT_MAX_S);
    let place = tokio::time::timeout(wait, context.queries.clone().acquire_owned()).await;
    place
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| Refusal::busy("too many queries over the record; try again"))
}

impl Job {
    /// The answer as JSON.
    fn text(&self, past: &Past) -> Result<String, Refusal> {
        let present = View { board: &self.board, now: self.now, aliases: self.aliases };
        let selected = self.past.iter().zip(&past.series).map(|(used, series)| Selected {
            id: used.id,
            from: used.from,
            to: used.times.1,
            is_range: used.is_range,
            series,
        });
        let is_strict = matches!(self.asked, Asked::At(_));
        let table = Table::new(present, past.since, is_strict, selected);
        let (data, is_cut) = match self.asked {
            Asked::At(time) => {
                let value = self.query.evaluate(&table, Moment::at(time))?;
                render::instant(value, time, self.limit)
            }
            Asked::Range { .. } => render::matrix(&self.tracks(&table)?, self.limit),
        };
        let warnings: &[&str] = if is_cut { &[TRUNCATED] } else { &[] };
        Ok(render::success_text(&data, warnings))
    }

    /// The values of each series over the range, sorted by labels.
    fn tracks<'s>(&self, table: &Table<'s>) -> Result<Vec<Track<'s>>, QueryError> {
        let mut tracks: BTreeMap<Labels<'s>, Vec<(TimeMs, f64)>> = BTreeMap::new();
        let (mut work, mut values) = (0, 0);
        for moment in self.asked.moments() {
            let (value, used) = self.query.evaluate_counted(table, moment)?;
            let samples = match value {
                Value::Vector(samples) => samples,
                Value::Scalar(value) => vec![crate::publish::promql::Sample { labels: Vec::new(), value }],
                Value::Matrix(_) => Vec::new(),
            };
            (work, values) = (work + used, values + samples.len());
            if work > QUERY_WORK_MAX || values > QUERY_ANSWER_MAX {
                let message = "the range takes too many samples; take a larger step or fewer series";
                return Err(QueryError::Failed(message.into()));
            }
            for sample in samples {
                tracks.entry(sample.labels).or_default().push((moment.time, sample.value));
            }
        }
        Ok(tracks.into_iter().collect())
    }
}

/// Cuts a list to its limit; gives the warning that goes with it.
pub fn truncate<T>(list: &mut Vec<T>, limit: usize) -> Vec<&'static str> {
    if list.len() <= limit {
        return Vec::new();
    }
    list.truncate(limit);
    vec![TRUNCATED]
}

/// A successful answer.
pub fn success_with(data: &Json, warnings: &[&str]) -> Response {
    json_text(StatusCode::OK, render::success_text(&data.to_string(), warnings))
}
