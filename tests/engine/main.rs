//! The engine, driven as in production: encoded remote-write requests, snapshots from YAML, the clock as an
//! argument. `scaling`, `liveness`, `input`, `joins`, `snapshots`, `inventory` and `mirrored` tell stories a user would notice;
//! `oracle` holds that incremental results equal recomputation from scratch; `replay` that the same
//! stream gives the same boards.

mod churn;
mod input;
mod inventory;
mod joins;
mod liveness;
mod mirrored;
mod oracle;
mod replay;
mod scaling;
mod snapshots;
mod support;
#[allow(dead_code)] // the engine takes messages, not requests with headers
#[path = "../support/table.rs"]
mod table;
mod worlds;
