//! Analyzers: from windowed load to capacity and demand. Pure; knows no metrics names and no clock.

mod exact;
pub mod queueing;
pub mod rule;
pub mod saturation;
pub mod slo;
pub mod tokens;
