//! Optimizers and policies: from capacity and demand to replicas. Pure; knows no clock.

pub mod cause;
pub mod cost_aware;
pub mod enforcer;
pub mod limiter;
pub mod mix;
pub mod planner;
pub mod solver;
pub mod stabilize;
