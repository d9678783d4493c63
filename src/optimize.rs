//! Optimizers and policies: from capacity and demand to replicas. Pure; knows no clock.

pub mod cost_aware;
pub mod enforcer;
pub mod inventory;
pub mod limiter;
pub mod solver;
