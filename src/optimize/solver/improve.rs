//! Improvement of a greedy result by moves that free cards for others.

use super::{Grant, Problem, Stock};

/// Improves the grants of one group; returns the servers still unallocated, in their order.
pub(super) fn improve(
    _problem: &Problem,
    _orders: &[Vec<u32>],
    _servers: Vec<u32>,
    unallocated: Vec<u32>,
    _stock: &mut Stock,
    _grants: &mut [Option<Grant>],
) -> Vec<u32> {
    unallocated
}
