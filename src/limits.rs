//! Every bound of the process, by name, with the relations between them checked at compile time.

/// Largest compressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_COMPRESSED_MAX_BYTES: usize = 32 << 20;
/// Largest decompressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_DECODED_MAX_BYTES: usize = 32 << 20;
/// Most symbols in the table of one remote-write 2.0 request. Prometheus sends a few thousand; the engine
/// keeps notes of some 30 bytes on each while it reads the request.
pub const WRITE_SYMBOLS_MAX: usize = 1 << 20;
/// Room for this many symbols is kept between requests; what a larger request needed is given back.
pub const WRITE_SYMBOLS_KEPT: usize = 1 << 16;
const _: () = assert!(WRITE_SYMBOLS_KEPT <= WRITE_SYMBOLS_MAX);
const _: () = assert!(WRITE_DECODED_MAX_BYTES <= u32::MAX as usize, "symbols are kept as 32-bit offsets");
/// Most series of one request that are remembered from its check, some 30 bytes each; the rest of a request with
/// more relevant ones is read twice.
pub const WRITE_SERIES_KEPT: usize = 1 << 14;
/// Most labels one series may carry; Prometheus itself warns far below this.
pub const LABELS_PER_SERIES_MAX: usize = 256;
/// Longest label name or value of a relevant series, bytes.
pub const LABEL_MAX_BYTES: usize = 4096;

/// Span of data time that windows of replica signals cover, ms. The reference controller looks at the
/// maximum over one minute for saturation.
pub const WINDOW_MS: i64 = 60_000;
/// Span of data time over which a rise of the arrival rate is looked for, ms: the usual scrape interval.
pub const RECENT_MS: i64 = 15_000;
const _: () = assert!(RECENT_MS < WINDOW_MS);
/// Time within which requests that wait should be worked off beside those that arrive, ms.
pub const BACKLOG_DRAIN_MS: i64 = 15_000;
/// Completed requests within the window from which their average length is believed: the first ones to
/// complete are the short ones.
pub const REQUESTS_MEASURED_MIN: f64 = 10.0;
/// Most cells of one window: its memory bound, whatever the scrape interval.
pub const WINDOW_CELLS_MAX: usize = 32;
/// Samples closer together than this share a cell, ms. Windows are exact for scrape intervals from here
/// up; below, a window's edge is this fuzzy.
pub const CELL_MS: i64 = 2_000;
const _: () = assert!(
    WINDOW_MS / CELL_MS + 2 <= WINDOW_CELLS_MAX as i64,
    "a window of one sample per cell, and the sample before it, must fit"
);

/// A replica is gone when the stream is this many of the replica's own scrape intervals ahead of it.
pub const SILENCE_INTERVALS: i64 = 4;
/// A replica is never called gone before the stream is this far ahead of it, ms: Prometheus's shards
/// may run apart by their batch deadline (5 s by default).
pub const SILENCE_MIN_MS: i64 = 15_000;
/// Until its second sample tells a series' interval, it counts as live this long: Prometheus's own
/// lookback, ms.
pub const SILENCE_UNKNOWN_MS: i64 = 300_000;
const _: () = assert!(SILENCE_MIN_MS < SILENCE_UNKNOWN_MS);

/// A sample this far in the future of the engine's clock is refused, ms. Prometheus's own receiver uses
/// the same bound.
pub const FUTURE_MAX_MS: i64 = 600_000;

/// Without a replica count from kube-state-metrics, the pods that report are counted; the first
/// decision then waits this long after the first pod, ms, so that one early pod is not taken for all.
pub const WARM_UP_MS: i64 = 30_000;
/// A decided change that has not begun to show in the replica count after this long no longer blocks
/// new decisions, ms. Longer than the slowest usual pod start (8 minutes).
pub const TRANSITION_MAX_MS: i64 = 600_000;
const _: () = assert!(WARM_UP_MS < TRANSITION_MAX_MS);

/// After a start, decisions are given out once the newest sample is at most this old, ms: a sender that
/// works off its backlog first sends what was true some time ago.
pub const CATCH_UP_MS: i64 = 90_000;
/// A stream that is still older than that after this long, ms, is as fresh as it gets.
pub const CATCH_UP_MAX_MS: i64 = 300_000;

/// Most live relevant series, at some 500 bytes each; further ones are refused with 503 until old ones have ended.
/// 60,000 pods with 20 relevant series each and their targets and owners stay below.
pub const SERIES_MAX: usize = 2_000_000;
/// A series without samples for this long is forgotten, ms.
pub const SERIES_FORGET_MS: i64 = 600_000;
/// Most remembered byte forms (label orders) of one series.
pub const SERIES_ALIASES_MAX: usize = 4;
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

/// Most bytes of write requests (compressed and decompressed) held at once; more is answered 503.
pub const WRITE_INFLIGHT_MAX_BYTES: usize = 256 << 20;
/// Most decoded write requests that wait for the engine; more is answered 503.
pub const WRITE_QUEUE_MAX: usize = 256;
const _: () = assert!(
    WRITE_INFLIGHT_MAX_BYTES >= 2 * (WRITE_COMPRESSED_MAX_BYTES + WRITE_DECODED_MAX_BYTES),
    "two requests of the largest size must be able to be under way"
);
/// Longest time a sender may take over one request body, seconds; Prometheus itself gives up after 30.
pub const WRITE_BODY_MAX_S: u64 = 30;
/// Seconds after which a refused sender is asked to try again.
pub const RETRY_AFTER_S: u64 = 1;
/// Most open connections; further ones wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 1024;
/// Longest wait for a request's headers on an open connection, seconds. Prometheus sends metadata once a
/// minute, so a live sender's connection is never idle for longer.
pub const HEADER_READ_MAX_S: u64 = 120;
/// Largest form body of a query, bytes.
pub const QUERY_MAX_BYTES: usize = 64 << 10;
/// Longest time a reader may take over one form body, seconds.
pub const FORM_BODY_MAX_S: u64 = 10;
/// Most operators and brackets of a query, which bounds the recursion over it.
pub const QUERY_LEVELS_MAX: usize = 100;
/// Most samples that one query may take from the board, or that one range may answer: its memory bound.
pub const QUERY_SAMPLES_MAX: usize = 200_000;
/// Most points in time of a range, as in Prometheus.
pub const QUERY_POINTS_MAX: i64 = 11_000;
/// Time for open requests to finish after a termination signal, seconds.
pub const SHUTDOWN_GRACE_S: u64 = 10;
/// Query times within this of now mean "now", ms: Prometheus's lookback, and the truncation of KEDA's
/// clients. Older ones ask for a past that is not recorded.
pub const QUERY_NOW_MS: i64 = 300_000;

/// Largest message of an external scaler's client, bytes: the metadata of one trigger.
pub const SCALER_REQUEST_MAX_BYTES: usize = 64 << 10;
/// Longest metric name of an external scaler, bytes; it becomes part of a URL.
pub const SCALER_METRIC_NAME_MAX_BYTES: usize = 100;
/// Most open streams of external scalers.
pub const SCALER_STREAMS_MAX: usize = 20_000;
/// An external scaler's stream repeats that its target is active after this long, seconds.
pub const SCALER_REPEAT_S: u64 = 15;
/// Most requests under way on one HTTP/2 connection: two for each of 5,000 push triggers.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 10_000;
const _: () = assert!(STREAMS_PER_CONNECTION_MAX as usize <= SCALER_STREAMS_MAX);
