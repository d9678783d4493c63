//! Optimizers: from candidates and inventory to a plan. Pure.

pub mod solver;
