//! Which set of rules an analyzer or optimizer follows where the reference controller is known to err.

/// The reference controller's exact behaviour, or ours where the two differ.
///
/// Every function that takes a rule documents what `Guarded` changes. Inputs that are not numbers are
/// treated safely under both rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The reference's answers, mistakes included: for comparison and for operators who need parity.
    Reference,
    /// The reference's formulas without the decisions that hurt users. The default.
    #[default]
    Guarded,
}
