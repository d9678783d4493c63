//! Series selectors over the board.

use super::gauges::{FAMILIES, Family, labels};
use super::promql::{Labels, QueryError, Sample, Series, Source, unsupported};
use super::{Board, Entry};
use crate::config::VariantKey;
use crate::units::TimeMs;
use promql_parser::label::{METRIC_NAME, MatchOp, Matcher};
use promql_parser::parser::VectorSelector;
use std::sync::Arc;

/// A parsed series selector.
#[derive(Clone, Debug)]
pub struct Selector {
    name: Option<String>,
    matchers: Vec<Matcher>,
}

impl Selector {
    /// The selector of an expression, without its modifiers.
    pub fn new(selector: &VectorSelector) -> Result<Self, QueryError> {
        let VectorSelector { name, matchers, .. } = selector;
        if !matchers.or_matchers.is_empty() {
            return Err(QueryError::Unsupported("or between matchers".into()));
        }
        Ok(Selector { name: name.clone(), matchers: matchers.matchers.clone() })
    }

    /// The selector with these matchers.
    pub fn of(matchers: Vec<Matcher>) -> Self {
        Selector { name: None, matchers }
    }

    /// The selector of every series.
    pub fn everything() -> Self {
        Selector { name: None, matchers: Vec::new() }
    }

    /// Whether metrics of this name are selected.
    pub fn matches_name(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
            && self.matchers.iter().filter(|m| m.name == METRIC_NAME).all(|m| m.is_match(name))
    }

    /// Whether series with these labels are selected, their name aside. A missing label counts as empty.
    pub fn matches_labels(&self, labels: &[(&str, &str)]) -> bool {
        self.matchers.iter().filter(|matcher| matcher.name != METRIC_NAME).all(|matcher| {
            let value = labels.iter().find(|(name, _)| *name == matcher.name).map_or("", |(_, value)| value);
            matcher.is_match(value)
        })
    }

    /// Value of an equality matcher on `label`.
    fn equal(&self, label: &str) -> Option<&str> {
        let equal = |m: &&Matcher| m.name == label && m.op == MatchOp::Equal && !m.value.is_empty();
        self.matchers.iter().find(equal).map(|matcher| matcher.value.as_str())
    }

    /// The only variant that can match at all, if namespace and name are given.
    pub fn key(&self) -> Option<VariantKey> {
        let namespace = self.equal("exported_namespace").or_else(|| self.equal("namespace"))?;
        Some(VariantKey::new(namespace, self.equal("variant_name")?))
    }

    /// Entries that can match at all: one lookup when namespace and name are given.
    fn candidates<'b>(&self, board: &'b Board) -> Vec<&'b Arc<Entry>> {
        match self.key() {
            Some(key) => board.entries.get(&key).into_iter().collect(),
            None => board.entries.values().collect(),
        }
    }
}

/// The board as queries see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'b> {
    /// The board.
    pub board: &'b Board,
    /// When the reader looks.
    pub now: TimeMs,
    /// The `wva_*` names are there too.
    pub aliases: bool,
}

impl<'b> Source<'b> for View<'b> {
    fn select(&self, selector: &VectorSelector, _: TimeMs) -> Result<Vec<Sample<'b>>, QueryError> {
        self.present(&Selector::new(selector)?)
    }

    fn range(&self, _: &VectorSelector, _: TimeMs, _: TimeMs) -> Result<Vec<Series<'_, 'b>>, QueryError> {
        unsupported("a range over present values")
    }
}

impl<'b> View<'b> {
    /// Present samples. A selection that would lack a variant for want of a decision is an error: to KEDA an
    /// empty vector means zero replicas.
    pub fn present(&self, selector: &Selector) -> Result<Vec<Sample<'b>>, QueryError> {
        if let Some(why) = self.board.not_ready() {
            return Err(QueryError::NotReady(why));
        }
        let mut result = Vec::new();
        self.visit(selector, |family, entry, base| {
            if family.vital && entry.decision.is_none() && selector.matches_labels(base) {
                return Err(QueryError::NotReady(entry.undecided(self.now)));
            }
            family.samples(entry, self.now, |extra, value| {
                if let Some(labels) = chosen(selector, family, base, extra) {
                    result.push(Sample { labels, value });
                }
            });
            Ok(())
        })?;
        Ok(result)
    }

    /// Calls `visit` with the labels of every selected series that an autoscaler acts on, and its variant.
    pub fn vital(
        &self,
        selector: &Selector,
        mut visit: impl FnMut(Labels<'b>, &'b Entry) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        self.visit(selector, |family, entry, base| match family.vital {
            true => chosen(selector, family, base, &[]).map_or(Ok(()), |labels| visit(labels, entry)),
            false => Ok(()),
        })
    }

    /// Label sets of the series that any of the selectors matches. What has no decision yet has a series
    /// all the same: readers of this list ask for the value later.
    pub fn series(&self, selectors: &[Selector]) -> Result<Vec<Labels<'b>>, QueryError> {
        if !self.board.configured {
            return Err(QueryError::NotReady(self.board.not_ready().unwrap_or_default()));
        }
        let mut result = Vec::new();
        for selector in selectors {
            self.visit(selector, |family, entry, base| {
                if family.vital && entry.decision.is_none() {
                    result.extend(chosen(selector, family, base, &[]));
                }
                family.samples(entry, self.now, |extra, _| {
                    result.extend(chosen(selector, family, base, extra));
                });
                Ok(())
            })?;
        }
        result.sort_unstable();
        result.dedup();
        Ok(result)
    }

    /// Calls `visit` with every family and entry that can match, and the labels that they have anyway.
    fn visit(
        &self,
        selector: &Selector,
        mut visit: impl FnMut(&'static Family, &'b Entry, &[(&'b str, &'b str)]) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let candidates = selector.candidates(self.board);
        let families = FAMILIES.iter().filter(|family| self.aliases || !family.alias);
        for family in families.filter(|family| selector.matches_name(family.name)) {
            for entry in &candidates {
                let mut base = Vec::with_capacity(8);
                labels(&entry.variant, &entry.variant_id, |name, value| base.push((name, value)));
                // Prometheus renames our `namespace` when it scrapes; a query written for it works here
                // too.
                base.push(("exported_namespace", &*entry.variant.key.namespace));
                visit(family, entry, &base)?;
            }
        }
        Ok(())
    }
}

/// All labels of a series, if it is selected.
fn chosen<'b>(
    selector: &Selector,
    family: &'static Family,
    base: &[(&'b str, &'b str)],
    extra: &[(&'static str, &'static str)],
) -> Option<Labels<'b>> {
    let mut all = base.to_vec();
    all.extend_from_slice(extra);
    if !selector.matches_labels(&all) {
        return None;
    }
    all.push((METRIC_NAME, family.name));
    all.sort_unstable();
    Some(all)
}
