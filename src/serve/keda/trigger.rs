//! A trigger's metadata, and the variant on the board that it means.

use super::wire::ScaledObjectRef;
use crate::config::VariantKey;
use crate::limits::SCALER_METRIC_NAME_MAX_BYTES;
use crate::publish::{Board, Entry};
use crate::units::TimeMs;
use std::sync::Arc;
use tonic::Status;

/// Name under which the desired replicas are answered when the metadata states none.
const METRIC: &str = "inferno-desired-replicas";
/// Most variants that an error names.
const NAMED_MAX: usize = 5;
/// Most characters of a foreign text that an error repeats.
const REPEATED_MAX: usize = 100;

/// What a trigger asks for.
#[derive(Debug)]
pub struct Trigger {
    object: String,
    namespace: String,
    wanted: Wanted,
    /// Name of the metric.
    pub metric: String,
    /// Target of the metric per replica; finite, above zero.
    pub target: f64,
    activation_threshold: f64,
}

#[derive(Debug)]
enum Wanted {
    /// A variant by name.
    Variant { key: VariantKey, model_id: Option<String> },
    /// A variant of a model: the only one, or the one that scales what the ScaledObject scales.
    Model(String),
}

impl Trigger {
    /// Reads the metadata. Keys that are not ours are KEDA's own.
    pub fn parse(object: &ScaledObjectRef) -> Result<Self, Status> {
        let text = |key: &str| {
            let value = object.scaler_metadata.get(key).map(|value| value.trim());
            value.filter(|value| !value.is_empty())
        };
        let namespace = text("namespace").unwrap_or(&object.namespace).to_owned();
        let model_id = text("modelID").map(str::to_owned);
        let wanted = match (text("variantName"), model_id) {
            (Some(name), model_id) => Wanted::Variant { key: VariantKey::new(&namespace, name), model_id },
            (None, Some(model_id)) => Wanted::Model(model_id),
            (None, None) => {
                let message = "the trigger's metadata lacks variantName; set it to the name of a variant, \
                               or modelID to a model's";
                return Err(Status::invalid_argument(message));
            }
        };
        if namespace.is_empty() {
            return Err(Status::invalid_argument(
                "neither the metadata nor the ScaledObject has a namespace",
            ));
        }
        let metric = text("metricName").unwrap_or(METRIC).to_owned();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if metric.len() > SCALER_METRIC_NAME_MAX_BYTES || !metric.chars().all(plain) {
            return Err(Status::invalid_argument(format!(
                "metricName {} must consist of at most {SCALER_METRIC_NAME_MAX_BYTES} of a-z, 0-9 and -, \
                 because it becomes part of a URL",
                repeated(&metric)
            )));
        }
        let target = number("targetValue", text("targetValue"), 1.0)?;
        if target <= 0.0 {
            return Err(Status::invalid_argument("targetValue must be above 0"));
        }
        let activation_threshold = number("activationThreshold", text("activationThreshold"), 0.0)?;
        let object = object.name.clone();
        Ok(Trigger { object, namespace, wanted, metric, target, activation_threshold })
    }

    /// KEDA asks for the name that the specification gave it.
    pub fn check_metric(&self, asked: &str) -> Result<(), Status> {
        if asked.is_empty() || asked == self.metric {
            return Ok(());
        }
        Err(Status::invalid_argument(format!(
            "metric {} is not served; the trigger's metric is {}",
            repeated(asked),
            self.metric
        )))
    }

    /// Whether the scale target should have replicas at all.
    pub fn is_active(&self, desired: u32) -> bool {
        f64::from(desired) > self.activation_threshold
    }

    /// Replicas wanted as of `now`.
    pub fn desired(&self, board: &Board, now: TimeMs) -> Result<u32, Status> {
        let not_ready = board.not_ready();
        if let (Some(why), false) = (&not_ready, board.configured) {
            return Err(Status::unavailable(why));
        }
        let entry = self.find(board)?;
        match (&entry.decision, not_ready) {
            (Some(decision), None) => Ok(decision.desired),
            // A decision of a past that the sender is working off, for one.
            (Some(_), Some(why)) => Err(Status::unavailable(why)),
            (None, Some(why)) if board.stream_time.is_none() => Err(Status::unavailable(why)),
            (None, _) => Err(Status::unavailable(entry.undecided(now))),
        }
    }

    /// The variant that is meant.
    pub fn find<'b>(&self, board: &'b Board) -> Result<&'b Arc<Entry>, Status> {
        match &self.wanted {
            Wanted::Variant { key, model_id } => self.by_name(board, key, model_id.as_deref()),
            Wanted::Model(model_id) => self.by_model(board, model_id),
        }
    }

    fn by_name<'b>(
        &self,
        board: &'b Board,
        key: &VariantKey,
        model_id: Option<&str>,
    ) -> Result<&'b Arc<Entry>, Status> {
        let Some(entry) = board.entries.get(key) else {
            return Err(Status::not_found(format!(
                "no variant {}; {}",
                repeated(&key.to_string()),
                self.nearby(board)
            )));
        };
        match model_id {
            Some(model_id) if *model_id != *entry.variant.model_id => Err(Status::invalid_argument(format!(
                "variant {key} serves {}, not {}; correct modelID or leave it out",
                repeated(&entry.variant.model_id),
                repeated(model_id)
            ))),
            _ => Ok(entry),
        }
    }

    fn by_model<'b>(&self, board: &'b Board, model_id: &str) -> Result<&'b Arc<Entry>, Status> {
        let of_model = |entry: &&Arc<Entry>| *entry.variant.model_id == *model_id;
        let variants: Vec<&Arc<Entry>> = self.of_namespace(board).filter(of_model).collect();
        let same_target = |entry: &&Arc<Entry>| *entry.variant.target.name == *self.object;
        let same: Vec<&Arc<Entry>> = variants.iter().copied().filter(same_target).collect();
        match (&variants[..], &same[..]) {
            ([], _) => Err(Status::not_found(format!(
                "no variant of model {} in namespace {}; {}",
                repeated(model_id),
                repeated(&self.namespace),
                self.nearby(board)
            ))),
            ([only], _) | (_, [only]) => Ok(only),
            _ => Err(Status::invalid_argument(format!(
                "model {} has several variants in namespace {} and the scale target of none or of several is \
                 named {}; set variantName to one of {}",
                repeated(model_id),
                repeated(&self.namespace),
                repeated(&self.object),
                names(variants.iter().map(|entry| entry.variant.key.name.to_string()))
            ))),
        }
    }

    fn of_namespace<'b>(&self, board: &'b Board) -> impl Iterator<Item = &'b Arc<Entry>> {
        let inside = |entry: &&Arc<Entry>| *entry.variant.key.namespace == *self.namespace;
        board.entries.range(VariantKey::new(&self.namespace, "")..).map(|(_, entry)| entry).take_while(inside)
    }

    /// What there is instead of what was asked for.
    fn nearby(&self, board: &Board) -> String {
        if board.entries.is_empty() {
            return "no variant is configured".into();
        }
        let mut here = self.of_namespace(board).peekable();
        if here.peek().is_some() {
            let described =
                here.map(|entry| format!("{} ({})", entry.variant.key.name, entry.variant.model_id));
            return format!("namespace {} has {}", repeated(&self.namespace), names(described));
        }
        let namesake = |key: &&VariantKey| match &self.wanted {
            Wanted::Variant { key: wanted, .. } => key.name == wanted.name,
            Wanted::Model(_) => false,
        };
        let namesakes: Vec<String> =
            board.entries.keys().filter(namesake).map(VariantKey::to_string).collect();
        let found = match &namesakes[..] {
            [] => names(board.entries.keys().map(VariantKey::to_string)),
            _ => names(namesakes.into_iter()),
        };
        format!("namespace {} has none, but there is {found}", repeated(&self.namespace))
    }
}

fn number(key: &str, text: Option<&str>, default: f64) -> Result<f64, Status> {
    let Some(text) = text else { return Ok(default) };
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err(Status::invalid_argument(format!("{key} {} is not a number from 0 up", repeated(text)))),
    }
}

/// The first few names, and how many more there are.
fn names(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let first: Vec<String> = all.iter().take(NAMED_MAX).map(|name| repeated(name)).collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

/// A foreign text, escaped and cut to a sensible length.
fn repeated(text: &str) -> String {
    let mut cut: String = text.chars().take(REPEATED_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut.escape_debug().to_string()
}
