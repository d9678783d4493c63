//! Every bound of the process, by name, with the relations between them checked at compile time.

/// Largest compressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_COMPRESSED_MAX_BYTES: usize = 32 << 20;
/// Largest decompressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_DECODED_MAX_BYTES: usize = 32 << 20;
/// Most labels one series may carry; Prometheus itself warns far below this.
pub const LABELS_PER_SERIES_MAX: usize = 256;
/// Longest label name or value of a relevant series, bytes.
pub const LABEL_MAX_BYTES: usize = 4096;
/// Largest configuration file that is read, bytes; a ConfigMap cannot be larger either.
pub const CONFIG_FILE_MAX_BYTES: u64 = 1 << 20;
/// Most configuration files that are read from the folder.
pub const CONFIG_FILES_MAX: usize = 10_000;
/// Most bytes of configuration that are read from the folder.
pub const CONFIG_TOTAL_MAX_BYTES: u64 = 64 << 20;
/// Most YAML documents in one file.
pub const CONFIG_DOCUMENTS_PER_FILE_MAX: usize = 10_000;
/// Most values (scalars, lists, mappings and keys) in one document, aliases expanded.
pub const CONFIG_NODES_PER_DOCUMENT_MAX: usize = 1_000_000;
/// Longest string that means something to us in an object, bytes.
pub const CONFIG_STRING_MAX_BYTES: usize = 1024;
/// Most replicas that a bound of a variant may state.
pub const CONFIG_REPLICAS_MAX: u32 = 1_000_000;

// One file fits in the folder, and a label value made of a string of ours fits in a series.
const _: () = assert!(CONFIG_FILE_MAX_BYTES <= CONFIG_TOTAL_MAX_BYTES);
const _: () = assert!(CONFIG_STRING_MAX_BYTES <= LABEL_MAX_BYTES);
/// Most folders that are watched for configuration; more are found by the slow scan.
pub const CONFIG_WATCHES_MAX: usize = 1000;
