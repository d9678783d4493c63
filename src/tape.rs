//! The recorder: keeps everything that drives the engine in a bounded ring of files, for [`crate::replay`].
//!
//! The engine's thread hands each event over as it takes it, and each publication; a thread of its own
//! writes them. Decisions never wait for the disk: when the queue is full, or the disk is, records are left
//! out and counted, a [`Gap`](crate::proto::recording::Gap) says so in the recording, and the log says it
//! once.
//!
//! # Format
//! A segment file begins with [`segment::MAGIC`]; then come frames: length (u32, little endian), CRC-32 of the
//! record (u32, little endian), the record (`proto/recording.proto`). A frame that is cut off or does not
//! match its checksum ends the segment for readers, so whatever a crash leaves behind can be read up to its
//! last good record. The first record of each segment is a `Start`.
//!
//! # Map
//! [`segment`] frames and reads; [`ring`] keeps the files within their size; [`recorder`] is the queue and its
//! thread; [`cluster`] keeps what the cluster says; [`digest`] condenses a publication.

pub mod cluster;
pub mod convert;
pub mod digest;
pub mod recorder;
pub mod ring;
pub mod segment;

pub use recorder::{Basis, Body, Counters, Recorder, Recording, Setup};
