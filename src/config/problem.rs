//! What is said of a rejected piece of configuration.

use std::fmt;

/// A rejected piece of configuration. The last good value of the piece, if any, stays in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File (and document) or cluster the piece came from.
    pub origin: String,
    /// Object as `Kind namespace/name`, or the file when it could not be parsed so far.
    pub object: String,
    /// Path of the field, e.g. `spec.modelProfile.accelerators[0].perfParms.decodeParms.alpha`.
    pub field: String,
    /// What is wrong, with the offending value.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
    /// What is in force instead.
    pub kept: Kept,
}

/// What is in force in place of a rejected piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// The last good value of the piece.
    LastGood,
    /// The documented default.
    Default,
    /// Nothing: the piece is ignored.
    Nothing,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if self.object != self.origin {
            write!(f, ": {}", self.object)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}; {}", self.reason, self.fix)?;
        match self.kept {
            Kept::LastGood => write!(f, " (the last good value stays in force)"),
            Kept::Default => write!(f, " (the default is in force)"),
            Kept::Nothing => write!(f, " (ignored)"),
        }
    }
}
