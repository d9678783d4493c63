//! What is there to ask for: series, labels and metadata, as Prometheus's API lists them. prometheus-adapter
//! finds its metrics this way, Grafana fills its menus.

use super::form::{Form, Refusal};
use super::query::render::metric;
use super::query::{success_with, truncate};
use super::{Context, json_response};
use crate::publish::gauges::{FAMILIES, Family};
use crate::publish::history::{Recorded, Want};
use crate::publish::promql::{Labels, Query, QueryError};
use crate::publish::select::{Selector, View};
use crate::recorder::Past;
use crate::units::TimeMs;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The version of Prometheus's API whose parts are served; Grafana chooses its requests by it.
const API_VERSION: &str = "2.24.0";

/// `/api/v1/series`: label sets of the series that any `match[]` selects.
pub async fn series(State(context): State<Context>, form: Form) -> Response {
    listed(&context, &form, true, |series| series.iter().map(metric).collect()).await
}

/// `/api/v1/labels`: names of labels.
pub async fn labels(State(context): State<Context>, form: Form) -> Response {
    listed(&context, &form, false, |series| {
        let names: BTreeSet<&str> = series.iter().flatten().map(|(name, _)| *name).collect();
        names.into_iter().map(Value::from).collect()
    })
    .await
}

/// `/api/v1/label/NAME/values`: values of one label.
pub async fn values(State(context): State<Context>, Path(name): Path<String>, form: Form) -> Response {
    listed(&context, &form, false, |series| {
        let pairs = series.iter().flatten().filter(|(label, _)| *label == name);
        let values: BTreeSet<&str> = pairs.map(|(_, value)| *value).collect();
        values.into_iter().map(Value::from).collect()
    })
    .await
}

/// Answers a list made from the series that any `match[]` selects: those of the present, and those that are
/// recorded between `start` and `end` if either is given.
async fn listed(
    context: &Context,
    form: &Form,
    match_needed: bool,
    list: impl FnOnce(&[Labels<'_>]) -> Vec<Value>,
) -> Response {
    context.own.query_asked();
    match found(context, form, match_needed, list).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn found(
    context: &Context,
    form: &Form,
    match_needed: bool,
    list: impl FnOnce(&[Labels<'_>]) -> Vec<Value>,
) -> Result<Response, Refusal> {
    let (start, end) = (form.time("start")?, form.time("end")?);
    let limit = form.limit()?;
    let mut selectors: Vec<Selector> = form.all("match[]").map(selector).collect::<Result<_, _>>()?;
    if selectors.is_empty() && match_needed {
        return Err(Refusal::missing("match[]"));
    }
    if selectors.is_empty() {
        selectors.push(Selector::everything());
    }
    let board = context.engine.board();
    let now = context.engine.clock.reader_now(&board);
    let aliases = context.wva_aliases;
    let (from, to) = (start.unwrap_or(TimeMs::MIN), end.unwrap_or(now));
    let mut past = Past::default();
    if start.or(end).is_some() {
        let want = |selector: &Selector| Want { selector: selector.clone(), from, to, aliases };
        past = context.engine.record().ask(selectors.iter().map(want).collect(), usize::MAX).await?;
    }
    let view = View { board: &board, now, aliases };
    let mut series = view.series(&selectors)?;
    let recorded = past.series.iter().flatten();
    let recorded = recorded.filter(|recorded| recorded.values(from, to).next().is_some());
    series.extend(recorded.map(Recorded::labels));
    series.sort_unstable();
    series.dedup();
    let mut found = list(&series);
    let warnings = truncate(&mut found, limit);
    Ok(success_with(&Value::Array(found), &warnings))
}

fn selector(text: &str) -> Result<Selector, Refusal> {
    Query::parse(text).and_then(Query::into_selector).map_err(|error| match error {
        QueryError::BadData(why) => Refusal::invalid("match[]", &why),
        other => other.into(),
    })
}

/// `/api/v1/metadata`: type and help of every metric.
pub async fn metadata(State(context): State<Context>, form: Form) -> Response {
    let limit = match form.limit() {
        Ok(limit) => limit,
        Err(refusal) => return refusal.into_response(),
    };
    let wanted = form.text("metric");
    let families = FAMILIES.iter().filter(|family| context.wva_aliases || !family.alias);
    let families = families.filter(|family| wanted.is_none_or(|name| name == family.name)).take(limit);
    let about = |family: &Family| json!([{"type": family.kind.as_str(), "help": family.help, "unit": ""}]);
    let data = families.map(|family| (family.name.to_owned(), about(family))).collect();
    success_with(&Value::Object(data), &[])
}

/// `/api/v1/status/buildinfo`.
pub async fn buildinfo() -> Response {
    let data = json!({
        "version": API_VERSION,
        "revision": env!("CARGO_PKG_VERSION"),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
        "application": env!("CARGO_PKG_NAME"),
    });
    json_response(StatusCode::OK, &json!({"status": "success", "data": data}))
}
