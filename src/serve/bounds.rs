//! The limits that an operator may set, and how near each is, for `/metrics`.

use super::Context;
use crate::engine::Stats;
use crate::publish::exposition::{Writer, write_label};
use crate::publish::history::HistoryStats;
use tokio::sync::Semaphore;

/// Writes a gauge for the value of each limit and one for what is used of it.
pub fn write(context: &Context, writer: &mut Writer, stats: &Stats, record: HistoryStats) {
    let limits = &context.limits;
    let taken = |all: usize, free: &Semaphore| all.saturating_sub(free.available_permits());
    let (readers, readers_max) = context.stream.readers();
    let rows = [
        ("series", stats.series_max, stats.series),
        ("request_bytes", limits.request_bytes, context.own.largest_request_bytes()),
        ("inflight_bytes", limits.inflight_bytes, taken(limits.inflight_bytes, &context.write_bytes)),
        ("record_bytes", limits.record_bytes, record.bytes),
        ("connections", limits.connections, taken(limits.connections, &context.connections)),
        ("scaler_streams", limits.scaler_streams, taken(limits.scaler_streams, &context.scaler_streams)),
        ("stream_readers", readers_max, readers),
    ];
    let mut family = |name: &str, help: &str, value: &dyn Fn(&(&str, usize, usize)) -> usize| {
        writer.family(name, help, "gauge");
        for row in &rows {
            let mut labels = String::new();
            write_label(&mut labels, "limit", row.0);
            writer.sample(name, &labels, value(row) as f64);
        }
    };
    family("inferno_sidecar_limit", "Limits in force; see README.md, Limits.", &|row| row.1);
    family(
        "inferno_sidecar_limit_used",
        "What is used of each limit now; of request_bytes the largest request since the start.",
        &|row| row.2,
    );
}
