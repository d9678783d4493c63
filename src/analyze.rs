//! Analyzers: from windowed load to capacity and demand. Pure; knows no metrics names and no clock.

pub mod rule;
pub mod saturation;
pub mod tokens;
