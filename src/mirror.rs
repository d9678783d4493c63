//! Sources of configuration: where documents come from and how their changes are noticed.
//!
//! Output: whole lists of [`Document`](crate::config::objects::Document)s, never half of one. Must not
//! know what the documents mean.

pub mod cluster;
pub mod files;
