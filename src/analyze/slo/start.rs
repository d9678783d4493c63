//! What is known of a variant before its own replicas have shown it: a profile, and where it comes from.

use super::fit::Coefficients;
use std::sync::Arc;

/// What was learned of a variant, or is told of a model on an accelerator.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Where it comes from: `NAMESPACE/NAME` of a variant, or a name of its own.
    pub id: Arc<str>,
    /// Model served.
    pub model: Arc<str>,
    /// Accelerator type.
    pub accelerator: Arc<str>,
    /// Accelerators per replica.
    pub cards: u32,
    /// Iteration time.
    pub iteration: Coefficients,
    /// Observations that it rests on; 0 when it was not learned.
    pub observations: f64,
    /// KV cache of a replica, tokens; 0 when not known.
    pub kv_tokens: f64,
    /// Most sequences that run together; 0 when not known.
    pub max_seqs: f64,
    /// Start-up time of a replica, ms, if it was measured.
    pub startup_ms: Option<i64>,
    /// Share of the capacity by which overloaded replicas fell short, 0..1.
    pub shortfall: f64,
}

/// A profile as the start of a variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The profile.
    pub profile: Arc<Profile>,
    /// It was learned of this very variant, by an earlier instance.
    pub is_own: bool,
}

/// What a variant's iteration time starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The common prior.
    #[default]
    Prior,
    /// Parameters that the object states.
    Stated,
    /// What an earlier instance learned of this variant.
    Own,
    /// The profile of that name, of the same model on the same accelerator.
    Profile(Arc<str>),
}

impl Origin {
    /// As it is shown.
    pub fn describe(&self) -> String {
        match self {
            Origin::Prior => "prior".into(),
            Origin::Stated => "stated".into(),
            Origin::Own => "own".into(),
            Origin::Profile(id) => format!("profile of {id}"),
        }
    }
}
