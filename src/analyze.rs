//! Analyzers: from demand and profiles to the capacity of one replica. Pure.

pub mod queueing;
