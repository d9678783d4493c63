//! The HTTP surface as its clients see it: the real router on a socket, good input and bad.

mod admin;
mod api;
#[path = "../support/client.rs"]
mod client;
mod overload;
mod query;
mod senders;
#[path = "../support/server.rs"]
mod server;
mod stream;
#[path = "../support/table.rs"]
mod table;
mod write;
