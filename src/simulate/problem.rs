//! What is wrong with the input of a simulation: named, and never in the way of the other runs.

use serde::Serialize;
use std::fmt;

/// Something that was left out, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is about: a file and line, a policy, a pair of trace and profile.
    pub subject: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl Problem {
    /// A problem with `subject`.
    pub fn new(subject: impl Into<String>, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Problem { subject: subject.into(), reason: reason.into(), fix: fix.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.subject, self.reason, self.fix)
    }
}
