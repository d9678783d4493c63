//! Optimizers and policies: from capacity and demand to replicas. Pure; knows no clock.

pub mod enforcer;
